"""How much of what identifies people the detectors find, by the digest of the detectors, as it was measured.

``measured.json`` holds the figures of every release of the detectors, newest last: a report about an older
one is written with the figures of that one. ``client.site.identifiers.measured`` says what recall means here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("measured.json")
OTHERS, OURS = "presidio_pii test", "our synthetic notes"
"""The two sets that were measured on: one that others made, and one of the project's own."""


@cache
def everything() -> Sequence[Mapping[str, Any]]:
    """The figures of all releases of the detectors, newest last."""
    found: list[dict[str, Any]] = json.loads(FILE.read_bytes())
    return found


@dataclass(frozen=True)
class Recall:
    """What detectors found of one kind on each set: which share, and of how many.

    None: the set holds none of that kind.
    """

    kind: str
    others: tuple[str, str] | None
    ours: tuple[str, str] | None


def recalls(detector: str, kinds: Sequence[str]) -> list[Recall]:
    """The figures of these kinds; [] of detectors that were never measured."""
    sets = next((one["sets"] for one in everything() if one["detector"] == detector), None)
    if sets is None:
        return []
    return [Recall(kind, _of(sets[OTHERS], kind), _of(sets[OURS], kind)) for kind in kinds]


def _of(scores: Mapping[str, Any], kind: str) -> tuple[str, str] | None:
    """The share that was found, as the command that scans prints it, and of how many."""
    score = scores.get(kind)
    if score is None or not score["gold"]:
        return None
    return f"{score['covered'] / score['gold']:.2f}", str(score["gold"])
