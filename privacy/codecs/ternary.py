"""Three levels a parameter, five parameters to a byte: 1.66 bits with the scales.

Li and Liu 2016, *Ternary Weight Networks* (arXiv 1605.04711): in each block what is smaller than 0.7 times
the mean magnitude becomes 0, the rest plus or minus the mean magnitude of what is left. A content is one
bfloat16 scale a block, then the levels as digits of base three: ``3^5 = 243`` fits a byte. Only together
with error feedback (``feedback``) is so coarse a rounding of use.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from cloister.privacy.codecs import bf16
from cloister.privacy.codecs.blocks import blocked, scaled
from cloister.privacy.update import Vector

BLOCK: Final = 256
_DIGITS: Final = 3 ** np.arange(5, dtype=np.uint8)
_KEPT: Final = np.float32(0.7)


def encode(values: Vector) -> bytes:
    """Finite float32 values, shape (d,), as three levels."""
    rows = blocked(values, BLOCK)
    sizes = np.abs(rows)
    filled = np.full(len(rows), BLOCK)
    filled[-1] -= rows.size - values.size
    kept = sizes > _KEPT * (sizes.sum(axis=1) / filled)[:, None]
    scales = np.where(kept, sizes, 0).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
    levels = (kept * np.sign(rows)).astype(np.int8).reshape(-1)[: values.size]
    digits = np.ones(-(-values.size // 5) * 5, dtype=np.uint8)
    digits[: values.size] = levels + 1
    packed = (digits.reshape(-1, 5) * _DIGITS).sum(axis=1).astype(np.uint8)
    found: bytes = bf16.encode(scales.astype(np.float32)) + packed.tobytes()
    return found


def decode(content: bytes, parameters: int) -> Vector:
    """The values of a content of the right size, float32, shape (d,).

    A byte above 242 holds no five digits; what it is read as has no digit above 2 all the same.
    """
    blocks = -(-parameters // BLOCK)
    packed = np.frombuffer(content[bf16.size(blocks) :], np.uint8)
    digits = (packed[:, None] // _DIGITS % 3).reshape(-1)[:parameters]
    levels = blocked(digits.astype(np.float32) - 1, BLOCK)
    return scaled(levels, bf16.decode(content[: bf16.size(blocks)]), parameters)


def size(parameters: int) -> int:
    """The bytes of so many values."""
    return bf16.size(-(-parameters // BLOCK)) + -(-parameters // 5)
