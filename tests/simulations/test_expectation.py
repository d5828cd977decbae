"""What noise leaves of an expected accuracy: never more than less noise, nor less than one answer."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cloister.privacy.errors import PlanError
from cloister.simulations.expectation import NOISE, Expectation


@st.composite
def expectations(draw):
    """Classes, and what can be expected of them."""
    classes = draw(st.integers(2, 80))
    common = draw(st.none() | st.floats(1 / classes, 0.95))
    share = 1 / classes if common is None else common
    reachable = draw(st.floats(share, 0.999))
    assume(reachable > share + 1e-3)
    return classes, Expectation(reachable, common)


@given(expectations(), st.floats(0, 20), st.floats(0, 20))
def test_more_noise_never_has_more_right_nor_less_than_the_most_common_class(found, one, other):
    classes, expected = found
    expected.check(classes)
    less, more = (expected.accuracy(classes, load) for load in sorted((one, other)))
    assert more <= less + 1e-4
    assert expected.share(classes) - 1e-4 <= more
    assert expected.accuracy(classes, 0.0) == pytest.approx(expected.reachable, abs=1e-4)


@given(expectations())
def test_where_noise_drowns_all_the_most_common_class_is_the_answer(found):
    classes, expected = found
    assert expected.accuracy(classes, 1e5) == pytest.approx(expected.share(classes), abs=5e-3)


@given(st.floats(0.2, 2.0))
def test_two_classes_alike_follow_a_normal_table(load):
    """Phi of half their distance, which is sqrt(2) times how far a row's own score is ahead."""
    normal = NormalDist()
    apart = normal.inv_cdf(0.85) * 2**0.5
    left = apart / (1 + (NOISE * load / apart) ** 2) ** 0.5
    assert Expectation(0.85).accuracy(2, load) == pytest.approx(normal.cdf(left / 2**0.5), abs=1e-4)


@pytest.mark.parametrize(("classes", "common"), [(2, 0.7), (6, 0.4), (20, None)])
def test_the_accuracy_is_that_of_rows_drawn_that_way(classes, common):
    expected = Expectation(0.8, common)
    share = expected.share(classes)
    shares = np.array([share] + [(1 - share) / (classes - 1)] * (classes - 1))
    rng = np.random.default_rng(0)
    own = rng.choice(classes, 60_000, p=shares)
    apart = np.linspace(0.5, 4, 36)
    noise = rng.standard_normal((own.size, classes))
    right = [(noise + far * np.eye(classes)[own] + np.log(shares) / far).argmax(1) == own for far in apart]
    rates = np.array([each.mean() for each in right])
    reached = float(np.interp(0.8, rates, apart))
    for load in (0.2, 0.6):
        left = reached / np.hypot(1, NOISE * load / reached)
        assert expected.accuracy(classes, load) == pytest.approx(np.interp(left, apart, rates), abs=0.01)


def test_the_same_noise_costs_unequal_classes_what_equal_ones_keep():
    """Of ten points between the most common class and what is reachable less is left than of thirty."""
    alike, unequal = Expectation(0.8), Expectation(0.8, 0.7)
    kept = [(each.accuracy(2, 0.5) - each.share(2)) / (0.8 - each.share(2)) for each in (alike, unequal)]
    assert kept[0] > 2 * kept[1]
    assert alike.alike(2)
    assert not unequal.alike(2)


@pytest.mark.parametrize(
    ("expected", "classes", "line"),
    [
        (Expectation(0.9, 0.3), 3, "The most common of 3 classes cannot have a share of 0.3."),
        (Expectation(0.9, 1.0), 3, "The most common of 3 classes cannot have a share of 1."),
        (Expectation(0.9, float("nan")), 3, "The most common of 3 classes cannot have a share of nan."),
        (
            Expectation(1.0),
            2,
            "An accuracy of 1 cannot be expected where the most common of all answers has 0.5",
        ),
        (Expectation(0.6, 0.6), 2, "An accuracy of 0.6 cannot be expected"),
        (Expectation(float("nan")), 2, "An accuracy of nan cannot be expected"),
    ],
)
def test_what_cannot_be_is_refused(expected, classes, line):
    with pytest.raises(PlanError) as caught:
        expected.check(classes)
    assert caught.value.id == "plan_conflict"
    assert caught.value.what.startswith(line)
