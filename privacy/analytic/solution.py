"""The step of an analytic round: from the opened sum to the head that everybody gets, or starts from.

The server takes it, and in joint mode every site takes it again, like the steps of a descent
(``privacy.descent``). The solution of lifted rows is written as a linear head on frozen features and random
cosines, so that it is a model like any other. A row's cut to norm 1 multiplies all its scores by one number
above 0 and so changes no prediction: the head leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.analytic.constants import Analytic
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.analytic.release import Release
from cloister.privacy.analytic.ridge import Linear, noise_ridge, solve
from cloister.privacy.errors import PlanError, UpdateError
from cloister.privacy.layout import SCALE
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector


@dataclass(frozen=True, eq=False)
class Solution:
    """The step from where all is 0 to the model.

    Attributes:
        plan: its first round is analytic.
        analytic: the constants of that round.
        release: its one sum.
        gain: what the head is multiplied with.
    """

    plan: Plan
    analytic: Analytic
    release: Release
    gain: float = 1.0

    @classmethod
    def of(cls, plan: Plan) -> Solution:
        """The step of a plan.

        Raises:
            PlanError: ``plan_conflict``, the plan has no analytic round.
        """
        analytic, release, start = plan.training.opening, plan.release, plan.training.start
        if analytic is None or release is None:
            raise PlanError("plan_conflict", "The plan has no analytic round.")
        return cls(plan, analytic, release, start.gain if start else 1.0)

    def at(self, round: int) -> Solution | None:
        """The step of a round; None of any after the first."""
        return self if round == 1 else None

    def take(
        self,
        memory: tuple[Vector, ...],  # noqa: ARG002
        words: NDArray[np.uint32],
        survivors: tuple[str, ...],  # noqa: ARG002
    ) -> tuple[Vector, tuple[Vector, ...]]:
        """The head that an opened sum leads to, float32, in the order of the plan's layout.

        Nothing of it is remembered by a step that follows: it starts with no momentum.

        Args:
            memory: empty, as there was no step before.
            words: the sum modulo 2^32, shape (plan.summands(1),).
            survivors: over whom it is; the solution is the same function of any sum.

        Raises:
            UpdateError: ``update_shape``, ``update_not_finite``.
        """
        return np.float32(self.gain) * head(self.analytic.lift(cut=False), self.solved(words)), ()

    def solved(self, words: NDArray[np.uint32]) -> Linear:
        """The linear model of lifted rows; see ``ridge.solve`` for what is raised."""
        terms, release, analytic = self.release.terms, self.release, self.analytic
        ridge = analytic.ridge + noise_ridge(
            terms.width, release.deviation / terms.weight, analytic.noise_share
        )
        return solve(terms, release.decoded(words), ridge)


def head(lift: Lift, linear: Linear) -> Vector:
    """A solution as bias and weights of a linear head: float32, class by class; logits are 8 times scores.

    Of two classes with one column of +1 and -1, each class gets half of it.
    """
    columns = linear.weights
    if columns.shape[1] == 1:
        columns = np.hstack([-columns / 2, columns / 2])
    weights, bias = columns[:-1].copy(), SCALE * lift.constant * columns[-1]
    weights[: lift.inputs] *= lift.scale
    return np.concatenate([bias, weights.T.reshape(-1)]).astype(np.float32)


def linear(analytic: Analytic, model: Vector, classes: int) -> Linear:
    """The solution that ``head`` wrote as a model; exact but for float32.

    Raises:
        UpdateError: ``update_shape``.
    """
    if model.shape != (classes * (analytic.head + 1),):
        raise UpdateError("update_shape", f"A head on {analytic.head} features has another length.")
    columns = model.astype(np.float64)
    bias, weights = columns[:classes] / (SCALE * analytic.constant), columns[classes:].reshape(classes, -1).T
    weights = weights.copy()
    weights[: analytic.inputs] /= analytic.scale
    found = np.vstack([weights, bias])
    if classes == 2:
        found = found[:, 1:] - found[:, :1]
    return Linear(found)
