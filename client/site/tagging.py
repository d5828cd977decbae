"""Rows with entities marked in them, in one form: the words of a text, and an IOB2 tag of each.

Two forms are read. A list of words with a list of tags of the same length; or a text with a list of spans,
``{"start": 3, "end": 9, "label": "X"}`` (``type`` for ``label`` too) in characters of the text, end left
out. A text with spans is cut into words: runs of letters and figures, and single other signs. A word
that a span covers in part belongs to it; of spans that overlap, the one that begins first counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cloister.privacy.task import OUTSIDE

_WORD = re.compile(r"\w+|[^\w\s]")
_TAG = re.compile(r"O|[BI]-.+")


@dataclass(frozen=True)
class Tagged:
    """The words of a row, and the tag of each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def tagged(text: str, marks: str) -> Tagged:
    """The words and tags of a row.

    Args:
        text: a text, or words as a JSON list.
        marks: tags or spans as a JSON list.

    Raises:
        ValueError: neither of the two forms; the words of the error quote nothing of the row.
    """
    found = _json(marks)
    if not isinstance(found, list):
        raise ValueError("no list")
    if all(isinstance(mark, dict) for mark in found):
        listed = _listed(text)
        if not found and listed is not None:
            raise ValueError("words without tags")
        return _spanned(text, found)
    words = _listed(text)
    if words is None or len(words) != len(found) or not all(_is_tag(tag) for tag in found):
        raise ValueError("words and tags differ")
    return Tagged(tuple(words), tuple(found))


def listed(text: str) -> list[str]:
    """The words of a text that is a JSON list of them; none of any other text."""
    return _listed(text) or []


def words_of(text: str) -> str:
    """What people would read of a text that may be a JSON list of words."""
    words = _listed(text)
    return text if words is None else " ".join(words)


def entities(tags: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Where entities begin and end, end left out, and their kinds; ``I`` without its ``B`` begins one."""
    start, kind = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        goes_on = tag == f"I-{kind}"
        if kind and not goes_on:
            yield start, place, kind
        if not goes_on:
            start, kind = place, tag[2:]


def _is_tag(value: Any) -> bool:
    return isinstance(value, str) and _TAG.fullmatch(value) is not None


def _listed(text: str) -> list[str] | None:
    """The words of a JSON list of them; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = _json(text)
    except ValueError:
        return None
    whole = isinstance(value, list) and value and all(isinstance(word, str) and word for word in value)
    return value if whole else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _spanned(text: str, spans: list[Any]) -> Tagged:
    known = sorted((_span(span, len(text)) for span in spans), key=lambda span: span[:2])
    places = [(match.group(), match.start(), match.end()) for match in _WORD.finditer(text)]
    if not places:
        raise ValueError("no word")
    tags: list[str] = []
    last: tuple[int, int, str] | None = None
    for _, start, end in places:
        over = next((span for span in known if span[0] < end and start < span[1]), None)
        tags.append(OUTSIDE if over is None else f"{'I' if over is last else 'B'}-{over[2]}")
        last = over
    return Tagged(tuple(word for word, _, _ in places), tuple(tags))


def _span(value: dict[str, Any], length: int) -> tuple[int, int, str]:
    start, end, label = value.get("start"), value.get("end"), value.get("label", value.get("type"))
    if not (type(start) is int and type(end) is int and isinstance(label, str) and label):
        raise ValueError("not a span")
    if not 0 <= start < end <= length:
        raise ValueError("a span lies outside of its text")
    return start, end, label
