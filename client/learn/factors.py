"""One factor of LoRA at a time: the other is frozen, and then the mean of products is the product of means.

FFA-LoRA, Sun et al. 2024 (arXiv 2403.12313), never trains A. RoLoRA, Chen et al. 2024 (arXiv 2409.02346),
trains B in odd rounds and A in even ones. With privacy the frozen factor has no part in the clip and gets no
noise: gradients are those of what is trained, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn.adapters import Adapted
from cloister.privacy.layout import Layout


@dataclass(frozen=True, eq=False)
class Selection:
    """The tensors that a round trains.

    Attributes:
        layout: theirs, in the order of the whole one.
        places: where their values lie in the whole vector, int64, shape (layout.size,).
    """

    layout: Layout
    places: NDArray[np.int64]

    @classmethod
    def of(cls, whole: Layout, frozen: str | None) -> Selection:
        """All tensors but those whose names end so."""
        kept = [each for each in whole.slices() if frozen is None or not each[0].endswith(frozen)]
        places = [np.arange(place.start, place.stop) for _, _, place in kept]
        return cls(Layout(tuple((name, shape) for name, shape, _ in kept)), np.concatenate(places))


@contextmanager
def freezing(classifier: Adapted, layout: Layout) -> Iterator[None]:
    """Only the tensors of a layout are trainable inside."""
    names = {name for name, _ in layout.tensors}
    others = [tensor for name, tensor in classifier.trained.items() if name not in names]
    for tensor in others:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in others:
            tensor.requires_grad_(True)
