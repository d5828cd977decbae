"""Exact discrete Gaussian noise on the integers, for sums that are opened on an integer grid.

The discrete Gaussian of parameter s has probability proportional to exp(-y^2 / 2 s^2) at each integer y.
Where s is at least 8 its standard deviation is s, to far below float64's precision.

Method: rejection from the discrete Laplace distribution, after Canonne, Kamath, Steinke 2020, "The Discrete
Gaussian for Differential Privacy", algorithm 3, with t = floor(s) + 1:

1. X = floor(-t ln U) for a uniform U, so that P(X = k) is proportional to exp(-k / t).
2. A fair sign; a zero with a minus is drawn again.
3. X is kept if V < exp(-(X - s^2 / t)^2 / 2 s^2) for a uniform V, else drawn again.

Exactness. U and V are real numbers whose binary digits are drawn as far as they are needed: 64 and 63 at
first. float64 decides only where the decision is the same for every value that its rounding and the
digits not drawn yet allow. All other draws, about one in 2^20 and t in 2^41, are decided by ``decimal``,
whose ln and exp are correctly rounded, with as many more digits as it takes. So the values have the discrete
Gaussian distribution itself: their statistical distance from it is 0 and delta carries nothing for it.

Proof of the margins. Let u = 2^-53 and let numpy's log and exp err by at most 2^-48 relative (they err by a
few u). *Stage 1* decides in float64 only for U >= 2^-20, so -ln U < 13.9. The digits not drawn and the
conversion change U by a factor within 1 ± 2^-43.9, hence ln U by less than 2^-43.8; log errs by less than
13.9 * 2^-48 < 2^-44.2; the product with t by less than t * 13.9 u. Together less than t * 2^-42.5, below the
margin t * 2^-42: a product farther than that from every integer has the right floor. *Stage 3*: as s >= 1,
t <= 2 s and m = X - s^2 / t lies within 28 s. It errs by less than 31 s u, so z = m^2 / 2 s^2 by less than
(31 |m| / s + 4 z) u and exp(-z) by less than that times exp(-z), which is below 21 u for every z; with the
error of exp and the digits of V this stays below 2^-47, below the margin 2^-41.

Formal guarantees:
    If the stream's words are uniform and independent, the values are independent draws of the discrete
    Gaussian. They are integers, so nothing is given away by the low bits of floating-point numbers.

Not covered: the number of draws that are rejected, hence the running time, depends on the noise.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import UpdateError

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

LEAST, MOST = 1.0, 2.0**28
"""The parameters s for which the margins are proved."""

_FLOOR_MARGIN = 2.0**-42
_KEEP_MARGIN = 2.0**-41
_LEAST_WORD = np.uint64(1 << 44)
_BLOCK = 1 << 15
_TRIALS = 1.35
_WORD = 64
_SPARE = 40  # decimal digits beyond those that the binary ones need


def discrete_gaussian(d: int, parameter: float, stream: KeyStream) -> Integers:
    """Independent draws of the discrete Gaussian of a parameter, int64, shape (d,).

    Args:
        d: how many.
        parameter: s, the standard deviation in grid units, taken as the exact value of the float64.
        stream: a key stream used for nothing else.

    Raises:
        UpdateError: ``update_unnoised`` if the parameter is not between ``LEAST`` and ``MOST``.
    """
    if not LEAST <= parameter <= MOST:
        raise UpdateError("update_unnoised", "The noise of a share must have 1 to 2^28 grid units.")
    pieces, missing = [np.zeros(0, dtype=np.int64)], d
    while missing:
        # As many trials as will do on average: what is left over is drawn in another, smaller block.
        kept = _kept(min(_BLOCK, math.ceil(missing * _TRIALS) + 8), parameter, stream)[:missing]
        pieces.append(kept)
        missing -= kept.size
    return np.concatenate(pieces)


def _kept(trials: int, s: float, stream: KeyStream) -> Integers:
    """The values that are kept of a number of trials, in the order of the trials."""
    first, second = stream.words(2 * trials).reshape(2, trials)
    t = math.floor(s) + 1
    with np.errstate(divide="ignore"):  # a word of 0 is doubtful anyway
        product = np.log(first * 2.0**-64) * -t
    doubtful: Mask = first < _LEAST_WORD
    product[doubtful] = 0
    size = np.floor(product)
    product -= size
    doubtful |= np.abs(product - 0.5) > 0.5 - t * _FLOOR_MARGIN
    likelihood = np.exp(((size - s * s / t) / s) ** 2 / -2)
    likelihood -= (second >> np.uint64(1)) * 2.0**-63
    kept: Mask = likelihood > 0
    doubtful |= np.abs(likelihood) < _KEEP_MARGIN
    values = size.astype(np.int64)
    for i in np.flatnonzero(doubtful):
        values[i] = _exact_floor(int(first[i]), t, stream)
        kept[i] = _exact_keep(int(second[i]) >> 1, int(values[i]), s, t, stream)
    negative = (second & np.uint64(1)).astype(np.bool_)
    kept &= (values != 0) | ~negative
    np.negative(values, out=values, where=negative)
    return np.asarray(values[kept])


def _exact_floor(digits: int, t: int, stream: KeyStream) -> int:
    """floor(-t ln U) for the real U whose first 64 binary digits are given; the others are drawn here."""
    known = _WORD
    while True:
        with localcontext(prec=known + _SPARE):
            slack = t * known * _error(known)
            least = -t * (Decimal(digits + 1) / (1 << known)).ln() - slack
            most = -t * (Decimal(max(digits, 1)) / (1 << known)).ln() + slack
            floor = int(most.to_integral_value(ROUND_FLOOR))
            if digits and floor <= max(least, Decimal(0)):
                return floor
        digits, known = _longer(digits, stream), known + _WORD


def _exact_keep(digits: int, size: int, s: float, t: int, stream: KeyStream) -> bool:
    """V < exp(-(X - s^2 / t)^2 / 2 s^2) for the real V whose first 63 binary digits are given."""
    known = _WORD - 1
    while True:
        with localcontext(prec=known + _SPARE):
            square = Decimal(s) * Decimal(s)
            likelihood = ((size - square / t) ** 2 / (-2 * square)).exp()
            if Decimal(digits + 1) / (1 << known) <= likelihood - _error(known):
                return True
            if Decimal(digits) / (1 << known) >= likelihood + _error(known):
                return False
        digits, known = _longer(digits, stream), known + _WORD


def _error(known: int) -> Decimal:
    """More than the operations of one decision err together, for values of about 1."""
    return Decimal(10) ** (_SPARE // 2 - known - _SPARE)


def _longer(digits: int, stream: KeyStream) -> int:
    return digits << _WORD | int(stream.words(1)[0])
