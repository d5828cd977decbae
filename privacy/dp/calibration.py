"""How much noise a plan needs: the smallest noise multiplier whose ruling epsilon meets a target."""

from __future__ import annotations

from bisect import bisect_left

from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import PlanError

# Decades searched: sigma from 0.1, below which epsilon is beyond any use, to a million.
_DECADES = range(-1, 7)
# Five significant digits: a plan stays readable, and sigma is within 10^-4 of the best.
_DIGITS = range(10_000, 100_001)


def noise_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The smallest sigma of five significant digits that keeps a whole plan within its target.

    Formal guarantees:
        ``accounting.epsilon([GaussianSteps(sigma, rate, steps)], delta) <= epsilon`` for the sigma
        returned: every candidate is accounted for itself, nothing is interpolated.

    Args:
        epsilon: the target over all steps, above 0.
        delta: the probability in (0, 1) that the bound may fail.
        rate: the sampling probability of a unit, in (0, 1].
        steps: all steps of the plan: rounds times steps of a round.

    Returns:
        sigma in units of the clipping bound, at least 0.1.

    Raises:
        PlanError: ``plan_conflict`` if no noise meets the target.
        BudgetError: ``mechanism_unaccountable`` for a delta, rate or number of steps out of range.
    """

    def holds(sigma: float) -> bool:
        return not accounting.would_exceed([GaussianSteps(sigma, rate, steps)], delta, epsilon)

    decade = bisect_left(_DECADES, True, key=lambda power: holds(float(f"1e{power}")))
    if not epsilon > 0 or decade == len(_DECADES):
        raise PlanError(
            "plan_conflict",
            f"No noise keeps {steps} steps at rate {rate:g} within epsilon {epsilon:g} at delta {delta:g}.",
            "Ask for a larger epsilon or delta, for fewer steps, or for a lower rate.",
        )
    if decade == 0:
        return 0.1
    power = _DECADES[decade] - 5
    digits = _DIGITS[bisect_left(_DIGITS, True, key=lambda number: holds(float(f"{number}e{power}")))]
    return float(f"{digits}e{power}")
