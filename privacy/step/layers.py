"""The layers of the fused engine: each backward pass writes the gradient of every row where it belongs.

A *block* is one tensor's columns in the row buffer. The backward pass of a covered layer contracts the
gradient of its output with its input, row by row, into its blocks, and returns the gradient of its input
only: no ordinary weight gradient is ever formed.

With n rows, T tokens, input x (n, T, p), output gradient g (n, T, q), LoRA A (r, p), B (q, r), scaling s:

====================  ==========================================================
Linear                W: g_i' x_i    b: sum of g_i over tokens
LoRA                  v = s g B;  A: v_i' x_i;  B: s g_i' u_i  with u = x A'
LayerNorm, RMSNorm    weight: sum of g_i * xhat_i over tokens    bias: sum of g_i
====================  ==========================================================

For LoRA these are as many operations as the ordinary gradients take. Conv1D (GPT-2) is Linear with its
frozen weight transposed. RMSNorm is Llama's. A frozen A (FFA-LoRA) has no block, and its contraction is left
out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from cloister.privacy.errors import ModelError

Write: TypeAlias = Callable[[nn.Parameter, Tensor, Tensor], None]
"""Contracts two factors, (n, T, a) and (n, T, b), over T into the block (n, a, b) of a parameter."""

Forward: TypeAlias = Callable[..., Tensor]


def covers(module: nn.Module) -> bool:
    """Whether every trained tensor of a model lies in a layer of this module."""
    return all(_forward_of(layer, _nowhere) is not None for layer in owners(module))


def owners(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that own trained tensors; the two maps of a LoRA belong to the layer that they adapt."""
    inside: set[int] = set()
    for layer in module.modules():
        if id(layer) in inside:
            continue
        if _is_lora(layer):
            inside |= {id(part) for part in layer.modules()}
            own = list(layer.parameters())
        else:
            own = list(layer.parameters(recurse=False))
        if any(parameter.requires_grad for parameter in own):
            yield layer


def forward_of(layer: nn.Module, write: Write) -> Forward:
    """The forward pass of a covered layer whose backward pass writes rows.

    Raises:
        ModelError: ``layer_unsupported``.
    """
    found = _forward_of(layer, write)
    if found is None:
        raise ModelError("layer_unsupported", f"{type(layer).__name__} is in a state that is not covered.")
    return found


def _forward_of(layer: nn.Module, write: Write) -> Forward | None:
    if _is_lora(layer):
        return _lora(layer, write)
    if type(layer) is nn.Linear:
        return lambda x: _Linear.apply(x, layer.weight, layer.bias, write)  # type: ignore[no-untyped-call]
    if type(layer) is nn.LayerNorm and layer.elementwise_affine and len(layer.normalized_shape) == 1:
        return lambda x: _Norm.apply(x, layer.weight, layer.bias, layer.eps, True, write)  # type: ignore[no-untyped-call]
    if type(layer) is _loaded("transformers.models.llama.modeling_llama", "LlamaRMSNorm"):
        root: Any = layer
        return lambda x: _Norm.apply(x, root.weight, None, root.variance_epsilon, False, write)  # type: ignore[no-untyped-call]
    return None


def _nowhere(parameter: nn.Parameter, left: Tensor, right: Tensor) -> None:
    """Asked only whether, never called."""
    raise NotImplementedError


def _is_lora(layer: nn.Module) -> bool:
    kind = _loaded("peft.tuners.lora.layer", "Linear")
    return kind is not None and isinstance(layer, kind)


def _loaded(module: str, name: str) -> type[nn.Module] | None:
    """A class of a library; None where nothing has loaded it, and so no model has such a layer.

    Either library takes 4 s of a processor and 130 MB to load, which a head or a table does without.
    """
    found: type[nn.Module] | None = getattr(sys.modules.get(module), name, None)
    return found


def _lora(layer: Any, write: Write) -> Forward | None:
    """LoRA on Linear or Conv1D, with one plain adapter; anything else is not covered."""
    base: Any = layer.base_layer
    names = list(layer.active_adapters)
    plain = (
        len(names) == 1
        and list(layer.lora_A.keys()) == names
        and not (layer.merged or layer.disable_adapters or any(layer.lora_variant))
        and type(base) in (nn.Linear, Conv1D)
        and not any(parameter.requires_grad for parameter in base.parameters())
    )
    if not plain:
        return None
    name = names[0]
    down, up, drop = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    maps = [down, up]
    if any(type(part) is not nn.Linear or part.bias is not None for part in maps):
        return None
    if not isinstance(drop, nn.Identity) and getattr(drop, "p", 1.0) > 0:
        return None
    scale = float(layer.scaling[name])

    def forward(x: Tensor) -> Tensor:
        weight = base.weight.t() if isinstance(base, Conv1D) else base.weight
        return _Lora.apply(x, weight, base.bias, down.weight, up.weight, scale, write)  # type: ignore[no-any-return,no-untyped-call]

    return forward


