"""The frozen feed-forward half of a layer, where a step holds most memory, in as little as it can be done in.

A step holds the most where forward and backward pass meet in the top layer: all that the backward pass needs
is there. Beside it lie, each four times as wide as the model, what the activation gives and then the
gradients behind and before it. Where both maps are frozen nothing of these three is needed as a whole: tokens
do not meet each other here, so they are taken block by block, and only the state before the activation is
kept, as autograd keeps it. The operations are as many, and their values the same but for rounding.

Covered are the layers of BERT's family with the exact GELU; any other is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloister.privacy.step.layers import Forward, kind_of

_COVERED = frozenset(
    f"transformers.models.{family}.modeling_{family}.{name}Layer"
    for family, name in (("bert", "Bert"), ("roberta", "Roberta"), ("xlm_roberta", "XLMRoberta"))
)
"""By name: to import what a process does not use would cost memory."""

HALF = "feed_forward_chunk"
"""The method of such a layer that is its feed-forward half."""

_BLOCK, _BLOCK_ON_GPU = 1 << 19, 1 << 26
"""Values of a block: 2 MiB of float32; on a GPU, where each turn costs, 256 MiB."""


def feedforwards(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a model that ``leaner`` is for."""
    for layer in module.modules():
        if _name(layer) in _COVERED and plain(layer):
            yield layer


def leaner(layer: Any) -> Forward:
    """The feed-forward half of such a layer."""
    up, after = layer.intermediate.dense, layer.output

    def half(x: Tensor) -> Tensor:
        y = _FeedForward.apply(x, up.weight, up.bias, after.dense.weight, after.dense.bias)  # type: ignore[no-untyped-call]
        found: Tensor = after.LayerNorm(after.dropout(y) + x)
        return found

    return half


def plain(layer: Any) -> bool:
    """Whether the half is two frozen maps with the exact GELU between, and nobody listens to its parts."""
    maps = layer.intermediate.dense, layer.output.dense
    activation = layer.intermediate.intermediate_act_fn
    return (
        all(type(each) is nn.Linear and each.bias is not None for each in maps)
        and _name(activation) == "transformers.activations.GELUActivation"
        and activation.act is functional.gelu
        and not any(parameter.requires_grad for each in maps for parameter in each.parameters())
        and not any(_heard(part) for part in (layer.intermediate, layer.output, activation, *maps))
    )


def _name(part: nn.Module) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _heard(part: nn.Module) -> bool:
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return any(hooks) or "forward" in vars(part)


class _FeedForward(torch.autograd.Function):
    """y = gelu(x U' + a) D' + b, with both maps frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, a: Tensor, down: Tensor, b: Tensor) -> Tensor:
        kind = kind_of(x, up)
        with torch.autocast(x.device.type, enabled=False):
            up, a, down, b = (each.to(kind) for each in (up, a, down, b))
            state = functional.linear(x.to(kind).reshape(-1, x.shape[-1]), up, a)
            y = state.new_empty((len(state), len(down)))
            for some, block in _blocks(state):
                torch.ops.aten.gelu.out(state[some], out=block)
                torch.addmm(b, block, down.t(), out=y[some])
        ctx.save_for_backward(state, up, down)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        state, up, down = ctx.saved_tensors
        rows = g.to(state.dtype).reshape(len(state), -1)
        inward = state.new_empty((len(state), up.shape[1]))
        for some, block in _blocks(state):
            torch.mm(rows[some], down, out=block)
            torch.ops.aten.gelu_backward.grad_input(block, state[some], grad_input=block)
            torch.mm(block, up, out=inward[some])
        return inward.view(*g.shape[:-1], -1), None, None, None, None


def _blocks(state: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some tokens of (tokens, width) after another, and room for as many values, used again each time."""
    most = _BLOCK_ON_GPU if state.is_cuda else _BLOCK
    tall = min(len(state), max(1, most // state.shape[1]))
    room = state.new_empty((tall, state.shape[1]))
    for start in range(0, len(state), tall):
        stop = min(start + tall, len(state))
        yield slice(start, stop), room[: stop - start]
