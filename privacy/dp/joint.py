"""A site's part of a joint step: its clipped sum on the integer grid, and its share of the noise.

The grid, the share's size and what their sum is worth are worked out in ``dp.grid`` from public terms; the
noise is exact (``dp.discrete``). Rounding comes before the noise and is charged for: noise that is added in
floating point and rounded afterwards at each site would not be post-processing of the noisy sum.

Where a plan lets surplus noise be taken back, a share's noise is the sum of independent parts, each from a
key stream of its own, so that the surplus ones can be made again for the sum that takes them out
(``secagg.surplus``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from cloister.privacy.dp.discrete import discrete_gaussian
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import UpdateError
from cloister.privacy.update import Clipped, Share, Surplus

Streams: TypeAlias = Callable[[str], KeyStream]
"""Gives the key stream of a purpose; each is used for nothing else."""


def purpose(part: int) -> str:
    """What the key stream of a part of the noise is for: each part has one of its own."""
    return f"surplus-{part}" if part else "noise"


def share(clipped: Clipped, grid: Grid, rate: float, streams: Streams) -> Share:
    """A clipped sum, rounded to the grid, with one share of the noise.

    Formal guarantees:
        Those of ``Grid`` for sums of at least ``n_min`` shares of sites that sampled at ``rate``.

    Args:
        clipped: the sum over this site's sampled units, float64, shape (d,) or longer: coordinates of the
            audit's phantoms get the same noise.
        grid: of the plan; its bound must be that of the sum.
        rate: the sampling rate of the step.
        streams: of the step.

    Raises:
        UpdateError: ``update_not_finite``; ``update_unnoised`` if the sum was cut to another bound than
            the grid's noise is for.
    """
    if clipped.bound != grid.bound:
        raise UpdateError("update_unnoised", "The sum was cut to another bound than its noise is for.")
    if not np.isfinite(clipped.values).all():
        raise UpdateError("update_not_finite", "The clipped sum holds NaN or infinity.")
    units = np.rint(clipped.values / grid.step).astype(np.int64)
    for part, parameter in enumerate(grid.parts):
        units += discrete_gaussian(units.size, parameter, streams(purpose(part)))
    return Share(units, (grid.event(rate, 1, grid.n_min - grid.t),))


def surplus(size: int, grid: Grid, survivors: int, streams: Streams) -> Surplus:
    """The parts of this site's noise that a sum over so many survivors does not need, added up.

    Formal guarantees:
        Independent of the data and of every part that stays. Without it, ``survivors - t`` shares of the sum
        still give the plan's noise multiplier (``Grid.left``).

    Args:
        size: how many coordinates were noised: those of the share and of the audit's phantoms.
        grid: of the plan.
        survivors: how many sites are in the sum.
        streams: fresh ones of the very step whose share was sent.

    Raises:
        BudgetError: ``mechanism_unaccountable``, no sum is over so many survivors.
        UpdateError: ``update_unnoised``, less than the plan's noise would be left.
    """
    if grid.left(survivors) < grid.noise_multiplier:
        raise UpdateError("update_unnoised", "Less noise would be left than the plan promises.")
    units = np.zeros(size, dtype=np.int64)
    for part in grid.unneeded(survivors):
        units += discrete_gaussian(size, grid.parts[part], streams(purpose(part)))
    return Surplus(units)
