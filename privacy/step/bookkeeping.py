"""Gradients of rows that do not fit the row buffer: their factors are kept, and blocks formed where needed.

The gradient of a tensor in row i is left_i' right_i, two factors that the backward pass has anyway. A *book*
keeps them and forms the gradients of all rows in blocks of columns, each as large as the buffer allows. The
clipped sum reads these blocks twice, once for the norms and once for the sum (Bu et al. 2022, arXiv
2210.00038, call it book-keeping), so the price is the contraction of the factors a second time, and memory
for them until then. There is still one forward and one backward pass.

The second reading forms the same blocks with the same operations on the same tensors in the same place, and
not one weighted product over all rows and tokens, which takes as many operations. The vector that is added
is thus the vector whose norm was taken, even where the terms of a gradient cancel each other and what is left
is mostly rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def contract(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Contracts (n, T, a) and (n, T, b) over T into (n, a, b), float32.

    Products are those of the factors' type, sums over tokens and all that follows are float32.
    """
    with torch.autocast(left.device.type, enabled=False):
        torch.bmm(left.transpose(1, 2).float(), right.float(), out=out)


class Book:
    """The factors of one micro-batch's gradients.

    Args:
        places: tensor name -> its columns in the order of the layout.
        buffer: where blocks are formed, float32, shape (k,) with k at least the number of rows.
    """

    def __init__(self, places: Mapping[str, slice], buffer: Tensor) -> None:
        self._places, self._buffer = places, buffer
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(self, name: str, left: Tensor, right: Tensor) -> None:
        """Notes the factors, (n, T, a) and (n, T, b), of the gradient of a tensor."""
        self._factors[name] = left.detach(), right.detach()

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The gradients of all rows: columns, and what stands there, shape (n, columns), until the next."""
        for name, (left, right) in self._factors.items():
            start, rows = self._places[name].start, len(left)
            tall, wide = left.shape[-1], right.shape[-1]
            for down, across in _pieces(tall, wide, len(self._buffer) // rows):
                first = start + down.start * wide + across.start
                height, width = down.stop - down.start, across.stop - across.start
                block = self._buffer[: rows * height * width]
                contract(left[..., down], right[..., across], block.view(rows, height, width))
                yield slice(first, first + height * width), block.view(rows, -1)


def _pieces(tall: int, wide: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Cuts (tall, wide) into pieces of at most ``most`` values that follow each other in memory."""
    height, width = max(1, most // wide), min(wide, most)
    for down in range(0, tall, height):
        for across in range(0, wide, width):
            yield slice(down, min(down + height, tall)), slice(across, min(across + width, wide))
