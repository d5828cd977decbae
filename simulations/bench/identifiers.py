"""``cloister bench identifiers``: recall and precision of the detectors that ship, and how fast they are.

Measured anew on our synthetic notes and, with ``--data``, on a file of JSON lines in the form of presidio_pii
(``text``, and ``spans`` of ``start``, ``end``, ``type``); else the figures that ship are given for it.

=========================  ==============================================================================
figure                     meaning
=========================  ==============================================================================
KIND_recall_ours           share of the kind's spans in our synthetic notes that findings cover wholly
KIND_precision_ours        share of the findings of the kind there that touch a span of it
KIND_recall, _precision    the same on presidio_pii
texts_cpu_s                texts a second of processor time, on presidio_pii if given, else on our notes
characters_cpu_s           likewise for characters
=========================  ==============================================================================
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cloister.client.site.identifiers import gold, measured
from cloister.client.site.identifiers.detection import Scanner
from cloister.client.site.identifiers.findings import Found
from cloister.client.site.identifiers.measured import Scores
from cloister.privacy.errors import InputError
from cloister.simulations.bench.result import Result
from cloister.simulations.bench.texts import TextFile

TYPES = {
    "PERSON": "name",
    "STREET_ADDRESS": "address",
    "ZIP_CODE": "zip",
    "CREDIT_CARD": "card",
    "DATE_TIME": "date",
    "PHONE_NUMBER": "phone",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "DOMAIN_NAME": "url",
    "US_SSN": "ssn",
    "IP_ADDRESS": "ip",
}
"""Type of presidio_pii -> our kind. Its other types (places, organisations, ages …) are not sought here."""
_SECONDS = 1.0


def run(data: TextFile | None = None) -> Result:
    """Measures everything, in a few seconds.

    Raises:
        InputError: ``file_missing`` or ``file_format``.
    """
    scanner = Scanner()
    notes = [(note.text, note.spans) for note in gold.notes()]
    others = None if data is None else list(spans(data.path))
    scores = measured.figures().sets[measured.OTHERS] if others is None else measured.measure(scanner, others)
    figures = {**_figures(scores, ""), **_figures(measured.measure(scanner, notes), "_ours")}
    speed = _speed(scanner, [text for text, _ in others or notes])
    return Result("identifiers", dict(sorted(figures.items())) | speed)


def spans(path: Path) -> Iterator[tuple[str, Sequence[Found]]]:
    """The texts of a file in the form of presidio_pii, with the spans whose types are sought here.

    Raises:
        InputError: ``file_missing`` or ``file_format``.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        yield from [(row["text"], _spans(row["spans"])) for row in rows]
    except OSError as error:
        raise InputError(
            "file_missing", f"{path} cannot be read.", "Give the path of a readable file."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "file_format", f"{path} is no file of texts with spans.", "Give test.jsonl of presidio_pii."
        ) from error


def _spans(values: Sequence[dict[str, object]]) -> tuple[Found, ...]:
    known = [value for value in values if value["type"] in TYPES]
    return tuple(
        Found(TYPES[str(one["type"])], int(str(one["start"])), int(str(one["end"]))) for one in known
    )


def _figures(scores: Scores, suffix: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, score in scores.items():
        for name, value in (("recall", score.recall), ("precision", score.precision)):
            if value is not None:
                found[f"{kind}_{name}{suffix}"] = value
    return found


def _speed(scanner: Scanner, texts: Sequence[str]) -> dict[str, float]:
    start, rounds = time.process_time(), 0
    while time.process_time() - start < _SECONDS:
        for text in texts:
            scanner.find(text)
        rounds += 1
    spent = time.process_time() - start
    characters = sum(map(len, texts))
    return {"texts_cpu_s": rounds * len(texts) / spent, "characters_cpu_s": rounds * characters / spent}
