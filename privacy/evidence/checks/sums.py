"""What a survivor opens for others: masks of sites that are not in the sum, own masks of those that are.

Both kinds of masks of one site together would show its update, so neither may be opened of the wrong side.
"""

from __future__ import annotations

from typing import Any

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, unfounded
from cloister.privacy.evidence.events import names

_CHECK = "sums"


def opened(case: Case) -> Findings:
    """What each site's log holds of its openings goes by the survivor set that it had signed."""
    everybody = {*case.sites}
    for name in case.sites:
        signed: dict[tuple[int | None, Any], set[str]] = {}
        for one in case.of_job(name) if name in case.writers else ():
            kind, number = one.event.type, (one.event.round, one.event.body.get("step"))
            if kind == "sum.signed":
                signed[number] = {*names(one.event, "survivors")}
            over = signed.get(number)
            if over is None:  # the check of survivors asks for the record
                continue
            if kind == "sum.opened" and {*names(one.event, "missing")} != everybody - over:
                reason = f"{name} opened other shared masks than those of the sites that are not in the sum"
                yield unfounded(_CHECK, one.id, reason)
            if kind == "sum.recovered" and not {*names(one.event, "lost")} <= over - {name}:
                reason = f"{name} gave shares of a mask that is not one of another survivor"
                yield unfounded(_CHECK, one.id, reason)
