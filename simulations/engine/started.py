"""A head that starts from an analytic round and goes on by steps: one plan, one budget, one ledger.

The first round is ridge regression or class means on frozen features, without cosines; its solution is the
linear head that the steps start from (``privacy.analytic.solution``). The budget of the whole is split by a
constant: ``share`` is the part of the Rényi budget that the first round takes where steps draw full batches.
From it follows how loud the first round's noise is beside that of a step, and the one noise multiplier that
is left free is calibrated over first round and steps together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from cloister.privacy.analytic.ridge import Linear
from cloister.privacy.analytic.solution import head
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError
from cloister.privacy.update import Vector
from cloister.simulations.engine import methods
from cloister.simulations.engine.head import Steps, scores
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.methods import Analytic, Member
from cloister.simulations.engine.plans import Course, Promise
from cloister.simulations.engine.rounds import Account
from cloister.simulations.engine.ways import Model, OneRound, Setting


@dataclass(frozen=True)
class StartedSteps:
    """An analytic round, and steps from its solution.

    Attributes:
        first: the round; without cosines, for the steps are on the frozen features.
        course: the steps after it, on full batches.
        share: of the Rényi budget that the first round takes, between 0 and 1.
        gain: what its solution is multiplied with: scores of classes are no logits.
        bound: C of one unit's gradient, where there is a promise.

    Raises:
        PlanError: ``plan_conflict``.
    """

    first: OneRound
    course: Course
    share: float
    gain: float = 2.0
    bound: float = 2.4

    def __post_init__(self) -> None:
        if self.first.cosines or self.course.rate != 1 or not 0 < self.share < 1:
            raise PlanError(
                "plan_conflict",
                "A head that starts from an analytic round has no cosines, draws full batches, and shares "
                "its budget with the round.",
            )

    @property
    def words(self) -> str:
        """See ``Way``."""
        course = self.course
        return f"{self.first.words}, then {course.rounds} rounds of steps at {course.learning_rate:g}"

    @property
    def _louder(self) -> float:
        """The noise multiplier of the first round over that of a step."""
        steps = self.course.rounds * self.course.steps
        return math.sqrt((1 - self.share) / (self.share * steps))

    def alone(self, holding: Holding, classes: int, promise: Promise, entropy: Entropy) -> Model:
        """See ``Way``."""
        course, steps = self.course, self.course.rounds * self.course.steps
        units = holding.persons_band(1) or holding.rows_band
        how, sigma = Steps(steps, 1.0, units.low, course.learning_rate, course.momentum), 0.0
        if promise.mode != "off":
            sigma = noise_multiplier(promise.epsilon, promise.delta, 1.0, steps, self._louder)
            how = replace(how, bound=self.bound, noise_multiplier=sigma)
        solved = self.first.solved_alone(holding, classes, promise, entropy, self._louder * sigma)
        model = methods.alone(holding, classes, how, entropy, self._start(*solved))
        return Model(
            lambda features: scores(model, features, classes),
            self._mechanisms(sigma, steps),
            noise_factor=float(promise.mode != "off"),
        )

    def federated(self, setting: Setting) -> Model:
        """See ``Way``; the first round is round 1 of the job, and the steps are those after it.

        Raises:
            PlanError: ``plan_conflict``, also over the sites' own apps.
        """
        if setting.elsewhere is not None:
            raise PlanError(
                "plan_conflict",
                "No plan of real sites starts a head from an analytic round.",
                "Run it in this process: leave out --engine.",
            )
        promise = replace(setting.promise, bound=self.bound)
        plan = setting.parties.plan(self.words, promise, self.course, first=self._louder)
        sigma, classes, terms = plan.privacy.noise_multiplier, len(plan.task.labels), plan.sum_terms
        if terms is None:
            raise ValueError("the plan of a simulation has secure sums")
        one, linear = self.first.solved(setting, self._louder * sigma, plan.digest)
        run = methods.joint if plan.joint else methods.local
        members = {name: _later(member) for name, member in setting.members(plan.digest).items()}
        done = run(plan, members, setting.sums(terms), start=self._start(one, linear))
        return Model(
            lambda features: scores(done.model, features, classes),
            self._mechanisms(sigma, self.course.rounds * self.course.steps),
            one.release.content_bytes + done.bytes_up,
            1 + done.sums,
            setting.noise_factor(steps=True),
        )

    def _start(self, one: Analytic, linear: Linear) -> Vector:
        return (np.float32(self.gain) * head(one.lift, linear)).astype(np.float32)

    def _mechanisms(self, sigma: float, steps: int) -> tuple[GaussianSteps, ...]:
        if not sigma:
            return ()
        return (GaussianSteps(self._louder * sigma, 1.0, 1), GaussianSteps(sigma, 1.0, steps))


def _later(member: Member) -> Member:
    """The same site, whose rounds are counted from 2: the first one was charged to the same job."""
    account = member.account
    return replace(
        member,
        account=Account(
            lambda number, mechanism: account.reserve(number + 1, mechanism),
            lambda number, mechanism: account.settle(number + 1, mechanism),
        ),
    )
