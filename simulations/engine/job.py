"""One plan of a simulated consortium, run by the code of a lead and of its sites, with envelopes and logs.

``rounds`` and ``methods`` do what a round does and keep only what a comparison needs. Here the same plan goes
through ``server.app`` and ``client.participation`` over a transport without sockets: every message is sealed
and signed, every site keeps its ledger and log and countersigns the heads of the others, round by round. What
comes out makes a bundle like any other, with the plan's mark on every page.

What people do in a federation is done here by the program: it compares keys and approves in everybody's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cloister.client.app import client_app
from cloister.client.following import Following
from cloister.client.guard import Score
from cloister.client.participation import Participant
from cloister.client.replies import Replies
from cloister.client.site.ledger import Ledger
from cloister.client.sums import SecureSums
from cloister.privacy import software, timekeeping
from cloister.privacy.descent import Steps, steps_of
from cloister.privacy.dp.audit import Audit
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError
from cloister.privacy.evidence.heads import SignedHead
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.witnessing import Witness, countersigned
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.privacy.wire import messages
from cloister.server.app import Federation
from cloister.server.checkpoint import Checkpoint
from cloister.simulations.engine.head import head_layout, scores
from cloister.simulations.engine.holding import Floats, Holding
from cloister.simulations.engine.plans import LEAD, Parties
from cloister.simulations.engine.pupil import Pupil
from cloister.simulations.played import Played
from cloister.simulations.transport import LocalGrid


@dataclass(eq=False)
class SiteLearner(Pupil):
    """A site's cached features as a participant of a job trains on them (``client.contribution.Learner``).

    Attributes:
        own: rows of its own that nobody trains on.
        accuracies: round -> how often the model after it was right on ``own``.
        released: the final model, once it came.
    """

    own: Holding
    accuracies: dict[int, float] = field(default_factory=dict)
    released: Vector | None = None
    audit: Audit | None = None

    def keep(self, model: Vector, round: int) -> Score | None:
        """Notes how the model does on the site's own rows; a simulation has no guard that judges it."""
        self.accuracies[round] = accuracy(self.plan, model, self.own)
        return None

    def release(self, model: Vector) -> None:
        """See ``Learner``."""
        self.released = model


def accuracy(plan: Plan, model: Vector, rows: Holding) -> float:
    """The share of rows whose class a model of a plan finds."""
    found = scores(model, _features(plan, rows.features), len(plan.task.labels)).argmax(axis=1)
    return float((found == rows.labels).mean())


def _features(plan: Plan, features: Floats) -> Floats:
    """What the head of a plan is on: frozen features, and random cosines where its round has some."""
    constants = plan.training.analytic
    if constants is None or not constants.cosines:
        return features
    return replace(constants.lift(cut=False), scale=1.0).rows(features)[:, :-1]


@dataclass(frozen=True, eq=False)
class Ran:
    """A job that was run to its end.

    Attributes:
        job: everybody's keys and logs.
        model: the final one.
        accuracies: (site, round) -> how often the model after the round was right on the site's own rows.
    """

    job: Played
    model: Vector
    accuracies: Mapping[tuple[str, int], float]


@dataclass(frozen=True, eq=False)
class Seats:
    """Who takes part in a job, with what, and where it is written down.

    Attributes:
        parties: keys and training rows of all sites.
        own: site name -> rows of its own that nobody trains on.
        entropies: site name -> its randomness.
        budget: epsilon and delta of every site's ledger.
        folder: gets a folder for each party.
    """

    parties: Parties
    own: Mapping[str, Holding]
    entropies: Mapping[str, Entropy]
    budget: tuple[float, float]
    folder: Path


def run(plan: Plan, seats: Seats) -> Ran:
    """Runs a private plan to its end.

    Raises:
        PlanError: ``plan_conflict``, the plan has no privacy or no secure sums.
        RoundError, AggregationError, UpdateError, BudgetError: as each part does.
        StateError, LogError: the folder cannot be written.
    """
    return _Job(plan, seats).run()


