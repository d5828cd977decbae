"""Gaussian noise for differential privacy, from a cryptographic key stream and never from a seed.

The scale is read from the value that the noise protects (``Clipped.bound``), never from a second
setting. The global generators of numpy, torch and Python have no part in it.

Floating point. Ideal Gaussian noise is real-valued; a float64 sampler has gaps, and from the exact
bits of (sum + noise) an attacker may exclude sums (Mironov 2012). Two defences stand here:

- each value is half the sum of four independent Box-Muller draws, so that finding the draws behind an
  output is infeasible (Holohan and Braghin 2021, "Secure Random Sampling in Differential Privacy"; as
  in Opacus' secure mode);
- the noisy sum is rounded to a public grid, a power of two between 2^-11 and 2^-10 of the standard
  deviation: rounding is post-processing of the real-valued sum, adds less than 10^-7 to the relative
  variance, and merges at least 2^30 neighbouring float64 values into each output.

Not covered: no bound on the statistical distance between this sampler and an ideal Gaussian is charged
to delta. Draws end at 8.6 standard deviations each (mass below 2^-53 cut off).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import UpdateError
from cloister.privacy.update import Clipped, Noised

Floats: TypeAlias = NDArray[np.float64]

_DRAWS = 4
_BLOCK = 1 << 13
_GRID_BITS = 10


def gaussian(clipped: Clipped, noise_multiplier: float, stream: KeyStream) -> Noised:
    """A clipped sum with Gaussian noise of standard deviation ``noise_multiplier * clipped.bound``.

    Formal guarantees:
        With ideal noise, one call is the Gaussian mechanism of noise multiplier
        ``noise_multiplier`` for one unit added or removed. The module docstring says how the noise of
        this machine differs from the ideal.

    Args:
        clipped: the sum, float64, shape (d,), and the bound of one unit.
        noise_multiplier: sigma > 0.
        stream: a key stream used for nothing else.

    Raises:
        UpdateError: ``update_not_finite`` if the sum holds NaN or infinity, ``update_unnoised`` if the
            standard deviation is not a positive number.
    """
    values = clipped.values
    if not np.isfinite(values).all():
        raise UpdateError("update_not_finite", "The clipped sum holds NaN or infinity.")
    deviation = noise_multiplier * clipped.bound
    _require_noise(deviation)
    step = grid(deviation)
    noised = np.empty(values.size, dtype=np.float32)
    for place in _blocks(values.size):
        noisy = values[place] + deviation * _standard(place.stop - place.start, stream)
        noised[place] = np.rint(noisy / step) * step
    return Noised(noised, clipped.bound, noise_multiplier)


def grid(standard_deviation: float) -> float:
    """The public grid for noise of a standard deviation: a power of two, 2^-11 to 2^-10 of it."""
    return math.ldexp(1.0, math.frexp(standard_deviation)[1] - 1 - _GRID_BITS)


def gaussian_vector(d: int, standard_deviation: float, stream: KeyStream) -> Floats:
    """Independent Gaussian values, float64, shape (d,), mean 0, not rounded to the grid.

    Raises:
        UpdateError: ``update_unnoised`` if the standard deviation is not a positive number.
    """
    _require_noise(standard_deviation)
    noise = np.empty(d)
    for place in _blocks(d):
        noise[place] = standard_deviation * _standard(place.stop - place.start, stream)
    return noise


def _require_noise(standard_deviation: float) -> None:
    if not 0 < standard_deviation < math.inf:
        raise UpdateError("update_unnoised", "The standard deviation of the noise must be above 0.")


def _blocks(d: int) -> Iterator[slice]:
    """Values that are drawn together: what lies between draws and result has the size of one block."""
    for start in range(0, d, _BLOCK):
        yield slice(start, min(start + _BLOCK, d))


def _standard(size: int, stream: KeyStream) -> Floats:
    """Standard normal values: each is half the sum of draws from four different Box-Muller pairs."""
    pairs = (size + 1) // 2
    radius, angle = stream.uniform(2 * _DRAWS * pairs).reshape(2, _DRAWS, pairs)
    radius = np.sqrt(-2 * np.log1p(-radius))
    angle = 2 * np.pi * angle
    draws = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return np.asarray(draws[:, :size].sum(axis=0) / math.sqrt(_DRAWS))
