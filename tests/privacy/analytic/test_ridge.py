"""The model of a sum: what least squares says, bounded where noise would run away."""

from __future__ import annotations

import numpy as np
import pytest

from cloister.privacy.analytic.moments import Terms, plain
from cloister.privacy.analytic.ridge import Linear, distance, noise_ridge, solve
from cloister.privacy.errors import UpdateError


def data(seed: int = 0, rows: int = 200, width: int = 5, classes: int = 3):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    labels = rng.integers(0, classes, rows)
    return centres[labels] + 0.3 * rng.normal(size=(rows, width)), labels


class TestSolution:
    def test_it_is_the_ridge_regression_that_least_squares_finds(self):
        """Rows of the square root of the ridge, with targets 0, turn ridge into plain least squares."""
        rows, labels = data()
        terms = Terms(5, 3)
        found = solve(terms, plain(terms, rows, labels), 0.7)
        longer = np.vstack([rows, np.sqrt(0.7) * np.eye(5)])
        targets = np.vstack([terms.targets(labels), np.zeros((5, 3))])
        expected = np.linalg.lstsq(longer, targets, rcond=None)[0]
        np.testing.assert_allclose(found.weights, expected, atol=1e-10)

    def test_sites_together_give_the_pooled_solution(self):
        rows, labels = data(rows=400)
        terms = Terms(5, 3, weight=0.25)
        parts = [plain(terms, rows[labels == label], labels[labels == label]) for label in range(3)]
        pooled = solve(terms, plain(terms, rows, labels), 0.1)
        assert distance(solve(terms, sum(parts), 0.1), pooled) < 1e-9
        assert pooled.accuracy(rows, labels) > 0.9

    @pytest.mark.parametrize("classes", [2, 3])
    @pytest.mark.parametrize("kind", ["ridge", "means"])
    def test_it_finds_classes(self, classes, kind):
        rows, labels = data(seed=3, classes=classes)
        terms = Terms(5, classes, kind=kind)
        assert solve(terms, plain(terms, rows, labels), 1.0).accuracy(rows, labels) > 0.9

    def test_means_do_not_care_how_many_rows_a_class_has(self):
        rows, labels = data(seed=5)
        terms = Terms(5, 3, kind="means")
        often = np.concatenate([np.flatnonzero(labels == 0)] * 5 + [np.flatnonzero(labels > 0)])
        one = solve(terms, plain(terms, rows, labels), 1.0)
        assert distance(solve(terms, plain(terms, rows[often], labels[often]), 1.0), one) < 1e-9

    def test_noise_that_takes_the_definiteness_leaves_a_bounded_solution(self):
        terms = Terms(2, 2)
        found = solve(terms, np.array([-4.0, 0.0, 1.0, 3.0, 3.0]), 0.5)
        np.testing.assert_allclose(found.weights[:, 0], [3 / 0.5, 3 / 1.5])

    def test_the_ridge_of_noise_covers_its_largest_eigenvalue(self):
        rng = np.random.default_rng(7)
        noise = np.triu(rng.normal(scale=2.0, size=(200, 200)))
        noise += np.triu(noise, 1).T
        top = float(np.linalg.eigvalsh(noise)[-1])
        assert 0.9 * top < noise_ridge(200, 2.0) < 1.2 * top


class TestPrediction:
    def test_two_classes_by_sign_more_by_the_largest(self):
        rows = np.array([[1.0, 0.0], [-1.0, 0.5]])
        assert Linear(np.array([[1.0], [0.0]])).predict(rows).tolist() == [1, 0]
        assert Linear(np.array([[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]])).predict(rows).tolist() == [0, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sum_that_is_not_finite_is_refused(value):
    with pytest.raises(UpdateError) as caught:
        solve(Terms(1, 2), np.array([1.0, value]), 1.0)
    assert caught.value.id == "update_not_finite"
