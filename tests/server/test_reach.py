"""How long an update gets: never longer than told, and not told much too long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.learn.training import Settings, _rule
from cloister.privacy.clauses import Rows
from cloister.privacy.errors import PlanError
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan
from cloister.server.reach import reach
from tests.plans import plan, plan_json
from tests.server.test_sums import FOUR, OFF

LAYOUT = Layout((("a.lora_A.weight", (20, 20)), ("head.weight", (5, 20))))
D = LAYOUT.size
RATES = np.where(np.arange(D) < 400, np.float32(0.01), np.float32(0.5)).astype(np.float32)


def agreed(privacy: dict[str, Any] | None = None, **training: Any) -> Plan:
    found = plan_json()
    return plan(FOUR, training=found["training"] | training, privacy=privacy or found["privacy"])


def told(found: Plan) -> float:
    return reach(found.training, found.privacy, found.sites, RATES)


def update(found: Plan, gradients: list[np.ndarray], site: str = "north") -> float:
    """The length of a site's weighted update after steps with these sums of gradients."""
    settings = Settings.of(found, site)
    rule, parameters = _rule(settings, LAYOUT), np.zeros(D, dtype=np.float32)
    for total in gradients:
        parameters += rule((total / (settings.rate * settings.expected_units)).astype(np.float32))
    return float(np.linalg.norm(parameters.astype(float) * found.weight(site)))


@given(st.integers(1, 6), st.sampled_from([0.0, 0.5, 0.9]), st.integers(0, 2**32 - 1))
def test_no_update_by_descent_is_longer(steps: int, momentum: float, seed: int) -> None:
    """Of sums of all units that any sample holds, in one direction or in many, with noise."""
    found = agreed(steps=steps, momentum=momentum)
    random = np.random.default_rng(seed)
    privacy, training = found.privacy, found.training
    gradients = []
    for _ in range(steps):
        direction = random.normal(0, 1, D)
        units = random.binomial(255, training.rate)
        signal = privacy.bound * units * direction / np.linalg.norm(direction)
        gradients.append(signal + random.normal(0, privacy.noise_multiplier * privacy.bound, D))
    assert update(found, gradients) <= told(found)


@pytest.mark.parametrize("steps", [1, 3])
def test_by_descent_the_worst_sample_comes_near(steps: int) -> None:
    """Every unit at the bound, all along one parameter of the head: most of what is told."""
    found = agreed(privacy=plan_json()["privacy"] | {"noise_multiplier": 1e-6}, steps=steps)
    towards = np.zeros(D)
    towards[-1] = found.privacy.bound * 120  # of 255 at the rate 0.25 so many are sampled once in 10^11
    assert 0.9 * told(found) < update(found, [towards] * steps) <= told(found)


def test_by_descent_the_noise_is_in_it() -> None:
    quiet, loud = (
        told(agreed(privacy=plan_json()["privacy"] | {"noise_multiplier": noise})) for noise in (1.0, 101.0)
    )
    deviation = 100 * 0.5 * np.linalg.norm(RATES) / (0.25 * 512) * np.linalg.norm([1.0, 1.9, 2.71])
    assert deviation < loud - quiet < 1.8 * deviation  # six times the largest rate, of 100 like it, is much


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_no_update_by_adam_is_longer(steps: int, seed: int) -> None:
    found = agreed(privacy=OFF, optimizer="adam", steps=steps)
    random = np.random.default_rng(seed)
    scales = 10.0 ** random.uniform(-6, 3, steps)
    gradients = [scale * random.normal(0, 1, D) for scale in scales]
    assert update(found, gradients) <= told(found)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_by_adam_steady_gradients_come_near(steps: int) -> None:
    found = agreed(privacy=OFF, optimizer="adam", steps=steps)
    assert 0.9 * told(found) < update(found, [np.ones(D)] * steps) <= told(found)


def test_the_heaviest_site_decides() -> None:
    found = agreed(privacy=OFF, optimizer="adam", steps=1)
    north = found.sites[0].model_copy(update={"rows": Rows(low=512, high=1023)})
    sites = (north, *found.sites[1:])
    weight = 512 / (512 + 3 * 128)
    assert reach(found.training, found.privacy, sites, RATES) == pytest.approx(told(found) * weight / 0.25)


def test_without_clipping_descent_is_bounded_by_nothing() -> None:
    with pytest.raises(PlanError, match="--bits") as caught:
        told(agreed(privacy=OFF, optimizer="sgd"))
    assert caught.value.id == "plan_conflict"
