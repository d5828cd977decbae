"""A finished job in real folders: a lead and sites that are members, with evidence of a job that was staged.

Everything around the job is real (folders, keys, enrolment, confirmations, TLS, logs, ledgers, signatures);
what a round would have written is written by ``simulations.bench.staged``.
"""

from __future__ import annotations

from pathlib import Path

from cloister.client.consortium import Consortium
from cloister.client.jobs import Job as SiteJob
from cloister.client.jobs import Jobs as SiteJobs
from cloister.client.rulings import job_folder
from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical, durable
from cloister.privacy.consent import PLAN_CONTEXT, Decision, approval
from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.checks.run import Verdict, verify
from cloister.privacy.identity import Signature
from cloister.privacy.keysource import KeySource
from cloister.privacy.wire.signed import Signed
from cloister.server.folder import LeadFolder
from cloister.server.jobs import APPROVED, FINISHED, Job
from cloister.server.jobs import Jobs as LeadJobs
from cloister.simulations.bench.staged import DATASET, Play, Staged, made_up, planned
from tests.service import Service

NAMES = ("east", "north", "south", "west")


class _Play(Play):
    """Writes only what folders and service have not written by themselves."""

    def meet(self) -> None:
        for name in self.names:
            self.ledgers[name].open_budget(DATASET, "record", 1.0, 1e-5)
            self.staged.logs[name].append("job.refused", job=made_up("another job"), reason="site_refused")

    def decide(self, name: str) -> None:
        """These sites have policies of their own, which nobody asked."""


class Dossiers:
    """A consortium behind a running service, with a job that has ended.

    Attributes:
        sites: name -> its folder.
        plan: of the job.
        play: what writes down further rounds.
    """

    def __init__(self, service: Service, rounds: int = 3) -> None:
        self.service, self.rounds = service, rounds
        self.sites = {name: service.member(name) for name in NAMES}
        for site in self.sites.values():
            self._confirm(site)
        keys = {name: site.identity for name, site in self.sites.items()}
        self.plan = planned(self.lead.identity, keys, rounds, "hospitals")
        logs = {self.lead.identity.public.name: self.lead.log, **{n: s.log for n, s in self.sites.items()}}
        self.play = _Play(
            Staged(self.plan, self.lead.identity, keys, logs), service.path, witnessed=True, sampler="poisson"
        )
        self.play.meet()
        self.job = self._propose()
        self.play.approve()

    def finish(self, first: int = 1) -> None:
        """The rounds from ``first`` on, and the end."""
        model = made_up("model", first - 1)
        for number in range(first, self.rounds + 1):
            model = self.play.round(number, model)
        self.end(model)

    def end(self, model: str) -> None:
        self.play.end(model)
        self.job.move(FINISHED)
        for site in self.sites.values():
            self.site_job(site.name).close()

    @property
    def lead(self) -> LeadFolder:
        return self.service.lead

    def check(self, bundle: Bundle) -> Verdict:
        """What a stranger finds who trusts the keys of the plan."""
        return verify(bundle, {party.name: party.identity for party in (self.plan.lead, *self.plan.sites)})

    def site_job(self, name: str) -> SiteJob:
        return SiteJobs(self.sites[name]).find(self.plan.digest)

    def _confirm(self, site: SiteFolder) -> None:
        with Consortium(site) as member:
            member.roster()
        for party in (self.lead.identity.public, *(other.identity.public for other in self.sites.values())):
            if party.name != site.name:
                site.confirm(party.name, " ".join(party.words()))

    def _propose(self) -> Job:
        signed = Signed.make(self.plan.to_bytes(), self.lead.identity, PLAN_CONTEXT)
        folder = self.lead.jobs / self.plan.digest.removeprefix("sha256:")[:16]
        durable.private_folder(folder)
        durable.write(folder / "plan.signed", canonical.encode(signed.to_json()))
        durable.write(folder / "plan.json", self.plan.to_bytes())
        (job,) = LeadJobs(self.lead.jobs)
        for name, site in self.sites.items():
            word = approval(self.plan, name)
            job.decide(word, _signature(site, word))
            place = job_folder(site, self.plan)
            durable.private_folder(place)
            durable.write(place / "decision.json", word.to_bytes())
            durable.write(place / "plan.signed", canonical.encode(signed.to_json()))
            durable.write(place / "plan.json", self.plan.to_bytes())
        assert job.state == APPROVED
        return job


def _signature(site: SiteFolder, word: Decision) -> Signature:
    return Signed.make(word.to_bytes(), site.identity, "cloister/decision/1").signature


def lines(verdict: Verdict) -> list[str]:
    """What does not hold, a line each."""
    return [finding.line() for finding in verdict.findings]


def passphrase(place: Path) -> KeySource:
    """A key for backups, in a file."""
    file = place / "pass"
    file.write_text("a passphrase of some length\n")
    file.chmod(0o600)
    return KeySource.parse(f"passphrase-file:{file}")


def finished(service: Service) -> Dossiers:
    """A job that has ended."""
    made = Dossiers(service)
    made.finish()
    return made
