"""The robust rule of a plan: from the single updates of a round to what stands in the place of their mean.

It compares single updates, so it does not go with secure aggregation; a plan with both is refused. It goes
with local privacy: whatever it does to noised updates is post-processing. Every site counts alike, whatever
its size. Updates are decoded from the integers of the ring first, so none holds NaN or infinity and none is
beyond the plan's range.
"""

from __future__ import annotations

import numpy as np

from cloister.privacy.methods import Robust
from cloister.privacy.update import Vector
from cloister.server.aggregation.median import median
from cloister.server.aggregation.multi_krum import multi_krum
from cloister.server.aggregation.trimmed_mean import trimmed_mean


def aggregate(rule: Robust, updates: Vector) -> Vector:
    """What a rule makes of updates, float32, shape (d,); the same in whatever order they stand.

    Args:
        rule: of the plan.
        updates: finite, float32, shape (n, d).

    Raises:
        ValueError: there are fewer than the rule needs; a plan's minimum of sites sees to it.
    """
    if len(updates) < rule.fewest:
        raise ValueError(f"{rule.words} needs {rule.fewest} updates")
    wide = updates.astype(np.float64)
    match rule.kind:
        case "trimmed-mean":
            found = trimmed_mean(wide, rule.liars)
        case "median":
            found = median(wide)
        case "multi-krum":
            found = multi_krum(wide, rule.liars)
    return found.astype(np.float32)
