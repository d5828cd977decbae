"""How much noise a plan needs: the smallest noise multiplier whose ruling epsilon meets a target."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

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
        least = accounting.epsilon([GaussianSteps(10.0 ** _DECADES[-1], rate, steps)], delta)
        raise PlanError(
            "plan_conflict",
            f"No noise keeps {steps} steps at rate {rate:g} within epsilon {epsilon:g} at delta {delta:g}.",
            f"The nearest that noise keeps is epsilon {_upwards(least):g}; a larger delta, fewer steps or a "
            "lower rate need less.",
        )
    if decade == 0:
        return 0.1
    power = _DECADES[decade] - 5
    digits = _DIGITS[bisect_left(_DIGITS, True, key=lambda number: holds(float(f"{number}e{power}")))]
    return float(f"{digits}e{power}")


def target_within(
    limit: tuple[float, float], spent: Sequence[GaussianSteps], *, delta: float, rate: float, steps: int
) -> float | None:
    """The largest target of a plan, in hundredths, that what is left of a budget bears.

    Formal guarantees:
        ``accounting.epsilon([*spent, GaussianSteps(sigma, rate, steps)], limit[1]) <= limit[0]`` for the
        sigma that ``noise_multiplier`` gives for the target returned: it is accounted for itself.

    Args:
        limit: epsilon and delta of the budget.
        spent: what was done before.
        delta, rate, steps: of the plan.

    Returns:
        A target above 0; None where not even 0.01 fits.
    """

    def exceeds(hundredths: int) -> bool:
        sigma = noise_multiplier(hundredths / 100, delta, rate, steps)
        return accounting.would_exceed([*spent, GaussianSteps(sigma, rate, steps)], limit[1], limit[0])

    # A plan may cost less at the budget's delta than at its own, so its target may be above what is left.
    most = range(1, math.floor(min(200 * limit[0], 1e9)) + 1)
    try:
        found = bisect_left(most, True, key=exceeds)
    except PlanError:  # no noise keeps so small a target
        return None
    return found / 100 if found else None


def _upwards(epsilon: float) -> float:
    """A little more, in three digits: never below."""
    power = 10.0 ** (math.floor(math.log10(epsilon)) - 2) if epsilon > 0 else 1e-9
    return math.ceil(epsilon / power + 1e-9) * power
