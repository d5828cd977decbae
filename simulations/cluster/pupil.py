"""The engine's learning behind the seam of a real site's participant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from cloister.client.guard import Score
from cloister.privacy.dp.audit import Audit
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError
from cloister.privacy.plan import Plan
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.wire.envelope import Header
from cloister.simulations.cluster.terms import Terms
from cloister.simulations.engine.head import Moment
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.methods import HeadLearner


@dataclass(frozen=True, eq=False)
class Pupil:
    """What one simulated site learns on cached features; see ``participation.Learner``.

    Attributes:
        plan: what is learnt.
        name: the site's.
        holding: its rows.
        entropy: where its sampling and noise come from.
        terms: what of an analytic round the plan does not say.
        audit: none: nothing of a simulation is evidence.
    """

    plan: Plan
    name: str
    holding: Holding
    entropy: Entropy
    terms: Terms
    audit: Audit | None = None

    @cached_property
    def _head(self) -> HeadLearner:
        return HeadLearner.of(self.plan, self.name, self.holding)

    def train(self, model: Vector, header: Header) -> Delta:
        """See ``HeadLearner``."""
        return self._head.train(model, self.entropy, _moment(header))

    def share(self, model: Vector, header: Header) -> Share:
        """See ``HeadLearner``."""
        return self._head.share(model, self.entropy, _moment(header))

    def surplus(self, header: Header, survivors: int) -> Surplus:
        """See ``HeadLearner``."""
        return self._head.surplus(survivors, self.entropy, _moment(header))

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


def _moment(header: Header) -> Moment:
    return Moment(header.round, header.attempt, header.model)
