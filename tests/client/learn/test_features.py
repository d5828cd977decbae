"""Cached features are exact: the same logits as the full model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.learn.adapters import place, set_flat
from cloister.client.learn.features import Features, Hidden, Pooled, Tokens, Units, chunks, prepare
from cloister.client.learn.model import load_encoder, tokenize
from cloister.privacy import model
from tests import models

DOCUMENTS = 9


def logits(features: Features, placed: object, rows: list[int]) -> np.ndarray:
    with torch.no_grad():
        return features.logits(placed, np.array(rows)).numpy()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(("top_layers", "form"), [(0, Pooled), (1, Hidden), (2, Hidden), (3, Tokens)])
def test_cached_logits_are_those_of_the_full_model(kind: str, top_layers: int, form: type) -> None:
    placed = models.classifier(kind, top_layers=top_layers)
    ids = models.documents(DOCUMENTS)
    features = prepare(placed, ids)
    assert isinstance(features, form)
    set_flat(placed, models.vector(placed.layout.size, seed=11))  # trained after the features were kept
    rows = [4, 0, 7, 7]
    alone = np.concatenate([logits(Tokens(ids), placed, [row]) for row in rows])
    np.testing.assert_allclose(logits(features, placed, rows), alone, rtol=0, atol=1e-5)
    assert np.ptp(alone) > 0.5


def test_an_encoder_of_another_build_runs_whole() -> None:
    placed = models.classifier("electra", top_layers=1)
    assert isinstance(prepare(placed, models.documents(3)), Tokens)


@pytest.mark.slow
@pytest.mark.parametrize("top_layers", [0, 1, 3])
def test_cached_logits_are_those_of_the_full_model_on_minilm(top_layers: int) -> None:
    base = model.describe(model.DEFAULT)
    encoder = load_encoder(base)
    placed = place(encoder, models.layout_of(encoder, top_layers=top_layers), models.ALPHA)
    set_flat(placed, models.vector(placed.layout.size))
    ids = tokenize(base, ["Chest pain since Monday.", "fever", "A card was charged twice, says he."], 64)
    whole = logits(Tokens(ids), placed, [0, 1, 2])
    np.testing.assert_allclose(logits(prepare(placed, ids), placed, [0, 1, 2]), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("top_layers", [0, 1])
def test_half_precision_is_close(top_layers: int) -> None:
    placed = models.classifier(top_layers=top_layers)
    ids, rows = models.documents(DOCUMENTS), list(range(DOCUMENTS))
    half = prepare(placed, ids, half=True)
    np.testing.assert_allclose(
        logits(half, placed, rows), logits(Tokens(ids), placed, rows), rtol=0, atol=0.02
    )
    kept = half.values if isinstance(half, Pooled) else half.below[0]  # type: ignore[attr-defined]
    assert kept.dtype == torch.float16


def test_lengths_are_the_numbers_of_tokens() -> None:
    ids = models.documents(DOCUMENTS)
    expected = [len(some) for some in ids]
    assert Tokens(ids).lengths.tolist() == expected
    assert prepare(models.classifier(), ids).lengths.tolist() == expected
    assert prepare(models.classifier(top_layers=0), ids).lengths.tolist() == [1] * DOCUMENTS


@given(st.lists(st.integers(1, 3000), max_size=200), st.data())
def test_chunks_hold_every_row_once_and_stay_small(lengths: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True)) if lengths else []
    found = list(chunks(np.array(lengths, dtype=np.int64), np.array(rows, dtype=np.int64)))
    assert sorted(row for chunk in found for row in chunk.tolist()) == sorted(rows)
    longest = [[lengths[row] for row in chunk] for chunk in found]
    assert all(len(chunk) == 1 or (len(chunk) <= 64 and len(chunk) * max(chunk) <= 4096) for chunk in longest)
    assert [length for chunk in longest for length in chunk] == sorted(lengths[row] for row in rows)


class TestUnits:
    @given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 600)), min_size=1, max_size=200), st.data())
    def test_chunks_hold_all_rows_of_each_unit_side_by_side(
        self, rows: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        of_row = np.unique([unit for unit, _ in rows], return_inverse=True)[1].astype(np.int64)
        lengths = np.array([length for _, length in rows], dtype=np.int64)
        units = Units.of(of_row)
        chosen = np.array(data.draw(st.lists(st.integers(0, len(units) - 1), unique=True)), dtype=np.int64)
        found = list(units.chunks(lengths, chosen))
        every = np.concatenate([*found, np.zeros(0, dtype=np.int64)])
        assert sorted(every.tolist()) == np.flatnonzero(np.isin(of_row, chosen)).tolist()
        owners = [of_row[chunk].tolist() for chunk in found]
        assert sum(len(set(owner)) for owner in owners) == len(chosen)  # no unit in two chunks
        for chunk, owner in zip(found, owners, strict=True):
            assert 1 + int(np.count_nonzero(np.diff(owner))) == len(set(owner))  # side by side
            if len(set(owner)) > 1:
                assert len(chunk) <= 64
                assert len(chunk) * lengths[chunk].max() <= 4096

    def test_units_of_one_row_are_chunked_like_rows(self) -> None:
        lengths = np.random.default_rng(3).integers(1, 300, 200)
        rows = np.random.default_rng(4).permutation(200)[:120]
        units = Units.of(np.arange(200, dtype=np.int64))
        for one, other in zip(chunks(lengths, rows), units.chunks(lengths, rows), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_unit_larger_than_a_batch_is_one_batch(self) -> None:
        units = Units.of(np.zeros(100, dtype=np.int64))
        (chunk,) = units.chunks(np.full(100, 500), np.array([0]))
        assert chunk.tolist() == list(range(100))

    def test_no_units_give_no_batch(self) -> None:
        units = Units.of(np.array([0, 1, 0]))
        assert len(units) == 2
        assert list(units.chunks(np.ones(3, dtype=np.int64), np.zeros(0, dtype=np.int64))) == []

    def test_gaps_are_refused(self) -> None:
        with pytest.raises(ValueError, match="without gaps"):
            Units.of(np.array([0, 2]))
