"""Plans that were proposed to this site, and its decisions on them.

A plan is checked in full before a person may approve it: the lead's signature, the roster and whether every
key in it was confirmed here or signed for by an authority that the policy names, the policies of site and
consortium, and what ``client.admission`` asks: code, dataset, budget, base model, and last the records. What
fails is refused with its reason; nothing is run half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from cloister.client.admission import Admission
from cloister.client.approvals import Voice
from cloister.client.rulings import Rulings, job_folder, now, require
from cloister.client.site.folder import SiteFolder, refuse_restored
from cloister.privacy import canonical, durable, folder
from cloister.privacy.consent import Decision
from cloister.privacy.errors import (
    EnrolmentError,
    IdentityError,
    PlanError,
    PolicyError,
    UsageError,
)
from cloister.privacy.evidence.witnessing import Witness
from cloister.privacy.plan import Plan, parsed
from cloister.privacy.policy.decision import Decision as Ruling
from cloister.privacy.policy.request import instant
from cloister.privacy.policy.terms import HeldOutTerms
from cloister.privacy.wire.signed import Signed

WAITING, APPROVED, REFUSED, DONE, LEFT = "waiting", "approved", "refused", "done", "left"
_KEYS = ("ratchet.key", "sums.json", "audit.json", "canaries.json")


@lru_cache(maxsize=128)
def _decision(data: bytes) -> Decision:
    """A decision of bytes: an agent looks at the same ones twice a second."""
    return Decision.from_bytes(data)


@dataclass(frozen=True)
class Job:
    """A proposed plan in the site's folder, and how far the site is with it."""

    folder: Path
    plan: Plan

    @property
    def state(self) -> str:
        """``waiting``, ``approved``, ``refused``, ``done`` or ``left``."""
        if (self.folder / "done").exists():
            return DONE
        if (self.folder / "left").exists():
            return LEFT
        decision = self.decision
        if decision is None:
            return WAITING
        return APPROVED if decision.approve else REFUSED

    @property
    def decision(self) -> Decision | None:
        """This site's word, if it has spoken."""
        path = self.folder / "decision.json"
        return _decision(path.read_bytes()) if path.exists() else None

    def close(self) -> None:
        """Notes that the final model was received and kept."""
        durable.write(self.folder / "done", b"")

    def leave(self, reason: str) -> None:
        """Takes no further part: nothing of the job is answered, and what could mask or noise it is gone.

        Args:
            reason: ``withdrawn``, or ``state_restored``.
        """
        if self.state != LEFT:
            durable.write(self.folder / "left", reason.encode())
        for secret in (*(self.folder / name for name in _KEYS), *self._traces()):
            secret.unlink(missing_ok=True)

    def _traces(self) -> Iterator[Path]:
        """Sealed replies, and what coded updates left out."""
        for pattern in ("replies/**/*.sealed", "rests/*.rest"):
            yield from self.folder.glob(pattern)

    @property
    def leaving(self) -> str:
        """The id of the reason why the site has left; "" if it has not."""
        path = self.folder / "left"
        return path.read_text() if path.exists() else ""


