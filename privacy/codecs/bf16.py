"""bfloat16: the upper half of a float32, rounded to nearest even.

Wang and Kanwar 2019, *BFloat16: The secret to high performance on Cloud TPUs*; Kalamkar et al. 2019
(arXiv 1905.12322). Two bytes a parameter, relative error at most 2^-8.
"""

from __future__ import annotations

import numpy as np

from cloister.privacy.update import Vector

_HALF = np.dtype("<u2")


def encode(values: Vector) -> bytes:
    """Finite float32 values, shape (d,), as 2 d bytes; what would round to infinity becomes the largest."""
    words = values.astype(np.float32).view(np.uint32)
    rounded = (words + np.uint32(0x7FFF) + ((words >> 16) & 1)) >> 16
    beyond = (rounded & 0x7F80) == 0x7F80
    return np.where(beyond, (rounded & 0x8000) | 0x7F7F, rounded).astype(_HALF).tobytes()


def decode(content: bytes) -> Vector:
    """The values of a content of whole words, float32; they may be anything, NaN included."""
    return (np.frombuffer(content, _HALF).astype(np.uint32) << 16).view(np.float32)


def size(parameters: int) -> int:
    """The bytes of so many values."""
    return _HALF.itemsize * parameters
