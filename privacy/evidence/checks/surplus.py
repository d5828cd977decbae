"""Surplus noise taken back: given once the sum was open, for its survivors, and enough noise stays."""

from __future__ import annotations

import math
from typing import Any

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, altered, unfounded
from cloister.privacy.evidence.derive import names
from cloister.privacy.evidence.part import Shown
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.surplus import STEP

_CHECK = "surplus"
_CLOSE = 1e-9
"""Relative difference of the same arithmetic on two machines."""


def given(case: Case) -> Findings:
    """What each site gave of its noise: after it opened the step, for the set that it signed.

    The noise that is left is worked out again from the plan and the survivors.
    """
    for name in case.sites:
        signed: dict[int | None, list[str]] = {}
        opened: set[int | None] = set()
        for one in case.of_job(name) if name in case.writers else ():
            kind, number, first = one.event.type, one.event.round, one.event.body.get("step") == 0
            if kind == "sum.signed" and first:
                signed[number] = names(one.event, "survivors")
            elif kind == "sum.opened" and first:
                opened.add(number)
            elif kind == "surplus.given":
                if number not in opened or names(one.event, "survivors") != signed.get(number):
                    reason = f"{name} gave surplus noise of a sum that it had not opened, or of another set"
                    yield unfounded(_CHECK, one.id, reason)
                yield from _left(case.plan, one)


def _left(plan: Plan, one: Shown) -> Findings:
    survivors = len(names(one.event, "survivors"))
    if not plan.aggregation.surplus or not plan.grid.unneeded(survivors):
        yield unfounded(_CHECK, one.id, f"no noise is surplus by the plan in a sum over {survivors} sites")
        return
    left, said = plan.grid.left(survivors), _number(one.event.body["noise_left"])
    if not math.isclose(said, left, rel_tol=_CLOSE):
        yield unfounded(_CHECK, one.id, f"the noise left is {left:.6g}, not {said:.6g}")
    promised = plan.privacy.noise_multiplier
    if min(left, said) < promised * (1 - _CLOSE):
        yield unfounded(_CHECK, one.id, f"less noise is left than the plan's {promised:g}")


def _number(value: Any) -> float:
    return float(value)


def met(case: Case) -> Findings:
    """Where the lead took surplus noise out of a step, every survivor gave its own for the same set."""
    for one in case.lead:
        if one.event.type != "sum.closed" or one.event.body["step"] != STEP:
            continue
        survivors = names(one.event, "survivors")
        for name in survivors:
            theirs = [
                names(e.event, "survivors")
                for e in (case.of_job(name) if name in case.writers else ())
                if (e.event.type, e.event.round) == ("surplus.given", one.event.round)
            ]
            if survivors not in theirs:
                yield altered(
                    _CHECK, one.id, f"{name} has no record of giving surplus noise for these survivors"
                )
