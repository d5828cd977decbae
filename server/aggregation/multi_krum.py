"""Multi-Krum: Blanchard et al. 2017 (arXiv 1703.02757).

An update's score is the sum of its squared distances to the n - f - 2 others that are nearest to it; the mean
is taken of the n - f updates that score best. A liar that is among them is near honest updates: at most
``sqrt(n - f - 2)`` times as far from one as two honest updates are from each other, for else the honest one
that it stands in the place of would have scored better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def multi_krum(updates: NDArray[np.float64], liars: int) -> NDArray[np.float64]:
    """The mean of the n - f best of updates, shape (n, d), n at least 2 f + 3: shape (d,)."""
    number = len(updates)
    apart = [[float(((one - other) ** 2).sum()) for other in updates] for one in updates]
    nearest = number - liars - 2
    scores = [sum(sorted(row)[1 : nearest + 1]) for row in apart]  # the first is the distance to itself
    # Two updates may score the same: then their values decide, never who sent them.
    order = sorted(range(number), key=lambda place: (scores[place], tuple(updates[place])))
    kept = np.sort(updates[order[: number - liars]], axis=0)  # sorted, so that sums round alike in any order
    return np.asarray(kept.mean(axis=0))
