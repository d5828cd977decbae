"""Surplus noise taken back: given for the survivors that were signed, by all of them; enough noise stays."""

from __future__ import annotations

import math
from typing import Any

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, altered, unfounded
from cloister.privacy.evidence.events import names
from cloister.privacy.evidence.part import Shown
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.surplus import STEP

_CHECK = "surplus"
_CLOSE = 1e-9
"""Relative difference of the same arithmetic on two machines."""


def given(case: Case) -> Findings:
    """What each site gave of its noise: for the survivor set of the step that it had signed.

    The noise that is left is worked out again from the plan and the survivors.
    """
    for name in case.sites:
        signed: dict[int | None, list[str]] = {}
        for one in case.of_job(name) if name in case.writers else ():
            kind, number = one.event.type, one.event.round
            if kind == "sum.signed" and one.event.body["step"] == 0:
                signed[number] = names(one.event, "survivors")
            elif kind == "surplus.given":
                if names(one.event, "survivors") != signed.get(number):
                    reason = f"{name} gave surplus noise for another survivor set than it had signed"
                    yield unfounded(_CHECK, one.id, reason)
                yield from _left(case.plan, one)


def _left(plan: Plan, one: Shown) -> Findings:
    survivors = len(names(one.event, "survivors"))
    grid = plan.grid_in(one.event.round or 0) if plan.aggregation.surplus else None
    if grid is None or not grid.unneeded(survivors):
        yield unfounded(_CHECK, one.id, f"no noise is surplus by the plan in a sum over {survivors} sites")
        return
    left, said = grid.left(survivors), _number(one.event.body["noise_left"])
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
