"""Cached features are exact: the same logits as the full model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.learn.adapters import place, set_flat
from cloister.client.learn.features import Features, Hidden, Pooled, Tokens, chunks, prepare
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
    kept = half.values if isinstance(half, Pooled) else half.states[0]  # type: ignore[attr-defined]
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
