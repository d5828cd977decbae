"""Few bits a parameter in a job: a weighted update is rotated, rounded at random, and summed modulo 2^b.

``rotation`` makes the coordinates about equally large, ``ring`` rounds them within a range that follows from
the plan, so that the words of all sites together never wrap. Both ends derive the rotation from the sum's
place, which the server cannot choose freely: it is bound to job, roster, round and incoming model.

Two things may be too large, and neither wraps. An update longer than the plan's norm is refused at its site,
and nothing leaves. Of one within it, a rotated coordinate may still pass the range, of which ``rotation``
tells how rarely: it is cut to the range, and the error of that coordinate is what was cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import UpdateError
from cloister.privacy.secagg import ring, rotation
from cloister.privacy.secagg.ring import Code, Words
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.update import Delta, Encoded, Rotated, Vector

MOST_BITS: Final = 31
"""More would be the ring of 2^32, which has an encoding of its own (``encoding``)."""

_SEED = "cloister/secagg-rotation/1"


@dataclass(frozen=True)
class Quantisation:
    """The public terms of few bits in one job.

    Attributes:
        sums: the terms of its secure sums.
        bits: b, of a word on the wire.
        norm: the greatest Euclidean length of one site's weighted update.

    Raises:
        PlanError: ``plan_malformed``, ``plan_conflict`` as ``ring.Code``.
    """

    sums: SumTerms
    bits: int
    norm: float

    def __post_init__(self) -> None:
        _ = self.code

    @property
    def code(self) -> Code:
        """The terms of the rounding; the range is that of rotated updates of the norm."""
        parameters = self.sums.parameters
        limit = rotation.clamp(self.norm, parameters)
        return Code(parameters, self.bits, len(self.sums.sites), limit, clamps=True)

    def seed(self, at: At) -> bytes:
        """The public seed of the rotation of one sum."""
        return at.bound(_SEED, self.sums)


def rotate(delta: Delta, weight: float, terms: Quantisation, at: At) -> Rotated:
    """The weighted delta, rotated as every site of the sum rotates its own.

    Args:
        delta: shape (d,).
        weight: the site's public weight from the plan, in (0, 1].
        terms: of the plan.
        at: the sum.

    Raises:
        UpdateError: ``update_shape``, ``update_not_finite``, or ``update_range`` where it is longer than
            the norm.

    Formal guarantees:
        A function of ``delta`` and public constants only, hence post-processing of the noised steps.
    """
    if delta.values.shape != (terms.sums.parameters,):
        raise UpdateError(
            "update_shape", f"The update has {delta.values.size} values, the plan {terms.sums.parameters}."
        )
    weighted = delta.values * np.float32(weight)
    rotation.within(weighted, terms.norm)
    return Rotated(rotation.rotate(weighted, terms.seed(at)), delta.mechanisms)


def quantise(rotated: Rotated, terms: Quantisation, stream: KeyStream) -> Encoded:
    """The words of a rotated update, rounded at random.

    Args:
        rotated: by ``rotate`` under the same terms.
        terms: of the plan.
        stream: a key stream of the site's ratchet, used for nothing else.

    Formal guarantees:
        Those of ``ring.encode``: post-processing, and the words of all sites add up modulo 2^b to what their
        integers add up to.
    """
    words = ring.encode(rotated.values, terms.code, stream).words
    return Encoded(words.tobytes(), rotated.mechanisms, terms.bits)


def mean(total: Words, terms: Quantisation, at: At, sites: int, weight: float) -> Vector:
    """The weighted mean of the deltas whose words were added: float32, shape (d,).

    Its error is, in the Euclidean norm, less than ``sites * step * sqrt(d) / weight`` for certain, and in
    root mean square at most ``step / 2 * sqrt(sites * d) / weight``, with the step of ``terms.code``; and
    what was cut.

    Args:
        total: the opened sum modulo 2^b or 2^32, shape (d,).
        terms: of the plan.
        at: the sum.
        sites: how many took part.
        weight: the sum of their public weights.

    Raises:
        UpdateError: ``update_shape``; ``update_range`` for a sum that so many honest sites cannot give.
    """
    return rotation.unrotate(ring.decode(total, terms.code, sites, weight), terms.seed(at))
