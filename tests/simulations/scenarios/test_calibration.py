"""Temperatures over sites, the error of probabilities, and groups of which too few rows tell."""

from __future__ import annotations

import numpy as np
import pytest

from cloister.simulations.scenarios import calibration
from cloister.simulations.scenarios.groups import FEWEST, Groups


def drawn(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn by just their probabilities: calibrated as they are."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 4)) * 2
    powers = np.exp(logits)
    chances = (powers / powers.sum(axis=1, keepdims=True)).cumsum(axis=1)
    return logits, (rng.random(rows)[:, None] > chances).sum(axis=1)


@pytest.mark.parametrize("heat", [0.05, 1.0, 20.0])
def test_the_temperature_that_scores_were_spoilt_by_is_found_over_sites(heat):
    logits, labels = drawn(20_000)
    parts = np.array_split(np.arange(len(labels)), [500, 7000, 12_000])
    found = calibration.temperature(calibration.losses(logits[rows] * heat, labels[rows]) for rows in parts)
    assert found == pytest.approx(heat, rel=0.13)  # a step of the grid
    before, after = (calibration.error(logits * heat, labels, at) for at in (1.0, found))
    assert after < 0.02
    assert heat == 1.0 or before > 0.1


def test_sites_apart_give_the_temperature_of_all_rows_together():
    logits, labels = drawn(900)
    apart = calibration.temperature(
        calibration.losses(logits[rows] * 3, labels[rows]) for rows in np.array_split(np.arange(900), 3)
    )
    assert apart == calibration.temperature([calibration.losses(logits * 3, labels)])


def test_the_error_by_hand():
    """Two rows in one bin: sure by 0.8, right by 0.5; ten points of error times three."""
    scores = np.log(np.array([[0.8, 0.2], [0.8, 0.2]]))
    assert calibration.error(scores, np.array([0, 1])) == pytest.approx(0.3)
    assert calibration.error(scores, np.array([0, 0])) == pytest.approx(0.2)


def test_scores_that_are_huge_stay_finite():
    scores = np.array([[1e5, -1e5], [-1e5, 1e5]])
    assert np.isfinite(calibration.losses(scores, np.array([1, 1]))).all()
    assert calibration.error(scores, np.array([0, 0])) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("counts", "shown", "hidden"),
    [
        ({"a": FEWEST, "b": 50}, {"a", "b"}, 0),
        ({"a": FEWEST - 1, "b": 30, "c": 50}, {"c"}, 2),  # b goes, too, or a could be worked out
        ({"a": 3, "b": 5, "c": 50}, {"c"}, 2),
        ({"a": 3, "b": 50}, set(), 2),
    ],
)
def test_few_rows_are_not_shown_and_cannot_be_worked_out(counts, shown, hidden):
    groups = Groups("ward", tuple(name for name, many in counts.items() for _ in range(many)))
    assert set(groups.shown) == shown
    assert groups.hidden == hidden
    hits = np.array([float(value == "c") for value in groups.values])
    assert groups.accuracies(hits) == {name: float(name == "c") for name in shown}
