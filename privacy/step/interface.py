"""What a private engine is: the one place where gradients of single units exist.

An engine runs the forward and backward passes itself and hands out nothing but the clipped sum. The
losses of single units, their gradients, norms and number never leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cloister.privacy.update import Clipped

Indices: TypeAlias = NDArray[np.int64]

Losses: TypeAlias = Callable[[], Tensor]
"""Runs the forward pass of some rows; their losses, shape (n,), each a function of its own row only."""

NO_PHANTOMS: Indices = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Some rows that pass through the model together, and whose they are.

    Attributes:
        losses: the forward pass; dimension 0 of every layer's input must be the rows.
        units: whose row each is, int64, shape (n,), not negative. The gradients of a unit's rows are
            summed before they are cut, so all its rows lie in one micro-batch.
    """

    losses: Losses
    units: Indices


class Engine(Protocol):
    """Clipped gradient sums of one model under one layout."""

    def clipped(self, batch: Iterable[MicroBatch], bound: float, phantoms: Indices = NO_PHANTOMS) -> Clipped:
        """The sum over all units of ``batch`` of their gradients, each cut to norm ``bound``.

        Formal guarantees:
            Adding or removing one unit of the batch changes the result by at most ``bound`` in
            Euclidean norm, up to the rounding of sums of float64. A batch of no units gives zeros:
            it must not be skipped, for the step that adds noise to it is part of the mechanism.

        Args:
            batch: micro-batches that together hold the sampled units, each unit in one of them.
            bound: the clipping bound C > 0, in units of the gradient of one unit's loss.
            phantoms: the phantom units of the audit that were sampled, int64, shape (k,), distinct.

        Returns:
            float64, shape (d + phantoms of the engine,).

        Raises:
            ModelError: ``layer_unsupported``, a trained tensor got no gradient for each row;
                ``unit_split``, rows of a unit lie in two micro-batches.
        """
        ...
