"""The engine that takes one unit at a time, against what is worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cloister.privacy.errors import ModelError
from cloister.privacy.layout import Layout
from cloister.privacy.step.hooks import HooksEngine
from cloister.privacy.step.loop import UnitLoop

LAYOUT = Layout((("weight", (2, 3)), ("bias", (2,))))
INPUTS = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 0.0], [4.0, 0.0, -2.0], [1.0, 1.0, 1.0]])


@pytest.fixture
def linear() -> nn.Linear:
    return nn.Linear(3, 2)


def losses(linear: nn.Linear, rows: list[int]) -> Callable[[], Tensor]:
    """The sum of outputs: its gradient is the row itself twice, and ones."""
    return lambda: linear(INPUTS[rows]).sum(dim=1)


def gradient(rows: list[int]) -> np.ndarray:
    total = INPUTS[rows].sum(dim=0).numpy()
    return np.concatenate([total, total, np.full(2, float(len(rows)))])


def cut(vector: np.ndarray, bound: float) -> np.ndarray:
    return vector * min(1.0, bound / float(np.linalg.norm(vector)))


def test_rows_of_a_unit_are_summed_before_the_cut(linear: nn.Linear) -> None:
    engine = UnitLoop(linear, LAYOUT, dict(linear.named_parameters()))
    found = engine.clipped([losses(linear, [0, 2]), losses(linear, [1])], 2.5)
    expected = cut(gradient([0, 2]), 2.5) + cut(gradient([1]), 2.5)
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-5)
    apart = sum(cut(gradient([row]), 2.5) for row in range(3))
    assert np.abs(found.values - apart).max() > 0.1
    assert found.bound == 2.5


def test_units_of_one_row_are_those_of_the_hooks(linear: nn.Linear) -> None:
    trained = dict(linear.named_parameters())
    alone = [losses(linear, [row]) for row in range(4)]
    one = UnitLoop(linear, LAYOUT, trained).clipped(alone, 2.0)
    other = HooksEngine(linear, LAYOUT, trained).clipped([losses(linear, [0, 1, 2, 3])], 2.0)
    np.testing.assert_allclose(one.values, other.values, rtol=0, atol=1e-6)


def test_no_unit_moves_the_sum_by_more_than_the_bound(linear: nn.Linear) -> None:
    engine = UnitLoop(linear, LAYOUT, dict(linear.named_parameters()))
    rest = [losses(linear, [1])]
    more = engine.clipped([*rest, losses(linear, [0, 2, 3] * 50)], 0.1).values
    moved = float(np.linalg.norm(more - engine.clipped(rest, 0.1).values))
    assert 0.0999 < moved <= 0.1 + 1e-6


def test_an_empty_sample_gives_zeros(linear: nn.Linear) -> None:
    found = UnitLoop(linear, LAYOUT, dict(linear.named_parameters())).clipped([], 1.0)
    assert found.values.tolist() == [0.0] * 8
    assert found.values.dtype == np.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_unit_that_is_not_finite_counts_as_zero(linear: nn.Linear, bad: float) -> None:
    engine = UnitLoop(linear, LAYOUT, dict(linear.named_parameters()))
    good = losses(linear, [0])
    found = engine.clipped([good, lambda: losses(linear, [1, 2])() * bad, good], 1.0)
    np.testing.assert_allclose(found.values, 2 * cut(gradient([0]), 1.0), rtol=0, atol=1e-5)


def test_no_ordinary_gradient_is_left(linear: nn.Linear) -> None:
    UnitLoop(linear, LAYOUT, dict(linear.named_parameters())).clipped([losses(linear, [0])], 1.0)
    assert all(parameter.grad is None for parameter in linear.parameters())


@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_a_trainable_tensor_that_the_layout_lacks_is_refused(linear: nn.Linear, missing: str) -> None:
    tensors = tuple(part for part in LAYOUT.tensors if part[0] != missing)
    trained = {name: value for name, value in linear.named_parameters() if name != missing}
    for build in (
        partial(UnitLoop, linear, Layout(tensors), trained),
        partial(UnitLoop, linear, LAYOUT, trained),
    ):
        with pytest.raises(ModelError) as caught:
            build()
        assert caught.value.id == "layer_unsupported"
