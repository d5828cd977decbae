"""What the site's policy says to the jobs that were proposed here, and a record of every time it spoke.

A record holds the request, so that ``cloister site policy replay`` can make the decision again from the
policy that was in force. One is written, with its event, whenever outcome, policy or deciding rules differ
from the last: a job that waits for days does not fill the log. The record is on disk before its event, so
no event is without what it is about; what a crash cuts off between the two is mended at the next decision.

A plan may be under a policy of the consortium, which it names by digest: the strictest of that and the
site's own decides. It is in the job's folder as ``policy.json``; while it is not, nothing is approved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloister.client.approvals import Approvals
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.client.site.identifiers.screening import Action
from cloister.client.site.people import People
from cloister.client.site.policies import Policies
from cloister.privacy import canonical, durable, folder
from cloister.privacy.errors import InputError, PolicyError
from cloister.privacy.plan import Plan, parsed
from cloister.privacy.policy.decision import Decision, decide, replay
from cloister.privacy.policy.request import Identifiers, Known, Peer, Request, instant, moment
from cloister.privacy.policy.strictest import strictest
from cloister.privacy.policy.terms import HeldOutTerms, Policy

_ASKED, _GRANTED, _SHARED = "asked.json", "granted.json", "policy.json"
_LOCK = "decisions.lock"
_UNTOLD = ".untold"
"""Ends the name of a record whose event may not be in the log yet."""
_SCANNED: Mapping[Action, Identifiers] = {
    "off": "unscanned",
    "warn": "found",
    "mask": "masked",
    "refuse": "none",
}
"""What a dataset's setting makes sure of in every job; with ``warn``, that somebody looked."""


def now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Record:
    """A decision and the request that it was about."""

    request: Request
    decision: Decision

    @classmethod
    def load(cls, path: Path) -> Record:
        """Raises ``PolicyError`` ``decision_altered`` for anything but a record."""
        altered = PolicyError("decision_altered", f"{path} is not a record of a decision.")
        value = canonical.decode(folder.read(path), otherwise=altered)
        if not isinstance(value, dict) or value.keys() != {"request", "decision"}:
            raise altered
        return cls(Request.from_json(value["request"]), Decision.from_json(value["decision"]))

    def to_bytes(self) -> bytes:
        """The canonical bytes of the file."""
        return canonical.encode({"request": self.request.to_json(), "decision": self.decision.to_json()})


