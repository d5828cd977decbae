"""A linear head on cached features, trained in numpy: the steps of ``client.learn.training`` without torch.

A unit's gradient is the sum over its rows of outer products (p - y) [8 x, 1]', p the softmax of the logits;
the words of a document count together as much as one row. As in ``privacy.analytic.moments`` its norm follows
from inner products of its rows, so no gradient of a single unit is ever formed. A test holds every step to
``LocalTrainer`` on the same key streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn.model import SCALE
from cloister.privacy import descent
from cloister.privacy.dp import accounting, joint, noise, sampling
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import UpdateError
from cloister.privacy.layout import Layout, Placement, layout
from cloister.privacy.plan import Plan
from cloister.privacy.update import Clipped, Delta, Share, Surplus, Vector
from cloister.simulations.engine.holding import Holding

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_JUST_BELOW_ONE = 1 - 2.0**-40


def head_layout(inputs: int, classes: int) -> Layout:
    """The order of a head's parameters: bias, then weights, class by class."""
    return layout({}, inputs, Placement(1, ("query",), 0, classes))


@dataclass(frozen=True)
class Steps:
    """How a head is trained for a while.

    Attributes:
        steps: how many.
        rate: the probability with which each unit takes part in a step.
        expected_units: the public number of units; sums are divided by ``rate * expected_units``.
        learning_rate: acting on that mean gradient.
        momentum: starts anew each time.
        bound, noise_multiplier: of a private step; 0 both without privacy.
    """

    steps: int
    rate: float
    expected_units: int
    learning_rate: float
    momentum: float
    bound: float = 0.0
    noise_multiplier: float = 0.0

    @classmethod
    def of(cls, plan: Plan, units: int) -> Steps:
        """What a plan asks of a site in a round, with a public number of units."""
        training, privacy = plan.training, plan.privacy
        private = privacy.mode != "off"
        return cls(
            training.steps,
            training.rate,
            units,
            training.head_rate,
            training.momentum,
            privacy.bound if private else 0.0,
            privacy.noise_multiplier if private else 0.0,
        )


@dataclass(frozen=True)
class Moment:
    """Where in a run the training stands: what key streams are bound to."""

    round: int
    attempt: int
    model: str


