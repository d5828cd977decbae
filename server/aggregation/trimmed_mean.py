"""The coordinate-wise trimmed mean: Yin et al. 2018 (arXiv 1803.01498).

In each coordinate the f largest and the f smallest values are left out, and the mean is taken of the rest.
With at most f liars, every coordinate of the result lies between the least and the greatest honest one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def trimmed_mean(updates: NDArray[np.float64], liars: int) -> NDArray[np.float64]:
    """The trimmed mean of updates, shape (n, d), n above 2 f: shape (d,)."""
    kept = np.sort(updates, axis=0)[liars : len(updates) - liars]
    return np.asarray(kept.mean(axis=0))
