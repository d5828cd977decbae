"""The steps that every party can take, against torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cloister.privacy import descent
from cloister.privacy.descent import Descent, Memory, steps_of
from cloister.privacy.layout import Layout
from cloister.privacy.update import Vector
from tests.plans import plan, plan_json

FOUR = ("north", "south", "west", "coast")
LAYOUT = Layout(
    (
        ("a.lora_A.weight", (1, 2)),
        ("a.lora_B.weight", (2, 1)),
        ("head.bias", (1,)),
    )
)
RATES = np.array([0.1, 0.1, 0.05, 0.05, 0.3], dtype=np.float32)


def joint(**training: Any) -> Descent:
    found = plan(
        FOUR,
        privacy=plan_json()["privacy"] | {"mode": "joint"},
        training=plan_json()["training"] | {"rounds": 6, "steps": 1} | training,
        aggregation={"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 3, "colluding": 1},
    )
    return Descent(found, RATES)


def sums(number: int) -> list[np.ndarray[Any, np.dtype[np.uint32]]]:
    rng = np.random.default_rng(5)
    return [rng.integers(-(1 << 13), 1 << 13, 5).astype(np.int32).view(np.uint32) for _ in range(number)]


def walked(by: Descent, words: list[np.ndarray[Any, np.dtype[np.uint32]]]) -> Vector:
    model: Vector = np.zeros(5, dtype=np.float32)
    memory: Memory = ()
    for number, one in enumerate(words, start=1):
        change, memory = by.at(number).take(memory, one, FOUR)
        model = model + change
    return model


def by_torch(by: Descent, words: list[np.ndarray[Any, np.dtype[np.uint32]]]) -> Vector:
    """The same course by an optimizer of torch."""
    training, found = by.plan.training, by.plan
    parts = [torch.zeros(1, requires_grad=True) for _ in RATES]
    groups = [{"params": [part], "lr": float(rate)} for part, rate in zip(parts, RATES, strict=True)]
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(groups, betas=(training.momentum, descent.SQUARES), eps=1e-8)
        if training.optimizer == "adam"
        else torch.optim.SGD(groups, momentum=training.momentum)
    )
    units = sum(found.site(name).units.low for name in FOUR)
    for one in words:
        gradient = one.view(np.int32) * found.grid.step / (training.rate * units)
        for part, value in zip(parts, gradient, strict=True):
            part.grad = torch.tensor([value], dtype=torch.float32)
        optimizer.step()
    return np.array([part.item() for part in parts], dtype=np.float32)


@pytest.mark.parametrize("training", [{}, {"momentum": 0.0}, {"optimizer": "adam", "momentum": 0.8}], ids=str)
def test_a_course_is_that_of_torch(training: dict[str, Any]) -> None:
    by, words = joint(**training), sums(6)
    expected = by_torch(by, words)
    assert np.abs(expected).min() > 1e-4
    np.testing.assert_allclose(walked(by, words), expected, rtol=2e-4, atol=1e-7)
    other = joint(**training | {"momentum": 0.5})
    assert not np.allclose(walked(other, words), expected, rtol=2e-4, atol=1e-7)


def test_the_first_step_of_adam_is_as_long_as_its_rates() -> None:
    """Of two sums in one direction the shorter one leads as far."""
    by = joint(optimizer="adam")
    one, _ = by.take((), sums(1)[0], FOUR)
    np.testing.assert_allclose(np.abs(one), RATES, rtol=1e-4)
    fewer, _ = by.take((), sums(1)[0], FOUR[:3])
    np.testing.assert_allclose(one, fewer, rtol=1e-4)


def test_only_what_cannot_be_told_from_models_travels() -> None:
    sgd, adam = joint(), joint(optimizer="adam")
    assert (sgd.plan.remembered, adam.plan.remembered) == (0, 2)
    assert len(sgd.take((), sums(1)[0], FOUR)[1]) == 1
    assert len(adam.take((), sums(1)[0], FOUR)[1]) == 2
    local = plan(FOUR, training=plan_json()["training"] | {"optimizer": "adam"})
    assert local.remembered == 0
    assert steps_of(local, LAYOUT) is None
