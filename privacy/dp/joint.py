"""A site's part of a joint step: its clipped sum on the integer grid, and its share of the noise.

The grid, the share's size and what their sum is worth are worked out in ``dp.grid`` from public terms; the
noise is exact (``dp.discrete``). Rounding comes before the noise and is charged for: noise that is added in
floating point and rounded afterwards at each site would not be post-processing of the noisy sum.
"""

from __future__ import annotations

import numpy as np

from cloister.privacy.dp.discrete import discrete_gaussian
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import UpdateError
from cloister.privacy.update import Clipped, Share


def share(clipped: Clipped, grid: Grid, rate: float, stream: KeyStream) -> Share:
    """A clipped sum, rounded to the grid, with one share of the noise.

    Formal guarantees:
        Those of ``Grid`` for sums of at least ``n_min`` shares of sites that sampled at ``rate``.

    Args:
        clipped: the sum over this site's sampled units, float64, shape (d,) or longer: coordinates of the
            audit's phantoms get the same noise.
        grid: of the plan; its bound must be that of the sum.
        rate: the sampling rate of the step.
        stream: a key stream used for nothing else.

    Raises:
        UpdateError: ``update_not_finite``; ``update_unnoised`` if the sum was cut to another bound than
            the grid's noise is for.
    """
    if clipped.bound != grid.bound:
        raise UpdateError("update_unnoised", "The sum was cut to another bound than its noise is for.")
    if not np.isfinite(clipped.values).all():
        raise UpdateError("update_not_finite", "The clipped sum holds NaN or infinity.")
    units = np.rint(clipped.values / grid.step).astype(np.int64)
    units += discrete_gaussian(units.size, grid.share, stream)
    return Share(units, (grid.event(rate, 1, grid.n_min - grid.t),))
