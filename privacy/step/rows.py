"""From the gradients of single rows to one clipped sum: grouping, norms, cut, in that order, in one place.

Every engine and every phantom unit of the audit goes through this code, so what the audit sees is what real
units undergo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from cloister.privacy.errors import ModelError
from cloister.privacy.step.interface import Indices
from cloister.privacy.update import Clipped

PHANTOM_NORM = 10.0
"""The norm of a phantom's row in units of the bound: far above it, so that the cut is seen at work."""

Blocks: TypeAlias = Callable[[], Iterable[tuple[slice, Tensor]]]
"""Forms gradients of rows block by block, the same at each call: columns, and their values, (n, columns)."""

# Relative. More than the factor, the norm and each product err in float64: what is cut has at most the norm
# of the bound, not that and a rounding more. (Opacus adds 1e-6 to any norm.)
_SLACK = 2.0**-22

_CPU = torch.device("cpu")

_CONVERTED, _CONVERTED_ON_GPU = 1 << 16, 1 << 24
"""Values that are converted to float64 at once: half a MiB; on a GPU, where each turn costs, 128 MiB."""


class ClippedSum:
    """The sum over units of their gradients, each cut to norm ``bound``, taken micro-batch by micro-batch.

    Formal guarantees:
        Adding or removing one unit changes ``result`` by at most ``bound`` in Euclidean norm, up to the
        rounding of sums of float64: what one unit adds is a function of the rows that are given for it, and
        its norm is taken of the very vector that is added. That these rows do not hang on other units is the
        engine's part; in float32 it holds but for their last bits (docs/privacy.md, "Floating point").

    Args:
        width: d, with the coordinates of phantoms.
        bound: the clipping bound C > 0.
        device: where the sum is kept. On that of the rows, nobody waits for it before ``result``.

    The sum takes memory from the first unit on: the forward pass before it, where most is held, has it free.
    """

    def __init__(self, width: int, bound: float, device: torch.device = _CPU) -> None:
        self._bound, self._width, self._device = bound, width, device
        self._begun: Tensor | None = None
        self._seen: set[int] = set()

    def add(self, rows: Tensor, units: Indices, first: int = 0) -> None:
        """Adds the units of a micro-batch.

        Args:
            rows: one gradient a row, shape (n, at most width), float32 or float64; overwritten where not
                finite.
            units: whose row each is, int64, shape (n,).
            first: the coordinate of the first column; those before it and behind the last are zero.

        Raises:
            ModelError: ``unit_split``, rows of a unit were added before.
        """
        groups = self._enter(units)
        if groups.units:
            whole = groups.sums(rows)
            self._sum(slice(first, first + whole.shape[1]), whole, factors(whole, self._bound))

    def add_blocks(self, blocks: Blocks, units: Indices) -> None:
        """Adds the units of a micro-batch whose gradients do not fit memory at once.

        Formal guarantees:
            Those of the class, where ``blocks`` gives the same bits at both calls: a second product of the
            same matrices does, on one device in one process.

        Args:
            blocks: called twice; each block is read before the next is formed, and may be overwritten.
                Columns that no block names count as zero.
            units: whose row each is, int64, shape (n,).

        Raises:
            ModelError: ``unit_split``, rows of a unit were added before.
        """
        groups = self._enter(units)
        if not groups.units:
            return
        norms = [_norms(groups.sums(rows)) for _, rows in blocks()]
        cut = _cut(_norms(torch.stack(norms, dim=1)), self._bound)
        for columns, rows in blocks():
            self._sum(columns, _without_lost(groups.sums(rows), cut), cut)

    def _enter(self, units: Indices) -> _Groups:
        """Whose row each is, none of them seen before."""
        distinct, place = np.unique(units, return_inverse=True)
        if not self._seen.isdisjoint(distinct.tolist()):
            raise ModelError("unit_split", "Rows of one unit lie in two micro-batches.")
        self._seen.update(distinct.tolist())
        return _Groups(len(distinct), place)

    def _sum(self, columns: slice, whole: Tensor, cut: Tensor) -> None:
        """Adds the gradients of units, (units, columns), each times its factor, in float64.

        In float32 the order of many units could move a sum by more than a unit of the integer grid
        (``dp.grid``). Some columns at a time, so that the copy in float64 stays small.
        """
        total = self._total[columns]
        width = max(1, (_CONVERTED_ON_GPU if whole.is_cuda else _CONVERTED) // len(whole))
        weights = cut.unsqueeze(0)
        with torch.autocast(whole.device.type, enabled=False):
            for start in range(0, whole.shape[1], width):
                some = slice(start, start + width)
                # As a product of matrices, which operation counters see.
                total[some] += (weights @ whole[:, some].double())[0].to(total.device)

    def add_phantoms(self, phantoms: Indices, first: int) -> None:
        """Adds phantom units: each has one coordinate of its own, ``first`` plus its index."""
        rows = torch.zeros((len(phantoms), self._width - first))
        rows[torch.arange(len(phantoms)), torch.from_numpy(phantoms)] = PHANTOM_NORM * self._bound
        self.add(rows, -1 - phantoms, first)  # real units count from 0

    def result(self) -> Clipped:
        """The sum of all units, float64, shape (width,); nothing is added after it."""
        return Clipped(self._total.cpu().numpy(), self._bound)

    @property
    def _total(self) -> Tensor:
        """The sum so far."""
        if self._begun is None:
            self._begun = torch.zeros(self._width, dtype=torch.float64, device=self._device)
        return self._begun


def factors(rows: Tensor, bound: float) -> Tensor:
    """The factor that cuts each row to ``bound``, float64, shape (n,).

    A row that is not finite, or longer than about 10^38 bounds, gets the factor 0 and becomes zero.
    """
    cut = _cut(_norms(rows), bound)
    _without_lost(rows, cut)
    return cut


def _without_lost(rows: Tensor, cut: Tensor) -> Tensor:
    """Rows of factor 0 become zero, in place: 0 times infinity is not a number.

    On a GPU without looking whether there are any: to look is to wait for all that was asked before.
    """
    lost = cut == 0
    if lost.is_cuda or lost.any():
        rows.masked_fill_(lost.unsqueeze(1), 0)
    return rows


def _norms(rows: Tensor) -> Tensor:
    """Norms in float64: in float32 a sum of 10^5 squares errs by more than the factor's rounding."""
    with torch.autocast(rows.device.type, enabled=False):
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def _cut(norms: Tensor, bound: float) -> Tensor:
    """min(1, bound / norm), or 0 where that is not a number that float32 holds to its full precision."""
    cut = (bound / (norms * (1 + _SLACK))).clamp(max=1)
    return cut.masked_fill(~(cut >= torch.finfo(torch.float32).tiny), 0)


@dataclass(frozen=True, eq=False)
class _Groups:
    """Which rows of a micro-batch are of one unit.

    Attributes:
        units: how many there are.
        place: the unit of each row, 0 to ``units`` - 1, shape (n,).
    """

    units: int
    place: Indices

    def sums(self, rows: Tensor) -> Tensor:
        """The sum of each unit's rows, shape (units, width); ``rows`` itself where each is its own unit.

        The rows of a unit are added in their order, one at a time: on a GPU, sums in whatever order would
        differ between two calls.
        """
        if self.units == len(rows):
            return rows
        sums = torch.zeros((self.units, rows.shape[1]), dtype=rows.dtype, device=rows.device)
        for wave in self._waves:
            at, of = (
                torch.from_numpy(some).to(rows.device, non_blocking=True) for some in (wave, self.place[wave])
            )
            sums.index_add_(0, of, rows[at])
        return sums

    @cached_property
    def _waves(self) -> list[Indices]:
        """All rows, in sets that hold no unit twice: the first row of each unit, the second, and so on."""
        order = np.argsort(self.place, kind="stable")
        ordered = self.place[order]
        turn = np.empty_like(order)
        turn[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        return [np.flatnonzero(turn == at) for at in range(int(turn.max()) + 1)]
