"""The step of a plan: from the mean change of a round to what the global model changes by.

It sees the mean alone, so it goes with secure aggregation and is post-processing of whatever noise is in the
mean. Every operation is elementwise float32 in numpy: the same numbers on every machine that rounds after
IEEE 754, so a run that goes on from a checkpoint ends in the same model bit for bit.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np

from cloister.privacy.methods import ServerAdam, ServerMomentum, ServerOptimizer
from cloister.privacy.update import Vector
from cloister.server.optimizers import adam, momentum

Moments: TypeAlias = tuple[Vector, ...]
"""What an optimizer remembers: one vector for momentum, two for Adam, none at the start; float32, (d,)."""

USUAL: Final[dict[str, ServerOptimizer]] = {
    "momentum": ServerMomentum(kind="momentum", rate=0.7, momentum=0.9),
    "nesterov": ServerMomentum(kind="nesterov", rate=0.7, momentum=0.9),
    "adam": ServerAdam(kind="adam", rate=0.02, first=0.9, second=0.99, floor=1e-3),
}
"""What a lead proposes that names a kind only: DiLoCo's constants for velocities, the paper's for Adam with a
rate about as large as one coordinate of an update."""


def step(how: ServerOptimizer | None, moments: Moments, mean: Vector) -> tuple[Vector, Moments]:
    """What a round changes, float32, shape (d,), and what is remembered of it.

    Args:
        how: of the plan; None adds the mean as it is.
        moments: after the last step, ``()`` before the first.
        mean: the mean change of the sites.
    """
    if how is None:
        return mean, ()
    if isinstance(how, ServerMomentum):
        change, velocity = momentum.step(how, moments[0] if moments else np.zeros_like(mean), mean)
        return change, (velocity,)
    first, second = moments or adam.start(how, mean.size)
    return adam.step(how, (first, second), mean)
