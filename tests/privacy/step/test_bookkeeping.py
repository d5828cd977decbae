"""Micro-batches that do not fit the row buffer: the same sums, in a buffer of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.step import bookkeeping
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.interface import MicroBatch
from cloister.privacy.step.rows import PHANTOM_NORM
from tests.privacy.step.test_fused import ROWS, UNITS, WIDTH, Model, conv, inputs, linear, naive

EACH_ITS_OWN = np.arange(ROWS)
SMALL = 4 * ROWS * 10
"""Bytes of a buffer of ten columns: less than most tensors have, more than one row of some."""


def clipped(
    model: Model, x: Tensor, units: NDArray[np.int64], bound: float = 0.5, size: int = SMALL
) -> NDArray[np.float32]:
    return model.fused(buffer_bytes=size).clipped([model.batch(x, units)], bound).values


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes through the buffer of whole rows."""

    def refuse(*_: object) -> None:
        raise AssertionError("whole rows were formed")

    monkeypatch.setattr(FusedEngine, "_all_rows", refuse)


@pytest.mark.usefixtures("forbidden")
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("layer", [linear, conv])
@pytest.mark.parametrize("bound", [0.5, 1e3])  # all units are cut; none is
@pytest.mark.parametrize("columns", [0, 1, 3, 8, 20, 1000])
def test_equal_to_one_row_at_a_time(layer: Callable[[], nn.Module], bound: float, columns: int) -> None:
    model, x = Model(layer), inputs()
    size = min(4 * ROWS * columns, 4 * ROWS * model.layout.size - 1)
    engine = FusedEngine(model, model.layout, model.trained, buffer_bytes=size)
    found = engine.clipped([model.batch(x, UNITS)], bound).values
    np.testing.assert_allclose(found, naive(model, x, bound), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("units", [UNITS, EACH_ITS_OWN])
def test_equal_to_the_buffer_of_whole_rows(units: NDArray[np.int64]) -> None:
    model, x = Model(linear, only_b=True), inputs()
    whole = clipped(model, x, units, size=1 << 20)
    np.testing.assert_allclose(clipped(model, x, units), whole, rtol=0, atol=1e-6)
    assert np.abs(whole).max() > 0.1


@pytest.mark.parametrize("reentrant", [False, True])
def test_with_gradient_checkpointing(reentrant: bool) -> None:
    model, x = Model(linear), inputs()
    expected = naive(model, x, 0.5)
    model.through = lambda x: checkpoint(lambda y: model.mid(y), x, use_reentrant=reentrant)
    np.testing.assert_allclose(clipped(model, x, UNITS), expected, rtol=0, atol=1e-6)


def test_under_bfloat16_the_same_as_whole_rows() -> None:
    model, x = Model(linear), inputs()

    def narrow() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model.losses(x).float()

    parts = [MicroBatch(narrow, UNITS)]
    whole = model.fused().clipped(parts, 0.5).values
    np.testing.assert_allclose(model.fused(buffer_bytes=SMALL).clipped(parts, 0.5).values, whole, atol=1e-6)
    np.testing.assert_allclose(whole, naive(model, x, 0.5), rtol=0, atol=3e-2)


@pytest.mark.parametrize("size", [SMALL, 1 << 20])
def test_under_autocast_all_around_a_unit_still_has_norm_at_most_the_bound(size: int) -> None:
    model, x = Model(linear), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        one = clipped(model, x, np.zeros(ROWS, dtype=np.int64), 1e-3, size)
    assert float(np.linalg.norm(one)) == pytest.approx(1e-3, rel=2e-3)
    assert float(np.linalg.norm(one)) <= 1e-3


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_in_one_tensor_drops_its_unit_from_all(broken: float) -> None:
    model = nn.ModuleDict({name: nn.Linear(WIDTH, 2) for name in ("sound", "spoilt")})
    trained = dict(model.named_parameters())
    layout = Layout(tuple((name, tuple(trained[name].shape)) for name in sorted(trained)))
    x = inputs()
    spoilt = x.clone()
    spoilt[4, 0, 0] = broken  # one of the rows of unit 1

    def sums(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        def losses() -> Tensor:
            return (model["sound"](x[rows]) + model["spoilt"](spoilt[rows])).sum(dim=(1, 2))

        engine = FusedEngine(model, layout, trained, buffer_bytes=SMALL)
        return engine.clipped([MicroBatch(losses, UNITS[rows])], 0.5).values

    np.testing.assert_allclose(sums(EACH_ITS_OWN), sums(np.flatnonzero(UNITS != 1)), rtol=0, atol=1e-6)
    assert np.abs(sums(EACH_ITS_OWN)).max() > 0.1


def test_phantoms_stand_behind_the_layout_and_are_cut_like_anybody() -> None:
    model, x = Model(linear), inputs()
    engine = FusedEngine(model, model.layout, model.trained, phantoms=4, buffer_bytes=SMALL)
    found = engine.clipped([model.batch(x, UNITS)], 0.5, np.array([1, 3])).values
    np.testing.assert_array_equal(found[:-4], clipped(model, x, UNITS))
    np.testing.assert_allclose(found[-4:], [0, 0.5, 0, 0.5], rtol=1e-5)
    assert PHANTOM_NORM > 1


def test_micro_batches_that_fit_and_that_do_not_may_follow_each_other() -> None:
    model, x = Model(linear), inputs()
    order = np.argsort(UNITS, kind="stable")  # rows 0, 2 | 1, 4 | 3 | 5
    cuts = [order[:4], order[4:5], order[5:]]
    engine = model.fused(buffer_bytes=4 * model.layout.size * 2)
    for _ in range(2):
        found = engine.clipped([model.batch(x[at], UNITS[at]) for at in cuts], 0.5).values
        np.testing.assert_allclose(found, naive(model, x, 0.5), rtol=0, atol=1e-6)


class Largest(TorchDispatchMode):
    """The most bytes of float32 that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float32:
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("units", [UNITS, EACH_ITS_OWN])
@pytest.mark.parametrize("columns", [1, 44, 62, 250])  # of 256
def test_no_operation_writes_more_than_the_buffer_has(columns: int, units: NDArray[np.int64]) -> None:
    model, x = Wide(16, 16), torch.randn(ROWS, 1, 16)
    buffer_bytes, weight_bytes, rows_bytes = (4 * ROWS * columns, 4 * 256, 4 * ROWS * 256)
    engine = model.engine(buffer_bytes)
    with Largest() as largest:
        engine.clipped([MicroBatch(lambda: model.layer(x).square().sum(dim=(1, 2)), units)], 1.0)
    assert largest.bytes == max(buffer_bytes, weight_bytes) < rows_bytes
    with Largest() as largest:
        part = MicroBatch(lambda: model.layer(x).square().sum(dim=(1, 2)), units)
        model.engine(rows_bytes).clipped([part], 1.0)
    assert largest.bytes == rows_bytes


class Wide(nn.Module):
    """One linear layer without bias."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, out, bias=False)
        self.layout = Layout((("layer.weight", (out, width)),))

    def engine(self, buffer_bytes: int) -> FusedEngine:
        return FusedEngine(self, self.layout, dict(self.named_parameters()), buffer_bytes=buffer_bytes)


@given(
    st.lists(
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3), min_size=2, max_size=6
    ),
    st.floats(0.01, 100),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_one_unit_changes_the_sum_by_at_most_the_bound(
    rows: list[tuple[float, float, float]], bound: float, cancelling: bool
) -> None:
    """The unit that is left out has two rows, which may cancel each other."""
    toy = Wide(3, 1)
    x = torch.tensor(rows)
    if cancelling:
        x[-1] = -x[0]
    units = np.array([0, *range(1, len(x) - 1), 0])

    def found(keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        part = MicroBatch(lambda: toy.layer(x[keep]).squeeze(1), units[keep])
        return toy.engine(4).clipped([part] if keep.any() else [], bound).values.astype(np.float64)

    difference = found(np.ones(len(x), dtype=bool)) - found(units != 0)
    assert np.linalg.norm(difference) <= bound * (1 + 1e-5)


def test_terms_that_cancel_leave_no_rounding_in_the_sum() -> None:
    """Two rows of a person whose sum is 0: among others in one weighted product, they would leave 10^3."""
    toy = Wide(1, 1)
    x = torch.tensor([[3e10], [0.3], [-3e10], [0.7]])
    found = toy.engine(4).clipped([MicroBatch(lambda: toy.layer(x).squeeze(1), np.array([0, 1, 0, 2]))], 1.0)
    np.testing.assert_allclose(found.values, [1.0], atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 100))
def test_blocks_name_every_column_once_and_fit(tall: int, wide: int, most: int) -> None:
    buffer = torch.empty(2 * most)
    book = bookkeeping.Book({"a": slice(5, 5 + tall * wide)}, buffer)
    left, right = torch.randn(2, 3, tall), torch.randn(2, 3, wide)
    book.keep("a", left, right)
    rows = torch.full((2, 5 + tall * wide), torch.nan)
    for columns, block in book.blocks():
        assert block.shape == (2, columns.stop - columns.start)
        assert block.data_ptr() == buffer.data_ptr()
        assert rows[:, columns].isnan().all()
        rows[:, columns] = block
    expected = torch.einsum("nta,ntb->nab", left, right).reshape(2, -1)
    torch.testing.assert_close(rows[:, 5:], expected)


class TestRefusals:
    """What the buffer of whole rows refuses, the book refuses, too."""

    def refused(self, model: Model, part: MicroBatch, match: str) -> None:
        engine = model.fused(buffer_bytes=SMALL)
        with pytest.raises(ModelError, match=match) as caught:
            engine.clipped([part], 0.5)
        assert caught.value.id in ("layer_unsupported", "unit_split")
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_a_layer_that_is_used_twice(self) -> None:
        model, x = Model(linear), inputs()
        model.through = lambda x: model.mid(model.mid(x))
        self.refused(model, model.batch(x, UNITS), r"mid\..* is used twice")

    def test_a_layer_that_is_not_reached(self) -> None:
        model, x = Model(linear), inputs()
        model.through = lambda x: x
        self.refused(model, model.batch(x, UNITS), r"mid\..* got no gradient")

    def test_a_layer_that_only_the_first_micro_batch_reaches(self) -> None:
        model, x = Model(linear), inputs()
        engine = model.fused(buffer_bytes=SMALL)

        def skips() -> Tensor:
            model.through = lambda x: x
            return model.losses(x[3:4])

        with pytest.raises(ModelError, match=r"mid\..* got no gradient"):
            engine.clipped([model.batch(x[:1], UNITS[:1]), MicroBatch(skips, UNITS[3:4])], 0.5)

    def test_a_layer_that_mixes_rows_in_its_first_dimension(self) -> None:
        model, x = Model(linear), inputs()
        model.through = lambda x: model.mid(x.reshape(1, -1, WIDTH)).reshape(x.shape)
        self.refused(model, model.batch(x, UNITS), "not once for each row")

    def test_a_tensor_that_is_used_outside_its_layer_too(self) -> None:
        model, x = Model(linear), inputs()
        part = MicroBatch(lambda: model.losses(x) + model.head.bias.sum(), UNITS)
        self.refused(model, part, r"head\.bias is used outside")

    def test_rows_of_a_unit_in_two_micro_batches(self) -> None:
        model, x = Model(linear), inputs()
        parts = [model.batch(x[:2], UNITS[:2]), model.batch(x[2:], UNITS[2:])]
        with pytest.raises(ModelError) as caught:
            model.fused(buffer_bytes=4).clipped(parts, 0.5)
        assert caught.value.id == "unit_split"
