"""The public constants of an analytic round, as a part of a plan; absent from the bytes of other plans.

They are all that a party needs beside the plan's sites and promise to work out the feature map, the vector
that is summed, its noise and its solution: so every site computes them from the plan that it approved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from cloister.privacy.analytic.lift import Lift
from cloister.privacy.analytic.moments import Terms
from cloister.privacy.analytic.release import Mode, Release
from cloister.privacy.errors import PlanError
from cloister.privacy.frozen import Part, Positive

MOST_VALUES = 1 << 24
"""The longest vector that sites add up: 64 MiB each."""

Unitary = Annotated[float, Field(gt=0, le=1)]


class Analytic(Part):
    """How features are lifted, summed and solved (``lift.Lift``, ``moments.Terms``, ``ridge.solve``).

    With privacy every row, its constant included, is cut to norm 1; the bound C of a unit is the plan's.

    Attributes:
        kind: ``ridge`` sums X'X and X'Y, ``means`` X'Y alone.
        inputs: width of the frozen features.
        cosines: random cosine features beside them.
        bandwidth: the standard deviation of their frequencies.
        seed: what frequencies and phases are drawn from.
        scale: what the frozen features are multiplied with.
        constant: the value of the constant feature.
        weight: what X'X is multiplied with before it is clipped and noised.
        ridge: r, in units of X'X.
        noise_share: how much of the noise's largest eigenvalue is added to r.
    """

    kind: Literal["ridge", "means"]
    inputs: Annotated[int, Field(ge=1, le=1 << 16)]
    cosines: Annotated[int, Field(ge=0, le=1 << 14)]
    bandwidth: Positive
    seed: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    scale: Unitary
    constant: Unitary
    weight: Unitary
    ridge: Positive
    noise_share: Annotated[float, Field(ge=0, le=100)]

    @property
    def words(self) -> str:
        """The round as a report names it."""
        if self.kind == "means":
            return "class means of frozen features, one sum"
        beside = f" and {self.cosines} random cosines" if self.cosines else ""
        return f"ridge regression on frozen features{beside}, one sum"

    @property
    def head(self) -> int:
        """The width of the head that the solution is written as: frozen features and cosines."""
        return self.inputs + self.cosines

    def lift(self, *, cut: bool) -> Lift:
        """The feature map."""
        return Lift(self.inputs, self.cosines, self.bandwidth, self.seed, self.scale, self.constant, cut=cut)

    def terms(self, classes: int, bound: float) -> Terms:
        """The vector that is summed.

        Raises:
            PlanError: ``plan_conflict``, it would be longer than what sites add up.
        """
        found = Terms(self.head + 1, classes, self.kind, self.weight, bound)
        if found.parameters > MOST_VALUES:
            raise PlanError(
                "plan_conflict",
                f"The sums would have {found.parameters} values; at most {MOST_VALUES} are added up.",
                "Take fewer cosines, or class means.",
            )
        return found

    def release(
        self, terms: Terms, most: Sequence[int], mode: Mode, noise_multiplier: float, n_min: int, t: int
    ) -> Release:
        """The one sum.

        Args:
            terms: of the vector.
            most: the most units that each site may have; without privacy, the most rows.
            mode, noise_multiplier: of the plan.
            n_min, t: of secure aggregation.

        Raises:
            PlanError: ``plan_conflict``, no sound grid fits.
        """
        return Release(terms, tuple(most), mode, noise_multiplier, n_min, t)


class Start(Part):
    """An analytic round before the steps of a head, whose solution they start from.

    It is the first of the plan's rounds and has the noise multiplier of every other, so of the Rényi budget
    of R rounds it takes one R-th.

    Attributes:
        analytic: its constants; without cosines, for the steps are on the frozen features.
        bound: C of one unit's sums, which its noise is in units of; used where there is a promise.
        gain: what the solution is multiplied with: scores of classes are no logits.
    """

    analytic: Analytic
    bound: Positive
    gain: Positive

    @property
    def words(self) -> str:
        """The start as a report names it."""
        return f"started from {self.analytic.words}"
