"""A site's guard against a bad global model: each one is tried on the site's own held-out rows.

With secure aggregation nobody can look at a single update, so a site that poisons the sum is not seen in it.
What can be seen is that the model which comes back does worse here than one that came before.

Formal guarantees:
    None under differential privacy: what is compared are the held-out rows, which no job trains on. That a
    site refuses, and why, tells the lead one bit about them, not covered by epsilon; no figure leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from cloister.privacy.errors import ModelError

Action = Literal["ignore", "warn", "refuse"]
_DEVIATIONS = 2.0


@dataclass(frozen=True)
class Score:
    """How a global model does on the held-out rows of a site.

    Attributes:
        accuracy: the fraction that is right; of tagged words and of tokens of answers the mean over rows.
        rows: how many were tried.
    """

    accuracy: float
    rows: int

    @property
    def smoothed(self) -> float:
        """The fraction that is right, with one right row and one wrong row more."""
        return (self.accuracy * self.rows + 1) / (self.rows + 2)


@dataclass(frozen=True)
class Tolerance:
    """What a site puts up with.

    Attributes:
        points: percentage points by which a global model may do worse than the best one before.
        action: what becomes of a round that starts from a model that did worse than that.
    """

    points: float = 10.0
    action: Action = "warn"


@dataclass
class Guard:
    """Compares each global model of a job with the best one before.

    Attributes:
        tolerance: of this site.
        best: the best score so far; None before the first.
    """

    tolerance: Tolerance = field(default_factory=Tolerance)
    best: Score | None = None

    def judge(self, round: int, score: Score) -> ModelError | None:
        """What there is to say against the model that stands after a round; None if nothing is.

        A fall counts from the tolerated points on, and only beyond two standard errors of the difference of
        two fractions: on few rows, chance alone moves an accuracy by several points. Each fraction gets one
        success and one failure more (Agresti and Caffo, The American Statistician 54, 2000): of one row that
        was right and then wrong, the plain standard error is 0.

        Args:
            round: after which the model stands.
            score: of the model.
        """
        best = self.best
        if best is None or score.accuracy >= best.accuracy:
            self.best = score
            return None
        if self.tolerance.action == "ignore" or not self._fell(best, score):
            return None
        return ModelError(
            "model_fell",
            f"The global model after round {round} is right on {score.accuracy:.1%} of held-out rows, "
            f"an earlier one on {best.accuracy:.1%}.",
            "Tell the lead: `cloister lead rollback` goes back to an earlier model.",
        )

    def _fell(self, best: Score, now: Score) -> bool:
        points = self.tolerance.points / 100
        if best.accuracy - now.accuracy <= points:
            return False
        before, after = best.smoothed, now.smoothed
        variance = sum(p * (1 - p) / (each.rows + 2) for p, each in ((before, best), (after, now)))
        return before - after > points + _DEVIATIONS * math.sqrt(variance)
