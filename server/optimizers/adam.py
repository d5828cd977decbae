"""Server Adam: FedAdam, algorithm 2 of Reddi et al. 2021 (arXiv 2003.00295)::

    m <- first m + (1 - first) mean
    v <- second v + (1 - second) mean^2        v starts at floor^2
    x <- x + rate m / (sqrt(v) + floor)

Without bias correction, as in the paper.
"""

from __future__ import annotations

import numpy as np

from cloister.privacy.methods import ServerAdam
from cloister.privacy.update import Vector


def start(how: ServerAdam, parameters: int) -> tuple[Vector, Vector]:
    """Both means before the first step: float32, shape (d,) each."""
    return np.zeros(parameters, np.float32), np.full(parameters, how.floor**2, np.float32)


def step(how: ServerAdam, means: tuple[Vector, Vector], mean: Vector) -> tuple[Vector, tuple[Vector, Vector]]:
    """What a round changes, and the new means: float32, shape (d,) each.

    Args:
        how: of the plan.
        means: of the changes and of their squares, after the last step.
        mean: the mean change of the sites.
    """
    first = np.float32(how.first) * means[0] + np.float32(1 - how.first) * mean
    second = np.float32(how.second) * means[1] + np.float32(1 - how.second) * mean**2
    spread: Vector = np.sqrt(second)
    return np.float32(how.rate) * first / (spread + np.float32(how.floor)), (first, second)
