"""The engine's learning of heads behind the seam of a real site's participant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from cloister.privacy.entropy import Entropy
from cloister.privacy.plan import Plan
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.wire.envelope import Header
from cloister.simulations.engine.head import Moment
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.methods import HeadLearner


@dataclass(eq=False)
class Pupil:
    """A site's cached features as a participant of a job trains a head on them (``contribution.Learner``).

    Attributes:
        plan: of the job.
        name: of the site.
        holding: what it trains on.
        entropy: where its sampling and noise come from.
    """

    plan: Plan
    name: str
    holding: Holding
    entropy: Entropy

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
        """See ``HeadLearner``."""
        return self._head.sums(self.entropy, _moment(header))

    @cached_property
    def _head(self) -> HeadLearner:
        return HeadLearner.of(self.plan, self.name, self.holding)


def _moment(header: Header) -> Moment:
    return Moment(header.round, header.attempt, header.model)
