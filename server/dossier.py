"""The evidence of a finished job at its lead: everybody's parts, put together into a bundle.

The lead has its own log and what sites handed over (``cloister site evidence``). It decides nothing: what a
site signed goes in as it is, and everything that follows from it can be derived again by whoever reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from cloister.privacy.errors import EvidenceError
from cloister.privacy.evidence.bundle import Audience, Contents, keys_of
from cloister.privacy.evidence.derive import Said, composed, derived
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.log import now
from cloister.privacy.evidence.part import Part
from cloister.privacy.wire.signed import Signed
from cloister.server.folder import LeadFolder
from cloister.server.jobs import FINISHED, Job
from cloister.server.policies import Policies


def contents(
    folder: LeadFolder,
    job: Job,
    sites: Iterable[Part],
    said: Said | None = None,
    audience: Audience = "auditor",
) -> Contents:
    """What the bundle of a finished job is made of.

    Args:
        folder: the lead's.
        job: a finished one.
        sites: the parts of the sites.
        said: what the lead says besides; None for nothing but the time.
        audience: who the bundle is for.

    Raises:
        EvidenceError: ``job_unfinished``; ``bundle_incomplete``, a site's part or a key is missing;
            ``bundle_altered``, a part is of nobody in the plan.
        LogError: a part or the lead's log is damaged.
    """
    if job.state != FINISHED:
        raise EvidenceError(
            "job_unfinished", f"The job is {job.state}.", "Evidence is made of finished jobs only."
        )
    plan = job.plan
    parts = {part.writer: part for part in sites}
    names = [site.name for site in plan.sites]
    if missing := sorted(set(names) - parts.keys()):
        raise EvidenceError(
            "bundle_incomplete",
            f"The parts of {', '.join(missing)} are not here.",
            "Ask for them: `cloister site evidence JOB --out FILE` at each of these sites.",
        )
    if others := sorted(parts.keys() - set(names)):
        raise EvidenceError("bundle_altered", f"{', '.join(others)} is not in the plan.")
    own = Part.make(folder.log, folder.identity, plan, Policies(folder.path, folder.log).all())
    everybody = (own, *(parts[name] for name in names))
    keys = keys_of(plan, folder.enrolment.roster.members)
    logs = {part.writer: part.events for part in everybody}
    heads = {part.writer: part.newest for part in everybody}
    fields = derived(plan, keys, logs, heads)
    return Contents(
        plan=plan,
        keys=keys,
        parts=everybody,
        approvals=_approvals(job),
        evidence=composed(fields, said or _plain(logs[plan.lead.name])),
        audience=audience,
    )


def _approvals(job: Job) -> Mapping[str, Signed]:
    return {job.plan.lead.name: job.signed, **job.signed_decisions()}


def _plain(events: Iterable[Event]) -> Said:
    times = [datetime.fromisoformat(e.ts) for e in events if e.type in ("job.started", "job.finished")]
    seconds = (times[-1] - times[0]).total_seconds() if times else 0.0
    return Said("federation", now().strftime("%Y-%m-%dT%H:%M:%SZ"), f"{max(0.0, seconds):.1f}")