@dataclass(frozen=True)
class Jobs:
    """All plans that were proposed to a site.

    Attributes:
        site: the folder.
        clock: tells the time at which the policy decides.
        model: where the base model is, if not where a plan's name leads.
    """

    site: SiteFolder
    clock: Callable[[], datetime] = field(default=now)
    model: str = ""

    @property
    def rulings(self) -> Rulings:
        """What the site's policy says to them."""
        return Rulings(self.site, self.clock)

    def keep(self, plan: Plan, signed: Signed) -> Job:
        """Keeps a plan whose signature was verified; the same again changes nothing."""
        place = job_folder(self.site, plan)
        if not (place / "plan.json").exists():
            durable.private_folder(place)
            self.rulings.asked(place)
            durable.write(place / "plan.signed", canonical.encode(signed.to_json()))
            durable.write(place / "plan.json", plan.to_bytes())
            self._note("approval.requested", plan)
        return Job(place, plan)

    def lacks_policy(self, plan: Plan) -> bool:
        """Whether a plan names a policy of the consortium that is not here yet."""
        try:
            self.rulings.shared(plan)
        except PolicyError as error:
            return error.id == "policy_missing"
        return False

    def __iter__(self) -> Iterator[Job]:
        for path in sorted((self.site.path / "jobs").glob("*/plan.json"), key=lambda p: p.stat().st_mtime):
            yield Job(path.parent, parsed(path.read_bytes()))

    def find(self, name: str) -> Job:
        """The job whose digest starts with ``name``; raises ``PlanError`` ``plan_unknown``."""
        wanted = name.removeprefix("sha256:")
        found = [p for p in self if p.plan.digest.removeprefix("sha256:").startswith(wanted)]
        if len(found) != 1:
            raise PlanError("plan_unknown", f"{len(found)} plans here have a name that starts with {name}.")
        return found[0]

    def approve(self, job: Job, voice: Voice | None = None) -> Decision | None:
        """Checks a plan, keeps a person's approval, and approves the plan once the policy has enough of them.

        Returns:
            The site's word; None while more people must approve.

        Raises:
            EnrolmentError: ``withdrawn``, this site has left the job.
            StateError: ``state_restored``.
            IdentityError: ``roster_mismatch`` or ``peer_unconfirmed``.
            PolicyError: ``policy_refused`` with every rule that does, ``approval_invalid``, or there is no
                policy that can be read.
            PlanError, InputError, ModelError, BudgetError: what the site cannot take part in, and why.
        """
        if job.state == LEFT:
            raise EnrolmentError("withdrawn", "This site has left the job; it cannot come back to it.")
        if job.state == REFUSED:  # a backup from before may rely on it: what was refused was never worked on
            raise PlanError("plan_not_approved", "This site has refused the plan.", "Ask for a new one.")
        voice = voice or Voice()
        self.check(job.plan)
        with self._settling():
            approvals = self.rulings.approvals(job.plan)
            if approvals.give(voice, self.clock()):
                key = approvals.key(voice)
                self._note("approval.granted", job.plan, role=voice.role, **({"key": key} if key else {}))
            return self._grant(job, self._judge(job.plan))

    def settle(self, job: Job) -> Decision | None:
        """What the policy does by itself with a plan that waits.

        It approves one that needs nobody, or has all approvals, and refuses one that waited too long. One
        that it refuses for another reason is left to people: they may ask for another plan.

        Raises:
            CloisterError: the plan is approved by the policy, but the site cannot take part; see ``approve``.
        """
        ruling = self.rulings.decide(job.plan)
        if not _late(ruling) and ruling.outcome != "allow":
            return None
        if ruling.outcome == "allow":
            self.check(job.plan)
        with self._settling():
            return self._settle(job) if job.state == WAITING else None

    def _settle(self, job: Job) -> Decision | None:
        ruling = self.rulings.decide(job.plan)
        if _late(ruling):
            self._note("approval.timeout", job.plan)
            return self.refuse(job, "approval_timeout")
        if ruling.outcome == "allow" and not self.rulings.approvals(job.plan).given():
            self._note("approval.granted", job.plan, role="policy")
        return self._grant(job, ruling)

    def admit(self, plan: Plan) -> None:
        """What must hold when an approved job starts here, also after a restart.

        Raises:
            CloisterError: as ``approve``, and ``policy_waits``.
        """
        self.check_again(plan)
        require(self.rulings.decide(plan))

    def running(self, plan: Plan) -> Callable[[], HeldOutTerms]:
        """The policy's check for every round; see ``Rulings.running``."""
        return self.rulings.running(plan)

    def _judge(self, plan: Plan) -> Ruling:
        """The policy's word, unless it refuses."""
        ruling = self.rulings.decide(plan)
        if ruling.outcome == "refuse":
            require(ruling)
        return ruling

    def _grant(self, job: Job, ruling: Ruling) -> Decision | None:
        if ruling.outcome != "allow":
            return None
        if job.decision is None or not job.decision.approve:
            self.rulings.granted(job.folder)
        return self._decide(job, Decision(site=self.site.name, plan=job.plan.digest, approve=True))

    def _settling(self) -> AbstractContextManager[None]:
        """One approval at a time, so that a day's jobs are counted right."""
        return folder.edit(self.site.path / "jobs" / "lock")

    def refuse(self, job: Job, reason: str) -> Decision:
        """Refuses, with the id of the reason.

        Raises:
            UsageError: ``option_invalid``, the plan was approved; it can be left.
        """
        if job.state in (APPROVED, LEFT):
            raise UsageError(
                "option_invalid", "This site has approved the plan.", "`cloister site withdraw` leaves a job."
            )
        decision = Decision(site=self.site.name, plan=job.plan.digest, approve=False, reason=reason)
        return self._decide(job, decision)

    def check(self, plan: Plan) -> None:
        """Everything that must hold before this site may approve; see ``approve``."""
        refuse_restored(self.site)
        self._check_roster(plan)
        self._judge(plan)
        self._note_vouched(plan)
        if plan.site(self.site.name).identity != self.site.identity.public.digest():
            raise IdentityError("roster_mismatch", "The plan names another key for this site.")
        admission = Admission(self.site, plan, self.model)
        admission.check_terms()
        admission.check_base()
        admission.check_records()

    def check_again(self, plan: Plan) -> None:
        """Everything that time may have changed in an approved plan, but for who is a member by now, and for
        the base model, which whoever loads it compares.
        """
        admission = Admission(self.site, plan, self.model)
        admission.check_terms()
        admission.check_records()

    def _check_roster(self, plan: Plan) -> None:
        roster = self.site.roster
        if plan.roster != roster.digest():
            raise IdentityError(
                "roster_mismatch",
                "The plan is for another roster than the newest one here.",
                "Ask for a new plan.",
            )
        for party in (plan.lead, *plan.sites):
            if roster.member(party.name).digest() != party.identity:
                raise IdentityError("roster_mismatch", f"The plan names another key for {party.name}.")
        Witness(self.site.path).refuse_conflicts(roster.members)
        self._check_peers(self.rulings.in_force(plan).roster.authorities)

    def _check_peers(self, authorities: tuple[str, ...]) -> None:
        """Every key of the roster was confirmed here, or signed for by an authority that the policy names."""
        today = instant(self.clock())[:10]
        doubts = {peer.identity.name: peer.doubts(authorities, today) for peer in self.site.peers()}
        strangers = [name for name, why in doubts.items() if why is not None]
        if strangers:
            reasons = " ".join(reason for why in doubts.values() for reason in why or ())
            raise IdentityError(
                "peer_unconfirmed",
                f"The keys of {', '.join(strangers)} were never confirmed here. {reasons}".rstrip(),
                "Compare their words by telephone, then `cloister site peers confirm NAME --words …`.",
            )

    def _note_vouched(self, plan: Plan) -> None:
        """Writes down, once, whose keys are taken for theirs because an authority signed for them."""
        strangers = [peer for peer in self.rulings.request(plan).known.peers if not peer.confirmed]
        if not strangers:
            return
        noted = {
            event.body["identity"]
            for event in self.site.log.entries()
            if event.type == "key.confirmed" and event.body["method"] == "authority"
        }
        for peer in strangers:
            if peer.identity not in noted:
                fields: dict[str, Any] = {"party": peer.name, "identity": peer.identity}
                self.site.log.append("key.confirmed", **fields, method="authority")

    def _note(self, type_: str, plan: Plan, role: str = "administrator", **more: Any) -> None:
        """Writes down what was asked or said about starting a job."""
        self.site.log.append(type_, job=plan.digest, subject=plan.digest, stage="start", role=role, **more)

    def _decide(self, job: Job, decision: Decision) -> Decision:
        if not decision.approve:
            self._note("approval.denied", job.plan, reason=decision.reason)
        durable.write(job.folder / "decision.json", decision.to_bytes())
        return decision


def _late(ruling: Ruling) -> bool:
    """Whether the time for approvals is over."""
    return any(one.rule == "approval.hours" for one in ruling.deciding)
