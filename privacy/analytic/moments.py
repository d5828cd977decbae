"""What a site gives in the analytic round: X'X, of which one triangle is enough, and X'Y; as one vector.

X holds a site's lifted rows (n, p), Y what each stands for (n, k). Both matrices are sums over rows, so those
of several sites add up to those of all rows in one place, whatever lies where: AFL (He et al. 2025, "Analytic
Federated Learning") and ridge regression long before it.

*Layout.* First the upper triangle of ``weight`` * X'X, row by row with its diagonal: p (p + 1) / 2 values.
Then X'Y, row by row: p k values. Class means leave the triangle out.

*Clipping.* The vector of a unit is the sum of the vectors of its rows. It is never formed: for rows r and s

    <v_r, v_s> = weight^2 ((x_r . x_s)^2 + sum_j x_rj^2 x_sj^2) / 2 + (x_r . x_s) (y_r . y_s),

so a unit's norm follows from the inner products of its rows, and its rows are weighted by its clip factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.errors import PlanError, UpdateError
from cloister.privacy.update import Clipped

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Kind: TypeAlias = Literal["ridge", "means"]

_JUST_BELOW_ONE = 1 - 2.0**-40
_PAIRS = 1 << 13


@dataclass(frozen=True)
class Terms:
    """The public constants of an analytic round.

    Attributes:
        width: p of the lifted rows.
        classes: how many classes; two share one column of +1 and -1, more have a column each.
        kind: ``ridge`` sends X'X and X'Y, ``means`` X'Y alone.
        weight: what X'X is multiplied with before it is clipped and noised: below 1 it gets more of the
            noise and X'Y less.
        bound: C, the most that one unit's vector may measure; only private sums are clipped.

    Raises:
        PlanError: ``plan_malformed``.
    """

    width: int
    classes: int
    kind: Kind = "ridge"
    weight: float = 1.0
    bound: float = 1.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.classes < 2:
            raise PlanError("plan_malformed", "An analytic round needs a feature and two classes.")
        if not (0 < self.weight < math.inf and 0 < self.bound < math.inf):
            raise PlanError("plan_malformed", "Weight and bound of an analytic round are above 0.")

    @property
    def outputs(self) -> int:
        """k, the columns of Y."""
        return 1 if self.classes == 2 else self.classes

    @property
    def triangle(self) -> int:
        """How many values of X'X are sent."""
        return self.width * (self.width + 1) // 2 if self.kind == "ridge" else 0

    @property
    def parameters(self) -> int:
        """d, the length of the vector."""
        return self.triangle + self.width * self.outputs

    def targets(self, labels: Indices) -> Floats:
        """Y, float64, shape (n, k), of class numbers."""
        if self.outputs == 1:
            return np.where(labels == 1, 1.0, -1.0)[:, None]
        return np.asarray(np.eye(self.classes)[labels])


@dataclass(frozen=True, eq=False)
class Moments:
    """The two matrices of a sum.

    Attributes:
        gram: X'X, float64, shape (p, p), symmetric; None for class means.
        cross: X'Y, float64, shape (p, k).
    """

    gram: Floats | None
    cross: Floats


def pack(terms: Terms, moments: Moments) -> Floats:
    """The vector of two matrices: float64, shape (d,)."""
    cross = moments.cross.reshape(-1)
    if moments.gram is None:
        return cross.copy()
    return np.concatenate([terms.weight * moments.gram[np.triu_indices(terms.width)], cross])


def unpack(terms: Terms, vector: Floats) -> Moments:
    """The two matrices of a vector.

    Raises:
        UpdateError: ``update_shape``.
    """
    if vector.shape != (terms.parameters,):
        raise UpdateError("update_shape", f"The sum has {vector.size} values, the terms {terms.parameters}.")
    cross = vector[terms.triangle :].reshape(terms.width, terms.outputs)
    if terms.kind == "means":
        return Moments(None, cross)
    gram = np.zeros((terms.width, terms.width))
    gram[np.triu_indices(terms.width)] = vector[: terms.triangle] / terms.weight
    return Moments(gram + np.triu(gram, 1).T, cross)


def plain(terms: Terms, rows: Floats, labels: Indices) -> Floats:
    """A site's vector without privacy: float64, shape (d,).

    Formal guarantees:
        None: in the clear it holds the site's class counts, and with few rows the rows themselves. It has to
        leave masked, and what its sum over all sites tells is not covered by any epsilon.

    Raises:
        UpdateError: ``update_shape``.
    """
    return _sum(terms, rows, labels, None)


def clipped(terms: Terms, rows: Floats, labels: Indices, units: Indices | None = None) -> Clipped:
    """A site's vector, the vector of each unit cut to norm ``terms.bound``.

    Formal guarantees:
        Adding or removing one unit, with all its rows, changes ``values`` by at most ``terms.bound`` in
        Euclidean norm, up to the rounding of float64 sums: about 2^-52 of the sum's own size.

    Args:
        terms: the constants.
        rows: lifted, shape (n, p); of any norm.
        labels: class numbers, shape (n,).
        units: whose row each is, shape (n,); None where every row is a unit of its own.

    Raises:
        UpdateError: ``update_shape``.
    """
    norms = unit_norms(terms, rows, labels, units)
    factors = np.minimum(1.0, _JUST_BELOW_ONE * terms.bound / np.maximum(norms, 1e-300))
    return Clipped(_sum(terms, rows, labels, factors if units is None else factors[units]), terms.bound)


