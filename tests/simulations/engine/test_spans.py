"""Tagged documents: whole entities are counted, and a document counts as one record, however long."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cloister.client.learn.adapters import place_tagger
from cloister.client.learn.documents import NOTHING, Tagged
from cloister.client.learn.features import Hidden
from cloister.client.learn.training import Guard, LocalTrainer, Settings
from cloister.client.learn.training import Moment as Training
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.layout import Placement, layout
from cloister.simulations.engine import spans
from cloister.simulations.engine.head import Head, Moment, Steps, head_layout
from cloister.simulations.engine.holding import Holding, pooled
from tests import models

TAGS = ("O", "B-X", "I-X")
LENGTHS = (3, 1, 5, 2, 4, 1)
DOCUMENTS = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
PERSONS = np.array([0, 0, 1, 1, 2, 3])[DOCUMENTS]
HIDDEN = 32


def tagged(units=None) -> Holding:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(len(DOCUMENTS), HIDDEN)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = rng.integers(0, 3, len(DOCUMENTS))
    return Holding(features.astype(np.float64), labels, units, DOCUMENTS, TAGS)


def tagger_of(held: Holding) -> LocalTrainer:
    """A site's own trainer on the same words, a token without a tag before and after each document."""
    encoder = models.encoder(layers=1)
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    tagger = place_tagger(encoder, layout(shapes, HIDDEN, Placement(1, ("query",), 0, 3)), 1.0)
    below, targets = [], []
    for document in range(len(LENGTHS)):
        rows = held.documents == document
        states = torch.from_numpy(held.features[rows].astype(np.float32))
        blank = torch.full((1, HIDDEN), 0.1)
        below.append(torch.cat([blank, 3 * states, blank]))  # lengths are no part of what a tagger sees
        targets.append(np.concatenate([[NOTHING], held.labels[rows], [NOTHING]]))
    documents = Tagged(tagger, Hidden(tuple(below), 1), tuple(targets), TAGS)
    units = None if held.units is None else held.units[np.unique(DOCUMENTS, return_index=True)[1]]
    return LocalTrainer(tagger, documents, units)


@pytest.mark.parametrize("units", [None, PERSONS], ids=["sentences", "persons"])
@pytest.mark.parametrize("guard", [None, Guard(0.5, 0.8)], ids=["plain", "private"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_the_same_key_streams_give_the_taggers_own_steps(units, guard, rate):
    held = tagged(units)
    start = models.vector(head_layout(HIDDEN, 3).size)
    settings = Settings(3, rate, 6, "sgd", 0.3, 0.3, 0.9, guard)
    expected = tagger_of(held).train(start, settings, FixedEntropy(b"a"), Training(1, 1, "m"))
    bound, sigma = (guard.bound, guard.noise_multiplier) if guard else (0.0, 0.0)
    how = Steps(3, rate, 6, 0.3, 0.9, bound, sigma)
    found = Head.of(held, 3).train(start, how, FixedEntropy(b"a"), Moment(1, 1, "m"))
    assert found.mechanisms == expected.mechanisms
    step = 2.0**-10 * bound * sigma * 0.3 / (6 * rate)  # one unit of the noise's grid, as it moves the model
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5 + 3 * step)


@pytest.mark.parametrize("units", [None, PERSONS], ids=["sentences", "persons"])
def test_one_unit_moves_a_sum_by_the_bound_at_most(units):
    held, bound = tagged(units), 0.05
    start = models.vector(head_layout(HIDDEN, 3).size)
    whole = Head.of(held, 3).clipped(start, bound).values
    for unit in range(held.number_of_units):
        rest = held.take(np.flatnonzero(held.whose != unit))
        without = Head.of(rest, 3).clipped(start, bound).values
        # Other rows move in the last bits of float32: a product takes another way for fewer rows.
        assert 0.9 * bound < np.linalg.norm(whole - without) <= bound * (1 + 1e-6)


def test_a_document_is_a_record():
    held = tagged(PERSONS)
    assert (held.records, len(held), held.number_of_units, held.most_rows) == (6, 16, 4, 2)
    assert (held.rows_band.low, held.rows_band.high, held.most_words) == (4, 7, 31)
    bare = tagged()
    assert (bare.number_of_units, bare.most_rows, bare.persons_band(1)) == (6, 1, None)
    part = held.take(held.rows_of(np.array([1, 3])))
    assert part.documents.tolist() == [0] * 5 + [1] * 2 + [2]
    assert part.units.tolist() == [0] * 7 + [1]
    both = pooled([part, bare])
    assert both.units is None
    assert both.records == 9
    assert pooled([part, part]).units.tolist() == [*part.units, *(part.units + 2)]


def test_whole_entities_are_counted_by_hand():
    """Three of four found, one of them cut short, one made up: 2 right of 4 found and 4 meant."""
    meant = np.array([1, 2, 0, 1, 0, 1, 2, 2, 0, 1, 0, 0])
    found = np.array([1, 2, 0, 1, 0, 1, 2, 0, 0, 0, 1, 0])
    firsts = np.array([0, 5, 9])
    counted = spans.counts(found, meant, firsts, TAGS)
    assert counted.tolist() == [[2, 2, 2], [0, 1, 1], [0, 1, 1]]
    assert spans.f1(counted) == 0.5
    assert spans.f1(spans.counts(meant, meant, firsts, TAGS)) == 1.0
    held = Holding(np.zeros((12, 2)), meant, None, np.repeat([0, 1, 2], [5, 4, 3]), TAGS)
    assert held.score(found) == 0.5
    assert held.score(np.zeros(12, dtype=np.int64)) == 0.0
    assert spans.f1(np.zeros((2, 3), dtype=np.int64)) == 1.0


def test_the_interval_narrows_with_documents_and_holds_the_figure():
    some = np.array([[1, 2, 2], [1, 1, 1], [0, 1, 2], [2, 2, 3]] * 10)
    low, high = spans.interval(some)
    narrow = spans.interval(np.tile(some, (16, 1)))
    assert low < spans.f1(some) < high
    assert narrow[1] - narrow[0] < 0.4 * (high - low)
    assert spans.interval(some) == (low, high)
