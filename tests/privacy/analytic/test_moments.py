"""The vectors of the analytic round: sums over sites are sums over rows; one unit moves them by C at most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.analytic.moments import (
    Moments,
    Terms,
    clipped,
    pack,
    plain,
    unit_norms,
    unpack,
)
from cloister.privacy.errors import PlanError, UpdateError

SEEDS = st.integers(0, 2**32 - 1)
TERMS = st.builds(
    Terms,
    width=st.integers(1, 5),
    classes=st.integers(2, 4),
    kind=st.sampled_from(["ridge", "means"]),
    weight=st.floats(0.05, 3),
    bound=st.floats(0.05, 3),
)


def draw(terms: Terms, seed: int, rows: int, spread: float = 1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, terms.width)) * spread, rng.integers(0, terms.classes, rows)


def by_hand(terms: Terms, row, label):
    """The vector of one row, written out."""
    target = terms.targets(np.array([label]))[0]
    triangle = [terms.weight * row[i] * row[j] for i in range(terms.width) for j in range(i, terms.width)]
    cross = [row[i] * value for i in range(terms.width) for value in target]
    return np.array((triangle if terms.kind == "ridge" else []) + cross)


class TestAlgebra:
    @given(TERMS, SEEDS)
    def test_the_vector_is_the_sum_of_the_vectors_of_rows(self, terms, seed):
        rows, labels = draw(terms, seed, 6)
        expected = sum(by_hand(terms, row, label) for row, label in zip(rows, labels, strict=True))
        np.testing.assert_allclose(plain(terms, rows, labels), expected, atol=1e-12)

    @given(TERMS, SEEDS, st.integers(1, 5))
    def test_sites_add_up_to_everything_in_one_place_in_any_order(self, terms, seed, sites):
        rows, labels = draw(terms, seed, 30)
        rng = np.random.default_rng(seed)
        where, order = rng.integers(0, sites, 30), rng.permutation(30)
        parts = [plain(terms, rows[where == site], labels[where == site]) for site in range(sites)]
        pooled = plain(terms, rows, labels)
        np.testing.assert_allclose(sum(parts), pooled, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(plain(terms, rows[order], labels[order]), pooled, rtol=1e-9, atol=1e-9)

    @given(TERMS, SEEDS)
    def test_packing_and_unpacking_are_inverse(self, terms, seed):
        vector = np.random.default_rng(seed).normal(size=terms.parameters)
        moments = unpack(terms, vector)
        np.testing.assert_allclose(pack(terms, moments), vector, rtol=1e-12)
        if moments.gram is not None:
            assert (moments.gram == moments.gram.T).all()

    def test_layout_known_answer(self):
        terms = Terms(width=2, classes=3, weight=0.5)
        moments = Moments(np.array([[1.0, 2.0], [2.0, 3.0]]), np.arange(6.0).reshape(2, 3))
        assert pack(terms, moments).tolist() == [0.5, 1.0, 1.5, 0, 1, 2, 3, 4, 5]

    def test_two_classes_share_a_column(self):
        assert Terms(2, 2).targets(np.array([0, 1])).tolist() == [[-1.0], [1.0]]
        assert Terms(2, 3).targets(np.array([2])).tolist() == [[0.0, 0.0, 1.0]]

    def test_a_site_without_rows_gives_zeros(self):
        terms = Terms(3, 2)
        nothing = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
        assert not plain(terms, *nothing).any()
        assert not clipped(terms, *nothing).values.any()


class TestSensitivity:
    @given(TERMS, SEEDS)
    def test_norms_are_those_of_the_vectors_written_out(self, terms, seed):
        rows, labels = draw(terms, seed, 5)
        expected = [
            np.linalg.norm(by_hand(terms, row, label)) for row, label in zip(rows, labels, strict=True)
        ]
        np.testing.assert_allclose(unit_norms(terms, rows, labels), expected, rtol=1e-9)

    @given(TERMS, SEEDS)
    def test_norms_of_persons_are_those_of_the_sums_of_their_rows(self, terms, seed):
        rows, labels = draw(terms, seed, 9)
        units = np.array([0, 1, 2, 0, 1, 0, 3, 3, 0])
        expected = [
            np.linalg.norm(sum(by_hand(terms, rows[r], labels[r]) for r in np.flatnonzero(units == unit)))
            for unit in range(4)
        ]
        np.testing.assert_allclose(unit_norms(terms, rows, labels, units), expected, rtol=1e-7, atol=1e-9)

    @given(TERMS, SEEDS, st.sampled_from([1e-6, 1.0, 1e6]))
    def test_a_person_more_or_less_changes_the_sum_by_at_most_the_bound(self, terms, seed, spread):
        """Brute force over every neighbour of a dataset: each person taken out in turn."""
        rows, labels = draw(terms, seed, 10, spread)
        units = np.array([0, 0, 1, 2, 2, 2, 2, 3, 4, 4])
        whole = clipped(terms, rows, labels, units)
        assert whole.bound == terms.bound
        for person in range(5):
            stay = units != person
            rest = np.unique(units[stay], return_inverse=True)[1]
            without = clipped(terms, rows[stay], labels[stay], rest)
            assert np.linalg.norm(whole.values - without.values) <= terms.bound

    @given(TERMS, SEEDS)
    def test_a_long_unit_reaches_the_bound(self, terms, seed):
        """The bound is not merely kept by sending less."""
        rows, labels = draw(terms, seed, 1, spread=1e4)
        assert np.linalg.norm(clipped(terms, rows, labels).values) == pytest.approx(terms.bound)

    def test_units_below_the_bound_are_left_alone(self):
        terms = Terms(2, 2, bound=10.0)
        rows, labels = draw(terms, 0, 8, spread=0.1)
        np.testing.assert_allclose(clipped(terms, rows, labels).values, plain(terms, rows, labels))

    def test_rows_as_persons_of_their_own_are_records(self):
        terms = Terms(3, 3, bound=0.5)
        rows, labels = draw(terms, 4, 12)
        np.testing.assert_allclose(
            clipped(terms, rows, labels).values, clipped(terms, rows, labels, np.arange(12)).values, rtol=1e-9
        )


@pytest.mark.parametrize(
    "broken", [{"width": 0}, {"classes": 1}, {"weight": 0.0}, {"bound": 0.0}, {"bound": float("inf")}]
)
def test_terms_that_are_none_are_refused(broken):
    with pytest.raises(PlanError) as caught:
        Terms(**({"width": 2, "classes": 2} | broken))
    assert caught.value.id == "plan_malformed"


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (np.zeros((2, 3)), np.zeros(2, dtype=np.int64)),
        (np.zeros((2, 2)), np.zeros(3, dtype=np.int64)),
        (np.zeros((1, 2)), np.array([2])),
        (np.zeros((1, 2)), np.array([-1])),
    ],
)
def test_rows_of_another_shape_or_class_are_refused(rows, labels):
    for way in (plain, clipped):
        with pytest.raises(UpdateError) as caught:
            way(Terms(2, 2), rows, labels)
        assert caught.value.id == "update_shape"


def test_a_sum_of_another_length_is_refused():
    with pytest.raises(UpdateError) as caught:
        unpack(Terms(2, 2), np.zeros(6))
    assert caught.value.id == "update_shape"
