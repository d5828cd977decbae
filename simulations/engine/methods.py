"""The ways to get a model out of a consortium, each through the real noise, encoding, sums and accounts.

``local`` is federated averaging (McMahan et al. 2017) of heads with each site's own noise, or none; ``joint``
one private descent of all sites together (``privacy.dp.joint``); ``Analytic`` one sum (``privacy.analytic``);
``alone`` a site, or all rows in one place, by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cloister.privacy import canonical
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.analytic.release import Release
from cloister.privacy.analytic.ridge import Linear, noise_ridge, solve
from cloister.privacy.descent import Descent
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import Entropy
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan
from cloister.privacy.secagg import surplus as noise_sum
from cloister.privacy.secagg.encoding import Sum, encode, residues
from cloister.privacy.secagg.terms import At
from cloister.privacy.update import Vector
from cloister.privacy.wire import messages
from cloister.server.optimizers import stepping
from cloister.simulations.engine.head import Head, Moment, Steps, head_layout
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.sums import Opened, Sums

ATTEMPT = 1


@dataclass(frozen=True, eq=False)
class Account:
    """Where a site's costs go before anything leaves, and what they came to once a sum was opened.

    Attributes:
        reserve: called with the round and what it may cost.
        settle: called with the round and what it came to.
    """

    reserve: Callable[[int, GaussianSteps], None] = lambda _round, _mechanism: None
    settle: Callable[[int, GaussianSteps], None] = lambda _round, _mechanism: None


FREE = Account()
"""Keeps no account: for searches on validation data, which a real consortium would have to charge."""


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
class Trained:
    """A model and what it took.

    Attributes:
        model: float32, shape (d,).
        bytes_up: what one site sent, encoded, before it was sealed and signed.
        sums: how many secure sums were opened.
    """

    model: Vector
    bytes_up: int
    sums: int


def joint(plan: Plan, members: Members, sums: Sums) -> Trained:
    """A joint job: every round one step and one opened sum, and one more where surplus noise is taken back.

    Raises:
        UpdateError, AggregationError, BudgetError: as each part does.
    """
    descent, heads = Descent.of(plan, _layout(plan, members)), _heads(plan, members)
    model = np.zeros(plan.adapter.parameters, dtype=np.float32)
    before, sent, opens = np.zeros_like(model), 0, 0
    for number in range(1, plan.training.rounds + 1):
        at = At(number, 0, ATTEMPT, messages.model_digest(model))
        words = {}
        for name, member in members.items():
            member.account.reserve(
                number, plan.grid.event(plan.training.rate, 1, plan.grid.n_min - plan.grid.t)
            )
            member.entropy.advance(number)
            moment = Moment(number, ATTEMPT, at.model)
            share = heads[name].share(model, plan.grid, plan.training.rate, member.entropy, moment)
            words[name] = residues(share).content
        opened = sums.open(at, words)
        known = plan.grid.settled(plan.training.rate, len(opened.survivors))
        for name in opened.survivors:
            members[name].account.settle(number, known)
        vectors = 1
        if plan.grid.unneeded(len(opened.survivors)):
            opened, vectors = _without_surplus(plan.grid, members, sums, at, opened), 2
        before = descent.change(before, opened.words, opened.survivors)
        model, sent = model + before, sent + vectors * len(words[opened.survivors[0]])
        opens += vectors
    return Trained(model, sent, opens)


def _without_surplus(grid: Grid, members: Members, sums: Sums, at: At, opened: Opened) -> Opened:
    """An opened sum, less the noise that it does not need."""
    moment, parts = Moment(at.round, at.attempt, at.model), {}
    for name in opened.survivors:
        member = members[name]
        member.entropy.advance(at.round)  # from the start of the round: the same parts once more
        parts[name] = residues(Head.surplus(grid, len(opened.survivors), member.entropy, moment)).content
    surplus = sums.open(noise_sum.place(at), parts, over=opened.survivors)
    return Opened(noise_sum.without(opened.words, surplus.words), opened.survivors)


def local(plan: Plan, members: Members, sums: Sums) -> Trained:
    """Federated averaging, with every site's own noise where the plan is private.

    Raises:
        UpdateError, AggregationError, BudgetError: as each part does.
    """
    heads = _heads(plan, members)
    model, sent = np.zeros(plan.adapter.parameters, dtype=np.float32), 0
    moments: stepping.Moments = ()
    for number in range(1, plan.training.rounds + 1):
        at = At(number, 0, ATTEMPT, messages.model_digest(model))
        words = {}
        for name, member in members.items():
            if plan.round_mechanism:
                member.account.reserve(number, plan.round_mechanism)
            member.entropy.advance(number)
            how = Steps.of(plan, plan.site(name).units.low)
            delta = heads[name].train(model, how, member.entropy, Moment(number, ATTEMPT, at.model))
            words[name] = encode(delta, plan.weight(name), plan.ring).content
            for mechanism in delta.mechanisms:
                member.account.settle(number, mechanism)
        opened = sums.open(at, words)
        weight = sum(plan.weight(name) for name in opened.survivors)
        mean = Sum.of(plan.ring, opened.words, weight).mean()
        change, moments = stepping.step(plan.training.server, moments, mean)
        model = model + change
        sent += len(words[opened.survivors[0]])
    return Trained(model, sent, plan.training.rounds)


def alone(holding: Holding, classes: int, how: Steps, entropy: Entropy) -> Vector:
    """Steps on some rows by themselves: those of one site, or all rows in one place.

    Formal guarantees:
        Those of ``head.Head.train``: with noise, the Gaussian mechanism of ``how``.

    Args:
        holding: the rows.
        classes: how many there are.
        how: all steps.
        entropy: where sampling and noise come from.
    """
    model = np.zeros(head_layout(holding.features.shape[1], classes).size, dtype=np.float32)
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
        at, release, words = At(1, 0, ATTEMPT, self.digest), self.release, {}
        for name, member in members.items():
            if release.mechanism:
                member.account.reserve(1, release.mechanism)
            member.entropy.advance(1)
            stream = member.entropy.stream("noise", round=1, step=1, attempt=ATTEMPT, model=at.model)
            held = member.holding
            words[name] = release.encoded(
                self.lift.rows(held.features), held.labels, held.units, stream
            ).content
        opened = sums.open(at, words)
        for name in opened.survivors:
            if release.mechanism:
                members[name].account.settle(1, self._known(len(opened.survivors)))
        return self.solved(release.decoded(opened.words))

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


def _heads(plan: Plan, members: Members) -> dict[str, Head]:
    return {name: Head.of(member.holding, len(plan.task.labels)) for name, member in members.items()}


def _layout(plan: Plan, members: Members) -> Layout:
    inputs = next(iter(members.values())).holding.features.shape[1]
    return head_layout(inputs, len(plan.task.labels))
