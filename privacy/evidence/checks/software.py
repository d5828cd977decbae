"""Every party says what it ran on before it works on a job, and again when it begins anew.

Whether it is true is the party's word; that its code is the one that the plan asks for, the plan decides. A
charge is no work: whoever restores a site charges whole plans, of which nothing was run since.
"""

from __future__ import annotations

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, incomplete, unfounded
from cloister.privacy.evidence.events import Event

_CHECK = "software"
_BEGINS = frozenset({"job.started", "job.resumed"})
_WORK = _BEGINS | {"dp.step_summary", "update.sent"}


def told(case: Case) -> Findings:
    """Told before the first work, again after each beginning of a process, and of the plan's code."""
    for party in (case.plan.lead, *case.plan.sites):
        if party.name in case.writers:
            yield from _told(case, party.name, party.code)


def _told(case: Case, name: str, code: str) -> Findings:
    told = again = False
    for one in case.writers[name].shown:
        event = one.event
        if _comes(event):
            told = False
        elif event.job != case.plan.digest:
            continue
        elif event.type == "software.recorded":
            told = again = True
            if event.body["code"] != code:
                yield unfounded(_CHECK, one.id, f"{name} ran other code than the plan names")
        elif event.type in _WORK:
            if not told:
                anew = "anew " if again else ""
                yield incomplete(_CHECK, one.id, f"the work begins {anew}and no event says what it ran on")
            told = event.type not in _BEGINS  # of a lead, which says it each time that it goes on


def _comes(event: Event) -> bool:
    """Whether a process comes, or begins with the job."""
    return event.type == "clock.status" and event.body["occasion"] in ("start", "job")
