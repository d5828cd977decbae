"""``bench planner``: a verdict is wrong where it should be, and small cases run whole."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.privacy.errors import InputError
from cloister.simulations.bench import planner
from cloister.simulations.bench.planner import Score, Trials, Verdict, run
from cloister.simulations.bench.planner_cases import (
    CASES,
    CORPORA,
    GRID,
    TUNING,
    UNSEEN,
    Dealt,
    Sample,
    Story,
)
from cloister.simulations.scenarios.catalogue import find
from tests import hearts

MEASURED = {
    ("head", "local"): Score(0.71),
    ("means", "local"): Score(0.70),
    ("head", "joint"): Score(0.78),
    ("means", "joint"): Score(0.775),
    ("ridge", "joint"): Score(0.60),
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
    assert found.gain == pytest.approx(0.07)  # of the best in each mode
    assert (found.right_mode, found.right_method) == (right_mode, right_method)


def test_the_error_of_a_gain_is_that_of_both_means():
    runs = [0.7, 0.8, 0.9]  # a standard deviation of 0.1
    scores = {("head", "local"): Score.of(runs), ("head", "joint"): Score.of(runs)}
    assert scores["head", "local"] == Score(pytest.approx(0.8), pytest.approx(0.1 / 3**0.5))
    assert Verdict.of(proposal("head", "local"), scores).gain_error == pytest.approx(0.1 * (2 / 3) ** 0.5)
    assert Score.of([0.7]) == Score(0.7)


def test_a_mode_that_cannot_be_had_gains_nothing():
    local = {key: value for key, value in MEASURED.items() if key[1] == "local"}
    assert Verdict.of(proposal("head", "local"), local).right_mode


def test_there_are_ten_cases_and_ten_unseen_and_no_rule_was_set_beside_any_of_them():
    assert len({case.name for case in CASES}) == len({case.name for case in UNSEEN}) == 10
    for some in (TUNING, GRID):
        tuned = {case.name for case in some}
        assert len(tuned) == len(some)
        assert not tuned & {case.name for case in (*CASES, *UNSEEN)}
    corpora = [
        {case.corpus for case in cases if isinstance(case, Sample)} for cases in (UNSEEN, (*TUNING, *GRID))
    ]
    assert not corpora[0] & corpora[1]


def test_expectations_are_public_constants_of_data_sets_and_unseen_texts_have_none():
    assert all(case.expected is None for case in UNSEEN if isinstance(case, Sample))
    assert all(case.expected is not None for case in (*CASES, *TUNING, *GRID))
    dealt = [case for case in (*UNSEEN, *TUNING, *GRID) if isinstance(case, Dealt)]
    assert {case.table: case.expected for case in dealt} == {
        "credit": find("credit-risk").expected,
        "hearts": find("heart").expected,
    }


def test_rows_of_other_shapes_become_texts_with_a_class(tmp_path):
    span = {"start": 4, "end": 9, "type": "PERSON"}
    rows = {
        "train": [{"text": "For Ann", "spans": [span | {"start": 6, "type": "CITY"}, span]}],
        "test": [{"text": "Nothing", "spans": []}],
    }
    for side, some in rows.items():
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    train, test = CORPORA["identifiers"][1](tmp_path)
    assert (train.texts, train.labels, test.labels) == (("For Ann",), ("PERSON",), ("none",))
    for side, tags in (("train", ["O", "B-Disease"]), ("test", ["O", "O"])):
        with gzip.open(tmp_path / f"{side}.jsonl.gz", "wt") as file:
            file.write(json.dumps({"tokens": ["no", "ataxia"], "tags": tags}) + "\n")
    train, test = CORPORA["mentions"][1](tmp_path)
    assert (train.texts, train.labels, test.labels) == (("no ataxia",), ("disease",), ("none",))
    with pytest.raises(InputError, match="There is no"):
        CORPORA["answers"][1](tmp_path / "elsewhere")


@pytest.mark.job
def test_cases_run_whole_and_missing_data_is_said(tmp_path):
    cases, unseen = [Story("heart", 2.0), Story("credit-risk", 1.0)], [Dealt("hearts", 1.0, 3, 1)]
    result = run(hearts.folder(tmp_path / "data"), cases, unseen, Trials(seeds=1, draws=2))
    assert result.figures["cases"] == 1
    assert result.figures["right"] <= min(result.figures["right_mode"], result.figures["right_method"])
    assert set(result.figures) == {
        *("right", "right_mode", "right_method", "cases"),
        *("unseen_right", "unseen_right_mode", "unseen_right_method", "unseen_cases"),
        *(f"heart_eps2_{what}" for what in ("gain", "gain_error", "behind")),
        *(f"unseen_hearts_3_sites_seed1_eps1_{what}" for what in ("gain", "gain_error", "behind")),
    }
    assert result.notes[0].startswith("heart_eps2: joint ")
    assert result.notes[1].startswith("Not measured: credit_risk_eps1. There is no ")
    assert Trials(seeds=50, draws=10) == planner.TRIALS
