"""The third account: Opacus' privacy random variables. Stands apart because importing it loads torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from opacus.accountants import PRVAccountant

from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps


def prv_epsilon(mechanisms: Iterable[GaussianSteps], delta: float) -> float:
    """Epsilon by Opacus' PRV accountant: an upper bound with an error of 0.01; 0 for no mechanism.

    Slow where noise is low (sigma below 0.3 takes 10 seconds or more).

    Args:
        mechanisms: what was done, in any order.
        delta: the probability in (0, 1) that the bound fails.
    """
    accountant = PRVAccountant()
    accountant.history = [
        (block.noise_multiplier, block.rate, block.steps) for block in accounting.merged(mechanisms)
    ]
    if not accountant.history:
        return 0.0
    # Opacus sizes its integration domain by a coarse Rényi bound and warns where that is loose; at rate 1
    # it takes the logarithm of 0, whose -inf is what it means.
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        return float(accountant.get_epsilon(delta))
