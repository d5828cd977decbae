"""The lifted features: public, equal everywhere, and of norm at most 1 where a sum is private."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cloister.privacy import canonical
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.errors import PlanError, UpdateError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "analytic" / "lift.json").read_text())
FINITE = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_known_answers(case):
    found = Lift(**case["lift"]).rows(np.array(case["features"]))
    np.testing.assert_allclose(found, case["rows"], rtol=0, atol=1e-12)


def test_the_constants_decide_and_nothing_else():
    features = np.random.default_rng(0).normal(size=(7, 5))
    one = Lift(5, cosines=11)
    assert (one.rows(features) == Lift(5, cosines=11).rows(features)).all()
    for other in (replace(one, seed=canonical.digest(b"another")), replace(one, bandwidth=1.0)):
        assert np.abs(one.rows(features) - other.rows(features)).max() > 0.01


def test_a_row_depends_on_itself_alone():
    features = np.random.default_rng(1).normal(size=(9, 4))
    lift = Lift(4, cosines=8, cut=True)
    np.testing.assert_allclose(lift.rows(features)[3:4], lift.rows(features[3:4]), atol=1e-15)


@given(arrays(np.float64, (4, 3), elements=FINITE), st.floats(0.01, 100), st.floats(0.01, 100))
def test_cut_rows_have_norm_at_most_one(features, scale, constant):
    rows = Lift(3, cosines=5, scale=scale, constant=constant, cut=True).rows(features)
    assert (np.linalg.norm(rows, axis=1) <= 1).all()


def test_short_rows_are_not_changed_by_the_cut():
    features = np.array([[0.1, 0.2]])
    assert Lift(2, constant=0.3, cut=True).rows(features).tolist() == [[0.1, 0.2, 0.3]]


def test_cosines_approach_the_kernel_of_their_bandwidth():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 6)) / 3
    lift = Lift(6, cosines=40_000, bandwidth=1.3)
    a, b = lift.rows(np.stack([one, other]))[:, 6:-1]
    expected = math.exp(-(1.3**2) * float(((one - other) ** 2).sum()) / 2)
    assert abs(a @ b - expected) < 0.03
    assert abs(a @ a - 1) < 0.03


@pytest.mark.parametrize(
    "broken",
    [
        {"inputs": 0},
        {"cosines": -1},
        {"bandwidth": 0.0},
        {"scale": math.inf},
        {"constant": -1.0},
        {"seed": "sha256:zz"},
    ],
)
def test_constants_that_are_none_are_refused(broken):
    with pytest.raises(PlanError) as caught:
        Lift(**({"inputs": 3} | broken))
    assert caught.value.id == "plan_malformed"


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (np.zeros((2, 4)), "update_shape"),
        (np.zeros(3), "update_shape"),
        (np.full((1, 3), np.nan), "update_not_finite"),
    ],
)
def test_other_features_are_refused(features, reason):
    with pytest.raises(UpdateError) as caught:
        Lift(3).rows(features)
    assert caught.value.id == reason
