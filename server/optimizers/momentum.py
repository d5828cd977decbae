"""Server momentum: FedAvgM, Hsu, Qi and Brown 2019 (arXiv 1909.06335), and its Nesterov form.

The mean change of a round is taken for a gradient, and the server's step keeps some of the velocity of the
steps before::

    v <- momentum v + mean         x <- x + rate v                     momentum
    v <- momentum v + mean         x <- x + rate (momentum v + mean)   nesterov

The Nesterov form is the outer step of DiLoCo (Douillard et al. 2023, arXiv 2311.08105).
"""

from __future__ import annotations

import numpy as np

from cloister.privacy.methods import ServerMomentum
from cloister.privacy.update import Vector


def step(how: ServerMomentum, velocity: Vector, mean: Vector) -> tuple[Vector, Vector]:
    """What a round changes, and the new velocity: float32, shape (d,) each.

    Args:
        how: of the plan.
        velocity: after the last step; zeros before the first.
        mean: the mean change of the sites.
    """
    keep = np.float32(how.momentum)
    velocity = keep * velocity + mean
    ahead = keep * velocity + mean if how.kind == "nesterov" else velocity
    return np.float32(how.rate) * ahead, velocity
