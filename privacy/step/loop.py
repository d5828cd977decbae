"""The private engine that takes one unit at a time: exact for any layer, and slow.

Each unit has a forward and a backward pass of its own over all its rows, so that nothing of two units
ever meets before their gradients were cut. It serves units of several rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.step.interface import Losses
from cloister.privacy.update import Clipped

# Keeps a cut gradient's norm below the bound whatever the division rounds to.
_SLACK = 1e-6


class UnitLoop:
    """Clipped gradient sums, unit by unit.

    Args:
        module: the model; dropout must be off.
        layout: the order of the trained tensors.
        trained: layout name -> parameter of ``module``.

    Raises:
        ModelError: ``layer_unsupported``, the trainable tensors of the module are not exactly those of
            the layout: one that is missing there would be changed without clipping and noise.
    """

    def __init__(self, module: nn.Module, layout: Layout, trained: Mapping[str, nn.Parameter]) -> None:
        trainable = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
        if trainable != {id(trained[name]) for name, _ in layout.tensors if name in trained}:
            raise ModelError(
                "layer_unsupported",
                "Trainable tensors and the layout differ.",
                "Train exactly the tensors that the plan's layout names.",
            )
        self._layout = layout
        self._tensors = [trained[name] for name, _ in layout.tensors]

    def clipped(self, batch: Iterable[Losses], bound: float) -> Clipped:
        """The sum over the units of ``batch`` of their gradients, each cut to norm ``bound``.

        Formal guarantees:
            Those of ``interface.Engine``. The factor of a unit's gradient g, the sum over its rows, is
            min(1, bound / (||g|| + 1e-6)), taken in float64; a gradient with NaN or infinity counts as
            zero. Both depend on that unit alone.

        Args:
            batch: one forward pass for each sampled unit, which gives the losses of all its rows.
            bound: the clipping bound C > 0.
        """
        total = torch.zeros(self._layout.size, dtype=torch.float64)
        for losses in batch:
            gradients = torch.autograd.grad(losses().sum(), self._tensors)
            row = torch.cat([gradient.reshape(-1) for gradient in gradients]).to("cpu", torch.float64)
            if torch.isfinite(row).all():
                total += (bound / (torch.linalg.vector_norm(row) + _SLACK)).clamp(max=1) * row
        return Clipped(total.to(torch.float32).numpy(), bound)
