"""A site's update held near what the last round changed: centred clipping, from the site's side.

Karimireddy, He, Jaggi 2021, "Learning from History for Byzantine Robust Optimization" (arXiv 2012.10333):
around the last aggregate v every update x counts as ``v + (x - v) * min(1, radius / |x - v|)``, so that one
which is far from all others moves the mean by its weight times the radius at most. There the server cuts what
it sees. Under secure aggregation it sees nothing but sums, so here each site cuts its own update.

What that is worth: a site with wrong labels or a fault in its training, whose software is the plan's, is
held. A site that lies does not cut; only the plan's range bounds it, coordinate by coordinate.
"""

from __future__ import annotations

import numpy as np

from cloister.privacy.update import Delta, Vector


def centred(delta: Delta, centre: Vector, radius: float) -> Delta:
    """An update no further than ``radius`` from ``centre``.

    Formal guarantees:
        The Euclidean distance of ``values`` from ``centre`` is at most ``radius``, up to float32. Where the
        update carries noise, this is post-processing with a public centre: its mechanisms stay. It lies
        between update and centre, so what bounds the length of both bounds it.

    Args:
        delta: what the site's steps changed, float32, shape (d,).
        centre: what the last round changed in the global model, float32, shape (d,); zeros where a site did
            not see it.
        radius: the plan's, above 0.
    """
    gap = delta.values.astype(np.float64) - centre
    length = float(np.linalg.norm(gap))
    if length <= radius:
        return delta
    return Delta((centre + gap * (radius / length)).astype(np.float32), delta.mechanisms)
