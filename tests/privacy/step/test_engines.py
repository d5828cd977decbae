"""Both private engines against a loop that takes one unit at a time, and planted faults that they refuse."""

import math
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cloister.client.learn.adapters import Classifier, place, set_flat
from cloister.client.learn.features import Features, Hidden, Tokens, chunks, prepare
from cloister.client.learn.model import load_encoder
from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.model import DEFAULT, describe
from cloister.privacy.step import rows
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.hooks import HooksEngine
from cloister.privacy.step.interface import Engine, MicroBatch
from tests import models

UNITS = 9

Kind: TypeAlias = type[HooksEngine] | type[FusedEngine]
KINDS: list[Kind] = [HooksEngine, FusedEngine]


@pytest.fixture(params=KINDS, scope="module", autouse=True)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every test of this module runs with each engine."""
    global engine_class  # the engine under test
    engine_class = request.param
    return engine_class


engine_class: Kind = HooksEngine


def losses_of(placed: Classifier, features: Features, targets: NDArray[np.int64]) -> Iterable[MicroBatch]:
    """Forward passes over all units, as training makes them."""
    targets_at = torch.from_numpy(targets)

    def of(rows: NDArray[np.int64]) -> MicroBatch:
        return MicroBatch(
            lambda: cross_entropy(features.logits(placed, rows), targets_at[rows], reduction="none"), rows
        )

    return [of(rows) for rows in chunks(features.lengths, np.arange(len(targets)))]


def naive(
    placed: Classifier, tokens: Tokens, targets: NDArray[np.int64], bound: float
) -> NDArray[np.float64]:
    """The clipped sum by one full forward and backward pass a unit, without hooks, cache or padding."""
    total = np.zeros(placed.layout.size)
    for row, target in enumerate(torch.from_numpy(targets)):
        loss = cross_entropy(tokens.logits(placed, np.array([row])), target[None])
        parts = torch.autograd.grad(loss, [placed.trained[name] for name, _ in placed.layout.tensors])
        gradient = torch.cat([part.reshape(-1) for part in parts]).double().numpy()
        total += gradient * min(1.0, bound / (float(np.linalg.norm(gradient)) + 1e-6))
    return total


def engine_of(placed: Classifier) -> Engine:
    return engine_class(placed, placed.layout, placed.trained)


class Toy(nn.Module):
    """A linear model whose gradients are known by hand: the loss of unit x is w · x."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 1, bias=False)
        self.layout = Layout((("layer.weight", (1, size)),))

    def engine(self) -> Engine:
        return engine_class(self, self.layout, dict(self.named_parameters()))

    def losses(self, units: Tensor, first: int = 0) -> MicroBatch:
        """Units that are numbered from ``first``."""
        return MicroBatch(lambda: self.layer(units).squeeze(1), np.arange(first, first + len(units)))


@pytest.mark.parametrize("bound", [1.0, 6.0])  # all gradients are longer; about half are
@pytest.mark.parametrize("top_layers", [0, 1, 2, 3])
def test_equal_to_one_unit_at_a_time(top_layers: int, bound: float) -> None:
    placed = models.classifier(top_layers=top_layers)
    ids, targets = models.documents(UNITS), models.labels(UNITS)
    features = prepare(placed, ids)
    clipped = engine_of(placed).clipped(losses_of(placed, features, targets), bound)
    expected = naive(placed, Tokens(ids), targets, bound)
    np.testing.assert_allclose(clipped.values, expected, rtol=0, atol=1e-6 * bound)
    assert np.abs(expected).max() > 0.1
    assert (clipped.values.dtype, clipped.bound) == (np.float64, bound)


@pytest.mark.slow
@pytest.mark.parametrize("top_layers", [1, 6])
def test_equal_to_one_unit_at_a_time_on_minilm(top_layers: int) -> None:
    encoder = load_encoder(describe(DEFAULT))
    placed = place(encoder, models.layout_of(encoder, top_layers=top_layers, rank=8), 16.0)
    set_flat(placed, models.vector(placed.layout.size) / 10)
    random = np.random.default_rng(2)
    ids = tuple(random.integers(1000, 30_000, size) for size in random.integers(4, 24, 8))
    targets = models.labels(8)
    clipped = engine_of(placed).clipped(losses_of(placed, prepare(placed, ids), targets), 1.0)
    np.testing.assert_allclose(clipped.values, naive(placed, Tokens(ids), targets, 1.0), rtol=0, atol=1e-6)


