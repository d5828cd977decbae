"""What an epsilon means for somebody who guesses: the worst case over all attackers.

The attacker knows everything but whether one unit was in the data, and sees all that left. Differential
privacy at (epsilon, delta) is the same as a limit on every test between the two cases: with false positive
rate f and true positive rate p,

    p <= exp(epsilon) f + delta    and    1 - f <= exp(epsilon) (1 - p) + delta

(Wasserman and Zhou 2010; Kairouz, Oh, Viswanath 2015, "The Composition Theorem for Differential Privacy").
The second authors show more: every such mechanism can be simulated by one that, with probability delta,
tells the truth outright, and else multiplies the odds of the two cases by at most exp(epsilon). So delta is
the probability of an event in which nothing at all is promised; outside it the odds are bounded.

These are bounds from (epsilon, delta) alone. A real attack may do far worse; none can do better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloister.privacy.errors import BudgetError


@dataclass(frozen=True)
class Odds:
    """The worst case at one (epsilon, delta).

    Formal guarantees:
        If the mechanism is (epsilon, delta)-differentially private for a unit, no attacker does better
        than the methods say; the mechanism that attains them exists, so no smaller bound follows.

    Attributes:
        epsilon: at least 0.
        delta: in [0, 1).

    Raises:
        BudgetError: ``mechanism_unaccountable`` for values out of range.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (0 <= self.epsilon < math.inf and 0 <= self.delta < 1):
            raise BudgetError("mechanism_unaccountable", "Odds need a finite epsilon and a delta below 1.")

    def belief(self, prior: float) -> float:
        """The most that a belief of ``prior`` can become, outside the event of probability delta."""
        _probability(prior)
        if prior in (0, 1):
            return prior
        # On the scale of log odds, where no prior and no epsilon overflows.
        logit = math.log(prior) - math.log1p(-prior) + self.epsilon
        return 1 / (1 + math.exp(-logit)) if logit > 0 else math.exp(logit) / (1 + math.exp(logit))

    def least_belief(self, prior: float) -> float:
        """The least that a belief of ``prior`` can become, outside the event of probability delta."""
        return 1 - self.belief(1 - prior)

    def correct(self, prior: float) -> float:
        """The most probable that a guess can be right, delta included.

        The best of the three corners of the region of tests: accuse only where the mechanism told the
        truth outright, acquit only there, or weigh both errors alike.
        """
        _probability(prior)
        return max(
            prior * self.delta + (1 - prior),
            prior + (1 - prior) * self.delta,
            1 - self._corner(),
        )

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """The most true positives of a test with at most this rate of false ones."""
        f = _probability(false_positive_rate)
        if f >= self._corner():
            return min(1.0, 1 - math.exp(-self.epsilon) * max(0.0, 1 - self.delta - f))
        return (math.exp(math.log(f) + self.epsilon) if f else 0.0) + self.delta

    def advantage(self) -> float:
        """The most by which true positives can exceed false ones: the total variation distance."""
        return 1 - 2 * self._corner()

    def _corner(self) -> float:
        """Both error rates where the two limits meet: (1 - delta) / (1 + exp(epsilon))."""
        return (1 - self.delta) * math.exp(-self.epsilon) / (1 + math.exp(-self.epsilon))

    def lines(self, unit: str = "record", prior: float = 0.5) -> tuple[str, ...]:
        """The same in plain words; percentages are rounded up, never down.

        Args:
            unit: ``person`` or ``record``.
            prior: how sure the attacker was before.
        """
        first = (
            f"An attacker who was {percent(prior)} sure that a {unit} was used becomes at most "
            f"{percent(self.belief(prior))} sure"
        )
        if self.delta:
            first += f", except with probability {self.delta:g}, in which nothing is promised"
        one, tenth = (percent(self.true_positive_rate(rate)) for rate in (0.01, 0.001))
        return (
            f"{first}.",
            f"All in all, a guess is right with probability at most {percent(self.correct(prior))}.",
            f"A test that accuses 1 % of {unit}s that were not used finds at most {one} of those that were.",
            f"One that accuses 0.1 % finds at most {tenth}.",
        )


def percent(share: float) -> str:
    """A percentage of at most two decimals, rounded up: a bound must not look smaller than it is."""
    hundredths = math.ceil(round(share * 10_000, 6))
    if hundredths >= 10_000 and share < 1:
        return "almost 100 %"
    return f"{hundredths / 100:g} %"


def _probability(value: float) -> float:
    if not 0 <= value <= 1:
        raise BudgetError("mechanism_unaccountable", "A probability must lie between 0 and 1.")
    return value
