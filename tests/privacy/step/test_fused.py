"""The fused engine on every layer that it covers, against one row at a time; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.step.coverage import engine_for
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.hooks import HooksEngine
from cloister.privacy.step.interface import Engine, MicroBatch
from cloister.privacy.step.rows import PHANTOM_NORM

ROWS, TOKENS, WIDTH = 6, 5, 8
UNITS = np.array([0, 1, 0, 2, 1, 3])


class Model(nn.Module):
    """Two adapted layers, a trained norm and a head; ``mid`` is also what is checkpointed."""

    def __init__(self, layer: Callable[[], nn.Module], *, dropout: float = 0.0, only_b: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.mid = layer(), layer()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)
        for part in (self.low, self.mid):
            part.requires_grad_(False)
        config = LoraConfig(
            r=2, lora_alpha=6, lora_dropout=dropout, target_modules=["low", "mid"], fan_in_fan_out=False
        )
        inject_adapter_in_model(config, self)
        for name, parameter in self.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
            parameter.requires_grad_("base_layer" not in name and not (only_b and "lora_A" in name))
        self.through: Callable[[Tensor], Tensor] = lambda x: self.mid(x)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in sorted(self.named_parameters()) if p.requires_grad}

    @property
    def layout(self) -> Layout:
        return Layout(tuple((name, tuple(p.shape)) for name, p in self.trained.items()))

    def losses(self, x: Tensor) -> Tensor:
        states = self.norm(torch.tanh(self.through(torch.tanh(self.low(x)))))
        return torch.logsumexp(self.head(states.mean(dim=1)), dim=1)

    def batch(self, x: Tensor, units: np.ndarray[tuple[int], np.dtype[np.int64]]) -> MicroBatch:
        return MicroBatch(lambda: self.losses(x), units)

    def fused(self, **options: int) -> FusedEngine:
        return FusedEngine(self, self.layout, self.trained, **options)


def inputs() -> Tensor:
    return torch.randn(ROWS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def naive(model: Model, x: Tensor, bound: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Gradients of one row at a time, summed by unit, cut, summed."""
    rows = []
    for row in x:
        gradients = torch.autograd.grad(model.losses(row[None]).sum(), list(model.trained.values()))
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]).double().numpy())
    total = np.zeros(model.layout.size)
    for unit in np.unique(UNITS):
        gradient = np.sum([row for row, whose in zip(rows, UNITS, strict=True) if whose == unit], axis=0)
        total += gradient * min(1.0, bound / (float(np.linalg.norm(gradient)) + 1e-6))
    return total


def linear() -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


def conv() -> nn.Module:
    return Conv1D(WIDTH, WIDTH)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("only_b", [False, True])
@pytest.mark.parametrize("layer", [linear, conv])
@pytest.mark.parametrize("bound", [0.5, 1e3])  # all units are cut; none is
def test_equal_to_one_row_at_a_time(layer: Callable[[], nn.Module], only_b: bool, bound: float) -> None:
    model, x = Model(layer, only_b=only_b), inputs()
    engine = engine_for(model, model.layout, model.trained)
    assert isinstance(engine, FusedEngine)
    found = engine.clipped([model.batch(x, UNITS)], bound).values
    expected = naive(model, x, bound)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    per_row = engine.clipped([model.batch(x, np.arange(ROWS))], 0.5).values
    assert np.abs(per_row - expected).max() > 1e-2  # a cut per row would be something else


@pytest.mark.parametrize("reentrant", [False, True])
def test_with_gradient_checkpointing(reentrant: bool) -> None:
    model, x = Model(linear), inputs()
    expected = naive(model, x, 0.5)
    model.through = lambda x: checkpoint(lambda y: model.mid(y), x, use_reentrant=reentrant)
    found = model.fused().clipped([model.batch(x, UNITS)], 0.5)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-6)


def test_under_bfloat16_norms_and_sums_keep_their_precision() -> None:
    model, x = Model(linear), inputs()
    part = model.batch(x, UNITS)

    def narrow() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return part.losses().float()

    everyone = model.fused().clipped([MicroBatch(narrow, UNITS)], 0.5).values
    assert everyone.dtype == np.float64
    np.testing.assert_allclose(everyone, naive(model, x, 0.5), rtol=0, atol=3e-2)
    # A bound far below every gradient: each of the 4 units has norm 1e-3, whatever bfloat16 rounds.
    one = model.fused().clipped([MicroBatch(narrow, np.zeros(ROWS, dtype=np.int64))], 1e-3).values
    assert float(np.linalg.norm(one)) == pytest.approx(1e-3, rel=2e-3)
    assert float(np.linalg.norm(one)) <= 1e-3


