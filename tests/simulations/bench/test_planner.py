"""``bench planner``: a verdict is wrong where it should be, and small cases run whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cloister.simulations.bench import planner
from cloister.simulations.bench.planner import CASES, Case, Verdict, run
from tests import hearts

MEASURED = {
    ("head", "local"): (0.70, 0.71),
    ("means", "local"): (0.72, 0.70),
    ("head", "joint"): (0.80, 0.78),
    ("means", "joint"): (0.79, 0.775),
    ("ridge", "joint"): (0.60, 0.60),
}


def proposal(method: str, mode: str) -> Any:
    return SimpleNamespace(chosen=SimpleNamespace(method=method, mode=mode))


@pytest.mark.parametrize(
    ("method", "mode", "right_mode", "right_method"),
    [
        ("head", "joint", True, True),
        ("means", "joint", True, True),  # half a point behind
        ("ridge", "joint", True, False),
        ("means", "local", False, False),  # a point behind the head
        ("head", "local", False, True),
        ("ridge", "local", False, False),  # cannot be had
    ],
)
def test_a_verdict_is_of_what_was_measured(method, mode, right_mode, right_method):
    found = Verdict.of(proposal(method, mode), MEASURED)
    assert found.gain == pytest.approx(0.08)  # of what does best on rows held back, not on test rows
    assert (found.right_mode, found.right_method) == (right_mode, right_method)


def test_a_mode_that_cannot_be_had_gains_nothing():
    local = {key: value for key, value in MEASURED.items() if key[1] == "local"}
    assert Verdict.of(proposal("head", "local"), local).right_mode


def test_there_are_ten_cases_each_with_a_name_of_its_own():
    assert len({case.name for case in CASES}) == 10


@pytest.mark.job
def test_cases_run_whole_and_missing_data_is_said(tmp_path):
    result = run(hearts.folder(tmp_path / "data"), [Case("heart", 2.0), Case("credit-risk", 1.0)], seeds=1)
    assert result.figures["cases"] == 1
    assert result.figures["right"] <= min(result.figures["right_mode"], result.figures["right_method"])
    assert set(result.figures) == {
        *("right", "right_mode", "right_method", "cases"),
        *("heart_eps2_gain", "heart_eps2_behind"),
    }
    assert result.notes[0].startswith("heart_eps2: joint ")
    assert result.notes[1].startswith("Not measured: credit_risk_eps1. There is no ")
    assert planner.SEEDS == 5
