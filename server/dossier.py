"""The evidence of a finished job at its lead: everybody's parts, put together into a bundle.

The lead has its own log and what sites handed over, through the consortium service or as files. It decides
nothing: what a site signed goes in as it is, and what follows from it can be derived again by any reader.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from cloister.privacy.errors import EvidenceError
from cloister.privacy.evidence import lineage
from cloister.privacy.evidence.bundle import Bundle, Contents, keys_of
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import Verdict, verify
from cloister.privacy.evidence.derive import Said, composed, derived
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.kinds import Audience
from cloister.privacy.evidence.lineage import Retired
from cloister.privacy.evidence.log import now
from cloister.privacy.evidence.part import Part
from cloister.privacy.evidence.printing import printed
from cloister.privacy.plan import Plan
from cloister.privacy.wire.signed import Signed
from cloister.server.folder import LeadFolder
from cloister.server.gathering import Gathering, signed_by
from cloister.server.jobs import FINISHED, Job
from cloister.server.policies import Policies

_LOOK_S = 0.1


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
            "Sites that are up send them by themselves; else `cloister site evidence JOB --out FILE` there.",
        )
    if others := sorted(parts.keys() - set(names)):
        raise EvidenceError("bundle_altered", f"{', '.join(others)} is not in the plan.")
    policies = Policies(folder.path, folder.log).all()
    own = Part.make(folder.log, folder.identity, plan, policies, retired(folder, plan))
    everybody = (own, *(parts[name] for name in names))
    keys = keys_of(plan, folder.enrolment.roster_of(plan).members)
    logs = {part.writer: part.events for part in everybody}
    heads = {part.writer: part.newest for part in everybody}
    fields = derived(plan, keys, logs, heads)
    return Contents(
        plan=plan,
        keys=keys,
        parts=everybody,
        approvals=_approvals(job),
        evidence=composed(fields, said or _plain(logs[plan.lead.name]), audience),
        audience=audience,
    )


def retired(folder: LeadFolder, plan: Plan) -> tuple[Retired, ...]:
    """The logs of a lead that was restored, from the keys of a plan on; raises as ``lineage.retired``."""
    now = folder.identity.public.digest()
    return lineage.retired(folder.path, plan.lead.identity, now, folder.enrolment.former_lead)


@dataclass(frozen=True)
class Assembly:
    """How a bundle comes about: parts are asked for, put together, and shown to everybody for a signature.

    Attributes:
        folder: the lead's.
        job: a finished one.
        given: name of a site -> its part, where it came as a file.
        audience: who the bundle is for.
        wait: seconds in which sites may answer; nobody is asked while the lead does not run.
        pdf: the language of the report as PDF; None for no PDF.
    """

    folder: LeadFolder
    job: Job
    given: Mapping[str, Part]
    audience: Audience = "auditor"
    wait: float = 0.0
    pdf: Literal["en", "zh"] | None = None

    def bundle(self) -> tuple[Bundle, Verdict]:
        """The bundle with the signatures of all who answered in time, and what its check says.

        Raises:
            InputError: ``extra_missing``, a PDF is wanted and cannot be made here.
            CloisterError: as ``contents``.
        """
        gathering = Gathering.of(self.job)
        until = time.monotonic() + (self.wait if self.folder.is_running else 0.0)
        while True:
            made = contents(self.folder, self.job, self._parts(gathering, until), audience=self.audience)
            if self.pdf is not None:
                made = replace(made, printed=printed(made.evidence, self.pdf))
            bundle = made.bundle(self.folder.identity)
            verdict = verify(bundle, {member.name: member.digest() for member in made.keys})
            # Parts that were made while the sites showed each other newer heads fit once they are made anew.
            if verdict.result is not Result.INCOMPLETE or time.monotonic() >= until:
                break
        if verdict.result is Result.VERIFIED and time.monotonic() < until:
            gathering.offer(bundle)
            sites = {site.name for site in self.job.plan.sites}
            _wait(lambda: sites <= gathering.words(bundle.digest).keys(), until)
            bundle = signed_by(bundle, gathering.words(bundle.digest), made.keys, self.job.plan)
        return bundle, verdict

    def _parts(self, gathering: Gathering, until: float) -> tuple[Part, ...]:
        """Everybody's newest part; the sites are asked first, if there is time."""
        wanted = {site.name for site in self.job.plan.sites} - self.given.keys()
        if wanted and time.monotonic() < until:
            asked = gathering.ask()
            _wait(
                lambda: wanted <= {n for n, number in gathering.answered().items() if number >= asked}, until
            )
        return tuple({**gathering.parts(), **self.given}.values())


def _wait(done: Callable[[], bool], until: float) -> None:
    while not done() and time.monotonic() < until:
        time.sleep(_LOOK_S)


def _approvals(job: Job) -> Mapping[str, Signed]:
    return {job.plan.lead.name: job.signed, **job.signed_decisions()}


def _plain(events: Iterable[Event]) -> Said:
    times = [datetime.fromisoformat(e.ts) for e in events if e.type in ("job.started", "job.finished")]
    seconds = (times[-1] - times[0]).total_seconds() if times else 0.0
    return Said(now().strftime("%Y-%m-%dT%H:%M:%SZ"), f"{max(0.0, seconds):.1f}")
