"""The private engine on Opacus' hooks: exact gradients of single units for any layer Opacus knows.

One forward and one backward pass. Opacus' hooks leave the gradient of each unit at every trained
tensor; here they are lined up in the order of the layout, cut and summed. Of Opacus only the hooks are
used: sampling, noise and accounting are our own (``cloister.privacy.dp``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.step.coverage import refuse_mixing, refuse_strays
from cloister.privacy.step.interface import NO_PHANTOMS, Indices, MicroBatch
from cloister.privacy.step.rows import ClippedSum
from cloister.privacy.update import Clipped

# What Opacus' hooks put on layers and tensors.
_LEFT_BEHIND = (
    "activations",
    "max_batch_len",
    "grad_sample",
    "ft_compute_sample_grad",
    "_forward_counter",
    "_current_grad_sample",
)


class HooksEngine:
    """Clipped gradient sums through Opacus' hooks.

    Args:
        module: the model. Layers that own trained tensors are in training mode meanwhile, for the hooks
            see no others; dropout must be off.
        layout: the order of the trained tensors.
        trained: layout name -> parameter of ``module``.
        phantoms: coordinates of the audit behind those of the layout.

    Raises:
        ModelError: ``layer_unsupported``, the trainable tensors of the module are not exactly those of
            the layout: one that is missing there would be changed without clipping and noise; or one stands
            twice inside one layer. Tensors that two layers share are covered.
    """

    def __init__(
        self, module: nn.Module, layout: Layout, trained: Mapping[str, nn.Parameter], *, phantoms: int = 0
    ) -> None:
        refuse_strays(module, layout, trained)
        for name, layer in module.named_modules():
            if _owns(layer) and _holds_one_twice(layer):
                raise ModelError("layer_unsupported", f"The layer {name} uses one tensor in two places.")
        self._module = module
        self._phantoms = phantoms
        self._layout = layout
        self._trained = dict(trained)

    def clipped(self, batch: Iterable[MicroBatch], bound: float, phantoms: Indices = NO_PHANTOMS) -> Clipped:
        """The sum over all units of ``batch`` of their gradients, each cut to norm ``bound``.

        Formal guarantees:
            Those of ``interface.Engine``. The factor of a unit's gradient g is
            min(1, bound / ||g||), less 2^-22, taken in float64; a gradient with NaN or infinity, or
            longer than about 10^38 bounds, counts as zero. Both depend on that unit alone.

        Args:
            batch: micro-batches that together hold the sampled units, each unit in one of them. Full
                fine-tuning of BERT and GPT-2 needs position and token type ids of shape (n, T) in the
                forward pass: where one row of them serves all, gradients of rows do not exist.
            bound: the clipping bound C > 0.
            phantoms: the sampled phantom units.

        Raises:
            ModelError: ``layer_unsupported``, a trained tensor got no gradient for each row, or a layer
                mixes rows; ``unit_split``.
        """
        refuse_mixing(self._module)
        device = next(iter(self._trained.values())).device
        total = ClippedSum(self._layout.size + self._phantoms, bound, device)
        with self._hooks():
            for part in batch:
                if len(part.units):
                    total.add(self._rows(part.losses()), part.units)
        total.add_phantoms(phantoms, self._layout.size)
        return total.result()

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Hooks on the model for one batch: nothing of it stays behind, whatever happens meanwhile."""
        owners = [layer for layer in self._module.modules() if _owns(layer)]
        with _in_training(owners):
            try:
                hooks = GradSampleHooks(self._module, loss_reduction="sum")
            except NotImplementedError as error:
                raise ModelError(
                    "layer_unsupported", "A trained layer has buffers, which mix units."
                ) from error
            try:
                yield
            finally:
                hooks.remove_hooks()
                for left in (*owners, *self._trained.values()):
                    for attribute in _LEFT_BEHIND:
                        left.__dict__.pop(attribute, None)

    def _rows(self, losses: Tensor) -> Tensor:
        """The gradient of each loss as a row in the order of the layout: float64, shape (n, d)."""
        if losses.dim() != 1:
            raise ValueError("losses must be one a row, shape (n,)")
        for parameter in self._trained.values():
            vars(parameter)["grad_sample"] = None
        _backward(losses.sum(), self._trained.values())
        rows = torch.empty((len(losses), self._layout.size), dtype=torch.float64, device=losses.device)
        for name, shape, place in self._layout.slices():
            found = getattr(self._trained[name], "grad_sample", None)
            if not isinstance(found, Tensor) or found.shape != (len(losses), *shape):
                raise ModelError("layer_unsupported", f"{name} got no gradient for each unit of a batch.")
            rows[:, place] = found.reshape(len(losses), -1)
        return rows


def _owns(layer: nn.Module) -> bool:
    """Whether some trained tensor is the layer's own, and not one of the layers inside it."""
    return any(parameter.requires_grad for parameter in layer.parameters(recurse=False))


def _holds_one_twice(layer: nn.Module) -> bool:
    """Whether the layer and those inside it, which Opacus takes as one, share a tensor."""
    held = [id(parameter) for _, parameter in layer.named_parameters(remove_duplicate=False)]
    return len(set(held)) < len(held)


@contextmanager
def _in_training(layers: list[nn.Module]) -> Iterator[None]:
    """Some layers, and nothing inside them, in training mode; Opacus' hooks see no others."""
    modes = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


def _backward(loss: Tensor, trained: Iterable[nn.Parameter]) -> None:
    """One backward pass that leaves no ordinary gradient: those are neither cut nor noised."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        torch.autograd.backward(loss)
    for parameter in trained:
        parameter.grad = None
