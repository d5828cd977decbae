"""The figures that ship are those of the detectors that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.client.site.identifiers import detection, gold, measured
from cloister.client.site.identifiers.detection import Scanner
from cloister.client.site.identifiers.findings import KINDS, Counts, Found
from cloister.client.site.identifiers.measured import OTHERS, OURS, Score
from cloister.simulations.bench.identifiers import spans

PRESIDIO = Path(__file__).parents[4] / "../shared/data/presidio_pii/test.jsonl"
AGAIN = "measure again: python .ci/identifiers.py ../shared/data/presidio_pii"


def test_figures_are_of_these_detectors():
    assert measured.figures().detector == detection.digest(), AGAIN


def test_figures_on_our_notes_are_what_is_measured_now():
    now = measured.measure(Scanner(), [(note.text, note.spans) for note in gold.notes()])
    assert measured.figures().sets[OURS] == now, AGAIN


@pytest.mark.skipif(not PRESIDIO.exists(), reason="the shared data folder is not beside this checkout")
def test_figures_on_presidio_pii_are_what_is_measured_now():
    assert measured.figures().sets[OTHERS] == measured.measure(Scanner(), spans(PRESIDIO)), AGAIN


def test_our_notes_are_many_hard_and_always_the_same():
    notes = gold.notes()
    assert notes == gold.notes()
    assert len(notes) >= 60
    assert {span.kind for note in notes for span in note.spans} == set(KINDS) - {"unsettled"}
    for note in notes:
        assert all(0 <= span.start < span.end <= len(note.text) for span in note.spans)
        assert not any(bracket in note.text for bracket in "{}")
    scores = measured.figures().sets[OURS]
    assert sum(score.recall < 1 for score in scores.values() if score.recall is not None) >= 5
    assert scores["name"].recall is not None
    assert scores["name"].recall < 0.6


class Fixed:
    """Finds what it was told to."""

    def __init__(self, *found: Found) -> None:
        self.found = found

    def find(self, text: str) -> tuple[Found, ...]:
        return self.found


def test_a_span_counts_only_when_it_is_covered_wholly_by_whatever_kind():
    gold_spans = [Found("ip", 0, 4), Found("ip", 6, 9), Found("address", 20, 30)]
    scanner = Fixed(Found("ip", 0, 3), Found("url", 5, 10), Found("zip", 25, 30), Found("name", 40, 44))
    scores = measured.measure(scanner, [("x" * 50, gold_spans)])
    assert scores["ip"] == Score(gold=2, covered=1, marked=1, right=1)
    assert scores["url"] == Score(marked=1)
    assert scores["zip"] == Score(marked=1, right=1)  # a postcode is part of an address
    assert scores["address"] == Score(gold=1)
    assert scores["name"].precision == 0.0
    assert scores["name"].recall is None


def test_every_kind_is_told_with_its_figures_and_a_caution():
    told = measured.lines(Counts(9, 3, {"email": 4}, {"email": 3}), ["hospital-number"])
    assert told[0] == "9 texts scanned; something was found in 3."
    assert any(line.startswith("  e-mail: 4 found in 3 texts; recall 1.00 of 13") for line in told)
    assert "  hospital-number: 0 found in 0 texts; the site's own pattern, not measured" in told
    assert len(told) == len(KINDS) + 2
    assert "miss" in told[-1]
    assert not any("nonym" in line or "dentified" in line for line in told)


def test_figures_of_other_detectors_are_not_told(monkeypatch):
    monkeypatch.setattr(detection, "digest", lambda: "sha256:other")
    assert measured.figures().line("email") == "not measured for these detectors"


def test_the_document_has_these_figures():
    text = (Path(__file__).parents[4] / "docs" / "identifiers.md").read_text()
    others, ours = (measured.figures().sets[name] for name in (OTHERS, OURS))
    for kind in set(KINDS) - {"unsettled"}:
        cells = [KINDS[kind], f"`{detection.token(kind)}`"]
        for score in (others.get(kind, Score()), ours.get(kind, Score())):
            for value, number in ((score.recall, score.gold), (score.precision, score.marked)):
                cells.append("not measured" if value is None else f"{value:.2f} of {number}")
        assert f"| {' | '.join(cells)} |" in text