@dataclass(frozen=True)
class Rulings:
    """The site's policy at work.

    Attributes:
        site: the folder.
        clock: tells the time that a decision is made at.
    """

    site: SiteFolder
    clock: Callable[[], datetime] = now

    def asked(self, job: Path) -> None:
        """Notes that a plan has come, before the plan itself is there."""
        self._note(job / _ASKED)

    def granted(self, job: Path) -> None:
        """Notes that a plan was approved, before the approval itself is there."""
        self._note(job / _GRANTED)

    def keep_shared(self, plan: Plan, data: bytes) -> None:
        """Keeps the consortium's policy that a plan names.

        Raises:
            PolicyError: ``policy_mismatch``, these are not the bytes of that policy; ``policy_malformed``.
        """
        if canonical.digest(data) != plan.policy:
            raise PolicyError(
                "policy_mismatch",
                f"The lead gave another policy than plan {plan.digest[7:19]} names for all sites.",
                "Ask the lead and the other sites; do not approve anything.",
            )
        Policy.from_bytes(data)
        durable.write(self._job(plan) / _SHARED, data)

    def shared(self, plan: Plan) -> Policy | None:
        """The consortium's policy that a plan is under; None where it names none.

        Raises:
            PolicyError: ``policy_missing``, the lead has not handed it over; ``policy_mismatch``.
        """
        if plan.policy is None:
            return None
        path = self._job(plan) / _SHARED
        if not path.is_file():
            raise PolicyError(
                "policy_missing",
                f"The consortium's policy {plan.policy[7:19]} that the plan names is not here.",
                "`cloister site up` asks the lead for it; without it the plan cannot be approved.",
            )
        policy = Policy.from_bytes(path.read_bytes())
        if policy.digest != plan.policy:
            raise PolicyError(
                "policy_mismatch", f"{path} is not the policy that the plan names.", "Delete it."
            )
        return policy

    def in_force(self, plan: Plan) -> Policy:
        """What decides about a plan: the strictest of the site's policy and the consortium's."""
        own, shared = Policies(self.site).current(), self.shared(plan)
        return own if shared is None else strictest(own, shared)

    def _note(self, path: Path) -> None:
        if not path.exists():
            durable.write(path, canonical.encode({"at": instant(self.clock())}))

    def approvals(self, plan: Plan) -> Approvals:
        """Who agreed to a plan."""
        own = plan.site(self.site.name).identity
        return Approvals(self._job(plan), plan.digest, own, People(self.site))

    def decide(self, plan: Plan) -> Decision:
        """What the policy in force says to a plan now; recorded where the plan was kept.

        Raises:
            PolicyError: ``policy_missing``, ``policy_malformed`` or ``approval_invalid``.
        """
        return self._record(plan, self.request(plan))

    def request(self, plan: Plan) -> Request:
        """A plan, and what the site knows now."""
        job = self._job(plan)
        at = instant(self.clock())
        granted = _at(job / _GRANTED)
        known = Known(
            at=at,
            asked=_at(job / _ASKED) or _came(job) or at,
            granted=granted,
            jobs=self._jobs(plan, granted or at),
            identifiers=self._identifiers(plan),
            approvals=self.approvals(plan).given(),
            peers=self._peers(plan),
        )
        return Request.of(plan, self.site.name, known)

    def _peers(self, plan: Plan) -> tuple[Peer, ...]:
        """What is known of the keys that a plan names for the others.

        A job goes on under these keys although a member has newer ones by now: of those that are in no
        roster any longer, what the last decision on the job knew counts.
        """
        consortium = self.site.roster.consortium
        current = tuple(
            Peer(
                name=peer.identity.name,
                identity=peer.identity.digest(),
                confirmed=peer.confirmed,
                endorsed=tuple(one.check(consortium, peer.identity) for one in peer.endorsements),
            )
            for peer in self.site.peers()
        )
        places = sorted((self._job(plan) / "decisions").glob("*.json"))
        before = Record.load(places[-1]).request.known.peers if places else ()
        wanted = {(party.name, party.identity) for party in (plan.lead, *plan.sites)}
        found = {(peer.name, peer.identity): peer for peer in (*before, *current)}
        return tuple(peer for key, peer in sorted(found.items()) if key in wanted)

    def _identifiers(self, plan: Plan) -> Identifiers:
        """What is known of identifiers in the records: what the dataset's own setting makes sure of."""
        try:
            return _SCANNED[Datasets(self.site)[plan.site(self.site.name).dataset].identifiers]
        except InputError:  # there is no such dataset, which is refused for itself
            return "unscanned"

    def running(self, plan: Plan) -> Callable[[], HeldOutTerms]:
        """A check for every round of a job that runs: the whole policy, as it is then, at that time.

        The check raises ``PolicyError`` ``policy_refused`` or ``policy_waits``, or as ``decide``; it gives
        what the policy says of global models.
        """
        policies, shared, start, last = Policies(self.site), self.shared(plan), self.request(plan), ""

        def permitted() -> HeldOutTerms:
            nonlocal last
            policy, at = policies.current(), self.clock()
            this = f"{policy.digest} {instant(at)[:16]}"  # rules tell no times apart within a minute
            if this != last:
                require(self._record(plan, start.later(at, self._peers(plan))))
                last = this
            return (policy if shared is None else strictest(policy, shared)).held_out

        return permitted

    def records(self, job: Path) -> Iterator[Record]:
        """All decisions on a job, oldest first."""
        for path in sorted((job / "decisions").glob("*.json")):
            yield Record.load(path)

    def evidence(self, plan: Plan) -> dict[str, bytes]:
        """Digest -> canonical bytes of every policy that was in force, the consortium's that the plan is
        under, and of the requests decided on a job.

        With these, whoever reads the event log can make the decisions again.
        """
        with folder.edit(self._job(plan) / _LOCK):
            self._settle(plan)
        requests = (record.request for record in self.records(self._job(plan)))
        shown = {request.digest: canonical.encode(request.to_json()) for request in requests}
        shared = self._job(plan) / _SHARED
        if plan.policy is not None and shared.is_file():
            shown[plan.policy] = shared.read_bytes()
        return Policies(self.site).all() | shown

    def replay(self, job: Path) -> int:
        """Makes every decision on a job again, from the policies that were in force.

        Returns:
            How many there are.

        Raises:
            PolicyError: ``decision_altered``, one comes out otherwise, or is not the one in the event log.
        """
        records, plan = list(self.records(job)), parsed((job / "plan.json").read_bytes())
        for record in records:
            own = Policies(self.site).kept(record.decision.policy)
            replay(own, record.request, record.decision, self.shared(plan))
        logged = {
            (event.body["request"], event.body["policy"], event.body["outcome"])
            for event in self.site.log.entries()
            if event.type == "policy.decision"
        }
        for record in records:
            made = record.decision
            if (made.request, made.policy, made.outcome) not in logged:
                raise PolicyError("decision_altered", "A decision is not in the event log.")
        return len(records)

    def _record(self, plan: Plan, request: Request) -> Decision:
        policy = Policies(self.site).current()
        decision, job = decide(policy, request, self.shared(plan)), self._job(plan)
        if not (job / "plan.json").exists():
            return decision
        with folder.edit(job / _LOCK):  # the agent and a person may ask at once
            self._settle(plan)
            places = sorted((job / "decisions").glob("*.json"))
            if not places or not _same(Record.load(places[-1]).decision, decision):
                place = job / "decisions" / f"{len(places):05d}{_UNTOLD}"
                durable.private_folder(place.parent)
                durable.write(place, Record(request, decision).to_bytes())
                self._tell(plan, decision)
                _told(place)
        return decision

    def _settle(self, plan: Plan) -> None:
        """Ends what a crash cut off: a record without its event, or under its first name still."""
        for place in (self._job(plan) / "decisions").glob(f"*{_UNTOLD}"):
            decision = Record.load(place).decision
            told = (e.body["request"] for e in self.site.log.entries() if e.type == "policy.decision")
            if decision.request not in told:
                self._tell(plan, decision)
            _told(place)

    def _tell(self, plan: Plan, decision: Decision) -> None:
        """Writes a decision, and what papers it rests on, into the event log."""
        shared: dict[str, Any] = {"shared": decision.shared} if decision.shared else {}
        self.site.log.append(
            "policy.decision",
            job=plan.digest,
            policy=decision.policy,
            request=decision.request,
            rules=sorted(one.rule for one in decision.deciding),
            outcome=decision.outcome,
            **shared,
        )
        if decision.outcome == "allow":
            self._note_papers(plan)

    def _note_papers(self, plan: Plan) -> None:
        """Writes down, once, the papers under which a dataset is used, by the policy that allows it."""
        dataset, log = plan.site(self.site.name).dataset, self.site.log
        terms = self.in_force(plan).dataset(dataset)
        if terms is None or not terms.documents:
            return
        of_job = (e for e in log.entries() if (e.type, e.job) == ("consent.recorded", plan.digest))
        known = {(e.body["document"], e.body["form"], e.body["not_after"]) for e in of_job}
        for one in terms.documents:
            if (one.digest, one.form, one.until) not in known:
                about: dict[str, Any] = {"document": one.digest, "form": one.form, "dataset": dataset}
                log.append("consent.recorded", job=plan.digest, **about, not_after=one.until)

    def _job(self, plan: Plan) -> Path:
        return job_folder(self.site, plan)

    def _jobs(self, plan: Plan, at: str) -> int:
        """Jobs on the same dataset that were approved on that day, up to this one, and this one."""
        own, dataset, number = self._job(plan), plan.site(self.site.name).dataset, 1
        for path in (self.site.path / "jobs").glob(f"*/{_GRANTED}"):
            granted = _at(path)
            if path.parent == own or granted is None or granted[:10] != at[:10] or granted > at:
                continue
            other = parsed((path.parent / "plan.json").read_bytes())
            number += other.site(self.site.name).dataset == dataset
        return number


