"""Predictions and scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from cloister.client.learn.evaluation import predict, probabilities, score
from cloister.client.learn.features import Tokens, prepare
from tests import models


@pytest.mark.parametrize("top_layers", [0, 1])
def test_predictions_are_in_the_order_of_the_documents(top_layers: int) -> None:
    placed = models.classifier(top_layers=top_layers)
    ids, vector = models.documents(80), models.vector(placed.layout.size, seed=2)
    found = probabilities(placed, prepare(placed, ids), vector)
    one_by_one = [probabilities(placed, Tokens((some,)), vector)[0] for some in ids]
    np.testing.assert_allclose(found, one_by_one, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(predict(placed, prepare(placed, ids), vector), found.argmax(axis=1))


def test_scores_by_hand() -> None:
    scores = score(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]))
    assert (scores.accuracy, scores.documents) == (0.5, 4)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_macro_f1_is_that_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(pairs).T
    expected = f1_score(labels, predicted, average="macro", zero_division=0)
    assert score(predicted, labels).macro_f1 == pytest.approx(expected)
