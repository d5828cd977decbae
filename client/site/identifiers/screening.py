"""What becomes of a site's records: ``off``, ``warn``, ``mask`` or ``refuse``.

A pure step from records to records. Exact counts are for the people of the site; what a log may hold of
them is :func:`bands`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from cloister.client.site.identifiers.detection import Scanner, masked
from cloister.client.site.identifiers.findings import KINDS, Counts
from cloister.client.site.records import Records
from cloister.client.site.tagging import words_of
from cloister.privacy.errors import InputError

Action = Literal["off", "warn", "mask", "refuse"]
ACTIONS: tuple[Action, ...] = ("off", "warn", "mask", "refuse")
NARROWEST = 16
"""Fewer findings than this, none included, are one band."""


@dataclass(frozen=True)
class Screened:
    """Records after the step, and what was found in them before it; None where nobody looked."""

    records: Records
    counts: Counts | None


def screen(records: Records, scanner: Scanner, action: Action) -> Screened:
    """Scans the texts of records, second texts and answers too, and does what the site's policy says.

    ``off`` looks at nothing, ``warn`` only counts, ``mask`` puts the token of its kind in place of each
    finding. Classes, tags, persons and the order of rows stay as they are. Masking takes from what can be
    learnt, and two texts that differ in identifiers only become the same.

    Raises:
        InputError: ``identifiers_found``, the action is ``refuse`` and something was found; it has the
            counts, and nothing of the texts. ``tags_invalid``, ``mask`` where words have tags.
    """
    if action == "off":
        return Screened(records, None)
    if records.kind == "token-classification":
        return _tagged(records, scanner, action)
    columns = {"texts": records.texts, "seconds": records.seconds or ()}
    columns |= {"labels": records.labels} if records.kind == "causal-lm" else {}
    findings = {name: [scanner.find(text) for text in texts] for name, texts in columns.items()}
    counts = Counts.of([found for column in findings.values() for found in column])
    if action == "refuse":
        refuse(counts)
    if action == "mask":
        changed: dict[str, Any] = {
            name: tuple(masked(text, found) for text, found in zip(texts, findings[name], strict=True))
            for name, texts in columns.items()
            if texts
        }
        records = replace(records, **changed)
    return Screened(records, counts)


def _tagged(records: Records, scanner: Scanner, action: Action) -> Screened:
    """Words that have tags are looked at, and never masked: their tags would be about other words."""
    if action == "mask":
        raise InputError(
            "tags_invalid",
            "Identifiers cannot be masked in words that have tags of their own.",
            "Take --identifiers warn or refuse, or mask them in the source.",
        )
    counts = Counts.of([scanner.find(words_of(text)) for text in records.texts])
    if action == "refuse":
        refuse(counts)
    return Screened(records, counts)


def refuse(counts: Counts) -> None:
    """Nothing, if nothing was found.

    Raises:
        InputError: ``identifiers_found``, with the counts.
    """
    if counts.touched:
        raise InputError(
            "identifiers_found",
            f"{counts.touched} of {counts.texts} texts hold what looks like identifiers: {counts.line()}.",
            "Take them out, or have them masked with --identifiers mask.",
        )


def bands(counts: Counts) -> Mapping[str, str]:
    """The fields of the event ``deid.scan`` that hold counts: wide bands, one for every kind.

    A kind that was not found has the same band as one that was found a few times. All patterns of the
    site's own are one field, ``own``.
    """
    own = sum(number for kind, number in counts.found.items() if kind not in KINDS)
    found = {kind: counts.found.get(kind, 0) for kind in KINDS} | {"own": own}
    return {"texts": band(counts.texts)} | {kind: band(number) for kind, number in found.items()}


def band(number: int) -> str:
    """``0-15``, or the power-of-two band of a number, ``LOW-HIGH``."""
    if number < NARROWEST:
        return f"0-{NARROWEST - 1}"
    low = 1 << (number.bit_length() - 1)
    return f"{low}-{2 * low - 1}"
