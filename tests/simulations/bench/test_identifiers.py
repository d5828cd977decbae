"""The bench of detectors: its figures are those of the scores."""

from __future__ import annotations

import json

import pytest

from cloister.client.site.identifiers import measured
from cloister.privacy.errors import InputError
from cloister.simulations.bench import identifiers
from cloister.simulations.bench.texts import TextFile


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(identifiers, "_SECONDS", 0.01)


def test_without_data_it_gives_the_figures_that_ship():
    figures = identifiers.run().figures
    for name, suffix in ((measured.OTHERS, ""), (measured.OURS, "_ours")):
        for kind, score in measured.figures().sets[name].items():
            assert figures.get(f"{kind}_recall{suffix}") == score.recall
            assert figures.get(f"{kind}_precision{suffix}") == score.precision
    assert figures["texts_cpu_s"] > 0
    assert figures["characters_cpu_s"] > figures["texts_cpu_s"]


def test_with_data_it_measures_it(tmp_path):
    path = tmp_path / "spans.jsonl"
    rows = [
        {"text": "at ada@example.org", "spans": [{"start": 3, "end": 18, "type": "EMAIL_ADDRESS"}]},
        {"text": "at ada at home", "spans": [{"start": 3, "end": 14, "type": "EMAIL_ADDRESS"}]},
        {"text": "in Bern", "spans": [{"start": 3, "end": 7, "type": "GPE"}]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    figures = identifiers.run(TextFile(path, "text", "label")).figures
    assert figures["email_recall"] == 0.5
    assert figures["email_precision"] == 1.0
    assert "card_recall" not in figures


@pytest.mark.parametrize("text", ["{", '{"text": "a"}', '{"text": "a", "spans": [{"start": 0}]}', "[]", "1"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "spans.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        identifiers.run(TextFile(path, "text", "label"))
    assert refusal.value.id == "file_format"
    with pytest.raises(InputError) as refusal:
        identifiers.run(TextFile(tmp_path / "none", "text", "label"))
    assert refusal.value.id == "file_missing"
