"""The values of a scan: a kind of identifier, a span, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

KINDS: Mapping[str, str] = {
    "resident": "Chinese resident id",
    "card": "payment card",
    "iban": "IBAN",
    "ssn": "US SSN or ITIN",
    "nhs": "NHS number",
    "mrn": "record number after its name",
    "mac": "MAC address",
    "ip": "IP address",
    "email": "e-mail",
    "url": "URL",
    "phone": "phone",
    "date": "date to the day",
    "address": "street address",
    "zip": "postcode",
    "name": "name after a title or cue",
    "unsettled": "whole text, in which every look found more",
}
"""Kind -> what people read. Of equally long findings that overlap, the kind that stands first here counts."""


@dataclass(frozen=True)
class Found:
    """A span of a text: code points ``start`` to before ``end``. It stays at the site."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Counts:
    """What a scan says of many texts, exact, for the people of the site.

    Attributes:
        texts: how many were scanned.
        touched: in how many of them something was found.
        found: kind -> number of spans, for kinds that were found.
        within: kind -> number of texts, likewise.
    """

    texts: int
    touched: int = 0
    found: Mapping[str, int] = field(default_factory=dict)
    within: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, findings: Iterable[Iterable[Found]]) -> Counts:
        """The counts of the findings of each text."""
        texts = touched = 0
        found: Counter[str] = Counter()
        within: Counter[str] = Counter()
        for spans in findings:
            kinds = [span.kind for span in spans]
            texts, touched = texts + 1, touched + bool(kinds)
            found.update(kinds)
            within.update(set(kinds))
        return cls(texts, touched, dict(sorted(found.items())), dict(sorted(within.items())))

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.texts + other.texts,
            self.touched + other.touched,
            dict(Counter(self.found) + Counter(other.found)),
            dict(Counter(self.within) + Counter(other.within)),
        )

    def line(self) -> str:
        """The kinds and numbers of spans, for an error or a command: ``email 3, phone 1``."""
        return ", ".join(f"{kind} {number}" for kind, number in sorted(self.found.items())) or "nothing"


def merged(findings: Iterable[Found]) -> tuple[Found, ...]:
    """Findings without overlaps, in order.

    Findings that overlap become one span over all of them, so that nothing that any detector found is left
    visible. It has the kind of the longest; of equally long ones, the one that stands first in ``KINDS``;
    a site's own kinds stand before all.
    """
    order = {kind: place for place, kind in enumerate(KINDS)}
    kept: list[Found] = []
    strongest: tuple[int, int, str] = (0, 0, "")
    for one in sorted(findings, key=lambda found: (found.start, found.end, found.kind)):
        rank = (one.start - one.end, order.get(one.kind, -1), one.kind)
        if kept and one.start < kept[-1].end:
            strongest = min(strongest, rank)
            last = kept.pop()
            kept.append(Found(strongest[2], last.start, max(last.end, one.end)))
        else:
            strongest = rank
            kept.append(one)
    return tuple(kept)