class _Job:
    """The parties of a plan, each with a folder."""

    def __init__(self, plan: Plan, seats: Seats) -> None:
        self.plan, self.seats = plan, seats
        self.keys = seats.parties.identities
        self.names = [site.name for site in plan.sites]
        self.logs = {name: EventLog.open(self._place(name) / "log", key) for name, key in self.keys.items()}
        self.witnesses = {n: Witness(self._place(n), self.keys[n], self.logs[n]) for n in self.keys}
        self.learners = {
            name: SiteLearner(plan, name, held, seats.entropies[name], own=seats.own[name])
            for name, held in seats.parties.holdings.items()
        }

    def run(self) -> Ran:
        self._meet()
        self._approve()
        sites = {name: self._site(name) for name in self.names}
        for log in self.logs.values():
            log.append("clock.status", job=self.plan.digest, occasion="job", **timekeeping.state().fields())
            log.append("software.recorded", job=self.plan.digest, **software.running().fields())
        start = Checkpoint(self.plan.digest, 0, self._zero(), {}, {})
        model = messages.model_digest(start.model)
        self._tell("job.started", model=model, code=self.plan.lead.code)
        federation = Federation(
            plan=self.plan,
            identity=self.keys[LEAD],
            roster=self.seats.parties.roster,
            log=_Telling(self.logs[LEAD], self._show_heads),
            resume=start,
            save=lambda _: None,
            present=lambda: self.names,
            descent=self._steps(),
        )
        apps = {name: client_app({self.plan.digest: site}) for name, site in sites.items()}
        end = federation.run(LocalGrid(apps))
        for name in self.names:
            moved: dict[str, Any] = {"bytes_up": federation.up[name], "bytes_down": federation.down[name]}
            self._tell("traffic.counted", site=name, **moved)
        self._tell("job.finished", model=messages.model_digest(end.model), rounds=end.round)
        self._show_heads(end=True)
        return Ran(
            Played(self.plan, self.keys[LEAD], {n: self.keys[n] for n in self.names}, self.logs),
            end.model,
            {
                (name, number): value
                for name, learner in self.learners.items()
                for number, value in learner.accuracies.items()
            },
        )

    def _place(self, name: str) -> Path:
        return self.seats.folder / name

    def _zero(self) -> Vector:
        return np.zeros(self.plan.adapter.parameters, dtype=np.float32)

    def _tell(self, type: str, **fields: Any) -> None:
        """An event of the job in the lead's log."""
        self.logs[LEAD].append(type, job=self.plan.digest, **fields)

    def _meet(self) -> None:
        """Everybody gets everybody's keys."""
        for name in self.names:
            about: dict[str, Any] = {"site": name, "identity": self.keys[name].public.digest()}
            self.logs[LEAD].append("site.joined", **about)
            self.logs[name].append("site.joined", **about)
            for party in self.seats.parties.roster.members:
                if party.name != name:
                    known: dict[str, Any] = {"party": party.name, "identity": party.digest()}
                    self.logs[name].append("key.confirmed", **known, method="words")

    def _approve(self) -> None:
        """The plan is proposed, and approved everywhere."""
        plan = self.plan
        terms: dict[str, Any] = {"base": plan.base.digest, "roster": plan.roster, "code": plan.lead.code}
        self._tell("job.proposed", sites=sorted(self.names), **terms)
        about: dict[str, Any] = {"subject": plan.digest, "stage": "start", "role": "administrator"}
        for name in self.names:
            for type_ in ("approval.requested", "approval.granted"):
                self.logs[name].append(type_, job=plan.digest, **about)
            self._tell("job.accepted", site=name)

    def _site(self, name: str) -> Participant:
        plan, folder, log = self.plan, self._place(name), self.logs[name]
        ledger = Ledger(folder / "ledger.sqlite", log)
        ledger.open_budget(plan.site(name).dataset, plan.privacy.unit, *self.seats.budget)
        terms, steps = plan.sum_terms, self._steps()
        if terms is None or plan.privacy.mode == "off":
            raise PlanError("plan_conflict", "A job of a simulation is private, and its sums are secure.")
        peers = {peer: self.keys[peer].public for peer in terms.sites}
        return Participant(
            plan=plan,
            identity=self.keys[name],
            lead=self.keys[LEAD].public,
            learner=self.learners[name],
            ledger=ledger,
            entropy=self.seats.entropies[name],
            log=log,
            replies=Replies(folder / "replies"),
            secure=SecureSums(terms, self.keys[name], peers, folder / "sums.json"),
            following=Following(steps, self._zero()) if steps and plan.joint else None,
        )

    def _steps(self) -> Steps | None:
        return steps_of(self.plan, head_layout(self.seats.parties.inputs, len(self.plan.task.labels)))

    def _show_heads(self, *, end: bool = False) -> None:
        """Lead and sites show each other the newest heads of their logs; at the end sites also to sites."""
        for name, log in self.logs.items():
            owner, head = self.keys[name].public, log.head()
            bare = SignedHead(head.origin, head.size, head.root, head.signatures[:1])
            others = [other for other in self.keys if other != name and (end or LEAD in (name, other))]
            for other in others:
                witness = self.witnesses[other]
                before = witness.newest(owner)
                proof = log.consistency(before.size, head.size) if before and before.size < head.size else ()
                mark = witness.take(owner, bare, proof)
                if mark is not None:
                    countersigned(log, owner, (mark.serialise().decode(),), (self.keys[other].public,))


@dataclass(frozen=True)
class _Telling:
    """The lead's log; when a round has ended, heads are shown."""

    log: EventLog
    show: Callable[[], None]

    def append(
        self, type: str, *, job: str | None = None, round: int | None = None, **fields: object
    ) -> object:
        found = self.log.append(type, job=job, round=round, **fields)
        if type == "round.closed":
            self.show()
        return found

    def note(
        self, type: str, *, job: str | None = None, round: int | None = None, **fields: object
    ) -> object:
        return self.log.note(type, job=job, round=round, **fields)
