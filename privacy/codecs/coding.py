"""The codec of a plan: from values to bytes whose number is known beforehand, and back.

Rounding is deterministic and a function of the values alone, so of noised values it is post-processing. No
codec here goes with secure aggregation: scales of single blocks do not add up (``secagg.quantisation`` has
few bits that do).
"""

from __future__ import annotations

import numpy as np

from cloister.privacy.codecs import bf16, ternary
from cloister.privacy.codecs.blocks import Blocks
from cloister.privacy.errors import UpdateError
from cloister.privacy.methods import Codec
from cloister.privacy.update import Vector


def encode(codec: Codec, values: Vector) -> bytes:
    """The bytes of finite values, float32, shape (d,).

    Raises:
        UpdateError: ``update_not_finite``.
    """
    if not np.isfinite(values).all():
        raise UpdateError("update_not_finite", "What is to be coded holds NaN or infinity; nothing leaves.")
    match codec:
        case "bf16":
            return bf16.encode(values)
        case "ternary":
            return ternary.encode(values)
        case _:
            return Blocks(int(codec.removeprefix("int"))).encode(values)


def decode(codec: Codec, content: bytes, parameters: int) -> Vector:
    """The values of a content, float32, shape (d,).

    Raises:
        UpdateError: ``update_shape`` for another size, ``update_not_finite``.
    """
    if len(content) != size(codec, parameters):
        raise UpdateError(
            "update_shape", f"{len(content)} bytes are not {parameters} values coded as {codec}."
        )
    match codec:
        case "bf16":
            found = bf16.decode(content)
        case "ternary":
            found = ternary.decode(content, parameters)
        case _:
            found = Blocks(int(codec.removeprefix("int"))).decode(content, parameters)
    if not np.isfinite(found).all():
        raise UpdateError("update_not_finite", "Coded values hold NaN or infinity.")
    return found


def size(codec: Codec, parameters: int) -> int:
    """The exact bytes of so many coded values."""
    match codec:
        case "bf16":
            return bf16.size(parameters)
        case "ternary":
            return ternary.size(parameters)
        case _:
            return Blocks(int(codec.removeprefix("int"))).size(parameters)
