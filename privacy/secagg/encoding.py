"""Fixed point on the ring of 2^32: sums that are exact and do not depend on their order.

A site multiplies its delta by its public weight, divides by a public step and rounds to int32. The
aggregator adds integers modulo 2^32 and multiplies by the step once. So the result is the same in
whatever order updates arrive, cannot hold NaN or infinity, and one site's influence on a coordinate
is bounded by the public range.

The step is ``range * sites / 2^31``: with every site at its limit the sum still fits. At range 4 and
4 sites that is 7.5e-9, below the float32 spacing of any value above 0.07.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.errors import UpdateError
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector

_WIRE = np.dtype("<i4")


@dataclass(frozen=True)
class Ring:
    """The public constants of one plan's encoding.

    Attributes:
        parameters: d, the length of an update.
        sites: the number of sites whose updates may be added.
        range: the largest absolute value of a weighted coordinate of one site.
    """

    parameters: int
    sites: int
    range: float

    @property
    def limit(self) -> int:
        """The largest absolute integer that one site may send: ``sites`` of them never wrap."""
        return (2**31 - 1) // self.sites

    @property
    def step(self) -> float:
        """The value of one integer step."""
        return self.range / self.limit

    @property
    def content_bytes(self) -> int:
        """The exact size of an encoded update, known before one is read."""
        return self.parameters * _WIRE.itemsize


def encode(delta: Delta, weight: float, ring: Ring) -> Encoded:
    """The weighted delta on the ring, rounded to the nearest step.

    Args:
        delta: shape (d,), d as in the ring.
        weight: the site's public weight from the plan, in (0, 1].

    Raises:
        UpdateError: ``update_shape``, ``update_not_finite`` or ``update_range``.

    Formal guarantees:
        A function of ``delta`` and public constants only, hence post-processing of the noised steps.
    """
    return Encoded(_fixed(delta.values.astype(np.float64), weight, ring), delta.mechanisms)


def encode_sums(values: NDArray[np.float64], ring: Ring) -> Encoded:
    """Sums in float64 on the ring, rounded to the nearest step: for what is added up once, unweighted.

    Args:
        values: shape (d,), d as in the ring.

    Raises:
        UpdateError: ``update_shape``, ``update_not_finite`` or ``update_range``.

    Formal guarantees:
        None: no noise is in it.
    """
    return Encoded(_fixed(values.copy(), 1.0, ring), ())


def _fixed(scaled: NDArray[np.float64], weight: float, ring: Ring) -> bytes:
    """Weighted values as whole steps, little-endian; ``scaled`` is overwritten."""
    if scaled.shape != (ring.parameters,):
        raise UpdateError("update_shape", f"The update has {scaled.size} values, the plan {ring.parameters}.")
    if not np.isfinite(scaled).all():
        raise UpdateError(
            "update_not_finite",
            "Training gave NaN or infinity; nothing leaves.",
            "Lower the learning rate in the next plan.",
        )
    scaled *= weight / ring.step
    np.rint(scaled, out=scaled)
    if np.abs(scaled).max(initial=0.0) > ring.limit:
        raise UpdateError(
            "update_range",
            f"A value of the update is beyond the plan's range of {ring.range}; nothing leaves.",
            "Lower the learning rate, or raise the range in the next plan.",
        )
    return scaled.astype(_WIRE).tobytes()


def residues(share: Share | Surplus) -> Encoded:
    """A share, or its surplus noise, modulo 2^32; ``dp.grid`` states how seldom a sum of shares wraps around.

    Formal guarantees:
        Reducing modulo 2^32 is post-processing of the sum, whatever it wraps.
    """
    mechanisms = share.mechanisms if isinstance(share, Share) else ()
    return Encoded(share.values.astype(np.uint32).astype(np.dtype("<u4")).tobytes(), mechanisms)


class Pieces(Protocol):
    """An encoded update in parts of whole integers; can be gone through more than once."""

    def __len__(self) -> int:
        """The number of parts."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """The parts, in order."""
        ...


class Sum:
    """The running sum of encoded updates: one int32 vector, whatever the number of updates."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.weight = 0.0
        self._total: NDArray[np.int32] = np.zeros(ring.parameters, dtype=_WIRE)

    @classmethod
    def of(cls, ring: Ring, words: NDArray[np.uint32], weight: float) -> Sum:
        """The sum that secure aggregation opened, of sites with this weight together.

        Args:
            words: the sum of encoded updates modulo 2^32, shape (d,).
        """
        found = cls(ring)
        found._total = words.view(_WIRE)
        found.weight = weight
        return found

    @classmethod
    def single(cls, ring: Ring, pieces: Pieces, weight: float) -> Vector:
        """One encoded update of a site with the public ``weight``, by itself: its delta, float32, (d,).

        Raises:
            UpdateError: as ``add``.
        """
        alone = cls(ring)
        alone.add(pieces, weight)
        return alone.mean()

    def add(self, pieces: Pieces, weight: float) -> None:
        """Adds one encoded update of a site with the public ``weight``.

        The pieces are gone through twice, checked and then added: a sum holds all of an update or
        nothing of it, and memory for one piece is enough.

        Raises:
            UpdateError: ``update_shape`` for another size, ``update_range`` for a value that no
                honest site can send.
        """
        self._check(pieces)
        start = 0
        for piece in pieces:
            values = np.frombuffer(piece, dtype=_WIRE)
            part = self._total[start : start + values.size]
            np.add(part, values, out=part)
            start += values.size
        self.weight += weight

    def _check(self, pieces: Pieces) -> None:
        size, limit = 0, self.ring.limit
        for piece in pieces:
            size += len(piece)
            if size > self.ring.content_bytes or len(piece) % _WIRE.itemsize:
                break
            values = np.frombuffer(piece, dtype=_WIRE)
            if values.size and max(int(values.max()), -int(values.min())) > limit:
                raise UpdateError(
                    "update_range", f"An update holds a value beyond the plan's range of {self.ring.range}."
                )
        else:
            if size == self.ring.content_bytes:
                return
        raise UpdateError(
            "update_shape", f"An update does not have the plan's {self.ring.content_bytes} bytes."
        )

    def mean(self) -> Vector:
        """The weighted mean of what was added: float32, shape (d,).

        Raises:
            ValueError: nothing was added; callers close a round only with updates in it.
        """
        if not self.weight:
            raise ValueError("the mean of no updates")
        return (self._total * (self.ring.step / self.weight)).astype(np.float32)
