"""What a survivor opens for others: masks of sites that are not in the sum, own masks of those that are.

Both kinds of masks of one site together would show its update, so neither may be opened of the wrong side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, unfounded
from cloister.privacy.evidence.events import Event, names

_CHECK = "sums"
_OPENS = frozenset({"sum.opened", "sum.recovered"})


def opened(case: Case) -> Findings:
    """What each site's log holds of its openings goes by the one survivor set that it had signed before."""
    for name in case.sites:
        signed: dict[tuple[int | None, Any], set[str]] = {}
        for one in case.of_job(name) if name in case.writers else ():
            number = one.event.round, one.event.body.get("step")
            if one.event.type == "sum.signed":
                survivors = {*names(one.event, "survivors")}
                if signed.setdefault(number, survivors) != survivors:
                    yield unfounded(_CHECK, one.id, f"{name} signed another survivor set of this sum before")
            elif one.event.type in _OPENS:
                for reason in _faults(one.event, signed.get(number), {*case.sites}):
                    yield unfounded(_CHECK, one.id, f"{name} {reason}")


def _faults(event: Event, over: set[str] | None, everybody: set[str]) -> Iterator[str]:
    """What is wrong with an opening for a survivor set; None where its site had signed none."""
    if over is None:
        yield "opened masks of a sum of which it had signed no survivor set"
    elif event.type == "sum.opened" and {*names(event, "missing")} != everybody - over:
        yield "opened other shared masks than those of the sites that are not in the sum"
    elif event.type == "sum.recovered" and not {*names(event, "lost")} <= over - {event.writer}:
        yield "gave shares of a mask that is not one of another survivor"
