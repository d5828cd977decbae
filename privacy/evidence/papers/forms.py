"""How documents are written: JSON and YAML with one layout, and answers that carry their grade."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

from cloister.privacy.canonical import Json
from cloister.privacy.evidence.grades import Grade

DISCLAIMER = "Evidence, not legal advice, and no statement that any law or standard is met."

# Line ends of YAML, and what no text file should hold as it is.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")


def as_json(value: Json) -> bytes:
    """A document for people and their tools: indented, keys in the order given, UTF-8."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def as_yaml(value: Mapping[str, Json]) -> bytes:
    """The same as block YAML whose scalars are JSON: no quoting rule of YAML is needed to read them."""
    return ("\n".join(_block(value, "")) + "\n").encode()


def _block(value: Mapping[str, Json], indent: str) -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield f"{indent}{key}:"
            yield from _block(inner, indent + "  ")
        elif isinstance(inner, list | tuple):
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {_scalar(one)}" for one in inner)
        else:
            yield f"{indent}{key}: {_scalar(inner)}"


def _scalar(value: Json) -> str:
    if isinstance(value, float):
        # YAML 1.1 takes 1e-05 for a text.
        return f"{Decimal(repr(value)):f}"
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def answer(text: Json, grade: Grade, *paths: str) -> dict[str, Json]:
    """Something that the evidence says: how sure it is, and where in the bundle it stands."""
    return {"answer": text, "grade": grade.word, "evidence": list(paths)}


def missing(whose: str) -> dict[str, Json]:
    """What only somebody outside the software can say."""
    return {"answer": f"the {whose} must supply", "grade": Grade.NOT_KNOWN.word, "evidence": []}
