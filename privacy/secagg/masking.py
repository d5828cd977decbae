"""Pseudo-random pads on the ring of 2^32, added at the speed of the cipher.

A pad is the AES-256-CTR keystream of a key that is used for nothing else, read as little-endian words of
32 bits. Each site of a secure sum adds a pad for every peer, one of each pair with the sign +1 and the
other with -1, so that they vanish from the sum; and one pad of its own, which it opens afterwards.

A vector is gone through once: of each block all pads are added while it lies in the processor's cache.
So the time is that of the cipher and little more, and the memory that of one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES: Final = 32

# Little-endian on every machine: a big-endian one gives the same sums, only more slowly.
_WORD = np.dtype("<u4")
# Large enough to hide the cost of a call, small enough that a block and its keystream stay in the cache.
_BLOCK_BYTES = 256 << 10
_BLOCK = _BLOCK_BYTES // _WORD.itemsize
# A keystream is the encryption of zeros.
_ZEROS = bytes(_BLOCK_BYTES)


@dataclass(frozen=True)
class Mask:
    """One keystream to add or to subtract.

    Attributes:
        key: 32 bytes that are used for this keystream and for nothing else.
        sign: +1 or -1.
    """

    key: bytes = field(repr=False)
    sign: int

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"a mask's key has {len(self.key)} bytes instead of {KEY_BYTES}")
        if self.sign not in (1, -1):
            raise ValueError(f"a mask's sign is {self.sign}, neither 1 nor -1")


def apply(vector: NDArray[np.uint32], masks: Sequence[Mask]) -> None:
    """Adds the keystreams of all masks to a vector in place, modulo 2^32; sign -1 subtracts.

    Args:
        vector: shape (d,), contiguous and writable little-endian words of 32 bits.
        masks: in any order; word k of a keystream belongs to ``vector[k]``.

    Raises:
        ValueError: the vector is not of that form; nothing was added.

    Formal guarantees:
        Sums are exact: addition modulo 2^32 is commutative and has an inverse, so masks of equal keys and
        opposite signs leave no trace, in whatever order and at whatever party they are applied.
        To anybody without the key of one of the masks, ``vector`` is then indistinguishable from uniform
        words, whatever it held before, under the assumption that AES-256 is a pseudorandom permutation.
        Its blocks never repeat under one key, which a uniform pad's could: for d words this adds at most
        (d/4)^2 / 2^129 to the advantage, below 2^-83 at d = 25 million.
        The guarantee holds for the first use of a key only. The initial counter is always zero, so two
        vectors under one key give away their difference. That no key is used twice is the duty of
        callers: they derive it for one pair of sites and one attempt at one secure sum.
    """
    _check(vector)
    ciphers = [(_keystream(mask.key), np.add if mask.sign > 0 else np.subtract) for mask in masks]
    words = np.empty(min(_BLOCK, vector.size), dtype=_WORD)
    for start in range(0, vector.size, _BLOCK):
        block = vector[start : start + _BLOCK]
        zeros, pad = memoryview(_ZEROS)[: block.nbytes], words[: block.size]
        into = pad.view(np.uint8).data
        # Each cipher goes on where it stood: its counter, not ours, says which words come next.
        for cipher, combine in ciphers:
            cipher.update_into(zeros, into)
            combine(block, pad, out=block)


def _keystream(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


def _check(vector: NDArray[np.uint32]) -> None:
    if vector.dtype != _WORD or vector.ndim != 1:
        raise ValueError(f"a vector to mask has shape {vector.shape} of {vector.dtype}, not (d,) of {_WORD}")
    if not vector.flags.c_contiguous or not vector.flags.writeable:
        raise ValueError("a vector to mask is not contiguous, or cannot be written")
