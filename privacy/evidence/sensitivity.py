"""What the steps of a job would have cost with more or less noise: by the ruling account, from no data.

How accuracy changes with it is another question, which a job does not answer: a sweep of ``cloister
simulate`` measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.kinds import rounded_up
from cloister.privacy.evidence.reading import even_odds

FACTORS = (0.5, 0.75, 1, 1.5, 2)
"""What the noise multiplier is multiplied by."""


@dataclass(frozen=True)
class Strength:
    """The same steps with another noise multiplier.

    Attributes:
        site: whose steps, the one with the largest epsilon.
        factor: times the plan's noise multiplier. Of that and of the rate ``evidence.privacy`` has six
            digits, by which epsilon could come out too small.
        noise: the noise multiplier, of four digits.
        epsilon: by RDP at the job's delta, rounded up; that of the report where the noise is as it was; None
            where none can be stated.
        odds: ``even_odds`` of it; None likewise.
    """

    site: str
    factor: str
    noise: str
    epsilon: str | None
    odds: float | None


def strengths(evidence: Evidence) -> list[Strength]:
    """The steps of the site with the largest epsilon, for every one of ``FACTORS``; [] without privacy."""
    plan, mechanism = evidence.plan, evidence.plan.round_mechanism
    charged = [one for one in evidence.privacy if one.epsilon and one.steps not in (None, "0")]
    if mechanism is None or not charged:
        return []
    weakest = max(charged, key=lambda one: float(one.epsilon or 0))
    delta, found = plan.privacy.delta, []
    for factor in FACTORS:
        noise, steps = mechanism.noise_multiplier * factor, int(weakest.steps or 0)
        epsilon = weakest.epsilon if factor == 1 else _epsilon(noise, mechanism.rate, steps, delta)
        odds = None if epsilon is None else even_odds(float(epsilon), delta)
        found.append(Strength(weakest.site, f"{factor:g}", f"{noise:.4g}", epsilon, odds))
    return found


def _epsilon(noise: float, rate: float, steps: int, delta: float) -> str | None:
    try:
        found = accounting.epsilon([GaussianSteps(noise, rate, steps)], delta)
    except BudgetError:  # beyond what is accounted
        return None
    return rounded_up(found) if math.isfinite(found) else None