def test_the_buffer_of_a_larger_batch_leaves_nothing_in_a_smaller_one() -> None:
    model, x = Model(linear), inputs()
    engine = model.fused()
    fresh = model.fused().clipped([model.batch(x[:2], UNITS[:2])], 0.5).values
    engine.clipped([model.batch(10 * x, UNITS)], 0.5)
    np.testing.assert_array_equal(engine.clipped([model.batch(x[:2], UNITS[:2])], 0.5).values, fresh)


def test_gradients_of_other_training_are_not_of_this_pass() -> None:
    model, x = Model(linear), inputs()
    expected = model.fused().clipped([model.batch(x, UNITS)], 0.5).values
    model.losses(x).sum().backward()
    np.testing.assert_array_equal(model.fused().clipped([model.batch(x, UNITS)], 0.5).values, expected)


def test_nothing_stays_on_the_model() -> None:
    model, x = Model(linear), inputs()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    model.fused().clipped([model.batch(x, UNITS)], 0.5)
    assert {name: dict(module.__dict__) for name, module in model.named_modules()} == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_row_that_is_not_finite_drops_its_unit_and_no_other() -> None:
    model, x = Model(linear), inputs()
    spoilt = x.clone()
    spoilt[3] = float("nan")  # the only row of unit 2
    rest = np.flatnonzero(UNITS != 2)
    found = model.fused().clipped([model.batch(spoilt, UNITS)], 0.5).values
    expected = model.fused().clipped([model.batch(x[rest], UNITS[rest])], 0.5).values
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [FusedEngine, HooksEngine])
def test_rows_of_a_unit_in_two_micro_batches_are_refused(kind: type[FusedEngine | HooksEngine]) -> None:
    model, x = Model(linear), inputs()
    engine: Engine = kind(model, model.layout, model.trained)
    with pytest.raises(ModelError) as caught:
        engine.clipped([model.batch(x[:2], UNITS[:2]), model.batch(x[2:], UNITS[2:])], 0.5)
    assert caught.value.id == "unit_split"


@pytest.mark.parametrize("kind", [FusedEngine, HooksEngine])
def test_phantoms_are_cut_like_anybody(kind: type[FusedEngine | HooksEngine]) -> None:
    model, x = Model(linear), inputs()
    engine: Engine = kind(model, model.layout, model.trained, phantoms=4)
    found = engine.clipped([model.batch(x, UNITS)], 0.5, np.array([1, 3])).values
    plain = kind(model, model.layout, model.trained).clipped([model.batch(x, UNITS)], 0.5).values
    np.testing.assert_array_equal(found[: len(plain)], plain)
    np.testing.assert_allclose(found[len(plain) :], [0, 0.5, 0, 0.5], rtol=1e-5)
    assert PHANTOM_NORM > 1


class TestRefusals:
    """Each is refused by name; nothing is summed."""

    def test_a_layer_that_is_used_twice(self) -> None:
        model, x = Model(linear), inputs()
        model.through = lambda x: model.mid(model.mid(x))
        with pytest.raises(ModelError, match=r"mid\..* is used twice"):
            model.fused().clipped([model.batch(x, UNITS)], 0.5)

    def test_a_layer_that_is_not_reached(self) -> None:
        model, x = Model(linear), inputs()
        model.through = lambda x: x
        with pytest.raises(ModelError, match=r"mid\..* got no gradient"):
            model.fused().clipped([model.batch(x, UNITS)], 0.5)

    def test_a_layer_that_mixes_rows_in_its_first_dimension(self) -> None:
        model, x = Model(linear), inputs()
        model.through = lambda x: model.mid(x.reshape(1, -1, WIDTH)).reshape(x.shape)
        with pytest.raises(ModelError, match="not once for each row"):
            model.fused().clipped([model.batch(x, UNITS)], 0.5)

    def test_a_tensor_that_is_used_outside_its_layer_too(self) -> None:
        model, x = Model(linear), inputs()
        part = MicroBatch(lambda: model.losses(x) + model.head.bias.sum(), UNITS)
        with pytest.raises(ModelError, match=r"head\.bias is used outside"):
            model.fused().clipped([part], 0.5)
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_dropout(self) -> None:
        model = Model(linear, dropout=0.1)
        with pytest.raises(ModelError, match="not covered"):
            model.fused()

    def test_a_disabled_adapter(self) -> None:
        model = Model(linear)
        model.mid.enable_adapters(False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("base_layer" not in name)
        with pytest.raises(ModelError, match="not covered"):
            model.fused()

    def test_what_is_not_covered_goes_to_the_hooks(self) -> None:
        model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1))
        trained = dict(model.named_parameters())
        layout = Layout(tuple((name, tuple(p.shape)) for name, p in sorted(trained.items())))
        assert isinstance(engine_for(model, layout, trained), HooksEngine)