@dataclass(frozen=True, eq=False)
class Head:
    """A site's rows in the form that a step starts from.

    Attributes:
        inputs: scaled features and a constant, float64, shape (rows, hidden + 1).
        targets: one-hot, float64, shape (rows, classes).
        holding: whose rows they are.
    """

    inputs: Floats
    targets: Floats
    holding: Holding

    @classmethod
    def of(cls, holding: Holding, classes: int) -> Head:
        """The head's view of rows."""
        return cls(holding.inputs, np.eye(classes)[holding.labels], holding)

    def train(self, start: Vector, how: Steps, entropy: Entropy, at: Moment) -> Delta:
        """What some local steps change, and every noised step that went into it.

        Formal guarantees:
            Those of ``client.learn.training.LocalTrainer.train``.

        Raises:
            UpdateError: ``update_not_finite``.
        """
        parameters = np.array(start, dtype=np.float32)
        memory: descent.Memory = ()
        rates = np.full(parameters.shape, how.learning_rate, dtype=np.float32)
        mechanisms: list[GaussianSteps] = []
        for step in range(1, how.steps + 1):
            rows = self._sampled(how.rate, entropy, at, step)
            total: Vector
            if how.noise_multiplier:
                cut = self.clipped(parameters, how.bound, rows)
                stream = entropy.stream(
                    "noise", round=at.round, step=step, attempt=at.attempt, model=at.model
                )
                noised = noise.gaussian(cut, how.noise_multiplier, stream)
                mechanisms.append(GaussianSteps(noised.noise_multiplier, how.rate, 1))
                total = noised.values
            else:
                total = self._sum(parameters, rows, None).astype(np.float32)
            mean = total / np.float32(how.rate * how.expected_units)
            change = descent.momentum(memory, mean, rates, how.momentum)
            memory, parameters = (change,), parameters + change
        if not np.isfinite(parameters).all():
            raise UpdateError("update_not_finite", "Training diverged.", "Lower the learning rates.")
        return Delta(parameters - start, accounting.merged(mechanisms))

    def share(self, start: Vector, grid: Grid, rate: float, entropy: Entropy, at: Moment) -> Share:
        """This site's part of one joint step.

        Formal guarantees:
            Those of ``dp.joint.share``.

        Raises:
            UpdateError: ``update_not_finite``.
        """
        rows = self._sampled(rate, entropy, at, 1)
        return joint.share(self.clipped(start, grid.bound, rows), grid, rate, _streams(entropy, at))

    @staticmethod
    def surplus(grid: Grid, survivors: int, entropy: Entropy, at: Moment) -> Surplus:
        """What of this site's noise at a moment a sum over so many survivors does not need.

        Formal guarantees:
            Those of ``dp.joint.surplus``.
        """
        return joint.surplus(grid.parameters, grid, survivors, _streams(entropy, at))

    def clipped(self, model: Vector, bound: float, rows: Indices | None = None) -> Clipped:
        """The sum of the gradients of all units with these rows, each cut to ``bound``: float64, shape (d,).

        Formal guarantees:
            Adding or removing one unit changes ``values`` by at most ``bound`` in Euclidean norm, up to the
            rounding of float64 sums and to the last bits of float32 in what other units add: a matrix
            product may take another way for another number of rows.
        """
        return Clipped(self._sum(model, rows, bound), bound)

    def _sum(self, model: Vector, rows: Indices | None, bound: float | None) -> Floats:
        if rows is not None:
            return Head.of(self.holding.take(rows), self.targets.shape[1])._sum(model, None, bound)
        inputs, units = self.inputs, self.holding.whose
        # float32 will do for what the gradient is; how long it is, and the sum, need float64.
        weights = matrix(model, self.targets.shape[1]).astype(np.float32)
        errors = softmax(self._narrow @ weights.T).astype(np.float64) - self.targets
        if self.holding.documents is not None:
            errors *= self.holding.weights
        if bound is not None:
            factors = _JUST_BELOW_ONE * bound / np.maximum(self.holding.outer_norms(errors), 1e-300)
            factors = np.minimum(1.0, factors)
            errors *= (factors if units is None else factors[units])[:, None]
        gradient = errors.T @ inputs
        return np.concatenate([gradient[:, -1], gradient[:, :-1].reshape(-1)])

    @cached_property
    def _narrow(self) -> NDArray[np.float32]:
        return self.inputs.astype(np.float32)

    def _sampled(self, rate: float, entropy: Entropy, at: Moment, step: int) -> Indices | None:
        """The rows of a step; None for all of them, with the key stream left untouched."""
        if rate == 1:
            return None
        stream = entropy.stream("sampling", round=at.round, step=step, attempt=at.attempt, model=at.model)
        return self.holding.rows_of(sampling.poisson(self.holding.number_of_units, rate, stream))


def _streams(entropy: Entropy, at: Moment) -> joint.Streams:
    """The key streams of a joint step."""
    return lambda purpose: entropy.stream(purpose, round=at.round, step=1, attempt=at.attempt, model=at.model)


def matrix(model: Vector, classes: int) -> Floats:
    """The parameters as classes x (hidden + 1), the bias last."""
    return np.hstack([model[classes:].reshape(classes, -1), model[:classes, None]]).astype(np.float64)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class probabilities, row by row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def scores(model: Vector, features: Floats, classes: int) -> Floats:
    """The logits of each row, shape (rows, classes)."""
    weights = matrix(model, classes)
    return np.asarray(SCALE * features @ weights[:, :-1].T + weights[:, -1])