def test_an_empty_batch_is_a_sum_of_zeros() -> None:
    clipped = Toy().engine().clipped([], 1.0)
    np.testing.assert_array_equal(clipped.values, np.zeros(3, dtype=np.float32))


def test_short_gradients_are_kept_and_long_ones_cut() -> None:
    toy = Toy(2)
    units = torch.tensor([[0.3, 0.4], [30.0, 40.0]])
    clipped = toy.engine().clipped([toy.losses(units[:1]), toy.losses(units[1:], 1)], 1.0)
    np.testing.assert_allclose(clipped.values, [0.3 + 0.6, 0.4 + 0.8], atol=1e-6)


@given(
    st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
    st.floats(0.01, 100),
)
@settings(max_examples=40, deadline=None)
def test_one_unit_changes_the_sum_by_at_most_the_bound(units: list[list[float]], bound: float) -> None:
    toy = Toy()
    rows = torch.tensor(units)
    everyone = toy.engine().clipped([toy.losses(rows)], bound).values.astype(np.float64)
    without = toy.engine().clipped([toy.losses(rows[1:])] if len(rows) > 1 else [], bound).values
    assert np.linalg.norm(everyone - without) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_unit_that_is_not_finite_counts_as_zero(broken: float) -> None:
    toy = Toy(2)
    units = torch.tensor([[0.3, 0.4], [broken, 1.0], [1.0, broken]])
    clipped = toy.engine().clipped([toy.losses(units)], 1.0)
    np.testing.assert_allclose(clipped.values, [0.3, 0.4], atol=1e-6)


def test_nothing_of_a_unit_stays_on_the_model() -> None:
    placed = models.classifier().eval()
    engine_of(placed).clipped(losses_of(placed, Tokens(models.documents(3)), models.labels(3)), 1.0)
    for parameter in placed.parameters():
        assert parameter.grad is None
        assert getattr(parameter, "grad_sample", None) is None
    assert not any(hasattr(module, "activations") for module in placed.modules())
    assert not any(module.training for module in placed.modules())


def test_a_gradient_whose_squares_pass_the_range_of_float32_is_cut_like_any_other() -> None:
    toy = Toy(2)
    clipped = toy.engine().clipped([toy.losses(torch.tensor([[3e30, 4e30]]))], 1.0)
    np.testing.assert_allclose(clipped.values, [0.6, 0.8], rtol=1e-6)


def test_a_gradient_that_float32_cannot_shorten_precisely_counts_as_zero() -> None:
    """Its factor would be a subnormal number, of few digits: rounded up, the unit would pass the bound."""
    toy = Toy(2)
    clipped = toy.engine().clipped([toy.losses(torch.tensor([[3e38, 2e38], [3e-5, 4e-5]]))], 1e-4)
    np.testing.assert_allclose(clipped.values, [3e-5, 4e-5], rtol=1e-5)


def test_after_a_failed_pass_the_next_one_is_right() -> None:
    toy, units = Toy(2), torch.tensor([[0.3, 0.4]])
    engine = toy.engine()

    def fails() -> Tensor:
        toy.layer(units)
        raise RuntimeError("the forward pass failed")

    with pytest.raises(RuntimeError, match="forward pass failed"):
        engine.clipped([toy.losses(units), MicroBatch(fails, np.array([1]))], 1.0)
    np.testing.assert_allclose(engine.clipped([toy.losses(units)], 1.0).values, [0.3, 0.4], atol=1e-6)


def test_dropout_stays_off_while_the_engine_runs() -> None:
    placed = models.classifier()
    tokens, targets = Tokens(models.documents(5)), models.labels(5)
    first, second = (engine_of(placed).clipped(losses_of(placed, tokens, targets), 1.0) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)


