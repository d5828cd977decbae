"""Every party says what it ran on before it works on a job, and once for each of its processes.

Whether it is true is the party's word; that its code is the one that the plan asks for, the plan decides.
"""

from __future__ import annotations

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, incomplete, unfounded

_CHECK = "software"
_WORK = frozenset({"job.started", "job.resumed", "budget.reserved", "update.sent"})


def told(case: Case) -> Findings:
    """Told before the first work, again after each beginning of a process, and of the plan's code."""
    plan = case.plan
    codes = {party.name: party.code for party in (plan.lead, *plan.sites)}
    for name in case.writers:
        silent, begun = True, 0
        for one in case.of_job(name):
            kind, body = one.event.type, one.event.body
            if kind == "clock.status" and body["occasion"] == "job":
                begun, silent = begun + 1, True
            elif kind == "software.recorded":
                silent = False
                if body["code"] != codes[name]:
                    yield unfounded(_CHECK, one.id, f"{name} ran other code than the plan names")
            elif kind in _WORK and silent:
                again = "anew " if begun > 1 else ""
                yield incomplete(_CHECK, one.id, f"the work begins {again}and no event says what it ran on")
                silent = False
