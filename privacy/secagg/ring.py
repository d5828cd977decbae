"""Few bits a parameter: a quantiser whose sums cannot wrap, and words of b bits packed on the wire.

A site divides its weighted value by a public step, rounds it up or down at random so that the mean is right,
and sends the integer modulo 2^b. With n sites and integers of at most ``limit = (2^(b-1) - 1) // n`` in
size, the sum of all of them fits the signed integers of b bits, so it is the true sum of whoever took part:
in terms of the quantiser's levels, ``n (levels - 1) < 2^b``. Zero is a level, and a sum over fewer sites is
read the same way.

Masks are added modulo 2^32 (``masking``): the lowest b bits of such a sum are the sum modulo 2^b, so packing
just drops the others.

Where this may be used. Rounding is post-processing of noise that was added *before* it: local mode, or no
differential privacy at all. In joint mode the noise of the sum is made of shares that are too small one by
one, and rounding each noised share at its site is no post-processing of their sum; that mode rounds first,
adds discrete noise on the integers and uses the ring of 2^32 (``dp.grid``).

Wire format: bit j (from the lowest) of word k is bit ``(k b + j) mod 8`` of byte ``(k b + j) div 8``; a
message of d words has ceil(d b / 8) bytes, and the bits that are left over in the last one are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import PlanError, UpdateError
from cloister.privacy.update import Vector

Words: TypeAlias = NDArray[np.uint32]
"""Words of the ring, little-endian, shape (d,)."""

FEWEST_BITS: Final = 6
MOST_BITS: Final = 32
FEWEST_LEVELS: Final = 8

_WORD: np.dtype[np.uint32] = np.dtype("<u4")
# A multiple of 32, so that a block packs to whole words whatever b is; small enough to stay in the cache.
_BLOCK = 1 << 16
# Bits of randomness that decide one rounding.
_COIN_BITS = 16
_COIN = np.dtype("<u2")
# Widths that a processor has words of: packing is a change of type.
_NATIVE: dict[int, np.dtype[Any]] = {8: np.dtype("u1"), 16: np.dtype("<u2"), 32: _WORD}


@dataclass(frozen=True)
class Code:
    """The public terms of an encoding of few bits.

    Attributes:
        parameters: d, the length of an update.
        bits: b, of a word on the wire, 6 to 32.
        sites: n, the most sites whose updates may be added.
        range: the largest absolute value of a weighted coordinate of one site, after rotation if there is
            one, in the units of the update.
        clamps: whether a value beyond the range is cut to it (after a rotation, where it is a rare tail);
            otherwise an update that holds one is refused.

    Raises:
        PlanError: ``plan_malformed`` for a term out of its range; ``plan_conflict`` if b bits and n sites
            leave fewer than 8 levels.
    """

    parameters: int
    bits: int
    sites: int
    range: float
    clamps: bool = False

    def __post_init__(self) -> None:
        sound = (
            self.parameters >= 1
            and FEWEST_BITS <= self.bits <= MOST_BITS
            and self.sites >= 1
            and 0 < self.range < math.inf
        )
        if not sound:
            raise PlanError("plan_malformed", "A term of the encoding is out of its range.")
        if self.levels < FEWEST_LEVELS:
            raise PlanError(
                "plan_conflict",
                f"{self.bits} bits leave {self.levels} levels for the values of each of {self.sites} sites.",
                f"Take at least {fewest_bits(self.sites)} bits.",
            )

    @property
    def limit(self) -> int:
        """The largest absolute integer that one site may send: ``sites`` of them never wrap."""
        return _limit(self.bits, self.sites)

    @property
    def levels(self) -> int:
        """How many different integers one site may send: from ``-limit`` to ``limit``."""
        return 2 * self.limit + 1

    @property
    def step(self) -> float:
        """The value of one integer step."""
        return self.range / self.limit

    @property
    def content_bytes(self) -> int:
        """The exact size of a packed update, known before one is read."""
        return packed_bytes(self.parameters, self.bits)


@dataclass(frozen=True, eq=False)
class Quantised:
    """An update on the ring.

    Attributes:
        words: signed integers modulo 2^b, shape (d,).
        clamped: how many values were cut to the range. A figure for the site's own eyes.
    """

    words: Words
    clamped: int


def fewest_bits(sites: int) -> int:
    """The smallest b that leaves n sites at least 8 levels."""
    return max(FEWEST_BITS, (sites * FEWEST_LEVELS // 2).bit_length() + 1)


def encode(values: Vector, code: Code, stream: KeyStream) -> Quantised:
    """Weighted values on the ring, each rounded up or down at random with the right mean.

    The chance of rounding up is the fraction above the lower level, to the nearest multiple of 2^-16: the
    mean of a coordinate is off by at most 2^-17 of a step, and exact where the value is a level. The
    error's variance is at most a quarter step squared, and a sixth on average over fractions.

    Args:
        values: shape (d,): the update times the site's public weight, rotated if the plan says so.
        code: the plan's terms.
        stream: a key stream used for nothing else; 2 bytes a coordinate are drawn.

    Raises:
        UpdateError: ``update_shape``, ``update_not_finite``, or ``update_range`` where the code does not
            clamp.

    Formal guarantees:
        A function of ``values``, public terms and independent randomness: post-processing of noise that
        ``values`` already hold. It adds no privacy of its own, and must not be used in joint mode (see the
        module).
        The words of up to ``code.sites`` sites never wrap: their sum modulo 2^b tells the sum of integers.
    """
    if values.shape != (code.parameters,):
        raise UpdateError("update_shape", f"The update has {values.size} values, the plan {code.parameters}.")
    words = np.empty(code.parameters, dtype=_WORD)
    clamped = 0
    for part in _parts(code.parameters):
        exact = values[part].astype(np.float64)
        clamped += _beyond(exact, code)
        words[part] = _rounded(exact, code, stream)
    return Quantised(words, clamped)


def decode(total: Words, code: Code, sites: int, weight: float) -> Vector:
    """The weighted mean of the updates whose words were added: float32, shape (d,).

    Args:
        total: the sum of words, modulo 2^b or 2^32, shape (d,).
        code: the plan's terms.
        sites: how many sites took part.
        weight: the sum of their public weights, above 0.

    Raises:
        UpdateError: ``update_shape``; ``update_range`` for a sum that so many honest sites cannot give.
        ValueError: no site, more sites than the code is for, or no weight: callers open a sum of the plan's
            sites.
    """
    if not 1 <= sites <= code.sites or not 0 < weight < math.inf:
        raise ValueError(f"a sum over {sites} of {code.sites} sites with weight {weight}")
    if total.shape != (code.parameters,):
        raise UpdateError("update_shape", f"The sum has {total.size} values, the plan {code.parameters}.")
    mean = np.empty(code.parameters, dtype=np.float32)
    for part in _parts(code.parameters):
        integers = _signed(total[part], code.bits)
        if max(int(integers.max()), -int(integers.min())) > sites * code.limit:
            raise UpdateError(
                "update_range",
                f"The sum holds a value that {sites} sites within the plan's range cannot give.",
            )
        mean[part] = integers * (code.step / weight)
    return mean


def _limit(bits: int, sites: int) -> int:
    return ((1 << (bits - 1)) - 1) // sites


def _parts(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def _beyond(exact: NDArray[np.float64], code: Code) -> int:
    """How many values lie beyond the range; refuses what must not be sent."""
    largest = float(np.abs(exact).max())
    if not math.isfinite(largest):
        raise UpdateError(
            "update_not_finite",
            "Training gave NaN or infinity; nothing leaves.",
            "Lower the learning rate in the next plan.",
        )
    if largest <= code.range:
        return 0
    if not code.clamps:
        raise UpdateError(
            "update_range",
            f"A value of the update is beyond the plan's range of {code.range}; nothing leaves.",
            "Lower the learning rate, or raise the range in the next plan.",
        )
    return int(np.count_nonzero(np.abs(exact) > code.range))


def _rounded(exact: NDArray[np.float64], code: Code, stream: KeyStream) -> Words:
    """The words of a block; overwrites ``exact``."""
    exact *= code.limit / code.range
    np.clip(exact, -code.limit, code.limit, out=exact)
    coins = np.frombuffer(stream.bytes(exact.size * _COIN.itemsize), dtype=_COIN)
    # The middle of each of 2^16 parts of a step: above 0 and below 1, so a level stays where it is.
    exact += (coins + 0.5) * 2.0**-_COIN_BITS
    np.floor(exact, out=exact)
    mask = np.uint32(2**code.bits - 1)
    return exact.astype(np.int32).view(np.uint32) & mask


def _signed(words: Words, bits: int) -> NDArray[np.int32]:
    """The signed integers that words of b bits stand for; higher bits do not count."""
    lift = MOST_BITS - bits
    return (words.astype(np.uint32) << np.uint32(lift)).view(np.int32) >> np.int32(lift)


# On the wire


def packed_bytes(count: int, bits: int) -> int:
    """The size of ``count`` packed words of ``bits`` bits."""
    return (count * bits + 7) // 8


def pack(words: Words, bits: int) -> bytes:
    """The lowest ``bits`` bits of each word, one after the other: ceil(d b / 8) bytes.

    Dropping the bits above is reduction modulo 2^b. Memory beside the result is one block.

    Raises:
        ValueError: the words are not of shape (d,) and 32 bits, or ``bits`` is not 6 to 32.
    """
    _check(bits)
    if words.dtype != _WORD or words.ndim != 1:
        raise ValueError(f"words to pack have shape {words.shape} of {words.dtype}, not (d,) of {_WORD}")
    packed = np.empty(packed_bytes(words.size, bits), dtype=np.uint8)
    for part in _parts(words.size):
        place = _place(part, bits)
        packed[place] = _packed(words[part], bits)[: place.stop - place.start]
    return packed.tobytes()


def unpack(data: bytes | memoryview, bits: int, count: int) -> Words:
    """The words of ``pack``, each below 2^b, shape (count,).

    Args:
        data: exactly ``packed_bytes(count, bits)`` bytes.
        bits: b, of the plan.
        count: d, of the plan.

    Raises:
        UpdateError: ``update_shape``: another size, or bits left over that are not zero. Each list of words
            has one packed form only.
        ValueError: ``bits`` is not 6 to 32.
    """
    _check(bits)
    if len(data) != packed_bytes(count, bits):
        raise UpdateError(
            "update_shape", f"An update has {len(data)} bytes instead of {packed_bytes(count, bits)}."
        )
    used = count * bits % 8
    if used and data[-1] >> used:
        raise UpdateError("update_shape", "An update has more bits than its values.")
    packed = np.frombuffer(data, dtype=np.uint8)
    words = np.empty(count, dtype=_WORD)
    for part in _parts(count):
        words[part] = _unpacked(packed[_place(part, bits)], bits, part.stop - part.start)
    return words


def _check(bits: int) -> None:
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"words of {bits} bits, not {FEWEST_BITS} to {MOST_BITS}")


def _place(part: slice, bits: int) -> slice:
    """The bytes of a block of words; blocks begin at whole bytes."""
    return slice(part.start * bits // 8, packed_bytes(part.stop, bits))


def _places(bits: int) -> tuple[int, int, list[tuple[int, int]]]:
    """The smallest group of words that fills whole units of 32 bits.

    Returns:
        (words of a group, its units, the unit and the bit in it where each word begins)
    """
    words = MOST_BITS // math.gcd(bits, MOST_BITS)
    return words, words * bits // MOST_BITS, [divmod(word * bits, MOST_BITS) for word in range(words)]


def _packed(words: Words, bits: int) -> NDArray[np.uint8]:
    """A block packed; where its last group is not full, zero bytes follow."""
    if bits in _NATIVE:
        return words.astype(_NATIVE[bits]).view(np.uint8)
    group, units, places = _places(bits)
    low = _filled(words & np.uint32(2**bits - 1), group).reshape(-1, group)
    packed = np.zeros((low.shape[0], units), dtype=_WORD)
    for word, (unit, shift) in enumerate(places):
        packed[:, unit] |= low[:, word] << np.uint32(shift)
        if shift + bits > MOST_BITS:
            packed[:, unit + 1] |= low[:, word] >> np.uint32(MOST_BITS - shift)
    return packed.reshape(-1).view(np.uint8)


def _unpacked(packed: NDArray[np.uint8], bits: int, count: int) -> Words:
    """The inverse for a block of ``count`` words."""
    if bits in _NATIVE:
        return packed.view(_NATIVE[bits]).astype(_WORD)
    group, units, places = _places(bits)
    rows = _filled(packed, units * _WORD.itemsize).view(_WORD).reshape(-1, units)
    words = np.empty((rows.shape[0], group), dtype=_WORD)
    for word, (unit, shift) in enumerate(places):
        np.right_shift(rows[:, unit], np.uint32(shift), out=words[:, word])
        if shift + bits > MOST_BITS:
            words[:, word] |= rows[:, unit + 1] << np.uint32(MOST_BITS - shift)
    words &= np.uint32(2**bits - 1)
    return words.reshape(-1)[:count]


def _filled(values: NDArray[Any], multiple: int) -> NDArray[Any]:
    """The values with zeros behind, up to a multiple of some length."""
    missing = -values.size % multiple
    return np.concatenate([values, np.zeros(missing, dtype=values.dtype)]) if missing else values
