"""The frozen feed-forward half: the same values in less memory, or it is left alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from cloister.client.learn.adapters import Classifier
from cloister.client.learn.features import Tokens
from cloister.privacy.step import feedforward, fused
from cloister.privacy.step.feedforward import feedforwards, leaner
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.interface import MicroBatch
from tests import models

ROWS = 6


def layer() -> Any:
    return models.encoder().encoder.layer[0]


def gradient(forward: Callable[[Tensor], Tensor], *, narrow: bool) -> tuple[Tensor, Tensor]:
    """What a pass gives, and the gradient of its input."""
    random = torch.Generator().manual_seed(2)
    x = torch.randn((3, 5, 32), generator=random).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        y = forward(x)
    y.backward(torch.randn(y.shape, generator=random).to(y.dtype))
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("block", [1, 64 * 4, 1 << 19])  # 1 token, 4 and all 15
@pytest.mark.parametrize(("narrow", "error"), [(False, 2e-6), (True, 3e-2)])
def test_values_and_gradients_are_those_of_autograd(
    block: int, narrow: bool, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedforward, "_BLOCK", block)
    found, wanted = (gradient(way, narrow=narrow) for way in (leaner(layer()), layer().feed_forward_chunk))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=error, atol=error)


class Largest(TorchDispatchMode):
    """The tensors as wide as the half that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = {part.data_ptr() for part in (*args, *(kwargs or {}).values()) if isinstance(part, Tensor)}
        found = call(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.numel() == 15 * 64 and found.data_ptr() not in held:
            self.made += 1
        return found


def test_one_wide_tensor_is_made_and_not_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedforward, "_BLOCK", 64 * 4)
    counts = []
    for way in (leaner(layer()), layer().feed_forward_chunk):
        with Largest() as seen:
            gradient(way, narrow=False)
        counts.append(seen.made)
    assert counts == [1, 4]


def clipped(placed: Classifier, losses: Callable[[], Tensor]) -> np.ndarray[Any, np.dtype[np.float64]]:
    engine = FusedEngine(placed, placed.layout, placed.trained)
    return engine.clipped([MicroBatch(losses, np.arange(ROWS) // 2)], 0.5).values


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_a_clipped_sum_is_the_same_and_nothing_stays(
    reentrant: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = models.classifier()
    rows = Tokens(models.documents(ROWS))

    def losses() -> Tensor:
        return torch.logsumexp(rows.logits(placed, np.arange(ROWS)), dim=1)

    with monkeypatch.context() as without:
        without.setattr(fused, "feedforwards", lambda _: ())
        wanted = clipped(placed, losses)
    assert len(list(feedforwards(placed))) == 3
    if reentrant is not None:
        for part in placed.encoder.encoder.layer[-1:]:
            part.forward = partial(_checkpointed, part.forward, reentrant)
    before = [set(vars(part)) for part in placed.modules()]
    np.testing.assert_allclose(clipped(placed, losses), wanted, rtol=0, atol=1e-6)
    assert [set(vars(part)) for part in placed.modules()] == before


def _checkpointed(forward: Callable[..., Any], reentrant: bool, *given: Any, **named: Any) -> Any:
    return checkpoint(partial(forward, **named), *given, use_reentrant=reentrant)


def adapted(model: nn.Module) -> None:
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["output.dense"]), model)


def trained(model: nn.Module) -> None:
    for part in model.encoder.layer:
        part.intermediate.dense.bias.requires_grad_(True)


def listened(model: nn.Module) -> None:
    for part in model.encoder.layer:
        part.intermediate.dense.register_forward_hook(lambda *_: None)


def bent(model: nn.Module) -> None:
    for part in model.encoder.layer:
        part.intermediate.intermediate_act_fn = nn.ReLU()


def test_a_layer_that_was_adapted_since_the_engine_was_made_goes_its_own_way() -> None:
    placed = models.classifier()
    rows = Tokens(models.documents(ROWS))
    engine = FusedEngine(placed, placed.layout, placed.trained)
    part = MicroBatch(lambda: torch.logsumexp(rows.logits(placed, np.arange(ROWS)), dim=1), np.arange(ROWS))
    before = engine.clipped([part], 0.5).values
    heard: list[int] = []
    for layer in placed.encoder.encoder.layer:
        layer.output.dense.register_forward_hook(lambda *_: heard.append(1))
    np.testing.assert_allclose(engine.clipped([part], 0.5).values, before, rtol=0, atol=1e-6)
    assert len(heard) == 3


@pytest.mark.parametrize("change", [adapted, trained, listened, bent])
def test_any_other_layer_is_left_as_it_is(change: Callable[[nn.Module], None]) -> None:
    model = models.encoder(layers=2)
    assert len(list(feedforwards(model))) == 2
    change(model)
    assert list(feedforwards(model)) == []


def test_roberta_is_of_the_family_and_gpt2_is_not() -> None:
    assert len(list(feedforwards(models.encoder("roberta", layers=2)))) == 2
    assert list(feedforwards(models.encoder("llama", layers=1))) == []
