"""Randomised Hadamard rotation: every coordinate of an update becomes about as large as every other.

A quantiser of few levels needs a range that is known beforehand and hardly exceeded. The coordinates of an
update differ by orders of magnitude: a range that holds the largest leaves the rest a level or two. A random
rotation spreads each coordinate over all. It keeps lengths, its inverse is at hand, and it is linear, so the
sum of rotated updates is the rotated sum: all sites rotate by the same public seed, and whoever opens the
sum turns it back.

The rotation. H is the Walsh-Hadamard matrix of order L divided by sqrt(L), L the largest power of two that
is at most d; it is symmetric and its own inverse. D and E are diagonals of random signs from the seed. The
first L coordinates x become H D x; then, where d is no power of two, the last L coordinates y, which overlap
with the first, become H E y. Nothing is padded: d values stay d values on the wire.

The range. Given the vector that a pass starts from, each of its results is a sum with independent random
signs whose squared weights add up to at most ``norm^2 / L``, whatever the update is. So its variance is at
most that, less than twice ``norm^2 / d``, and by Hoeffding's inequality it exceeds six such standard
deviations, the range of ``clamp`` for the norm that the plan allows, with probability at most
``2 exp(-18)``, 3.0e-8. Updates of many coordinates come near a Gaussian, which exceeds them with
probability 2.0e-9: 0.05 of 25 million coordinates are expected to be cut.

Why not blocks of 2^14, as elsewhere (Suresh et al. 2017, arXiv 1611.00429, rotate whole vectors; blocks save
time): an update may lie in one block, so a *public* range would have to be ``6 norm / sqrt(2^14)``, at 25
million coordinates 39 times the one needed, which costs over 5 of the bits.

Formal guarantees:
    The seed is public and a rotation is a bijection, so it hides nothing. Applied to an update that holds
    noise already, it is post-processing. An update must not choose the seed: it is bound to the plan, the
    round and the incoming model (``At.bound``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import UpdateError
from cloister.privacy.update import Vector

DEVIATIONS: Final = 6.0
"""How many standard deviations of a rotated coordinate the range holds."""

_INFO = b"cloister/rotation/1/"
# A row of values that is transformed while it lies in the processor's cache, as a square of this side.
_SIDE = 1 << 7
_TILE = _SIDE * _SIDE
# Words of each of two buffers: wide enough strips of columns, and still in the cache.
_WORK = 1 << 16

Tile: TypeAlias = NDArray[np.float32]


def length(parameters: int) -> int:
    """L, the largest power of two that is at most d: over how many coordinates each one is spread."""
    return 1 << (parameters.bit_length() - 1)


def clamp(norm: float, parameters: int) -> float:
    """The public range of rotated coordinates of updates of Euclidean norm at most ``norm``.

    The module says how rarely it is exceeded. A larger update must not be encoded by it: see ``within``.

    Args:
        norm: the bound on a site's weighted update that the plan states.
        parameters: d.
    """
    return DEVIATIONS * norm / math.sqrt(length(parameters))


def within(values: Vector, norm: float) -> None:
    """Refuses an update that is longer than agreed, for which the range of ``clamp`` would cut at random.

    Raises:
        UpdateError: ``update_not_finite`` or ``update_range``.
    """
    found = math.sqrt(sum(float(np.square(part, dtype=np.float64).sum()) for part in _parts(values)))
    if not math.isfinite(found):
        raise UpdateError(
            "update_not_finite",
            "Training gave NaN or infinity; nothing leaves.",
            "Lower the learning rate in the next plan.",
        )
    if found > norm:
        raise UpdateError(
            "update_range",
            f"The update is longer than the plan's bound of {norm}; nothing leaves.",
            "Lower the learning rate, or raise the bound in the next plan.",
        )


def rotate(values: Vector, seed: bytes) -> Vector:
    """The rotated update, in new memory: float32, shape (d,).

    Args:
        values: float32, shape (d,), d at least 1.
        seed: public bytes that name the plan, the sum and the incoming model.

    Formal guarantees:
        Orthogonal up to float32 rounding: a relative error of about 3e-7 at 25 million coordinates. The same
        values and seed give the same bits on every machine: additions and one multiplication, in a fixed
        order.
    """
    rotated = np.array(values, dtype=np.float32)
    for name, place in _passes(rotated):
        _flip(place, seed, name)
        _transform(place)
    return rotated


def unrotate(values: Vector, seed: bytes) -> Vector:
    """The inverse of ``rotate`` by the same seed, in new memory."""
    straight = np.array(values, dtype=np.float32)
    for name, place in reversed(list(_passes(straight))):
        _transform(place)
        _flip(place, seed, name)
    return straight


def _passes(values: Vector) -> Iterator[tuple[bytes, Vector]]:
    """The parts that are transformed one after the other, each with the name of its signs."""
    span = length(values.size)
    yield b"first", values[:span]
    if span < values.size:
        yield b"last", values[-span:]


def _parts(values: Vector) -> Iterator[Vector]:
    return (values[start : start + _TILE] for start in range(0, values.size, _TILE))


def _flip(values: Vector, seed: bytes, name: bytes) -> None:
    """Changes the sign of each value whose bit in the key stream is set."""
    key = HKDF(hashes.SHA256(), 32, salt=None, info=_INFO + name).derive(seed)
    stream = KeyStream(key)
    for part in _parts(values):
        coins = np.frombuffer(stream.bytes(-(-part.size // 8)), dtype=np.uint8)
        bits = np.unpackbits(coins, count=part.size, bitorder="little")
        part.view(np.uint32)[:] ^= bits.astype(np.uint32) << np.uint32(31)


def _transform(values: Vector) -> None:
    """The orthonormal Walsh-Hadamard transform of a power of two of values, in place.

    H of order a b is the Kronecker product of those of order a and b. So the values as a table of rows of
    one tile: first each row, while it lies in the cache, then the columns, some at a time.
    """
    tile = min(values.size, _TILE)
    table = values.reshape(-1, tile)
    scale = np.float32(1 / math.sqrt(values.size))
    width = max(1, min(tile, _WORK // len(table)))
    work = np.empty((2, max(min(_WORK, values.size), len(table))), dtype=np.float32)
    for row in table:
        _row(row, scale, work)
    for start in range(0, tile if len(table) > 1 else 0, width):
        _columns(table[:, start : start + width], work)


def _row(row: Vector, scale: np.float32, work: Tile) -> None:
    """H of a row of at most one tile, and the scale of the whole."""
    square = row.reshape(-1, min(_SIDE, row.size))
    _columns(square, work)
    # The other half of the order runs along contiguous memory; turned over, it is the same as the first.
    turned = np.ascontiguousarray(square.T)
    _columns(turned, work)
    np.multiply(turned.T, scale, out=square)


def _columns(table: Tile, work: Tile) -> None:
    """H without its scale on every column, in place: additions only.

    Each level adds and subtracts the halves and weaves the results together, so that it reads contiguous
    memory at every level; as many shuffles as there are levels put the order right again (Pease 1968).
    """
    size, width = table.shape
    source = table
    for level in range(size.bit_length() - 1):
        goal = work[level % 2, : table.size].reshape(size, width)
        upper, lower = source[: size // 2], source[size // 2 :]
        np.add(upper, lower, out=goal[0::2])
        np.subtract(upper, lower, out=goal[1::2])
        source = goal
    table[:] = source
