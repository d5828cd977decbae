"""One release of the analytic round: the noise on a site's vector, its integers, its cost.

The whole of a site's data goes into one vector, once. So a release is the Gaussian mechanism on the full
batch: no sampling, no amplification, one entry in the ledger.

=========  =============================================================  ===============================
mode       what a site sends                                              noise in the opened sum
=========  =============================================================  ===============================
``off``    its sums, in fixed point                                       none
``local``  its clipped sums with all the noise of its own guarantee       sigma C sqrt(sites)
``joint``  its clipped sums on the grid, with a share of discrete noise   sigma C sqrt(sites / (n_min - t))
=========  =============================================================  ===============================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.analytic.moments import Indices, Terms, clipped, plain
from cloister.privacy.dp import joint, noise
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import PlanError
from cloister.privacy.secagg.encoding import Ring, encode, encode_sums, residues
from cloister.privacy.update import Delta, Encoded

Floats: TypeAlias = NDArray[np.float64]
Words: TypeAlias = NDArray[np.uint32]
Mode: TypeAlias = Literal["off", "local", "joint"]

_TAIL = 2.0**-40


@dataclass(frozen=True)
class Release:
    """The public terms of one release of several sites.

    Formal guarantees:
        ``local``: what a site sends is the Gaussian mechanism of noise multiplier ``noise_multiplier`` for
        one unit added or removed at that site (``dp.noise`` says how its noise differs from the ideal).
        ``joint``: what a sum over at least ``n_min`` sites tells is that of ``dp.grid.Grid``. ``off``: none.

    Attributes:
        terms: constants of the vectors.
        rows: the most rows, and so the most units, that each site may have: public numbers, from bands.
        mode: see the module docstring.
        noise_multiplier: sigma, in units of ``terms.bound``; 0 with ``off``.
        n_min, t: of secure aggregation; used in joint mode.

    Raises:
        PlanError: ``plan_conflict``.
    """

    terms: Terms
    rows: tuple[int, ...]
    mode: Mode = "off"
    noise_multiplier: float = 0.0
    n_min: int = 0
    t: int = 1

    def __post_init__(self) -> None:
        if not self.rows or min(self.rows) < 1:
            raise PlanError("plan_conflict", "A release needs sites, each with rows.")
        if (self.mode == "off") != (self.noise_multiplier == 0):
            raise PlanError("plan_conflict", "Noise belongs to the private modes, and to them alone.")
        if self.mode == "joint":
            _ = self.grid

    @property
    def sites(self) -> int:
        """How many may send."""
        return len(self.rows)

    @cached_property
    def grid(self) -> Grid:
        """The integer grid of joint mode.

        Raises:
            PlanError: ``plan_conflict``, no sound grid fits.
        """
        return Grid(
            bound=self.terms.bound,
            parameters=self.terms.parameters,
            noise_multiplier=self.noise_multiplier,
            sites=self.sites,
            n_min=self.n_min,
            t=self.t,
            sampled=sum(self.rows),
        )

    @property
    def mechanism(self) -> GaussianSteps | None:
        """What a site's ledger is charged."""
        return None if self.mode == "off" else GaussianSteps(self.noise_multiplier, 1.0, 1)

    @property
    def ring(self) -> Ring:
        """The ring of fixed point: no sum of rows with entries of at most 1 is beyond it, with noise but for
        2^-40; larger rows without privacy may be, and are refused when they are encoded.
        """
        if self.mode == "off":
            most = max(self.rows) * max(1.0, self.terms.weight)
        else:
            tail = math.sqrt(2 * math.log(2 * self.terms.parameters * self.sites / _TAIL))
            most = self.terms.bound * (max(self.rows) + self.noise_multiplier * tail)
        return Ring(self.terms.parameters, self.sites, most)

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise in a coordinate of the sum over all sites."""
        if self.mode == "joint":
            return self.grid.share * self.grid.step * math.sqrt(self.sites)
        return self.noise_multiplier * self.terms.bound * math.sqrt(self.sites)

    @property
    def content_bytes(self) -> int:
        """What one site sends, before it is sealed and signed."""
        return self.ring.content_bytes

    def encoded(self, rows: Floats, labels: Indices, units: Indices | None, stream: KeyStream) -> Encoded:
        """A site's part, ready to be masked.

        Args:
            rows: lifted, shape (n, p).
            labels: class numbers, shape (n,).
            units: whose row each is, shape (n,), numbered from 0 without gaps; None where each is its own.
            stream: for the noise, used for nothing else.

        Raises:
            UpdateError: ``update_shape``, ``update_not_finite``, ``update_range``.
        """
        if self.mode == "off":
            return encode_sums(plain(self.terms, rows, labels), self.ring)
        cut = clipped(self.terms, rows, labels, units)
        if self.mode == "joint":
            return residues(joint.share(cut, self.grid, 1.0, lambda _: stream))
        noised = noise.gaussian(cut, self.noise_multiplier, stream)
        mechanism = GaussianSteps(noised.noise_multiplier, 1.0, 1)
        return encode(Delta(noised.values, (mechanism,)), 1.0, self.ring)

    def decoded(self, words: Words) -> Floats:
        """The sum that was opened modulo 2^32, as values: float64, shape (d,)."""
        step = self.grid.step if self.mode == "joint" else self.ring.step
        return np.asarray(words.view(np.int32) * step)
