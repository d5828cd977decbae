"""The stages of an update on its way, as frozen types: only the next function accepts each.

::

    gradients per unit -> Clipped -> Noised -> … steps … -> Delta -> Encoded -> Masked -> Sealed
    gradients per unit -> Clipped -> Share  -------- joint mode --------> Encoded -> Masked -> Sealed
    parts of the noise of a share that was sent -> Surplus -------------> Encoded -> Masked -> Sealed
    Delta -> Rotated  ------------ few bits a parameter ----------------> Encoded -> Masked -> Sealed
    Delta -> Coded    ------------ a codec, without secure aggregation --> Sealed

The values carry their own guarantee: noise reads its scale from the ``Clipped`` value it protects,
the ledger charges the mechanisms that a ``Delta`` really underwent, and a participant seals an update
only from an ``Encoded`` value, masked where the plan says so (``Masked`` stands in
``privacy.secagg.rounds``): mypy refuses a vector that skipped a stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.dp.events import GaussianSteps

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Clipped:
    """A sum over units of gradient vectors, each cut to Euclidean norm at most ``bound``.

    Formal guarantees:
        Adding or removing one unit changes ``values`` by at most ``bound`` in Euclidean norm.

    Attributes:
        values: float64, shape (d,): sums over many units keep their last digits.
        bound: the clipping bound C > 0, in units of the gradient.
    """

    values: NDArray[np.float64]
    bound: float


@dataclass(frozen=True, eq=False)
class Noised:
    """A clipped sum with Gaussian noise of standard deviation ``noise_multiplier * bound`` added.

    Attributes:
        values: float32, shape (d,).
        bound: the clipping bound of the sum.
        noise_multiplier: sigma > 0, the noise in units of the bound.
    """

    values: Vector
    bound: float
    noise_multiplier: float


@dataclass(frozen=True, eq=False)
class Share:
    """A clipped sum on the integer grid with this site's share of discrete Gaussian noise added.

    Formal guarantees:
        By itself only what its own share gives, which is less than the plan promises: it must leave the
        site masked, and be opened in nothing but sums of at least ``n_min`` shares (``dp.grid``).

    Attributes:
        values: int64, shape (d,), in grid units.
        mechanisms: what such a sum amounts to against whoever knows ``t`` of its shares.
    """

    values: NDArray[np.int64]
    mechanisms: tuple[GaussianSteps, ...]


@dataclass(frozen=True, eq=False)
class Surplus:
    """The parts of a share's noise that a sum does not need: noise alone, nothing of any record.

    Formal guarantees:
        Independent of the data; it must leave the site only for the survivor set whose sum it is surplus in.

    Attributes:
        values: int64, shape (d,), in grid units.
    """

    values: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Delta:
    """What a site's local steps changed in the trained parameters.

    Attributes:
        values: float32, shape (d,): parameters after minus parameters before.
        mechanisms: every noised step that went into ``values``; empty for training without privacy.
    """

    values: Vector
    mechanisms: tuple[GaussianSteps, ...]


@dataclass(frozen=True, eq=False)
class Rotated:
    """A weighted delta whose coordinates a public rotation made about equally large.

    Attributes:
        values: float32, shape (d,), no longer than the plan's norm.
        mechanisms: carried over from the delta.
    """

    values: Vector
    mechanisms: tuple[GaussianSteps, ...]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A weighted delta, or a share, as integers of the ring that sums are taken in.

    Attributes:
        content: little-endian int32, 4 bytes a parameter; words modulo 2^bits where these are fewer.
        mechanisms: carried over from the delta or the share.
        bits: b: sums are taken modulo 2^b, and so many bits of a word travel.
    """

    content: bytes
    mechanisms: tuple[GaussianSteps, ...]
    bits: int = 32


@dataclass(frozen=True, eq=False)
class Coded:
    """A delta in the codec of a plan without secure aggregation (``privacy.codecs``), not weighted.

    Attributes:
        content: of a size that the plan decides.
        mechanisms: those of this delta; what else is in it was charged in the rounds before.
    """

    content: bytes
    mechanisms: tuple[GaussianSteps, ...]


@dataclass(frozen=True, eq=False)
class Sealed:
    """An update sealed for its recipient and signed by its sender: the only form that leaves.

    Attributes:
        data: the envelope's bytes.
        digest: ``sha256:…`` of ``data``.
    """

    data: bytes
    digest: str
