"""Recall and precision of the detectors that ship, as they were measured, to be printed beside every scan.

``privacy.evidence.recall`` holds them with the digest of the detectors that they are figures of, for the
report prints them, too; a test measures again and compares. Recall is the share of gold spans that findings
cover wholly, of whatever kind: what is left of a span when all findings are masked is a miss. Precision is
the share of findings that touch a gold span of their kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cloister.client.site.identifiers import detection
from cloister.client.site.identifiers.detection import Scanner
from cloister.client.site.identifiers.findings import KINDS, Counts, Found
from cloister.privacy.evidence import recall
from cloister.privacy.evidence.recall import OTHERS as OTHERS
from cloister.privacy.evidence.recall import OURS as OURS

_PART_OF = {"zip": "address"}
"""Kinds whose findings are right within a gold span of another kind."""


@dataclass(frozen=True)
class Score:
    """Figures of one kind on one set.

    Attributes:
        gold: spans there are.
        covered: how many of them findings cover wholly.
        marked: findings of the kind.
        right: how many of them touch a gold span of the kind.
    """

    gold: int = 0
    covered: int = 0
    marked: int = 0
    right: int = 0

    @property
    def recall(self) -> float | None:
        """The share of gold spans that are covered; None without any."""
        return self.covered / self.gold if self.gold else None

    @property
    def precision(self) -> float | None:
        """The share of findings that are right; None without any."""
        return self.right / self.marked if self.marked else None

    def to_json(self) -> dict[str, int]:
        """The four numbers."""
        return {"gold": self.gold, "covered": self.covered, "marked": self.marked, "right": self.right}


Scores = Mapping[str, Score]


def measure(scanner: Scanner, notes: Iterable[tuple[str, Sequence[Found]]]) -> dict[str, Score]:
    """The score of every kind that stands in the gold spans or is found.

    Args:
        scanner: what is measured.
        notes: texts with their gold spans.
    """
    gold, covered, marked, right = (Counter[str]() for _ in range(4))
    for text, spans in notes:
        found = scanner.find(text)
        places = {place for one in found for place in range(one.start, one.end)}
        for span in spans:
            gold[span.kind] += 1
            covered[span.kind] += places.issuperset(range(span.start, span.end))
        for one in found:
            marked[one.kind] += 1
            right[one.kind] += any(_fits(one, span) for span in spans)
    return {
        kind: Score(gold[kind], covered[kind], marked[kind], right[kind]) for kind in sorted({*gold, *marked})
    }


def _fits(one: Found, span: Found) -> bool:
    same = span.kind in {one.kind, _PART_OF.get(one.kind)}
    return same and one.start < span.end and span.start < one.end


@dataclass(frozen=True)
class Figures:
    """What was measured: of which detectors, when, and set -> kind -> score."""

    detector: str
    date: str
    sets: Mapping[str, Scores]

    def to_json(self) -> dict[str, Any]:
        """The value that the file holds."""
        sets = {
            name: {kind: score.to_json() for kind, score in scores.items()}
            for name, scores in self.sets.items()
        }
        return {"detector": self.detector, "date": self.date, "sets": sets}

    def line(self, kind: str) -> str:
        """Recall and precision of a kind in words: ``recall 0.98 on presidio_pii test, …``."""
        if kind not in KINDS:
            return "the site's own pattern, not measured"
        if self.detector != detection.digest():
            return "not measured for these detectors"
        return "; ".join(_words(name, scores.get(kind, Score())) for name, scores in self.sets.items())


def _words(name: str, score: Score) -> str:
    if score.recall is None:
        return f"not measured on {name}"
    precision = "" if score.precision is None else f", precision {score.precision:.2f}"
    return f"recall {score.recall:.2f} of {score.gold}{precision} on {name}"


@cache
def figures() -> Figures:
    """The figures that ship: those of the newest detectors that were measured."""
    value = recall.everything()[-1]
    sets = {
        name: {kind: Score(**score) for kind, score in scores.items()}
        for name, scores in value["sets"].items()
    }
    return Figures(value["detector"], value["date"], sets)


def lines(counts: Counts, own: Iterable[str] = ()) -> tuple[str, ...]:
    """A scan in words for the people of the site: every kind, found or not, with its figures.

    Args:
        counts: what the scan found.
        own: names of the site's own patterns.
    """
    known = figures()
    told = [f"{counts.texts} texts scanned; something was found in {counts.touched}."]
    for kind in (*(kind for kind in KINDS if kind != "unsettled"), *sorted(own)):
        found, within = counts.found.get(kind, 0), counts.within.get(kind, 0)
        told.append(f"  {KINDS.get(kind, kind)}: {found} found in {within} texts; {known.line(kind)}")
    if "unsettled" in counts.found:
        told.append(f"  {KINDS['unsettled']}: {counts.found['unsettled']}")
    return (*told, CAUTION)


CAUTION = (
    "Detectors miss identifiers, names in running text most of all: texts may still name people, "
    "whatever was found or masked."
)
