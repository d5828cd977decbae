"""A text in the plain form that detectors read, with the way back to its own offsets.

Digits of every script become 0-9, dashes ``-``, spaces and tabs a space, full-width and styled letters plain
ones (NFKC, where it gives one code point); what has no width is left out, and so are marks over ASCII;
other marks are composed with their letter. Each code point of the folded text stands for one run of the
text, so a span of one is a span of the other.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

HIDDEN = "\ue000"
"""Stands in a folded text for what is masked already; no detector's match may contain it."""

_MINUS = "\u2212\u2043"


@dataclass(frozen=True)
class Folded:
    """Folded text.

    Attributes:
        text: the folded code points.
        starts, ends: for each of them, where its run of the original text starts and ends.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The offsets in the original text of a span of the folded one that is not empty."""
        return self.starts[start], self.ends[end - 1]


class _Plain(dict[int, str]):
    """Code point -> its plain form, worked out once each; nothing for what is left out, and for marks."""

    def __missing__(self, point: int) -> str:
        self[point] = plain = _plain(chr(point))
        return plain


_PLAIN = _Plain()


def fold(text: str) -> Folded:
    """Folds a text, in time linear in its length."""
    folded = text.translate(_PLAIN)
    if len(folded) == len(text):
        places = range(len(text) + 1)
        return Folded(folded, places, places[1:])
    plain: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for place, character in enumerate(text):
        one = _PLAIN[ord(character)]
        if not one and _is_mark(character):
            one = _marked(plain, ends, place, character)
        if one:
            plain.append(one)
            starts.append(place)
            ends.append(place + 1)
    return Folded("".join(plain), starts, ends)


def _marked(plain: list[str], ends: list[int], place: int, mark: str) -> str:
    """Joins a mark to the letter before it; gives it back where it stands for itself."""
    if not plain:
        return mark
    composed = unicodedata.normalize("NFC", plain[-1] + mark)
    if len(composed) > 1 and not plain[-1].isascii():
        return mark
    plain[-1], ends[-1] = composed[0], place + 1
    return ""


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in {"Mn", "Me"}


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category in {"Cf", "Mn", "Me"}:
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd" or character in _MINUS:
        return "-"
    if category == "Zs" or character == "\t":
        return " "
    if character == HIDDEN or category == "Cs":
        return "\ufffd"
    composed = unicodedata.normalize("NFKC", character)
    return composed if len(composed) == 1 else character
