"""The fused engine: one forward and one backward pass, and the gradient of every row lies in one buffer.

Each trained tensor has its columns in a buffer of one row a sample; the backward pass of its layer writes
there (``layers``), and no ordinary weight gradient is formed. Norms, cut and sum are then three passes over
the buffer (``rows``). For LoRA this takes the same floating-point operations as training without privacy,
but for the sum itself: two a row and parameter. Where the gradients of a micro-batch do not fit the buffer,
a book is kept instead (``bookkeeping``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn

from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.step.bookkeeping import Book, contract
from cloister.privacy.step.coverage import refuse_mixing, refuse_strays
from cloister.privacy.step.feedforward import HALF, feedforwards, leaner, plain
from cloister.privacy.step.interface import NO_PHANTOMS, Indices, MicroBatch
from cloister.privacy.step.layers import forward_of, owners
from cloister.privacy.step.rows import ClippedSum
from cloister.privacy.update import Clipped

BUFFER_BYTES = 1 << 30
"""The most that the row buffer may take; the sums of units with several rows take at most as much again."""


class FusedEngine:
    """Clipped gradient sums by layers that write the gradient of each row.

    Args:
        module: the model; dropout must be off.
        layout: the order of the trained tensors.
        trained: layout name -> parameter of ``module``.
        phantoms: coordinates of the audit behind those of the layout.
        buffer_bytes: the most that the row buffer may take, at least one float32 a row.

    Raises:
        ModelError: ``layer_unsupported``: the trainable tensors are not those of the layout, or a layer
            that owns one is not covered, or is in a state (dropout, merged, several adapters) that is not.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        trained: Mapping[str, nn.Parameter],
        *,
        phantoms: int = 0,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        refuse_strays(module, layout, trained)
        self._module, self._layout, self._phantoms = module, layout, phantoms
        self._trained = {name: trained[name] for name, _ in layout.tensors}
        self._names = {id(trained[name]): name for name, _ in layout.tensors}
        self._places = {name: place for name, _, place in layout.slices()}
        self._most = buffer_bytes // 4  # values of float32
        self._buffer = torch.empty(0)
        self._book: Book | None = None
        self._written: set[str] = set()
        self._rows = 0
        self._owners = tuple(owners(module))
        for layer in self._owners:
            forward_of(layer, self._write)
        self._wide = tuple(feedforwards(module))

    def clipped(self, batch: Iterable[MicroBatch], bound: float, phantoms: Indices = NO_PHANTOMS) -> Clipped:
        """The sum over all units of ``batch`` of their gradients, each cut to norm ``bound``.

        Formal guarantees:
            Those of ``interface.Engine``. The factor of a unit's gradient g is
            min(1, bound / ||g||), less 2^-22, taken in float64 of float32 values; a gradient with NaN or
            infinity, or longer than about 10^38 bounds, counts as zero. Both depend on that unit alone.

        Args:
            batch: micro-batches that together hold the sampled units, each unit in one of them.
            bound: the clipping bound C > 0.
            phantoms: the sampled phantom units.

        Raises:
            ModelError: ``layer_unsupported``: a layer was not reached, was used twice in one pass, or mixes
                rows, or a tensor is used outside its layer, too; ``unit_split``.
        """
        refuse_mixing(self._module)
        total = ClippedSum(self._layout.size + self._phantoms, bound, self._device)
        with self._writing():
            for part in batch:
                if len(part.units):
                    self._pass(part)
                    self._add(total, part.units)
        total.add_phantoms(phantoms, self._layout.size)
        return total.result()

    @property
    def _device(self) -> torch.device:
        """Where the model is."""
        return next(iter(self._trained.values())).device

    def _pass(self, part: MicroBatch) -> None:
        """Forward and backward: the gradient of each row is in the buffer after it, or in the book."""
        losses = part.losses()
        if losses.shape != (len(part.units),):
            raise ValueError("losses must be one a row, shape (n,)")
        self._prepare(len(losses), losses.device)
        torch.autograd.backward(losses.sum())
        if outside := self._used_outside():
            raise ModelError("layer_unsupported", f"{outside[0]} is used outside its layer, too.")
        missing = self._places.keys() - self._written
        if missing:
            raise ModelError("layer_unsupported", f"{min(missing)} got no gradient for each row of a batch.")

    def _add(self, total: ClippedSum, units: Indices) -> None:
        """Adds what the last pass left, and lets go of it.

        The buffer goes, too: made anew before a backward pass, its pages fill while that pass gives back
        the activations, and the next forward pass finds the memory free.
        """
        if self._book is None:
            total.add(self._all_rows(), units)
        else:
            total.add_blocks(self._book.blocks, units)
            self._book = None
        self._buffer = torch.empty(0)

    def _all_rows(self) -> Tensor:
        """The gradients of the rows of this pass in the order of the layout, float32, shape (n, d)."""
        return self._buffer[: self._rows * self._layout.size].view(self._rows, -1)

    def _used_outside(self) -> list[str]:
        """Names of tensors that got an ordinary gradient, which is dropped: it is neither cut nor noised."""
        found = [name for name, parameter in self._trained.items() if parameter.grad is not None]
        for name in found:
            self._trained[name].grad = None
        return found

    def _prepare(self, rows: int, device: torch.device) -> None:
        """Makes room for the gradients of some rows and forgets what was written."""
        needed = rows * self._layout.size
        room = min(needed, max(self._most, rows))
        if len(self._buffer) < room or self._buffer.device != device:
            self._buffer = torch.empty(room, dtype=torch.float32, device=device)
        self._book = None if room == needed else Book(self._places, self._buffer[:room])
        self._written.clear()
        self._rows = rows

    def _write(self, parameter: nn.Parameter, left: Tensor, right: Tensor) -> None:
        """Contracts (n, T, a) and (n, T, b) over T into the columns of a parameter, or notes both."""
        name = self._names[id(parameter)]
        if name in self._written or len(left) != self._rows:
            raise ModelError(
                "layer_unsupported", f"The layer of {name} is used twice, or not once for each row."
            )
        self._written.add(name)
        a, b = left.shape[-1], right.shape[-1]
        if prod(parameter.shape) != a * b:
            raise ModelError("layer_unsupported", f"The gradient of {name} has another shape than {name}.")
        if self._book is None:
            contract(left, right, self._all_rows()[:, self._places[name]].view(self._rows, a, b))
        else:
            self._book.keep(name, left, right)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The covered layers write while this is open; nothing of it stays behind.

        They are those that owned trained tensors when the engine was made: to look for them anew takes some
        milliseconds. One that was exchanged since then writes nothing, and the pass is refused.
        """
        self._used_outside()  # what training without privacy may have left is not of this pass
        try:
            for layer in self._owners:
                layer.__dict__["forward"] = forward_of(layer, self._write)
            for layer in filter(plain, self._wide):  # one that was adapted since then goes its own way
                layer.__dict__[HALF] = leaner(layer)
            yield
        finally:
            self._book = None
            for layer in self._owners:
                layer.__dict__.pop("forward", None)
            for layer in self._wide:
                layer.__dict__.pop(HALF, None)
