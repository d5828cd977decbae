"""A release: sums to within fixed point, noise of the deviation that is charged, and nothing unsound."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cloister.privacy.analytic.lift import Lift
from cloister.privacy.analytic.moments import Terms, clipped, plain
from cloister.privacy.analytic.release import Release
from cloister.privacy.analytic.ridge import distance, solve
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError, UpdateError

TERMS = Terms(width=41, classes=3, weight=0.5, bound=0.8)
SITES = 4


def rows_of(site: int, n: int = 60):
    rng = np.random.default_rng(site)
    features = rng.normal(size=(n, 8))
    return Lift(8, cosines=32, scale=0.2, cut=True).rows(features), rng.integers(0, 3, n)


def stream(site: int, turn: int = 0):
    return FixedEntropy(b"release", job=f"{site} {turn}").stream("noise", round=1, model="m")


def opened(release: Release, turn: int = 0):
    """The decoded sum of all sites."""
    total = np.zeros(release.terms.parameters, dtype=np.uint32)
    for site in range(SITES):
        rows, labels = rows_of(site)
        total += np.frombuffer(release.encoded(rows, labels, None, stream(site, turn)).content, "<u4")
    return release.decoded(total)


def expected(way):
    parts = [way(TERMS, *rows_of(site)) for site in range(SITES)]
    return sum(getattr(part, "values", part) for part in parts)


OFF = Release(TERMS, (100,) * SITES)
LOCAL = replace(OFF, mode="local", noise_multiplier=2.0)
JOINT = replace(OFF, mode="joint", noise_multiplier=2.0, n_min=3, t=1)


class TestFixedPoint:
    def test_a_sum_is_off_by_at_most_half_a_step_a_site(self):
        error = np.abs(opened(OFF) - expected(plain)).max()
        assert error <= SITES * OFF.ring.step / 2 * (1 + 1e-9)
        assert error > 0

    def test_the_solution_is_the_pooled_one_to_a_thousandth(self):
        pooled = solve(TERMS, expected(plain), 0.3)
        assert distance(solve(TERMS, opened(OFF), 0.3), pooled) < 1e-3

    def test_without_privacy_nothing_is_charged(self):
        assert OFF.mechanism is None
        rows, labels = rows_of(0)
        assert OFF.encoded(rows, labels, None, stream(0)).mechanisms == ()

    def test_more_rows_than_the_public_number_are_refused_where_they_would_not_fit(self):
        rows, labels = np.ones((500, 41)), np.zeros(500, dtype=np.int64)
        with pytest.raises(UpdateError) as caught:
            OFF.encoded(rows, labels, None, stream(0))
        assert caught.value.id == "update_range"

    def test_bytes_are_those_of_the_vector(self):
        rows, labels = rows_of(0)
        assert len(OFF.encoded(rows, labels, None, stream(0)).content) == OFF.content_bytes == 4 * (861 + 123)


@pytest.mark.parametrize("release", [LOCAL, JOINT], ids=["local", "joint"])
class TestNoise:
    def test_its_deviation_is_what_the_release_says(self, release):
        """Some 20,000 values: the mean square is within 5 standard errors, and of no sigma 10 % off."""
        drawn = np.concatenate([opened(release, turn) - expected(clipped) for turn in range(20)])
        error = 5 * math.sqrt(2 / drawn.size)
        ratio = float((drawn**2).mean()) / release.deviation**2
        assert abs(ratio - 1) < error
        for wrong in (0.9, 1.1):
            assert abs(ratio / wrong**2 - 1) > error
        assert abs(drawn.mean()) < 5 * release.deviation / math.sqrt(drawn.size)

    def test_one_full_batch_is_charged(self, release):
        rows, labels = rows_of(0)
        assert release.encoded(rows, labels, None, stream(0)).mechanisms == (GaussianSteps(2.0, 1.0, 1),)
        assert release.mechanism == GaussianSteps(2.0, 1.0, 1)

    def test_another_stream_gives_other_noise(self, release):
        assert np.abs(opened(release, 1) - opened(release, 2)).max() > release.deviation


def test_the_deviations_of_both_modes():
    assert LOCAL.deviation == pytest.approx(2.0 * 0.8 * 2)
    assert JOINT.deviation == pytest.approx(
        2.0 * 0.8 * math.sqrt(2), rel=0.006
    )  # the grid's rounding is charged
    assert JOINT.deviation > 2.0 * 0.8 * math.sqrt(2)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": ()},
        {"rows": (10, 0)},
        {"mode": "local"},
        {"noise_multiplier": 1.0},
        {"mode": "joint", "noise_multiplier": 1.0, "n_min": 2},
        {"mode": "joint", "noise_multiplier": 1.0, "n_min": 3, "rows": (10**6,) * 4},
    ],
)
def test_releases_that_cannot_be_are_refused(change):
    with pytest.raises(PlanError) as caught:
        replace(OFF, **change)
    assert caught.value.id == "plan_conflict"
