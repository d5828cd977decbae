"""Which engine covers a model exactly; what none covers is refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.step.interface import Engine


def engine_for(
    module: nn.Module,
    layout: Layout,
    trained: Mapping[str, nn.Parameter],
    *,
    phantoms: int = 0,
    narrow: bool = False,
) -> Engine:
    """The fastest engine that covers every trained tensor.

    Args:
        module: the model; dropout must be off.
        layout: the order of the trained tensors.
        trained: layout name -> parameter of ``module``.
        phantoms: coordinates of the audit behind those of the layout.
        narrow: whether losses will come of passes under autocast.

    Raises:
        ModelError: ``layer_unsupported``, the trainable tensors are not those of the layout, or no engine
            covers one of them, or none but Opacus' hooks passes that are narrow.
    """
    from cloister.privacy.step.layers import covers

    if covers(module):
        from cloister.privacy.step.fused import FusedEngine

        return FusedEngine(module, layout, trained, phantoms=phantoms)
    if narrow:
        raise ModelError(
            "layer_unsupported",
            "A trained layer is covered by Opacus' hooks alone, which keep gradients as narrow as the pass.",
            "Train it in float32: leave --precision out of the plan.",
        )
    from cloister.privacy.step.hooks import HooksEngine  # Opacus, and SciPy's statistics with it

    return HooksEngine(module, layout, trained, phantoms=phantoms)


def refuse_strays(module: nn.Module, layout: Layout, trained: Mapping[str, nn.Parameter]) -> None:
    """Refuses a model whose trainable tensors are not exactly those of the layout.

    One that is missing there would be changed without clipping and noise; one that stands there twice
    would be changed twice.

    Raises:
        ModelError: ``layer_unsupported``.
    """
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


def refuse_mixing(module: nn.Module) -> None:
    """Refuses a model in which statistics of a batch enter the gradient of each row, trained layer or not.

    Raises:
        ModelError: ``layer_unsupported``.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            raise ModelError(
                "layer_unsupported",
                f"{type(layer).__name__} {name} mixes the rows of a batch.",
                "Put it in evaluation mode, or use a model with LayerNorm.",
            )
