"""The cached work: which texts, and that a kept prefix does not change what is computed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cloister.client.learn.features import Hidden, Tokens, Units, prepare
from cloister.client.site.records import Records
from cloister.privacy.errors import InputError
from cloister.simulations.bench import step_cached
from cloister.simulations.bench.step_work import Work
from cloister.simulations.bench.texts import TextFile
from tests import models

DATA = Path(__file__).parents[3] / "../shared/data/banking77/train.csv"


def test_rows_are_taken_in_an_order_that_is_random_and_the_same_each_time() -> None:
    texts = tuple(f"{number}" for number in range(100))
    found = Records(texts, tuple("ab"[number % 2] for number in range(100)))
    first, again = step_cached.shuffled(found, 30), step_cached.shuffled(found, 30)
    assert first == again
    assert len(first) == len(set(first.texts)) == 30
    assert list(first.texts) != sorted(first.texts, key=int)
    assert all(label == "ab"[int(text) % 2] for text, label in zip(first.texts, first.labels, strict=True))
    assert len(step_cached.shuffled(found, 1000)) == 100


def test_there_are_enough_synthetic_notes() -> None:
    found = step_cached.notes()
    assert len(found) >= step_cached.ROWS
    assert len(found.classes()) > 2


def test_a_file_is_read_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("question,intent\nwhere is it?,card\nhow much?,fee\n")
    found = TextFile(path, "question", "intent").read()
    assert (found.texts, found.labels) == (("where is it?", "how much?"), ("card", "fee"))
    with pytest.raises(InputError):
        TextFile(path, "question", "nothing").read()


def test_both_sides_have_the_same_gradient() -> None:
    classifier, documents = models.classifier(), models.documents(12)
    units, labels = Units.of(np.arange(12)), models.labels(12)
    hidden = prepare(classifier, documents)
    assert isinstance(hidden, Hidden)
    whole = Work(classifier, Tokens(documents), labels, units, 0.5)
    cached = Work(classifier, hidden, labels, units, 0.5)

    def gradient(parts: list) -> torch.Tensor:
        loss = torch.stack([part.losses().sum() for part in parts]).sum()
        return torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(loss, list(classifier.trained.values()))]
        )

    everyone = np.arange(12)
    torch.testing.assert_close(
        gradient(cached.batches(everyone)), gradient(whole.natural(everyone)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the folder of data sets is not beside this checkout")
def test_real_texts_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_cached, "ROWS", 40)
    found = step_cached.measure(TextFile(DATA, "text", "label").read(), repeats=2)
    assert len(found.ratios) == 2
    assert all(ratio > 0 for ratio in found.ratios)
    assert found.filling > 0