def unit_norms(terms: Terms, rows: Floats, labels: Indices, units: Indices | None = None) -> Floats:
    """The Euclidean norm of each unit's vector before it is cut, shape (units,); see the module docstring."""
    _check(terms, rows, labels)
    squares = outer_norms(rows, terms.targets(labels), units) ** 2
    if terms.triangle:
        squares += terms.weight**2 * _triangle_squares(rows, units)
    return np.asarray(np.sqrt(squares))


def outer_norms(rows: Floats, targets: Floats, units: Indices | None = None) -> Floats:
    """The Frobenius norm of each unit's sum of outer products x y', shape (units,); none of them is formed.

    Args:
        rows: x, shape (n, p).
        targets: y, shape (n, k).
        units: whose row each is, shape (n,), numbered from 0 without gaps; None where each is its own.
    """
    return OuterNorms(rows, units)(targets)


class OuterNorms:
    """``outer_norms`` of the same rows with one target after the other: what rows give is worked out once.

    Args:
        rows: x, shape (n, p).
        units: whose row each is, shape (n,), numbered from 0 without gaps; None where each is its own.
    """

    def __init__(self, rows: Floats, units: Indices | None = None) -> None:
        self._units = units
        if units is None:
            self._inner = (rows**2).sum(axis=1)
            return
        self._one, self._other = _pairs(units)
        parts = _blocks(self._one.size)
        found = [_inner(rows[self._one[at]], rows[self._other[at]]) for at in parts]
        self._inner = np.concatenate([np.zeros(0), *found])

    def __call__(self, targets: Floats) -> Floats:
        """The norms, shape (units,), for targets of shape (n, k)."""
        if self._units is None:
            return np.asarray(np.sqrt(self._inner * (targets**2).sum(axis=1)))
        found = np.zeros(int(self._units.max(initial=-1)) + 1)
        for at in _blocks(self._one.size):
            one = self._one[at]
            products = self._inner[at] * _inner(targets[one], targets[self._other[at]])
            found += np.bincount(self._units[one], products, found.size)
        return np.sqrt(np.maximum(found, 0.0))


def _triangle_squares(rows: Floats, units: Indices | None) -> Floats:
    """The squared norm of the upper triangle of each unit's sum of x x'."""
    if units is None:
        return np.asarray(((rows**2).sum(axis=1) ** 2 + (rows**4).sum(axis=1)) / 2)

    def products(one: Indices, other: Indices) -> Floats:
        return (_inner(rows[one], rows[other]) ** 2 + _inner(rows[one] ** 2, rows[other] ** 2)) / 2

    return _over_pairs(units, products)


def _inner(one: Floats, other: Floats) -> Floats:
    """The inner product of each row with the other one of its place."""
    return np.asarray(np.einsum("ij,ij->i", one, other))


def _over_pairs(units: Indices, products: Callable[[Indices, Indices], Floats]) -> Floats:
    """The sum over all ordered pairs of rows of each unit, a row with itself included, block by block."""
    one, other = _pairs(units)
    found = np.zeros(int(units.max(initial=-1)) + 1)
    for part in _blocks(one.size):
        found += np.bincount(units[one[part]], products(one[part], other[part]), found.size)
    return found


def _blocks(pairs: int) -> list[slice]:
    return [slice(start, start + _PAIRS) for start in range(0, pairs, _PAIRS)]


def _pairs(units: Indices) -> tuple[Indices, Indices]:
    """All ordered pairs of rows of one unit, a row with itself included."""
    order = np.argsort(units, kind="stable")
    counts = np.bincount(units)
    mates = counts[units[order]]
    one = np.repeat(order, mates)
    within = np.arange(one.size) - np.repeat(np.cumsum(mates) - mates, mates)
    other = order[np.repeat((np.cumsum(counts) - counts)[units[order]], mates) + within]
    return one, other


def _sum(terms: Terms, rows: Floats, labels: Indices, factors: Floats | None) -> Floats:
    _check(terms, rows, labels)
    weighted = rows if factors is None else rows * factors[:, None]
    cross = weighted.T @ terms.targets(labels)
    return pack(terms, Moments(weighted.T @ rows if terms.triangle else None, cross))


def _check(terms: Terms, rows: Floats, labels: Indices) -> None:
    if rows.ndim != 2 or rows.shape[1] != terms.width or labels.shape != (len(rows),):
        raise UpdateError("update_shape", f"Rows of {rows.shape} are not {terms.width} wide, each labelled.")
    if labels.size and not 0 <= labels.min() <= labels.max() < terms.classes:
        raise UpdateError("update_shape", "A label is none of the classes.")