def _tokens(x: Tensor) -> Tensor:
    """(n, …, p) as (n, T, p)."""
    return x.reshape(len(x), -1, x.shape[-1])


def _sums(g: Tensor) -> Tensor:
    """The first factor of a bias: contracted with it, a gradient is summed over tokens."""
    return torch.ones((*g.shape[:-1], 1), dtype=g.dtype, device=g.device)


def kind_of(x: Tensor, weight: Tensor) -> torch.dtype:
    """What a product is taken in: autocast's type where that is on."""
    where = x.device.type
    if torch.is_autocast_enabled(where):
        return torch.get_autocast_dtype(where)
    return torch.promote_types(x.dtype, weight.dtype)


class _Linear(torch.autograd.Function):
    """y = x W' + b, with W and b trained or not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, bias: nn.Parameter | None, write: Write) -> Tensor:
        kind = kind_of(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(kind)
            y = functional.linear(x, weight.to(kind), None if bias is None else bias.to(kind))
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias, ctx.write, ctx.kind = weight, bias, write, kind
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        g = g.to(ctx.kind)
        rows = _tokens(g)
        if ctx.weight.requires_grad:
            ctx.write(ctx.weight, rows, _tokens(x))
        if ctx.bias is not None and ctx.bias.requires_grad:
            ctx.write(ctx.bias, rows, _sums(rows))
        return (g @ ctx.weight.to(ctx.kind) if ctx.needs_input_grad[0] else None), None, None, None


class _Lora(torch.autograd.Function):
    """y = x W' + b + s (x A') B' with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: nn.Parameter,
        up: nn.Parameter,
        scale: float,
        write: Write,
    ) -> Tensor:
        kind = kind_of(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            x, weight = x.to(kind), weight.to(kind)
            u = functional.linear(x, down.to(kind))
            y = functional.linear(x, weight, None if bias is None else bias.to(kind))
            y.add_(functional.linear(u, up.to(kind)), alpha=scale)
        ctx.save_for_backward(x, u, weight)
        ctx.down, ctx.up, ctx.scale, ctx.write, ctx.kind = down, up, scale, write, kind
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, u, weight = ctx.saved_tensors
        g = g.to(ctx.kind)
        needed = ctx.needs_input_grad[0]
        # The scale goes to what has the width of the adapter: nothing as wide as the layer is made twice.
        v = ctx.scale * (g @ ctx.up.to(ctx.kind)) if needed or ctx.down.requires_grad else None
        if v is not None and ctx.down.requires_grad:
            ctx.write(ctx.down, _tokens(v), _tokens(x))
        if ctx.up.requires_grad:
            ctx.write(ctx.up, _tokens(g), _tokens(ctx.scale * u))
        inward = None
        if needed and v is not None:
            inward = g @ weight
            inward.add_(v @ ctx.down.to(ctx.kind))
        return inward, None, None, None, None, None, None


class _Norm(torch.autograd.Function):
    """Layer normalisation over the last dimension, its weight and bias trained or not.

    Not ``centred``, the mean is left where it is: that is RMSNorm.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        floor: float,
        centred: bool,
        write: Write,
    ) -> Tensor:
        wide = x.float()
        if centred:
            wide = wide - wide.mean(dim=-1, keepdim=True)
        spread = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + floor)
        straight = wide * spread
        ctx.save_for_backward(straight, spread)
        ctx.weight, ctx.bias, ctx.centred, ctx.write, ctx.kind = weight, bias, centred, write, x.dtype
        y = straight * weight
        return (y if bias is None else y + bias).to(torch.promote_types(x.dtype, weight.dtype))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        straight, spread = ctx.saved_tensors
        g = g.float()
        if ctx.weight.requires_grad:
            product = _tokens(g * straight)
            ctx.write(ctx.weight, product, _sums(product))
        if ctx.bias is not None and ctx.bias.requires_grad:
            rows = _tokens(g)
            ctx.write(ctx.bias, rows, _sums(rows))
        inward = None
        if ctx.needs_input_grad[0]:
            inner = g * ctx.weight
            along = straight * (inner * straight).mean(dim=-1, keepdim=True)
            if ctx.centred:
                inner = inner - inner.mean(dim=-1, keepdim=True)
            inward = (spread * (inner - along)).to(ctx.kind)
        return inward, None, None, None, None, None
