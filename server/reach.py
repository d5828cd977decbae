"""How long an update of one round can get, by the public constants of a plan.

Few bits a parameter need a range that is agreed before anybody trains; it follows from a bound on the
Euclidean length of a weighted update (``secagg.rotation``). Every doubling of the bound doubles the error of
the encoding, and a longer update is refused at its site. So the bound holds for every honest site, but for
rare samples and noise.

*Descent with momentum*, on clipped and noised sums. A gradient of step r counts in all steps from r to the
last, S of them: ``1 + m + … + m^(S-r)`` times. A sum of clipped gradients is at most as long as the bound
times the number of units in it; the noise is a Gaussian vector with a standard deviation for each coordinate,
which is longer than the root of the sum of their squares and six times the largest together with probability
at most ``exp(-18)``, for its length is a Lipschitz function of it. Weighting cancels the number of units that
a site divides by.

*Adam.* Its two means of past gradients have the weights a and b, so by Cauchy and Schwarz's inequality a
coordinate changes by at most the root of the sum of ``a^2 / b`` times its learning rate, whatever the
gradients are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.clauses import Privacy, Site, Training
from cloister.privacy.descent import ADAM_DECAYS
from cloister.privacy.dp.grid import most_sampled
from cloister.privacy.errors import PlanError
from cloister.privacy.secagg.rotation import DEVIATIONS
from cloister.privacy.update import Vector

_ROUNDING: Final = 1.01
"""Room for float32, in which sites train."""


def reach(
    training: Training, privacy: Privacy, sites: Sequence[Site], rates: Vector, canaries: int = 0
) -> float:
    """The Euclidean length that one site's weighted update of a round does not exceed.

    Args:
        training: how a round goes, by descent with clipping or by Adam.
        privacy: clipping and noise.
        sites: all sites of the plan.
        rates: the learning rate of each parameter, shape (d,).
        canaries: units that a site may have beside its own.

    Raises:
        PlanError: ``plan_conflict``, nothing bounds the update.
    """
    if training.optimizer == "adam":
        return _ROUNDING * _heaviest(sites) * _adam(training.steps) * _length(rates)
    if privacy.mode == "off":
        raise PlanError(
            "plan_conflict",
            "Without clipping nothing bounds an update by descent, so few bits have no range.",
            "Leave out --bits, or train with privacy.",
        )
    return _ROUNDING * _descent(training, privacy, sites, rates, canaries)


def _descent(
    training: Training, privacy: Privacy, sites: Sequence[Site], rates: Vector, canaries: int
) -> float:
    counts = np.cumsum(training.momentum ** np.arange(training.steps))
    most = max(most_sampled(site.units.high + canaries, training.rate) for site in sites)
    largest = float(rates.max())
    signal = most * largest * counts.sum()
    noise = privacy.noise_multiplier * (_length(rates) + DEVIATIONS * largest) * _length(counts)
    units = training.rate * sum(site.units.low for site in sites)
    return float(privacy.bound * (signal + noise) / units)


def _adam(steps: int) -> float:
    """The most that a coordinate can change in so many steps, in learning rates."""
    change = 0.0
    for step in range(1, steps + 1):
        first, second = (_weights(decay, step) for decay in ADAM_DECAYS)
        change += math.sqrt(float(np.sum(first**2 / second)))
    return change


def _weights(decay: float, steps: int) -> NDArray[np.float64]:
    """The weights of so many past values in a mean that forgets, bias corrected; they add up to 1."""
    kept = decay ** np.arange(steps)
    return np.asarray(kept / kept.sum())


def _heaviest(sites: Sequence[Site]) -> float:
    lows = [site.units.low for site in sites]
    return max(lows) / sum(lows)


def _length(values: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))
