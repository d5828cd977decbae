"""A whole consortium in this process: real keys, envelopes, ledgers, ratchets and logs in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
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
from cloister.privacy import canonical
from cloister.privacy.analytic.moments import Floats, Indices
from cloister.privacy.analytic.solution import Solution
from cloister.privacy.descent import Descent, Started, Steps
from cloister.privacy.dp import joint
from cloister.privacy.dp.audit import Audit
from cloister.privacy.dp.noise import gaussian
from cloister.privacy.entropy import Ratchet
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, Role, Roster
from cloister.privacy.plan import Plan
from cloister.privacy.update import Clipped, Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import Header
from cloister.server.app import Federation
from cloister.server.checkpoint import Checkpoint
from cloister.server.post import Pace
from cloister.server.rounds import Round
from cloister.server.sums import Ask
from cloister.simulations.transport import LocalGrid
from tests.plans import plan_json

NAMES = ("north", "south", "west")
QUICK = Pace(answer=60.0, absence=0.05, resend=60.0, join=0.2, poll=0.001, look=0.0)


def start(plan: Plan) -> Vector:
    """The model before the first step."""
    return np.zeros(plan.adapter.parameters, dtype=np.float32)


def asked(federation: Federation, current: Round, site: str, ask: Ask) -> bytes:
    """What a site is sent that is asked alone."""
    return dict(federation.mail.questions.sealed(current, ask, [site]))[site]


def tasked(federation: Federation, current: Round, site: str) -> bytes:
    """A site's task of a round, from the model that a run starts from."""
    return asked(
        federation, current, site, federation._task(messages.TASK, messages.UPDATE, federation.resume)
    )


@dataclass
class MeanLearner:
    """Moves the model half way towards the site's own point, with real clipping and noise."""

    plan: Plan
    point: float
    entropy: Any
    kept: list[tuple[int, Vector]] = field(default_factory=list)
    released: list[Vector] = field(default_factory=list)
    trained: int = 0
    audit: Audit | None = None
    scores: dict[int, Score] = field(default_factory=dict)

    def train(self, model: Vector, header: Header) -> Delta:
        self.trained += 1
        mechanism = self.plan.round_mechanism
        step = ((self.point - model) / 2).astype(np.float32)
        if mechanism is None:
            return Delta(step, ())
        stream = self.entropy.stream(
            "noise", round=header.round, step=1, attempt=header.attempt, model=header.model
        )
        noised = gaussian(Clipped(step, 1e-6), mechanism.noise_multiplier, stream)
        return Delta(noised.values, (mechanism,))

    def share(self, model: Vector, header: Header) -> Share:
        self.trained += 1
        at = {"round": header.round, "step": 1, "attempt": header.attempt, "model": header.model}
        self.entropy.stream("sampling", **at)
        gradient = np.asarray(model - self.point, dtype=np.float64)
        gradient *= min(1.0, self.plan.privacy.bound / max(1e-9, float(np.linalg.norm(gradient))))
        clipped = Clipped(gradient, self.plan.privacy.bound)
        return joint.share(clipped, self.plan.grid, self.plan.training.rate, self._streams(header))

    def rows(self) -> tuple[Floats, Indices]:
        """The site's own features of unit length and their classes."""
        analytic, draw = self.plan.training.opening, np.random.default_rng(int(self.point))
        assert analytic is not None
        labels = draw.integers(0, len(self.plan.task.labels), 150)
        features = np.eye(analytic.inputs)[labels] + 0.3 * draw.normal(size=(150, analytic.inputs))
        return features / np.linalg.norm(features, axis=1, keepdims=True), labels

    def sums(self, header: Header) -> Encoded:
        self.trained += 1
        analytic, release = self.plan.training.opening, self.plan.release
        assert analytic is not None
        assert release is not None
        features, labels = self.rows()
        lifted = analytic.lift(cut=release.mode != "off").rows(features)
        return release.encoded(lifted, labels, None, self._streams(header)("noise"))

    def surplus(self, header: Header, survivors: int) -> Surplus:
        grid = self.plan.grid
        return joint.surplus(grid.parameters, grid, survivors, self._streams(header))

    def _streams(self, header: Header) -> joint.Streams:
        at = {"round": header.round, "step": 1, "attempt": header.attempt, "model": header.model}
        return lambda purpose: self.entropy.stream(purpose, **at)

    def keep(self, model: Vector, round: int) -> Score | None:
        self.kept.append((round, model))
        return self.scores.get(round)

    def release(self, model: Vector) -> None:
        self.released.append(model)


