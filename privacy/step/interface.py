"""What a private engine is: the one place where gradients of single units exist.

An engine runs the forward and backward passes itself and hands out nothing but the clipped sum. The
losses of single units, their gradients, norms and number never leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from torch import Tensor

from cloister.privacy.update import Clipped

Losses: TypeAlias = Callable[[], Tensor]
"""Runs the forward pass of some units; their losses, shape (n,), each a function of its own unit only."""


class Engine(Protocol):
    """Clipped gradient sums of one model under one layout."""

    def clipped(self, batch: Iterable[Losses], bound: float) -> Clipped:
        """The sum over all units of ``batch`` of their gradients, each cut to norm ``bound``.

        Formal guarantees:
            Adding or removing one unit of the batch changes the result by at most ``bound`` in
            Euclidean norm, up to the rounding of the sum to float32. A batch of no units gives zeros:
            it must not be skipped, for the step that adds noise to it is part of the mechanism.

        Args:
            batch: forward passes that together cover the sampled units, each unit once.
            bound: the clipping bound C > 0, in units of the gradient of one unit's loss.

        Raises:
            ModelError: ``layer_unsupported``, a trained tensor got no gradient for each unit.
        """
        ...
