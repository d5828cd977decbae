"""The engine's head: the federated run's own steps, in numpy; one unit moves a sum by the bound at most."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.learn.documents import Labelled
from cloister.client.learn.features import Pooled
from cloister.client.learn.training import Guard, LocalTrainer, Settings
from cloister.client.learn.training import Moment as Training
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import FixedEntropy
from cloister.simulations.engine.head import Head, Moment, Steps, head_layout, scores
from cloister.simulations.engine.holding import Holding, pooled
from tests import models

CLASSES, HIDDEN = 4, 32
UNITS = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9, 9])


def holding(rows: int = 16, seed: int = 0, units=None, inputs: int = HIDDEN) -> Holding:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, inputs)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Holding(features.astype(np.float64), rng.integers(0, CLASSES, rows), units)


def trainer_of(held: Holding) -> LocalTrainer:
    classifier = models.classifier(layers=1, top_layers=0)
    features = Pooled(torch.from_numpy(held.features.astype(np.float32)))
    return LocalTrainer(classifier, Labelled(classifier, features, held.labels), held.units)


@pytest.mark.parametrize("units", [None, UNITS], ids=["records", "persons"])
@pytest.mark.parametrize("guard", [None, Guard(1.5, 0.8)], ids=["plain", "private"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_the_same_key_streams_give_the_trainers_own_steps(units, guard, rate):
    held = holding(units=units)
    start = models.vector(head_layout(HIDDEN, CLASSES).size)
    settings = Settings(3, rate, 10, "sgd", 0.3, 0.3, 0.9, guard)
    expected = trainer_of(held).train(start, settings, FixedEntropy(b"a"), Training(1, 1, "m"))
    bound, sigma = (guard.bound, guard.noise_multiplier) if guard else (0.0, 0.0)
    how = Steps(3, rate, 10, 0.3, 0.9, bound, sigma)
    found = Head.of(held, CLASSES).train(start, how, FixedEntropy(b"a"), Moment(1, 1, "m"))
    assert found.mechanisms == expected.mechanisms
    step = 2.0**-10 * bound * sigma * 0.3 / (10 * rate)  # one unit of the noise's grid, as it moves the model
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5 + 3 * step)


@pytest.mark.parametrize("units", [None, UNITS], ids=["records", "persons"])
def test_a_share_is_the_trainers_own_share(units):
    held = holding(units=units)
    order = head_layout(HIDDEN, CLASSES)
    grid = Grid(1.5, order.size, 1.0, sites=4, n_min=3, t=1, sampled=64)
    start = models.vector(order.size)
    expected = trainer_of(held).share(start, grid, 0.5, FixedEntropy(b"b"), Training(1, 1, "m"))
    found = Head.of(held, CLASSES).share(start, grid, 0.5, FixedEntropy(b"b"), Moment(1, 1, "m"))
    assert found.mechanisms == expected.mechanisms
    assert np.abs(found.values - expected.values).max() <= 2  # grid units: torch sums in float32


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 20))
def test_a_person_more_or_less_changes_the_sum_by_at_most_the_bound(seed, bound):
    held = holding(seed=seed, units=UNITS, inputs=3)
    model = np.random.default_rng(seed).normal(size=4 * CLASSES).astype(np.float32)
    whole = Head.of(held, CLASSES).clipped(model, bound).values
    for person in range(10):
        stay = np.flatnonzero(held.units != person)
        without = Head.of(held.take(stay), CLASSES).clipped(model, bound).values
        assert np.linalg.norm(whole - without) <= bound


def test_prediction_is_the_classifiers_own():
    held, model = holding(), models.vector(head_layout(HIDDEN, CLASSES).size)
    classifier = models.classifier(layers=1, top_layers=0)
    models.set_flat(classifier, model)
    with torch.no_grad():
        logits = classifier.classify(torch.from_numpy(held.features.astype(np.float32)))
    assert scores(model, held.features, CLASSES).argmax(axis=1).tolist() == logits.argmax(dim=1).tolist()


class TestHolding:
    def test_a_part_numbers_its_units_anew(self):
        part = holding(units=UNITS).take(np.array([3, 5, 8, 15]))
        assert part.units.tolist() == [0, 0, 1, 2]
        assert (part.number_of_units, part.most_rows) == (3, 2)

    def test_pooling_keeps_the_units_of_sites_apart(self):
        north, south = holding(4, units=np.array([0, 1, 1, 0])), holding(3, units=np.array([0, 0, 1]))
        both = pooled({"north": north, "south": south})
        assert both.units.tolist() == [0, 1, 1, 0, 2, 2, 3]
        assert pooled([north, holding(3)]).units is None

    def test_bands_are_powers_of_two(self):
        held = holding(units=UNITS)
        assert (held.rows_band.low, held.rows_band.high) == (16, 31)
        persons = held.persons_band(3)
        assert (persons.low, persons.high, persons.most_rows) == (8, 15, 3)
        assert holding().persons_band(1) is None

    def test_columns_of_unequal_length_are_refused(self):
        with pytest.raises(ValueError, match="one label"):
            Holding(np.zeros((3, 2)), np.zeros(2, dtype=np.int64))
