"""Whole numbers of 8 or 4 bits in blocks, each block with the scale that its largest value needs.

Dettmers et al. 2022, *8-bit Optimizers via Block-wise Quantization* (arXiv 2110.02861), with evenly spaced
levels. A content is one bfloat16 scale a block, then the numbers, two to a byte where they have 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.codecs import bf16
from cloister.privacy.update import Vector

BLOCK = 64


def blocked(values: Vector, block: int) -> NDArray[np.float32]:
    """Values in rows of one block, the last filled with zeros: float32, shape (blocks, block)."""
    filled = np.zeros(-(-values.size // block) * block, dtype=np.float32)
    filled[: values.size] = values
    return filled.reshape(-1, block)


def scaled(levels: NDArray[np.floating], scales: Vector, parameters: int) -> Vector:
    """Levels, shape (blocks, block), times the scale of each block, without what filled the last.

    Scales that others chose may be anything: what overflows is infinite, and for the caller to refuse.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found: Vector = (levels.astype(np.float32) * scales[:, None]).reshape(-1)[:parameters]
    return found


@dataclass(frozen=True)
class Blocks:
    """The codec of one width.

    Attributes:
        bits: 8 or 4.
    """

    bits: int

    @property
    def most(self) -> int:
        """The largest level."""
        return int(2 ** (self.bits - 1) - 1)

    def encode(self, values: Vector) -> bytes:
        """Finite float32 values, shape (d,), rounded to the nearest level of their block."""
        rows = blocked(values, BLOCK)
        scales = bf16.encode(np.abs(rows).max(axis=1) / np.float32(self.most))
        by = bf16.decode(scales)[:, None]
        levels = np.divide(rows, by, out=np.zeros_like(rows), where=by > 0)
        whole = np.clip(np.rint(levels), -self.most, self.most).astype(np.int8).reshape(-1)[: values.size]
        return scales + self._pack(whole)

    def decode(self, content: bytes, parameters: int) -> Vector:
        """The values of a content of the right size, float32, shape (d,)."""
        blocks = -(-parameters // BLOCK)
        whole = self._unpack(content[bf16.size(blocks) :], parameters)
        return scaled(
            blocked(whole.astype(np.float32), BLOCK), bf16.decode(content[: bf16.size(blocks)]), parameters
        )

    def size(self, parameters: int) -> int:
        """The bytes of so many values."""
        return bf16.size(-(-parameters // BLOCK)) + -(-parameters * self.bits // 8)

    def _pack(self, whole: NDArray[np.int8]) -> bytes:
        if self.bits == 8:
            return whole.tobytes()
        low = np.resize(whole & 0x0F, whole.size + whole.size % 2).astype(np.uint8).reshape(-1, 2)
        if whole.size % 2:
            low[-1, 1] = 0
        return (low[:, 0] | low[:, 1] << 4).astype(np.uint8).tobytes()

    def _unpack(self, data: bytes, parameters: int) -> NDArray[np.int8]:
        if self.bits == 8:
            return np.frombuffer(data, np.int8)
        pairs = np.frombuffer(data, np.uint8)
        halves = np.stack([pairs & 0x0F, pairs >> 4], axis=1).reshape(-1)[:parameters].astype(np.int8)
        return np.where(halves > self.most, halves - 2**self.bits, halves).astype(np.int8)
