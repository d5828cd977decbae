"""All detectors over a text: :meth:`Scanner.find` and :meth:`Scanner.mask`.

Formal guarantees:
    ``mask(mask(text)) == mask(text)``, and ``find(mask(text))`` is empty: a text is looked at again, with
    what was found hidden, until nothing more is found. A text in which every one of ``LOOKS`` looks
    still finds more is masked whole. That the detectors find every identifier is not guaranteed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cloister.client.site.identifiers import site_patterns
from cloister.client.site.identifiers.findings import KINDS, Found, merged
from cloister.client.site.identifiers.folding import HIDDEN, fold
from cloister.client.site.identifiers.patterns import SHIPPED, Detector
from cloister.client.site.identifiers.places import HEURISTIC

LOOKS = 8
_MADE_OF = ("checksums", "detection", "findings", "folding", "patterns", "places")


def token(kind: str) -> str:
    """What stands in a masked text for a finding: ``[EMAIL]``."""
    return f"[{kind.upper()}]"


@cache
def digest() -> str:
    """``sha256:`` of the source of the detectors that ship: what measured figures are figures of."""
    here = Path(__file__).parent
    hashes = [hashlib.sha256((here / f"{name}.py").read_bytes()).digest() for name in _MADE_OF]
    return f"sha256:{hashlib.sha256(b''.join(hashes)).hexdigest()}"


@dataclass(frozen=True)
class Scanner:
    """The detectors that ship, a site's own, and others.

    Args:
        patterns: the site's own, name -> expression (``site_patterns``).
        others: detectors beside them, such as ``presidio.detector``; of shipped kinds only.

    Raises:
        InputError: ``patterns_malformed``.
    """

    patterns: Mapping[str, str] = field(default_factory=dict)
    others: tuple[Detector, ...] = ()
    _detectors: tuple[Detector, ...] = field(init=False, repr=False)
    _tokens: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        own = tuple(site_patterns.detector(*pattern) for pattern in self.patterns.items())
        kinds = "|".join(re.escape(token(kind)) for kind in (*KINDS, *self.patterns))
        object.__setattr__(self, "_detectors", (*SHIPPED, *HEURISTIC, *own, *self.others))
        object.__setattr__(self, "_tokens", re.compile(kinds))

    def find(self, text: str) -> tuple[Found, ...]:
        """Where identifiers are, in order and without overlaps; time is linear in the text's length."""
        folded = fold(text)
        view = self._tokens.sub(lambda match: HIDDEN * len(match[0]), folded.text)
        spans: list[Found] = []
        for _ in range(LOOKS):
            fresh = merged(self._look(view))
            if not fresh:
                return tuple(
                    Found(one.kind, *folded.span(one.start, one.end)) for one in sorted(spans, key=_place)
                )
            spans.extend(fresh)
            view = _hide(view, fresh)
        return (Found("unsettled", 0, len(text)),)

    def mask(self, text: str) -> str:
        """The text with the token of its kind in place of each finding."""
        return masked(text, self.find(text))

    def _look(self, view: str) -> Iterable[Found]:
        for detect in self._detectors:
            for one in detect(view):
                if one.start < one.end and HIDDEN not in view[one.start : one.end]:
                    yield one


def masked(text: str, findings: Iterable[Found]) -> str:
    """A text with the token of its kind in place of each of its findings, which are in order."""
    parts, place = [], 0
    for one in findings:
        parts += [text[place : one.start], token(one.kind)]
        place = one.end
    return "".join([*parts, text[place:]])


def _place(one: Found) -> int:
    return one.start


def _hide(view: str, findings: Iterable[Found]) -> str:
    parts, place = [], 0
    for one in findings:
        parts += [view[place : one.start], HIDDEN * (one.end - one.start)]
        place = one.end
    return "".join([*parts, view[place:]])
