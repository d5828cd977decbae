"""The lead's desk: what sites ask of jobs through the consortium service, answered from the lead's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cloister.privacy import canonical, durable, folder
from cloister.privacy.canonical import Json
from cloister.privacy.consent import Decision, Offer, Withdrawal
from cloister.privacy.errors import PolicyError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Signature
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.privacy.vault import CLEAR, Vault
from cloister.privacy.wire.signed import Signed
from cloister.server.jobs import FAILED, FINISHED, OPEN, STOPPED, Job, Jobs
from cloister.server.policies import Policies

_TOLD = (*OPEN, FINISHED, FAILED, STOPPED)


class FolderDesk:
    """A desk over ``jobs/`` and ``offers/`` of the lead's folder (``server.consortium.Desk``).

    Args:
        path: the lead's folder.
        log: the lead's event log.
        vault: how the folder keeps secrets.
    """

    def __init__(self, path: Path, log: EventLog, vault: Vault = CLEAR) -> None:
        self.jobs = Jobs(path / "jobs", vault)
        self._offers, self._log = path / "offers", log
        self.policies = Policies(path, log)

    def propose(self, plan: Plan, start: Vector, lead: PrivateIdentity, order: Layout | None = None) -> Job:
        """Lays a plan out for the sites (``Jobs.propose``) and writes it down."""
        job = self.jobs.propose(plan, start, lead, order)
        self._log.append(
            "job.proposed",
            job=plan.digest,
            base=plan.base.digest,
            roster=plan.roster,
            code=plan.lead.code,
            sites=[site.name for site in plan.sites],
        )
        return job

    def proposals(self, site: str) -> Iterable[Signed]:
        """Plans that name a site and were not refused."""
        return [job.signed for job in self.jobs if job.state in _TOLD and _names(job, site)]

    def offer(self, offer: Offer, signature: Signature, site: PublicIdentity) -> None:
        """Keeps a site's newest offer."""
        durable.private_folder(self._offers)
        signed = Signed(offer.to_bytes(), signature)
        durable.write(self._offers / f"{site.name}.signed", canonical.encode(signed.to_json()))

    def offers(self) -> dict[str, Offer]:
        """Site name -> its newest offer."""
        found = [Signed.from_json(folder.read_json(path)) for path in self._offers.glob("*.signed")]
        offers = [Offer.from_bytes(signed.content) for signed in found]
        return {offer.site: offer for offer in offers}

    def decide(self, decision: Decision, signature: Signature, site: PublicIdentity) -> None:
        """Keeps a site's decision; raises ``PlanError`` ``plan_unknown``."""
        job = self.jobs.find(decision.plan)
        job.decide(decision, signature)
        if decision.approve:
            self._log.append("job.accepted", job=job.plan.digest, site=site.name)
        else:
            self._log.append("job.refused", job=job.plan.digest, site=site.name, reason=decision.reason)

    def withdraw(self, withdrawal: Withdrawal, signature: Signature, site: PublicIdentity) -> None:
        """Keeps that a site leaves a job, or all that it is in; raises ``PlanError`` ``plan_unknown``."""
        named = [job for job in self.jobs if _names(job, site.name)]
        left = [self.jobs.find(withdrawal.plan)] if withdrawal.plan else named
        for job in left:
            if job.withdraw(withdrawal, signature):
                self._log.append(
                    "site.withdrew", job=job.plan.digest, site=site.name, reason=withdrawal.reason
                )

    def policy(self, digest: str, site: str) -> bytes:
        """The consortium's policy of a digest that a plan of the site names.

        Raises:
            PolicyError: ``policy_missing``, there is none, or no plan of the site is under it.
        """
        if not any(job.plan.policy == digest and _names(job, site) for job in self.jobs):
            raise PolicyError("policy_missing", f"No plan of {site} is under the policy {digest[:19]}.")
        return self.policies.kept(digest).to_bytes()

    def status(self, site: str) -> Mapping[str, Json]:
        """The state of every job that names the site; no figures of anybody's data."""
        return {job.plan.digest: job.state for job in self.jobs if _names(job, site)}


def _names(job: Job, site: str) -> bool:
    return site in (named.name for named in job.plan.sites)
