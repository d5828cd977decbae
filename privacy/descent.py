"""The step of a global model that every party can take: gradient descent with momentum, in float32 numpy.

In joint mode the server takes it, and every site takes it again: the same function of the same public
numbers. What it needs of the past is the last change of the model, so whoever saw two models in a row can
follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.analytic.solution import Solution
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector

ADAM_DECAYS = (0.9, 0.999)
"""How fast Adam, which a job without privacy trains by, forgets gradients and their squares."""

TOLERANCE = 1e-5
"""Two parties' models of the same step differ by at most this, absolute and relative: float32 on two
machines."""


def learning_rates(layout: Layout, head: float, adapter: float) -> Vector:
    """The learning rate of each parameter, float32, shape (d,): those of the head, and those of LoRA."""
    rates = np.empty(layout.size, dtype=np.float32)
    for name, _, place in layout.slices():
        rates[place] = head if name.startswith("head.") else adapter
    return rates


def change(before: Vector, gradient: Vector, rates: Vector, momentum: float) -> Vector:
    """What a step changes: momentum times the change before, less the rates times the mean gradient.

    Args:
        before: the change of the step before, float32, shape (d,); zeros at the start.
        gradient: the mean gradient, float32, shape (d,).
        rates: of each parameter.
        momentum: in [0, 1).
    """
    changed: Vector = np.float32(momentum) * before - rates * gradient
    return changed


@dataclass(frozen=True, eq=False)
class Descent:
    """The steps of a joint job.

    Attributes:
        plan: the plan; its mode is ``joint``.
        rates: of each parameter.
    """

    plan: Plan
    rates: Vector

    @classmethod
    def of(cls, plan: Plan, layout: Layout) -> Descent:
        """The steps of a plan whose trained parameters have a layout."""
        training = plan.training
        return cls(plan, learning_rates(layout, training.head_rate, training.adapter_rate))

    def at(self, round: int) -> Descent:  # noqa: ARG002
        """The step of a round: of each the same."""
        return self

    def kept(self, change: Vector) -> Vector:
        """What of a change is carried into the next one: all of it."""
        return change

    def change(self, before: Vector, words: NDArray[np.uint32], survivors: tuple[str, ...]) -> Vector:
        """What the step after an opened sum changes, float32, shape (d,).

        The sum is divided by the number of units that the survivors' bands promise at the plan's rate: a
        public number, never the true one.

        Args:
            before: the change of the step before, float32, shape (d,); zeros at the start.
            words: the opened sum modulo 2^32, shape (d,).
            survivors: over whom it is.
        """
        plan = self.plan
        units = sum(plan.site(name).units.low for name in survivors)
        scale = plan.grid.step / (plan.training.rate * units)
        gradient = (words.view(np.int32) * scale).astype(np.float32)
        return change(before, gradient, self.rates, plan.training.momentum)


class Step(Protocol):
    """What makes a model of an opened sum."""

    def change(self, before: Vector, words: NDArray[np.uint32], survivors: tuple[str, ...]) -> Vector:
        """What the step after an opened sum changes; see ``Descent.change``."""
        ...

    def kept(self, change: Vector) -> Vector:
        """What of a change the next step takes as that before it."""
        ...


class Steps(Protocol):
    """What makes models of opened sums: the steps of a joint job, an analytic round, or both."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...

    def at(self, round: int) -> Step | None:
        """The step of a round; None where the mean of updates is one."""
        ...


@dataclass(frozen=True, eq=False)
class Started:
    """An analytic first round, and what goes on from its solution.

    Attributes:
        first: the step of round 1.
        others: the steps after it in joint mode; None where the rounds after it are means of updates.
    """

    first: Solution
    others: Descent | None

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.first.plan

    def at(self, round: int) -> Step | None:
        """See ``Steps``."""
        return self.first if round == 1 else self.others


def steps_of(plan: Plan, layout: Layout) -> Steps | None:
    """What makes models of a plan's opened sums; None where all are means of updates."""
    if plan.training.analytic:
        return Solution.of(plan)
    descent = Descent.of(plan, layout) if plan.joint else None
    return Started(Solution.of(plan), descent) if plan.training.start else descent


def follows(expected: Vector, model: Vector) -> bool:
    """Whether a model is what a step should have made of the one before."""
    return bool(np.allclose(model, expected, rtol=TOLERANCE, atol=TOLERANCE))