def require(decision: Decision) -> None:
    """Lets only ``allow`` pass.

    Raises:
        PolicyError: ``policy_refused`` with every rule, value and limit; or ``policy_waits``.
    """
    said = "; ".join(one.line() for one in decision.deciding)
    if decision.outcome == "refuse":
        raise PolicyError(
            "policy_refused",
            f"The policy refuses: {said}.",
            f"{_nearest(decision)}`cloister site policy explain` reads it to you; ask for another plan, or "
            "change what refuses.",
        )
    if decision.outcome == "ask":
        raise PolicyError(
            "policy_waits", f"More people must approve: {said}.", "`cloister site approve JOB --as …`"
        )


_OPTIONS = {
    "privacy.epsilon": "--epsilon",
    "datasets.epsilon": "--epsilon",
    "privacy.delta": "--delta",
    "training.rounds": "--rounds",
    "training.steps": "--steps",
    "training.rate": "--rate",
}
"""What a lead chooses by a number, by the rules that set the most it may be."""


def _nearest(decision: Decision) -> str:
    """The plan at the limits, where nothing but such numbers is too much; a target is never exceeded."""
    limits: dict[str, float] = {}
    for one in decision.deciding:
        if one.rule not in _OPTIONS or not isinstance(one.limit, int | float) or one.limit <= 0:
            return ""
        option = _OPTIONS[one.rule]
        limits[option] = min(one.limit, limits.get(option, one.limit))
    told = " ".join(f"{option} {limit}" for option, limit in limits.items())
    return f"The nearest plan that it allows is the same proposed with {told}. "


def job_folder(site: SiteFolder, plan: Plan) -> Path:
    """Where a site keeps a plan."""
    return site.path / "jobs" / plan.digest.removeprefix("sha256:")[:16]


def _told(place: Path) -> None:
    """Gives a record its name, now that the event log has it."""
    place.rename(place.with_suffix(".json"))
    durable.sync_folder(place.parent)


def _same(a: Decision, b: Decision) -> bool:
    said = [(one.policy, one.outcome, [finding.rule for finding in one.deciding]) for one in (a, b)]
    return said[0] == said[1]


def _at(path: Path) -> str | None:
    """The time in a note; None where there is none."""
    if not path.exists():
        return None
    value = folder.read_json(path)
    damaged = PolicyError("decision_altered", f"{path} is damaged.", "Restore it from a backup.")
    try:
        at = value["at"]
        moment(at)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged from error
    return str(at)


def _came(job: Path) -> str | None:
    """When a plan of an earlier release was kept here."""
    path = job / "plan.json"
    return instant(datetime.fromtimestamp(path.stat().st_mtime, UTC)) if path.exists() else None
