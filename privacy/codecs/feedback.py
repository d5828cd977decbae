"""Error feedback: what rounding left out is added to what is coded next.

Seide et al. 2014, *1-Bit Stochastic Gradient Descent*; Karimireddy et al. 2019 (arXiv 1901.09847) show that
it makes coarse rounding converge like none. Of noised updates it is post-processing: the rest is a function
of what was noised and charged before.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloister.privacy.codecs import coding
from cloister.privacy.methods import Codec
from cloister.privacy.update import Vector


@dataclass(frozen=True, eq=False)
class Fed:
    """A coded change, and what it leaves for the next.

    Attributes:
        content: the bytes that travel.
        values: what everybody reads in them, float32, shape (d,).
        rest: what the coding left out, float32, shape (d,).
    """

    content: bytes
    values: Vector
    rest: Vector


def encode(codec: Codec, values: Vector, rest: Vector | None) -> Fed:
    """Codes values together with the rest of the time before.

    Args:
        codec: of the plan.
        values: float32, shape (d,).
        rest: of the last coding; None before the first.

    Raises:
        UpdateError: ``update_not_finite``.
    """
    wanted = values if rest is None else values + rest
    content = coding.encode(codec, wanted)
    read = coding.decode(codec, content, values.size)
    return Fed(content, read, wanted - read)
