"""From frozen features to those that the analytic round is linear in: public cosines and a constant beside.

Random Fourier features, Rahimi and Recht 2007: for frequencies w ~ N(0, b^2 I) and phases p uniform in
[0, 2 pi), sqrt(2 / D) cos(w . x + p) over D draws has inner products that approach exp(-b^2 |x - x'|^2 / 2).
Seed and bandwidth are public constants, so every site computes the same features of the same text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.dp.noise import gaussian_vector
from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import PlanError, UpdateError

Floats: TypeAlias = NDArray[np.float64]

_ROWS = 1024
_JUST_BELOW_ONE = 1 - 2.0**-40


@dataclass(frozen=True)
class Lift:
    """The public constants of a feature map; two lifts of equal constants give equal features.

    Attributes:
        inputs: width of the frozen features.
        cosines: D, how many random cosine features stand beside them; 0 for none.
        bandwidth: b, the standard deviation of a frequency; the kernel is exp(-b^2 |x - x'|^2 / 2).
        seed: digest that frequencies and phases are drawn from, by AES-256-CTR.
        scale: what the frozen features are multiplied with, after the cosines were taken.
        constant: the value of the constant feature.
        cut: whether rows, the constant included, are cut to Euclidean norm 1: what a private sum needs.

    Raises:
        PlanError: ``plan_malformed``.
    """

    inputs: int
    cosines: int = 0
    bandwidth: float = math.sqrt(2)
    seed: str = canonical.digest(b"cloister/cosines/1")
    scale: float = 1.0
    constant: float = 1.0
    cut: bool = False

    def __post_init__(self) -> None:
        numbers = (self.bandwidth, self.scale, self.constant)
        sound = (
            self.inputs >= 1
            and self.cosines >= 0
            and all(0 < number < math.inf for number in numbers)
            and canonical.is_digest(self.seed)
        )
        if not sound:
            raise PlanError("plan_malformed", "The constants of the feature map are not numbers above 0.")

    @property
    def width(self) -> int:
        """p, the length of a lifted row: frozen features, cosines, the constant."""
        return self.inputs + self.cosines + 1

    def rows(self, features: Floats) -> Floats:
        """Lifted features, float64, shape (n, p).

        Formal guarantees:
            With ``cut``, every row has Euclidean norm at most 1. A row is a function of its own features and
            of public constants: no statistic of the data has a part in it.

        Args:
            features: float64, shape (n, inputs).

        Raises:
            UpdateError: ``update_shape``, ``update_not_finite``.
        """
        if features.ndim != 2 or features.shape[1] != self.inputs:
            raise UpdateError("update_shape", f"Features of {features.shape} are not {self.inputs} wide.")
        if not np.isfinite(features).all():
            raise UpdateError("update_not_finite", "A feature is NaN or infinity.")
        lifted = np.empty((len(features), self.width))
        lifted[:, : self.inputs] = self.scale * features
        lifted[:, -1] = self.constant
        if self.cosines:
            frequencies, phases = self.waves
            for start in range(0, len(features), _ROWS):
                part = slice(start, start + _ROWS)
                angles = features[part] @ frequencies + phases
                lifted[part, self.inputs : -1] = math.sqrt(2 / self.cosines) * np.cos(angles)
        return _cut(lifted) if self.cut else lifted

    @property
    def waves(self) -> tuple[Floats, Floats]:
        """Frequencies, shape (inputs, D), and phases, shape (D,); read-only."""
        return _draws(self.inputs, self.cosines, self.bandwidth, self.seed)


@lru_cache(maxsize=4)
def _draws(inputs: int, cosines: int, bandwidth: float, seed: str) -> tuple[Floats, Floats]:
    """Frequencies, shape (inputs, D), and phases, shape (D,); read-only."""
    stream = KeyStream(canonical.raw(seed))
    frequencies = gaussian_vector(inputs * cosines, bandwidth, stream).reshape(inputs, cosines)
    phases = np.asarray(2 * np.pi * stream.uniform(cosines))
    frequencies.flags.writeable = phases.flags.writeable = False
    return frequencies, phases


def _cut(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1)
    factors = np.minimum(1.0, _JUST_BELOW_ONE / np.maximum(norms, 1e-300))
    return np.asarray(rows * factors[:, None])