def test_many_units_are_summed_in_float64() -> None:
    values = np.random.default_rng(5).uniform(0.5, 1, 4000).astype(np.float32)
    total = rows.ClippedSum(2, 2.0)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        total.add(torch.from_numpy(np.stack([values, -values], axis=1)), np.arange(len(values)))
    finally:
        torch.set_float32_matmul_precision(before)
    exact = math.fsum(values.astype(np.float64))
    np.testing.assert_allclose(total.result().values, [exact, -exact], rtol=1e-14)
    in_float32 = float(np.add.reduce(values[::-1].cumsum()[-1:]))
    assert abs(in_float32 - exact) > 1e-6, "the values are such that float32 would show"


class TestPlantedFaults:
    """Each of these would let a tensor change without clipping and noise, or lose its gradient."""

    def refused(self, placed: Classifier, layout: Layout) -> None:
        with pytest.raises(ModelError) as caught:
            engine_class(placed, layout, placed.trained)
        assert caught.value.id == "layer_unsupported"

    def test_a_trainable_tensor_that_the_layout_does_not_name(self) -> None:
        placed = models.classifier()
        placed.encoder.embeddings.word_embeddings.weight.requires_grad_(True)
        self.refused(placed, placed.layout)

    def test_a_layout_that_lacks_a_trained_tensor(self) -> None:
        placed = models.classifier()
        self.refused(placed, Layout(placed.layout.tensors[:-1]))

    def test_a_layout_of_another_shape(self) -> None:
        placed = models.classifier()
        (name, shape), *rest = placed.layout.tensors
        self.refused(placed, Layout(((name, (shape[0] + 1,)), *rest)))

    def test_a_layout_tensor_that_is_frozen(self) -> None:
        placed = models.classifier()
        placed.trained["head.bias"].requires_grad_(False)
        self.refused(placed, placed.layout)

    def test_one_tensor_under_two_names(self) -> None:
        toy = Toy()
        layout = Layout((("a", (1, 3)), ("b", (1, 3))))
        with pytest.raises(ModelError, match="stands twice"):
            engine_class(toy, layout, {"a": toy.layer.weight, "b": toy.layer.weight})

    def test_a_trained_layer_that_the_forward_pass_skips(self) -> None:
        placed = models.classifier(top_layers=2)
        engine = engine_of(placed)
        features = prepare(placed, models.documents(4))
        assert isinstance(features, Hidden)
        skipping = Hidden(features.below, first=3)
        with pytest.raises(ModelError) as caught:
            engine.clipped(losses_of(placed, skipping, models.labels(4)), 1.0)
        assert caught.value.id == "layer_unsupported"

    def test_a_layer_whose_buffers_mix_units(self) -> None:
        model = nn.Sequential(nn.BatchNorm1d(3))
        layout = Layout((("0.bias", (3,)), ("0.weight", (3,))))
        batch = MicroBatch(lambda: model(torch.ones(2, 3)).sum(dim=1), np.arange(2))
        with pytest.raises(ModelError, match=r"BatchNorm|mix units"):
            engine_class(model, layout, dict(model.named_parameters())).clipped([batch], 1.0)

    @pytest.mark.parametrize("tracked", [True, False])
    def test_a_frozen_layer_that_mixes_units(self, tracked: bool) -> None:
        model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=tracked), nn.Linear(3, 1, bias=False))
        model[0].requires_grad_(False)
        layout = Layout((("1.weight", (1, 3)),))
        engine = engine_class(model, layout, {"1.weight": model[1].weight})
        batch = MicroBatch(lambda: model(torch.randn(2, 3)).squeeze(1), np.arange(2))
        with pytest.raises(ModelError, match="BatchNorm1d 0 mixes the rows"):
            engine.clipped([batch], 1.0)
        model.eval()
        if tracked:  # the statistics are then public constants
            assert np.any(engine.clipped([batch], 1.0).values)
        else:
            with pytest.raises(ModelError, match="BatchNorm1d 0 mixes the rows"):
                engine.clipped([batch], 1.0)

    def test_a_mean_over_units_instead_of_their_losses(self) -> None:
        toy = Toy()
        with pytest.raises(ValueError, match="one a row"):
            toy.engine().clipped([MicroBatch(lambda: toy.layer(torch.ones(2, 3)).mean(), np.arange(2))], 1.0)
