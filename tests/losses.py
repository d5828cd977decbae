"""What privacy-loss samples say about an account, whatever computed it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def measured_delta(present: Floats, absent: Floats, epsilon: float) -> float:
    """The delta of an epsilon as a mean over simulated runs; the larger of unit removed and unit added.

    Args:
        present: log of (density with the unit over density without), of runs with the unit.
        absent: the same, of runs without it.
    """
    removed = np.maximum(0, -np.expm1(epsilon - present)).mean()
    added = np.maximum(0, -np.expm1(epsilon + absent)).mean()
    return float(max(removed, added))
