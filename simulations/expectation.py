"""What accuracy noise leaves, of what is thought reachable without it.

Bands, classes and width say how large the noise is. What it does hangs on two things more that are often
public: how well classes can be told apart at all, and how far a model is ahead that always answers the most
common one.

The picture: classes are clouds of one shape, each as far from each other. A row's score for a class is a
standard normal variable, for its own class ``apart`` more, and the answer is the largest of scores and the
logarithms of shares over ``apart``, which is the best answer there is. What is reachable without privacy
fixes ``apart``. Noise in a model turns its weights into a random direction, and the weights are as long as
the classes are apart: so what is left is apart / sqrt(1 + (NOISE load / apart)^2). Under much noise the
answer is the most common class, and noise that is smaller again changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from cloister.privacy.errors import PlanError

NOISE = 2.75
"""What a load of 1 does to classes one apart: set beside questions on two tables and on notes and sentences,
of which about as many come out right from 2.25 to 3.5 (docs/benchmarks.md)."""
ALIKE = 1.25
"""Classes are alike in number where the most common one is up to so many times an equal share."""

_POINTS = tuple(place / 20 for place in range(-120, 121))
_HEIGHTS = tuple(math.exp(-point * point / 2) for point in _POINTS)
_FARTHEST = 10.0


@dataclass(frozen=True)
class Expectation:
    """What is publicly known, or guessed, of a task; never from rows that privacy is promised to.

    Attributes:
        reachable: the accuracy thought reachable without privacy, with about as many rows.
        common: the share of the most common class; None where classes are alike in number.
    """

    reachable: float
    common: float | None = None

    def check(self, classes: int) -> None:
        """That it can be of so many classes.

        Raises:
            PlanError: ``plan_conflict``.
        """
        share = self.share(classes)
        if not 1 / classes <= share < 1:
            raise PlanError(
                "plan_conflict",
                f"The most common of {classes} classes cannot have a share of {share:g}.",
                f"Give a share from {1 / classes:.3g} to below 1.",
            )
        if not share < self.reachable < 1:
            raise PlanError(
                "plan_conflict",
                f"An accuracy of {self.reachable:g} cannot be expected where the most common of all "
                f"answers has {share:.3g}.",
                f"Give one from above {share:.3g} to below 1.",
            )

    def share(self, classes: int) -> float:
        """That of the most common class."""
        return 1 / classes if self.common is None else self.common

    def alike(self, classes: int) -> bool:
        """Whether classes are about alike in number."""
        return self.share(classes) * classes <= ALIKE

    def accuracy(self, classes: int, load: float) -> float:
        """What a model has right under noise.

        Args:
            classes: how many, of which this is an expectation (``check``).
            load: noise over signal (``server.planning.load``).
        """
        share = self.share(classes)
        apart = _apart(self.reachable, share, classes)
        return _accuracy(apart / math.hypot(1.0, NOISE * load / apart), share, classes)


@lru_cache(maxsize=64)
def _apart(reachable: float, share: float, classes: int) -> float:
    """How far classes are apart of which so much can be told right, by bisection."""
    low, high = 0.0, _FARTHEST
    for _ in range(50):
        middle = (low + high) / 2
        if _accuracy(middle, share, classes) < reachable:
            low = middle
        else:
            high = middle
    return high


def _accuracy(apart: float, share: float, classes: int) -> float:
    """What the best answer has right: one class has a share, the others as much each of the rest."""
    below = NormalDist().cdf
    ahead = math.log(share * (classes - 1) / (1 - share)) / apart
    found = sum(
        height
        * (
            share * below(point + apart + ahead) ** (classes - 1)
            + (1 - share) * below(point + apart) ** (classes - 2) * below(point + apart - ahead)
        )
        for point, height in zip(_POINTS, _HEIGHTS, strict=True)
    )
    return found / sum(_HEIGHTS)
