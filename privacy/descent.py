"""The step of a global model that every party can take: descent with momentum, or Adam, in float32 numpy.

In joint mode the server takes it, and every site takes it again: the same function of the same public
numbers, which are noised already, so a step costs no privacy whatever it does with them. Of the past it needs
what it remembers. Of descent that is the last change of the model, so whoever saw two models in a row can
follow; Adam's two means cannot be told from models, and a task brings them along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.analytic.solution import Solution
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector

ADAM_DECAYS: Final = (0.9, 0.999)
"""How fast Adam forgets gradients and their squares in the local steps of a round."""

SQUARES: Final = 0.9
"""How fast it forgets squares in joint mode, whose jobs have tens of steps and not thousands; gradients are
forgotten by the plan's momentum."""

_FLOOR: Final = np.float32(1e-8)

Memory: TypeAlias = tuple[Vector, ...]
"""What an optimizer remembers of the steps before: one vector or two, float32, shape (d,); none at the
start."""

TOLERANCE = 1e-5
"""Two parties' models of the same step differ by at most this, absolute and relative: float32 on two
machines."""


def learning_rates(layout: Layout, head: float, adapter: float) -> Vector:
    """The learning rate of each parameter, float32, shape (d,): those of the head, and those of LoRA."""
    rates = np.empty(layout.size, dtype=np.float32)
    for name, _, place in layout.slices():
        rates[place] = head if name.startswith("head.") else adapter
    return rates


def momentum(memory: Memory, gradient: Vector, rates: Vector, keep: float) -> Vector:
    """What a step of descent changes, and all that the next one needs of it: momentum times the change
    before, less the rates times the mean gradient.

    Args:
        memory: the change of the step before.
        gradient: the mean gradient, float32, shape (d,).
        rates: of each parameter.
        keep: the momentum, in [0, 1).
    """
    pull = rates * gradient
    changed: Vector = np.float32(keep) * memory[0] - pull if memory else -pull
    return changed


def adam(
    memory: Memory, gradient: Vector, rates: Vector, decays: tuple[float, float], number: int
) -> tuple[Vector, Memory]:
    """What a step of Adam changes, and both its means after it.

    Kingma and Ba 2015 (arXiv 1412.6980), with the bias correction.

    Args:
        memory: the means of gradients and of their squares.
        gradient: the mean gradient, float32, shape (d,).
        rates: of each parameter.
        decays: how much of either mean stays, each in [0, 1).
        number: of the step, from 1.
    """
    zero = np.zeros_like(gradient)
    first, second = memory or (zero, zero)
    keep, squares = decays
    first = np.float32(keep) * first + np.float32(1 - keep) * gradient
    second = np.float32(squares) * second + np.float32(1 - squares) * gradient**2
    corrected = np.sqrt(second / np.float32(1 - squares**number)) + _FLOOR
    changed: Vector = -rates * (first / np.float32(1 - keep**number)) / corrected
    return changed, (first, second)


@dataclass(frozen=True, eq=False)
class Descent:
    """The steps of a joint job.

    Attributes:
        plan: the plan; its mode is ``joint``.
        rates: of each parameter.
        number: of the step, from 1. A round whose sum was lost counts, though no step was taken in it.
    """

    plan: Plan
    rates: Vector
    number: int = 1

    @classmethod
    def of(cls, plan: Plan, layout: Layout) -> Descent:
        """The steps of a plan whose trained parameters have a layout."""
        training = plan.training
        return cls(plan, learning_rates(layout, training.head_rate, training.adapter_rate))

    def at(self, round: int) -> Descent:
        """The step of a round, counted from the first that is one."""
        return replace(self, number=round)

    def take(
        self, memory: Memory, words: NDArray[np.uint32], survivors: tuple[str, ...]
    ) -> tuple[Vector, Memory]:
        """What the step after an opened sum changes, float32, shape (d,), and what is remembered after it.

        The sum is divided by the number of units that the survivors' bands promise at the plan's rate: a
        public number, never the true one.

        Args:
            memory: of the steps before.
            words: the opened sum modulo 2^32, shape (d,).
            survivors: over whom it is.
        """
        plan, training = self.plan, self.plan.training
        units = sum(plan.site(name).units.low for name in survivors)
        scale = plan.grid.step / (training.rate * units)
        gradient = (words.view(np.int32) * scale).astype(np.float32)
        if training.optimizer == "adam":
            return adam(memory, gradient, self.rates, (training.momentum, SQUARES), self.number)
        change = momentum(memory, gradient, self.rates, training.momentum)
        return change, (change,)


class Step(Protocol):
    """What makes a model of an opened sum."""

    def take(
        self, memory: Memory, words: NDArray[np.uint32], survivors: tuple[str, ...]
    ) -> tuple[Vector, Memory]:
        """What the step after an opened sum changes, and what is remembered; see ``Descent.take``."""
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
        if round == 1:
            return self.first
        return self.others.at(round - 1) if self.others else None


def steps_of(plan: Plan, layout: Layout) -> Steps | None:
    """What makes models of a plan's opened sums; None where all are means of updates."""
    if plan.training.analytic:
        return Solution.of(plan)
    descent = Descent.of(plan, layout) if plan.joint else None
    return Started(Solution.of(plan), descent) if plan.training.start else descent


def follows(expected: Vector, model: Vector) -> bool:
    """Whether a model is what a step should have made of the one before."""
    return bool(np.allclose(model, expected, rtol=TOLERANCE, atol=TOLERANCE))
