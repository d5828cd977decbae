"""A head that starts from an analytic round and goes on by steps: one plan, one budget, one ledger.

The first round of the plan is ridge regression or class means on frozen features, without cosines; its
solution is the linear head that the steps start from (``privacy.analytic.solution``). Round and steps have
the same noise multiplier, calibrated over all of them: with S steps the round takes one part in S + 1 of the
Rényi budget. Real plans say the same (``lead propose --start``), and are run by the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cloister.privacy.analytic.constants import Start
from cloister.privacy.analytic.solution import head
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError
from cloister.privacy.plan import Plan, Rehearsal
from cloister.server.analytic import SEED
from cloister.simulations.engine import methods
from cloister.simulations.engine.head import Steps, scores
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.ways import Model, OneRound, Setting, stepped


@dataclass(frozen=True)
class StartedSteps:
    """An analytic round, and steps from its solution.

    Attributes:
        first: the round; without cosines, for the steps are on the frozen features.
        course: the steps after it, on full batches.
        gain: what its solution is multiplied with: scores of classes are no logits.
        bound: C of one unit's gradient, where there is a promise.

    Raises:
        PlanError: ``plan_conflict``.
    """

    first: OneRound
    course: Course
    gain: float = 2.0
    bound: float = 2.4

    def __post_init__(self) -> None:
        if self.first.cosines or self.course.rate != 1 or self.course.steps != 1:
            raise PlanError(
                "plan_conflict",
                "A head that starts from an analytic round has no cosines, and each round after it is one "
                "step on the full batch.",
            )

    @property
    def words(self) -> str:
        """See ``Way``."""
        course = self.course
        return f"{self.first.words}, then {course.rounds} rounds of steps at {course.learning_rate:g}"

    def alone(self, holding: Holding, classes: int, promise: Promise, entropy: Entropy) -> Model:
        """See ``Way``."""
        course, rounds = self.course, self.course.rounds + 1
        units = holding.persons_band(1) or holding.rows_band
        how, sigma = Steps(course.rounds, 1.0, units.low, course.learning_rate, course.momentum), 0.0
        if promise.mode != "off":
            sigma = noise_multiplier(promise.epsilon, promise.delta, 1.0, rounds)
            how = replace(how, bound=self.bound, noise_multiplier=sigma)
        one, linear = self.first.solved_alone(holding, classes, promise, entropy, sigma or None)
        start = np.float32(self.gain) * head(one.lift, linear)
        model = methods.alone(holding, classes, how, entropy, start)
        done = (GaussianSteps(sigma, 1.0, rounds),) if sigma else ()
        return Model(lambda features: scores(model, features, classes), done, noise_factor=float(bool(done)))

    def federated(self, setting: Setting) -> Model:
        """See ``Way``; the round is round 1 of the job, and the steps are those after it."""
        return stepped(self.plan(setting.parties, setting.promise, self.words), setting)

    def plan(
        self, parties: Parties, promise: Promise, purpose: str, rehearsal: Rehearsal | None = None
    ) -> Plan:
        """The plan of these parties; see ``Parties.plan``."""
        constants = self.first.constants(parties.inputs, SEED)
        start = Start(analytic=constants, bound=self.first.bound, gain=self.gain)
        course = replace(self.course, rounds=self.course.rounds + 1)
        bounded = replace(promise, bound=self.bound)
        return parties.plan(purpose, bounded, course, start=start, rehearsal=rehearsal)
