"""From opened sums to a model: ridge regression, or class means; post-processing of public numbers.

Ridge: W = (X'X + r I)^-1 X'Y. Where noise was added, X'X may have lost its definiteness: directions of
negative or small eigenvalue hold little but noise. Setting negative eigenvalues to 0 and adding a ridge
of the size of the noise's largest eigenvalue, 2 s sqrt(p) for entries of deviation s (Wigner), bounds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.analytic.moments import Moments, Terms, unpack
from cloister.privacy.errors import UpdateError

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear model of lifted rows.

    Attributes:
        weights: float64, shape (p, k).
    """

    weights: Floats

    def predict(self, rows: Floats) -> Indices:
        """The class number of each lifted row, int64, shape (n,)."""
        scores = rows @ self.weights
        if scores.shape[1] == 1:
            return (scores[:, 0] > 0).astype(np.int64)
        return np.asarray(scores.argmax(axis=1), dtype=np.int64)

    def accuracy(self, rows: Floats, labels: Indices) -> float:
        """The share of rows whose class is found."""
        return float((self.predict(rows) == labels).mean())


def solve(terms: Terms, total: Floats, ridge: float) -> Linear:
    """The model of a sum of vectors (``moments``).

    Args:
        terms: the constants.
        total: the sum over all sites, with or without noise, shape (d,).
        ridge: r > 0, in units of X'X; class means do not use it.

    Raises:
        UpdateError: ``update_shape``; ``update_not_finite`` for a sum or a solution that is not finite.
    """
    if not np.isfinite(total).all():
        raise UpdateError("update_not_finite", "The sum holds NaN or infinity.")
    moments = unpack(terms, total)
    weights = _means(moments) if moments.gram is None else _ridge(moments.gram, moments.cross, ridge)
    if not np.isfinite(weights).all():
        raise UpdateError(
            "update_not_finite", "The sum has no solution.", "Raise the ridge in the next plan."
        )
    return Linear(weights)


def noise_ridge(width: int, deviation: float, share: float = 1.0) -> float:
    """A ridge of the size of noise: ``share`` times 2 s sqrt(p), s the deviation of an entry of X'X."""
    return share * 2 * deviation * math.sqrt(width)


def distance(found: Linear, expected: Linear) -> float:
    """Root mean square difference of two models' weights, relative to that of the expected ones."""
    return float(np.linalg.norm(found.weights - expected.weights) / np.linalg.norm(expected.weights))


def _ridge(gram: Floats, cross: Floats, ridge: float) -> Floats:
    regular = gram + ridge * np.eye(len(gram))
    try:
        np.linalg.cholesky(gram + 1e-9 * ridge * np.eye(len(gram)))
    except np.linalg.LinAlgError:  # noise has taken the definiteness
        values, vectors = np.linalg.eigh(gram)
        return np.asarray(vectors @ ((vectors.T @ cross) / (np.maximum(values, 0.0) + ridge)[:, None]))
    return np.asarray(np.linalg.solve(regular, cross))


def _means(moments: Moments) -> Floats:
    """Each class by the direction of its mean; of two classes the difference of their sums."""
    if moments.cross.shape[1] == 1:
        return moments.cross
    return np.asarray(moments.cross / np.maximum(np.linalg.norm(moments.cross, axis=0), 1e-300))
