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
from cloister.privacy.step.interface import Losses
from cloister.privacy.update import Clipped

# Keeps a cut gradient's norm below the bound whatever the division rounds to; Opacus' constant.
_SLACK = 1e-6
# What Opacus' hooks put on layers and tensors.
_LEFT_BEHIND = ("activations", "max_batch_len", "grad_sample", "_forward_counter", "_current_grad_sample")


class HooksEngine:
    """Clipped gradient sums through Opacus' hooks.

    Args:
        module: the model. Layers that own trained tensors are put into training mode, for the hooks
            see no others; dropout must be off.
        layout: the order of the trained tensors.
        trained: layout name -> parameter of ``module``.

    Raises:
        ModelError: ``layer_unsupported``, the trainable tensors of the module are not exactly those of
            the layout: one that is missing there would be changed without clipping and noise.
    """

    def __init__(self, module: nn.Module, layout: Layout, trained: Mapping[str, nn.Parameter]) -> None:
        _refuse_strays(module, layout, trained)
        self._module = module
        self._layout = layout
        self._trained = dict(trained)

    def clipped(self, batch: Iterable[Losses], bound: float) -> Clipped:
        """The sum over all units of ``batch`` of their gradients, each cut to norm ``bound``.

        Formal guarantees:
            Those of ``interface.Engine``. The factor of a unit's gradient g is
            min(1, bound / (||g|| + 1e-6)), taken in float64; a gradient with NaN or infinity counts as
            zero. Both depend on that unit alone.

        Args:
            batch: forward passes that together cover the sampled units, each unit once.
            bound: the clipping bound C > 0.

        Raises:
            ModelError: ``layer_unsupported``, a trained tensor got no gradient for each unit.
        """
        total = torch.zeros(self._layout.size, dtype=torch.float64)
        with self._hooks():
            for losses in batch:
                rows = self._rows(losses())
                total += (_factors(rows, bound) @ rows).cpu()
        return Clipped(total.to(torch.float32).numpy(), bound)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Hooks on the model for one batch: nothing of it stays behind, whatever happens meanwhile."""
        owners = [
            m for m in self._module.modules() if any(p.requires_grad for p in m.parameters(recurse=False))
        ]
        for owner in owners:
            owner.train()
        try:
            hooks = GradSampleHooks(self._module, loss_reduction="sum")
        except NotImplementedError as error:
            raise ModelError("layer_unsupported", "A trained layer has buffers, which mix units.") from error
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
            raise ValueError("losses must be one per unit, shape (n,)")
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


def _backward(loss: Tensor, trained: Iterable[nn.Parameter]) -> None:
    """One backward pass that leaves no ordinary gradient: those are neither cut nor noised."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        torch.autograd.backward(loss)
    for parameter in trained:
        parameter.grad = None


def _factors(rows: Tensor, bound: float) -> Tensor:
    """The factor that cuts each row to ``bound``, shape (n,); rows that are not finite become zero."""
    rows[~torch.isfinite(rows).all(dim=1)] = 0
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return (bound / (norms + _SLACK)).clamp(max=1)


def _refuse_strays(module: nn.Module, layout: Layout, trained: Mapping[str, nn.Parameter]) -> None:
    wanted = dict(layout.tensors)
    strays = set(wanted) ^ set(trained)
    strays |= {name for name in set(wanted) & set(trained) if tuple(trained[name].shape) != wanted[name]}
    owned = {id(parameter) for parameter in trained.values()}
    trainable = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    strays |= {name for key, name in trainable.items() if key not in owned}
    strays |= {name for name, parameter in trained.items() if id(parameter) not in trainable}
    if strays or len(owned) != len(trained):
        raise ModelError(
            "layer_unsupported",
            f"Trainable tensors and the layout differ: {', '.join(sorted(strays)) or 'one stands twice'}.",
            "Train exactly the tensors that the plan's layout names.",
        )
