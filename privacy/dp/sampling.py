"""Which units take part in a step: every unit by its own coin, from the site's key stream."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import PlanError

Indices: TypeAlias = NDArray[np.int64]

_RESOLUTION = 2.0**53


def poisson(units: int, rate: float, stream: KeyStream) -> Indices:
    """A Poisson sample: each unit is in it with probability ``rate``, independently of all others.

    The size of the sample is random and private: it may be 0, and it must not leave the site. A step
    whose sample is empty still adds its noise.

    Formal guarantees:
        The stream's uniforms have 53 bits. The rate is rounded *down* to a multiple of 2^-53, so the
        true rate is never above the one that is charged, and below it by less than 2^-53. Rate 1
        takes every unit.

    Args:
        units: how many units there are.
        rate: in (0, 1].
        stream: a key stream used for nothing else.

    Returns:
        int64, shape (size of the sample,): positions of the sampled units, ascending.

    Raises:
        PlanError: ``plan_malformed`` for a rate outside (0, 1].
    """
    if not 0 < rate <= 1:
        raise PlanError("plan_malformed", "A sampling rate must be above 0 and at most 1.")
    threshold = math.floor(rate * _RESOLUTION) / _RESOLUTION
    return np.flatnonzero(stream.uniform(units) < threshold).astype(np.int64)