class Consortium:
    """A lead and sites with keys of their own.

    ``site(name)`` opens a site from its folder, as a restart does.
    """

    def __init__(
        self, folder: Path, names: tuple[str, ...] = NAMES, budget: float = 100.0, **changes: Any
    ) -> None:
        self.folder = folder
        self.lead = self.made("lead", "lead")
        self.keys = {name: self.made(name, "site") for name in names}
        self.roster = Roster("hospitals", (self.lead.public, *(key.public for key in self.keys.values())))
        value = plan_json(names, **changes)
        value["roster"] = self.roster.digest()
        for party in (value["lead"], *value["sites"]):
            party["identity"] = self.roster.member(party["name"]).digest()
        self.plan = Plan.from_bytes(canonical.encode(value))
        self.budget = budget
        self.sites = {name: self.site(name) for name in names}
        self.log = EventLog.open(folder / "lead" / "log", self.lead)
        self.saved: list[Checkpoint] = []

    def made(self, name: str, role: Role) -> PrivateIdentity:
        return PrivateIdentity.generate(name, role)

    def ratchet(self, name: str) -> Ratchet:
        return Ratchet(self.folder / name / "ratchet", self.plan.digest)

    def site(self, name: str) -> Participant:
        folder = self.folder / name
        folder.mkdir(exist_ok=True, mode=0o700)
        log = EventLog.open(folder / "log", self.keys[name])
        ledger = Ledger(folder / "ledger.sqlite", log)
        ledger.open_budget("notes", "record", self.budget, 1e-5)
        entropy = self.ratchet(name)
        learner = MeanLearner(self.plan, float(1 + list(self.keys).index(name)), entropy)
        return Participant(
            plan=self.plan,
            identity=self.keys[name],
            lead=self.lead.public,
            learner=learner,
            ledger=ledger,
            entropy=entropy,
            log=log,
            replies=Replies(folder / "replies"),
            secure=self.secure(name),
            following=Following(steps, start(self.plan))
            if (steps := self.descent) and self.plan.joint
            else None,
        )

    @property
    def descent(self) -> Steps | None:
        if self.plan.training.analytic:
            return Solution.of(self.plan)
        rates = np.full(self.plan.adapter.parameters, 0.5, dtype=np.float32)
        descent = Descent(self.plan, rates) if self.plan.joint else None
        return Started(Solution.of(self.plan), descent) if self.plan.training.start else descent

    def secure(self, name: str) -> SecureSums | None:
        terms = self.plan.sum_terms
        if terms is None:
            return None
        peers = {peer: self.keys[peer].public for peer in terms.sites}
        return SecureSums(terms, self.keys[name], peers, self.folder / name / "sums.json")

    def federation(self, **changes: Any) -> Federation:
        settings: dict[str, Any] = {
            "plan": self.plan,
            "identity": self.lead,
            "roster": self.roster,
            "log": self.log,
            "resume": Checkpoint(
                self.plan.digest, 0, np.zeros(self.plan.adapter.parameters, dtype=np.float32), {}, {}
            ),
            "save": self.saved.append,
            "present": lambda: tuple(self.keys),
            "descent": self.descent,
            "pace": QUICK,
        }
        return Federation(**(settings | changes))

    def grid(self, **faults: Any) -> LocalGrid:
        digest = self.plan.digest
        return LocalGrid({name: client_app({digest: site}) for name, site in self.sites.items()}, **faults)
