"""The figures of utility: gaps have the right sign and unit, and what is measured is the engine itself."""

from __future__ import annotations

import numpy as np
import pytest

from cloister.privacy.cli import main
from cloister.privacy.dp import accounting
from cloister.simulations.bench import utility
from cloister.simulations.bench.utility import Intents
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.ways import HeadSteps, Model, OneRound
from cloister.simulations.scenarios.material import Material

LABELS = ("a", "b", "c")


def holding(seed: int, rows: int = 70) -> Holding:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    features = np.eye(6)[labels] + 0.3 * rng.normal(size=(rows, 6))
    return Holding(features / np.linalg.norm(features, axis=1, keepdims=True), labels)


@pytest.fixture(scope="module")
def told() -> Intents:
    holdings = {f"site-{place}": holding(place) for place in range(4)}
    return Intents(Parties(holdings, LABELS, ("made up", "sha256:" + "0" * 64)), holding(9, 200))


def test_the_analytic_round_is_measured_against_pooling(told, monkeypatch):
    monkeypatch.setattr(utility, "ROUND", OneRound(cosines=16, ridge=0.3))
    found = utility.analytic(told)
    assert found["analytic_accuracy"] > 0.9
    assert found["analytic_error"] < 1e-9 < found["analytic_error_fixed"] < 1e-3
    assert found["analytic_bytes"] == 4 * (23 * 24 // 2 + 23 * 3)


def test_gaps_are_points_and_have_their_sign(told, monkeypatch):
    """Pooled finds 200 rows of 200, joint 180, local 150, ten steps 176: whatever they were trained with."""
    right = {"pooled": 200, "joint": 180, "local": 150}

    def canned(parties, way, epsilon, side, seed):
        count = 176 if way.course == utility.TEN else right[side]

        def scores(features):
            labels = (
                told.test.labels.copy() if len(features) == 200 else np.zeros(len(features), dtype=np.int64)
            )
            labels[count:] = (labels[count:] + 1) % 3
            return np.eye(3)[labels]

        return Model(scores, bytes_up=7)

    monkeypatch.setattr(utility, "trained", canned)
    monkeypatch.setattr(utility, "PLAIN", Course(2, 1, 1.0))
    found = utility.private(told)
    for epsilon in (8, 3, 1):
        assert found[f"joint_eps{epsilon}"] == 0.9
        assert found[f"joint_gap_eps{epsilon}"] == pytest.approx(10.0)
        assert found[f"joint_over_local_eps{epsilon}"] == pytest.approx(15.0)
        assert found[f"bytes_eps{epsilon}"] == 7
    assert found["ten_steps_gap"] == pytest.approx(2.0)


def test_the_interval_is_students():
    """Known answer: 1 to 5 have mean 3, deviation 1.5811, and 2.7764 * 1.5811 / sqrt(5) = 1.9632."""
    found = utility.spread("x", [1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == {
        "x": 3.0,
        "x_low": pytest.approx(1.0368, abs=1e-4),
        "x_high": pytest.approx(4.9632, abs=1e-4),
    }


@pytest.mark.parametrize("side", ["pooled", "joint", "local"])
def test_every_side_has_the_same_epsilon(told, side):
    model = utility.trained(told.parties, HeadSteps(Course(4, 1, 0.5)), 2.0, side, 0, masked=False)
    assert 1.99 < accounting.epsilon(model.mechanisms, utility.DELTA) <= 2.0


def test_a_search_sorts_by_rows_held_back(told):
    found = utility.search(told, 1e4, "pooled", [Course(1, 1, 1e-6), Course(40, 1, 0.5)])
    assert [course.rounds for _, course in found] == [40, 1]
    assert found[0][0] > found[1][0]


def test_the_search_on_hospitals_stays_on_their_training_rows(told):
    """The test rows would refuse: there are none."""
    parts = {name: Holding(held.features, held.labels % 2) for name, held in told.parties.holdings.items()}
    nothing = Holding(np.zeros((0, 6)), np.zeros(0, dtype=np.int64))
    material = Material(("a", "b"), parts, {}, nothing, ("", "sha256:" + "0" * 64))
    found = utility.search_heart(material, Promise(), [OneRound(ridge=1e9), OneRound(ridge=0.1)], folds=2)
    assert len(found) == 2
    assert found[0][0] >= found[1][0] > 0.5
    assert found[0][1].ridge == 0.1


def test_a_new_split_has_the_same_rows_and_other_sides(told):
    parts = told.parties.holdings
    material = Material(
        LABELS, parts, {name: holding(50 + k, 30) for k, name in enumerate(parts)}, told.test, ("", "")
    )
    one, other = utility.resplit(material, 0), utility.resplit(material, 1)
    for name in parts:
        both = np.concatenate([one.train[name].features, one.own[name].features])
        whole = np.concatenate([parts[name].features, material.own[name].features])
        assert sorted(map(tuple, both)) == sorted(map(tuple, whole))
        assert len(one.own[name]) == 34
    assert not np.array_equal(one.test.features, other.test.features)


def test_without_the_data_there_is_one_line(capsys, tmp_path):
    assert main(["bench", "utility", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("There is no ")
    assert said.endswith("[file_missing]")
    assert "\n" not in said
