"""The ways to get a model out of a consortium, each through the real noise, encoding, sums and accounts.

``local`` is federated averaging (McMahan et al. 2017) of heads with each site's own noise, or none; ``joint``
one private descent of all sites together (``privacy.dp.joint``); ``Analytic`` one sum (``privacy.analytic``);
``alone`` a site, or all rows in one place, by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cloister.privacy import canonical
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.analytic.release import Release
from cloister.privacy.analytic.ridge import Linear, noise_ridge, solve
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.terms import At
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.wire import messages
from cloister.simulations.engine import rounds
from cloister.simulations.engine.head import Head, Moment, Steps, head_layout
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.rounds import ATTEMPT, FREE, Account, Seat, Trained, Watch, unwatched
from cloister.simulations.engine.sums import Sums


@dataclass(frozen=True, eq=False)
class Member:
    """A site of a run: its data in the form of a method, its randomness, its ledger.

    Attributes:
        holding: what it holds.
        entropy: where its sampling and noise come from.
        account: of its ledger.
    """

    holding: Holding
    entropy: Entropy
    account: Account = FREE


Members = Mapping[str, Member]


@dataclass(frozen=True, eq=False)
class HeadLearner:
    """Trains a head as a plan says.

    Attributes:
        head: the site's rows.
        steps: of a round.
        plan: the plan.
    """

    head: Head
    steps: Steps
    plan: Plan

    @classmethod
    def of(cls, plan: Plan, name: str, holding: Holding) -> HeadLearner:
        """The learner of one site of a plan."""
        head = Head.of(holding, len(plan.task.labels))
        return cls(head, Steps.of(plan, plan.site(name).units.low), plan)

    def train(self, model: Vector, entropy: Entropy, at: Moment) -> Delta:
        """See ``rounds.Learner``."""
        return self.head.train(model, self.steps, entropy, at)

    def share(self, model: Vector, entropy: Entropy, at: Moment) -> Share:
        """See ``rounds.Learner``."""
        return self.head.share(model, self.plan.grid, self.plan.training.rate, entropy, at)

    def surplus(self, survivors: int, entropy: Entropy, at: Moment) -> Surplus:
        """See ``rounds.Learner``."""
        return self.head.surplus(self.plan.grid, survivors, entropy, at)

    def sums(self, entropy: Entropy, at: Moment) -> Encoded:
        """See ``rounds.Learner``; as ``client.learn.analytic.sums``.

        Raises:
            PlanError: ``plan_conflict``, no round of the plan is analytic.
            UpdateError: as ``Release.encoded``.
        """
        constants, release, held = self.plan.training.opening, self.plan.release, self.head.holding
        if constants is None or release is None:
            raise PlanError("plan_conflict", "The plan has no analytic round.")
        rows = constants.lift(cut=release.mode != "off").rows(held.features)
        stream = entropy.stream("noise", round=at.round, step=1, attempt=at.attempt, model=at.model)
        return release.encoded(rows, held.labels, held.whose, stream)


def joint(plan: Plan, members: Members, sums: Sums, watch: Watch = unwatched) -> Trained:
    """A joint job on heads, from zeros; see ``rounds.joint``."""
    inputs = next(iter(members.values())).holding.features.shape[1]
    order = head_layout(inputs, len(plan.task.labels))
    return rounds.joint(plan, order, _seats(plan, members), sums, _zero(plan), watch)


def local(plan: Plan, members: Members, sums: Sums, watch: Watch = unwatched) -> Trained:
    """Federated averaging of heads, from zeros; see ``rounds.local``."""
    return rounds.local(plan, _seats(plan, members), sums, _zero(plan), watch)


def alone(
    holding: Holding, classes: int, how: Steps, entropy: Entropy, start: Vector | None = None
) -> Vector:
    """Steps on some rows by themselves: those of one site, or all rows in one place.

    Formal guarantees:
        Those of ``head.Head.train``: with noise, the Gaussian mechanism of ``how``.

    Args:
        holding: the rows.
        classes: how many there are.
        how: all steps.
        entropy: where sampling and noise come from.
        start: where the head starts; None for zeros.
    """
    size = head_layout(holding.features.shape[1], classes).size
    model = np.zeros(size, dtype=np.float32) if start is None else start
    entropy.advance(1)
    moment = Moment(1, ATTEMPT, messages.model_digest(model))
    return model + Head.of(holding, classes).train(model, how, entropy, moment).values


@dataclass(frozen=True, eq=False)
class Analytic:
    """An analytic round.

    Attributes:
        lift: the feature map.
        release: the terms of the one sum.
        ridge: r.
        noise_share: how much of the noise's largest eigenvalue is added to r (``privacy.analytic.ridge``).
    """

    lift: Lift
    release: Release
    ridge: float
    noise_share: float = 1.0

    @property
    def digest(self) -> str:
        """The digest of all public constants: what keys and streams are bound to."""
        lift, release = self.lift, self.release
        parts: list[canonical.Json] = [
            {key: value for key, value in vars(lift).items() if key in lift.__dataclass_fields__},
            dict(vars(release.terms)),
            [list(release.rows), release.mode, release.noise_multiplier, release.n_min, release.t],
            [self.ridge, self.noise_share],
        ]
        return canonical.digest(canonical.encode(parts))

    def run(self, members: Members, sums: Sums) -> Linear:
        """One sum over all members, and its solution.

        Raises:
            UpdateError, AggregationError, BudgetError: as each part does.
        """
        at, release = At(1, 0, ATTEMPT, self.digest), self.release
        opened = sums.open(at, self._sent(members, at))
        for name in opened.survivors:
            if release.mechanism:
                members[name].account.settle(1, self._known(len(opened.survivors)))
        return self.solved(release.decoded(opened.words))

    def _sent(self, members: Members, at: At) -> Iterator[tuple[str, bytes]]:
        release = self.release
        for name, member in members.items():
            if release.mechanism:
                member.account.reserve(1, release.mechanism)
            member.entropy.advance(1)
            stream = member.entropy.stream("noise", round=1, step=1, attempt=ATTEMPT, model=at.model)
            held = member.holding
            rows = self.lift.rows(held.features)
            yield name, release.encoded(rows, held.labels, held.whose, stream).content

    def _known(self, survivors: int) -> GaussianSteps:
        release = self.release
        if release.mode == "joint":
            return release.grid.event(1.0, 1, survivors - release.t)
        return GaussianSteps(release.noise_multiplier, 1.0, 1)

    def solved(self, total: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Linear:
        """The model of an opened sum."""
        terms, release = self.release.terms, self.release
        ridge = self.ridge + noise_ridge(terms.width, release.deviation / terms.weight, self.noise_share)
        return solve(terms, total, ridge)

    def accuracy(self, model: Linear, test: Holding) -> float:
        """On test rows."""
        return model.accuracy(self.lift.rows(test.features), test.labels)


def _zero(plan: Plan) -> Vector:
    """Where a head starts."""
    return np.zeros(plan.adapter.parameters, dtype=np.float32)


def _seats(plan: Plan, members: Members) -> dict[str, Seat]:
    return {
        name: Seat(HeadLearner.of(plan, name, member.holding), member.entropy, member.account)
        for name, member in members.items()
    }
