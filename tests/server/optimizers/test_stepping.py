"""The server's steps: known answers by hand, their laws, and a run that is cut short and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cloister.privacy import canonical
from cloister.privacy.errors import PlanError
from cloister.privacy.methods import ServerMomentum, ServerOptimizer
from cloister.privacy.plan import Plan
from cloister.server.checkpoint import Checkpoint
from cloister.server.optimizers import stepping
from tests.plans import plan, plan_json
from tests.server.test_sums import FOUR, OFF, SECURE, Weather, consortium, run

pytestmark = pytest.mark.job

MEANS = [np.array([1.0, -2.0], np.float32), np.array([0.5, 0.5], np.float32)]
BY_HAND: dict[str, tuple[dict[str, Any], list[list[float]]]] = {
    # v = 1, -2, then 0.5 * 1 + 0.5 = 1, -0.5
    "momentum": ({"kind": "momentum", "rate": 2.0, "momentum": 0.5}, [[2, -4], [2, -1]]),
    # 0.5 v + mean: 1.5, -3, then 0.5 * 1 + 0.5 = 1, 0.25
    "nesterov": ({"kind": "nesterov", "rate": 2.0, "momentum": 0.5}, [[3, -6], [2, 0.5]]),
    # m = 0.5, -1; v = (0.25 + 1) / 2, (0.25 + 4) / 2; then m = 0.5, -0.25; v = 0.4375, 1.1875
    "adam": (
        {"kind": "adam", "rate": 2.0, "first": 0.5, "second": 0.5, "floor": 0.5},
        [
            [1 / (0.625**0.5 + 0.5), -2 / (2.125**0.5 + 0.5)],
            [1 / (0.4375**0.5 + 0.5), -0.5 / (1.1875**0.5 + 0.5)],
        ],
    ),
}
KINDS = sorted(stepping.USUAL)


def optimizer(value: dict[str, Any]) -> ServerOptimizer:
    found: ServerOptimizer = TypeAdapter(ServerOptimizer).validate_python(value)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_by_hand(kind: str) -> None:
    value, expected = BY_HAND[kind]
    moments: stepping.Moments = ()
    for mean, wanted in zip(MEANS, expected, strict=True):
        change, moments = stepping.step(optimizer(value), moments, mean)
        assert change.dtype == np.float32
        assert all(moment.dtype == np.float32 for moment in moments)
        np.testing.assert_allclose(change, wanted, rtol=1e-6)


def test_without_an_optimizer_the_mean_is_the_change() -> None:
    change, moments = stepping.step(None, (), MEANS[0])
    np.testing.assert_array_equal(change, MEANS[0])
    assert moments == ()


def test_without_memory_at_rate_one_momentum_is_no_optimizer() -> None:
    change, _ = stepping.step(ServerMomentum(kind="momentum", rate=1.0, momentum=0.0), (), MEANS[0])
    np.testing.assert_array_equal(change, MEANS[0])


@given(st.lists(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), min_size=1, max_size=12))
def test_adam_moves_no_coordinate_further_than_its_rate_allows(means: list[list[float]]) -> None:
    """By Cauchy and Schwarz |m| <= (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) sqrt(v)."""
    how, moments = stepping.USUAL["adam"], ()
    most = 0.1 / (0.01 * (1 - 0.81 / 0.99)) ** 0.5
    for mean in means:
        change, moments = stepping.step(how, moments, np.array(mean, np.float32))
        assert np.abs(change).max() <= how.rate * most * 1.0001


# In a job


def job(folder: Path, kind: str | None, *, secure: bool = False, **more: Any) -> Any:
    training = plan_json()["training"] | {"rounds": 4} | more
    if kind:
        training["server"] = stepping.USUAL[kind].model_dump()
    return consortium(folder, secure=secure, privacy=OFF, training=training)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_takes_these_steps_with_and_without_secure_sums(tmp_path: Path, kind: str) -> None:
    end = run(job(tmp_path / "a", kind), Weather())
    model, moments = np.zeros(5, np.float32), ()
    for _ in range(4):  # every learner goes half of its way to 1, 2, 3 or 4
        change, moments = stepping.step(stepping.USUAL[kind], moments, (np.float32(2.5) - model) / 2)
        model = model + change
    np.testing.assert_allclose(end.model, model, rtol=1e-5)
    secure = run(job(tmp_path / "b", kind, secure=True), Weather())
    np.testing.assert_array_equal(secure.model, end.model)
    assert not np.array_equal(end.model, run(job(tmp_path / "c", None), Weather()).model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lead_that_was_killed_ends_in_the_same_model_bit_for_bit(tmp_path: Path, kind: str) -> None:
    whole = run(job(tmp_path / "a", kind), Weather())
    cut = job(tmp_path / "b", kind)
    path = tmp_path / "checkpoint"

    def save(state: Checkpoint) -> None:
        state.save(path)
        if state.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.federation(save=save).run(cut.grid())
    cut.sites = {name: cut.site(name) for name in FOUR}
    kept = Checkpoint.load(path, cut.plan.digest)
    assert len(kept.moments) == (2 if kind == "adam" else 1)
    end = cut.federation(resume=kept).run(cut.grid())
    np.testing.assert_array_equal(end.model, whole.model)


def test_without_what_it_remembers_the_run_would_end_elsewhere(tmp_path: Path) -> None:
    found = job(tmp_path, "adam", rounds=2)
    end = run(found, Weather())
    kept = found.saved[-2]
    assert kept.round == 1
    change, _ = stepping.step(found.plan.training.server, (), (np.float32(2.5) - kept.model) / 2)
    assert not np.allclose(end.model, kept.model + change, rtol=1e-3)


# The plan


class TestPlan:
    """What a plan may say of the server's step."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_survives_the_bytes_and_is_named(self, kind: str) -> None:
        training = plan_json()["training"] | {"server": stepping.USUAL[kind].model_dump()}
        data = canonical.encode(plan_json(training=training))
        found = Plan.from_bytes(data)
        assert found.to_bytes() == data
        assert found.training.server == stepping.USUAL[kind]
        assert found.method.lower().startswith(f"fedavg, server {kind}")

    def test_without_it_the_bytes_say_nothing(self) -> None:
        assert b'"server"' not in plan().to_bytes()
        assert plan().method == "fedavg"

    @pytest.mark.parametrize(
        "broken",
        [
            None,
            {"kind": "yogi", "rate": 1.0},
            {"kind": "momentum", "rate": 1.0},
            {"kind": "momentum", "rate": 0.0, "momentum": 0.9},
            {"kind": "momentum", "rate": 11.0, "momentum": 0.9},
            {"kind": "momentum", "rate": 1.0, "momentum": 1.0},
            {"kind": "adam", "rate": 1.0, "first": 0.9, "second": 0.99, "floor": 0.0},
            {"kind": "adam", "rate": 1.0, "first": 0.9, "second": 0.99, "floor": 1e-3, "momentum": 0.9},
        ],
    )
    def test_another_is_refused(self, broken: Any) -> None:
        with pytest.raises(PlanError) as caught:
            Plan.from_bytes(
                canonical.encode(plan_json(training=plan_json()["training"] | {"server": broken}))
            )
        assert caught.value.id == "plan_malformed"

    def test_joint_privacy_refuses_it_and_says_why(self) -> None:
        training = plan_json()["training"] | {"steps": 1, "server": stepping.USUAL["adam"].model_dump()}
        value = plan_json(
            FOUR, training=training, aggregation=SECURE, privacy=plan_json()["privacy"] | {"mode": "joint"}
        )
        with pytest.raises(PlanError, match="every site takes each step again"):
            Plan.from_bytes(canonical.encode(value))
