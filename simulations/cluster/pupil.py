"""What a simulated site learns where nothing of its process lasts: heads on cached features."""

from __future__ import annotations

from dataclasses import dataclass

from cloister.client.guard import Score
from cloister.privacy.dp.audit import Audit
from cloister.privacy.errors import PlanError
from cloister.privacy.update import Encoded, Vector
from cloister.privacy.wire.envelope import Header
from cloister.simulations.cluster.terms import Terms
from cloister.simulations.engine.pupil import Pupil


@dataclass(eq=False)
class SimulatedPupil(Pupil):
    """What one simulated site learns on cached features; see ``contribution.Learner``.

    Attributes:
        terms: what of an analytic round the plan does not say.
        audit: none: nothing of a simulation is evidence.
    """

    terms: Terms
    audit: Audit | None = None

    def sums(self, header: Header) -> Encoded:
        """The site's part of an analytic sum, with the noise of ``engine.methods.Analytic``.

        Raises:
            PlanError: ``plan_conflict``, the plan has no analytic round.
            UpdateError: as ``Release.encoded``.
        """
        lift, release = self.terms.lift(self.plan), self.plan.release
        if lift is None or release is None:
            raise PlanError("plan_conflict", "The plan has no analytic round.")
        model = self.terms.bound_to or header.model
        stream = self.entropy.stream("noise", round=header.round, step=1, attempt=header.attempt, model=model)
        rows = lift.rows(self.holding.features)
        return release.encoded(rows, self.holding.labels, self.holding.units, stream)

    def keep(self, model: Vector, round: int) -> Score | None:  # noqa: ARG002
        """Nothing is kept back at a simulated site; whoever simulates scores the models."""
        return None

    def release(self, model: Vector) -> None:
        """The lead of a simulation keeps the model."""
