"""From the gradients of single rows to one clipped sum: grouping, norms, cut, in that order, in one place.

Every engine and every phantom unit of the audit goes through this code, so what the audit sees is what real
units undergo.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cloister.privacy.errors import ModelError
from cloister.privacy.step.interface import Indices
from cloister.privacy.update import Clipped

PHANTOM_NORM = 10.0
"""The norm of a phantom's row in units of the bound: far above it, so that the cut is seen at work."""

# Opacus' constant. It keeps the norm of a short gradient that is just cut below the bound, and no factor
# is a division by zero.
_SLACK = 1e-6


class ClippedSum:
    """The sum over units of their gradients, each cut to norm ``bound``, taken micro-batch by micro-batch.

    Formal guarantees:
        Adding or removing one unit changes ``result`` by at most ``bound`` in Euclidean norm, up to the
        rounding of sums of float32: what one unit adds is a function of its own rows alone, and its norm
        is taken of the very vector that is added.

    Args:
        width: d, with the coordinates of phantoms.
        bound: the clipping bound C > 0.
    """

    def __init__(self, width: int, bound: float) -> None:
        self._bound = bound
        self._total = torch.zeros(width, dtype=torch.float64)
        self._seen: set[int] = set()

    def add(self, rows: Tensor, units: Indices) -> None:
        """Adds the units of a micro-batch.

        Args:
            rows: one gradient a row, shape (n, at most width), float32 or float64; columns that are
                missing at the end count as zero; overwritten where not finite.
            units: whose row each is, int64, shape (n,).

        Raises:
            ModelError: ``unit_split``, rows of a unit were added before.
        """
        distinct, place = np.unique(units, return_inverse=True)
        if not self._seen.isdisjoint(distinct.tolist()):
            raise ModelError("unit_split", "Rows of one unit lie in two micro-batches.")
        self._seen.update(distinct.tolist())
        if len(distinct):
            whole = rows if len(distinct) == len(rows) else _grouped(rows, place, len(distinct))
            cut = factors(whole, self._bound).to(whole.dtype)
            # As a product of matrices, which operation counters see.
            self._total[: whole.shape[1]] += (cut.unsqueeze(0) @ whole)[0].double().cpu()

    def add_phantoms(self, phantoms: Indices, first: int) -> None:
        """Adds phantom units: each has one coordinate of its own, ``first`` plus its index."""
        if not len(phantoms):
            return
        rows = torch.zeros((len(phantoms), len(self._total)))
        rows[torch.arange(len(phantoms)), torch.from_numpy(first + phantoms)] = PHANTOM_NORM * self._bound
        self.add(rows, -1 - phantoms)  # real units count from 0

    def result(self) -> Clipped:
        """The sum of all units so far, float32, shape (width,)."""
        return Clipped(self._total.to(torch.float32).numpy(), self._bound)


def factors(rows: Tensor, bound: float) -> Tensor:
    """The factor that cuts each row to ``bound``, float64, shape (n,); rows that are not finite become zero.

    Norms are taken in float64: in float32 a sum of 10^5 squares errs by more than the factor's rounding.
    """
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    lost = ~torch.isfinite(norms)
    if lost.any():
        rows[lost] = 0
        norms = norms.masked_fill(lost, 0)
    return (bound / (norms + _SLACK)).clamp(max=1)


def _grouped(rows: Tensor, place: Indices, units: int) -> Tensor:
    """The sum of each unit's rows, shape (units, width)."""
    sums = torch.zeros((units, rows.shape[1]), dtype=rows.dtype, device=rows.device)
    return sums.index_add_(0, torch.from_numpy(place).to(rows.device), rows)
