"""The coordinate-wise median: Yin et al. 2018 (arXiv 1803.01498).

With fewer liars than half, every coordinate of the result lies between the least and the greatest honest one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def median(updates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of updates, shape (n, d): shape (d,). Of an even number, the mean of the middle two."""
    return np.asarray(np.median(updates, axis=0))
