"""What a report says in each of its languages: a catalogue of sentences, and how numbers read.

The sentences stand in ``words/report.<language>.json``. Those of error ids, hazards and limits of a promise
are the code's own in English, and stand in ``words/ids.<language>.json`` in any other language. Numbers, ids,
digests and names are the same strings in every language.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cloister.privacy.dp.statement import HAZARDS, NOT_COVERED
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.kinds import REASONS

LANGUAGES = ("en", "zh")
"""Languages that a report is written in; the first is that of ``report.html``."""

_WORDS = Path(__file__).with_name("words")
_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Language:
    """One language of the report.

    Attributes:
        name: as in ``LANGUAGES``.
        words: key -> sentence, with ``{fields}`` and the few tags that a sentence needs.
        reasons: error id -> what it means.
        hazards: id -> what holds when it was checked (``dp.statement.HAZARDS``).
        uncovered: id -> what no epsilon speaks about (``dp.statement.NOT_COVERED``).
    """

    name: str
    words: Mapping[str, str]
    reasons: Mapping[str, str]
    hazards: Mapping[str, str]
    uncovered: Mapping[str, str]

    def say(self, key: str, **fields: object) -> Markup:
        """A sentence as HTML; ``fields`` are escaped unless they are HTML already."""
        return Markup(self.words[key]).format(**fields)  # noqa: S704 - the package's own text

    def count(self, key: str, number: int, **fields: object) -> Markup:
        """A sentence about a ``{count}`` of things; a language may say one of them in another way."""
        single = f"{key}_one"
        chosen = single if number == 1 and single in self.words else key
        return self.say(chosen, count=number, **fields)

    def listing(self, parts: Iterable[str]) -> str:
        """``a``, ``a and b``, ``a, b and c``."""
        *first, last = [*parts] or [self.words["nobody"]]
        return f"{self.words['comma'].join(first)}{self.words['and']}{last}" if first else last

    def spans(self, numbers: Iterable[int]) -> Markup:
        """Ascending round numbers in words: ``round 3``, ``rounds 3 and 5–8``."""
        parts = []
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            members = [number for _, number in run]
            parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}–{members[-1]}")
        one = len(parts) == 1 and parts[0].isdigit()
        return self.say("span" if one else "spans", list=self.listing(parts))

    def size(self, whole: str) -> str:
        """A number of bytes in the largest unit that leaves a number of at least 1."""
        number, unit = float(whole), self.words["bytes"]
        for larger in ("KiB", "MiB", "GiB", "TiB"):
            if number < 1024:
                break
            number, unit = number / 1024, larger
        return f"{number:.{0 if unit == self.words['bytes'] else 2}f}{_SPACE}{unit}"

    def duration(self, seconds: str) -> str:
        """A time in hours, minutes and seconds."""
        whole = round(float(seconds))
        hours, minutes = divmod(whole // 60, 60)
        parts = ((hours, "unit_h"), (minutes, "unit_min"), (whole % 60, "unit_s"))
        said = " ".join(f"{number}{_SPACE}{self.words[unit]}" for number, unit in parts if number)
        return said or self.words["under_a_second"]

    def grade(self, of: Grade) -> str:
        """The word of a grade."""
        return self.words[of.name.lower()]

    def meaning(self, reason: str) -> str:
        """What an error id means; where this language has no words for it, where to look."""
        return self.reasons.get(reason, self.words["reason_other"])


@cache
def language(name: str) -> Language:
    """A language of ``LANGUAGES``."""
    words = _read(f"report.{name}.json")
    if name == "en":
        return Language(name, words, REASONS, HAZARDS, NOT_COVERED)
    ids = _read(f"ids.{name}.json")
    return Language(name, words, ids["reasons"], ids["hazards"], ids["uncovered"])


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_WORDS / name).read_text(encoding="utf-8"))
    return found
