"""One event, one line: what a log is made of.

A line is the canonical JSON (RFC 8785) of::

    {"v": 1, "writer": name, "seq": 0, "ts": "2026-01-31T12:00:00.000Z", "type": "round.closed",
     "job": plan digest, "round": 3, "body": {…fields…}, "prev": hash of the line before}

``job`` and ``round`` are left out where an event has none. ``seq`` counts from 0 without gaps;
``prev`` is ``sha256:…`` of the bytes of the line before, without its newline, and ``GENESIS`` in the
first. The order of events follows from the chain; ``ts`` is only what the writer's clock said.

A type, field or value that ``vocabulary`` does not list is refused (``event_malformed``) before
anything is written, and again by everybody who reads. Errors name fields, never values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.errors import LogError
from cloister.privacy.evidence.vocabulary import COUNT, DIGEST, FAMILIES, NAME, Kind

VERSION = 1
GENESIS = "sha256:" + "0" * 64
"""What stands for the hash of the line before the first."""

LINE_LIMIT = 1 << 20
"""Longest line in bytes, so that reading a hostile log takes bounded memory."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass(frozen=True)
class Event:
    """One line of a log.

    Attributes:
        writer: name of the party that keeps the log.
        seq: place in the log, from 0.
        ts: UTC time in milliseconds as the writer's clock had it, RFC 3339.
        type: a key of ``FAMILIES``.
        job: digest of the plan, or None.
        round: number of the round, or None.
        body: the fields of the family.
        prev: hash of the line before.
    """

    writer: str
    seq: int
    ts: str
    type: str
    job: str | None
    round: int | None
    body: Mapping[str, Json]
    prev: str

    def encode(self) -> bytes:
        """The line, without its newline.

        Raises:
            LogError: ``event_malformed``.
        """
        self._check_frame()
        check(self.type, self.job, self.round, self.body)
        value: dict[str, Json] = {"v": VERSION, **vars(self)}
        for scope in ("job", "round"):
            if value[scope] is None:
                del value[scope]
        return canonical.encode(value)

    @classmethod
    def decode(cls, line: bytes) -> Event:
        """The event of a line without its newline; exactly the bytes that ``encode`` gives.

        Raises:
            LogError: ``event_malformed``.
        """
        value: Any = canonical.decode(line, otherwise=malformed("A line is not canonical JSON."))
        if not isinstance(value, dict) or type(value.get("v")) is not int or value.pop("v") != VERSION:
            raise malformed("A line is not an event of this version.")
        if None in (value.get("job", ""), value.get("round", "")):
            raise malformed("A line writes an event in another form than the one that exists.")
        value = {"job": None, "round": None, **value}
        if value.keys() != cls.__dataclass_fields__.keys():
            raise malformed("A line lacks a field of every event, or has one more.")
        event = cls(**value)
        event._check_frame()
        check(event.type, event.job, event.round, event.body)
        return event  # canonical, with exactly these fields: what ``encode`` gives

    def _check_frame(self) -> None:
        kinds = {"writer": NAME, "seq": COUNT, "prev": DIGEST}
        if not isinstance(self.body, dict) or not isinstance(self.type, str):
            raise malformed("An event has no type or no body.")
        for name, kind in kinds.items():
            if not kind.holds(getattr(self, name)):
                raise malformed(f"The field {name} of an event is not a {kind.meaning}.")
        if not _is_time(self.ts):
            raise malformed("The field ts of an event is not a UTC time in milliseconds.")


def check(type_: str, job: str | None, round_: int | None, body: Mapping[str, Json]) -> None:
    """Refuse whatever is not in ``FAMILIES``. The error names fields, never values.

    Raises:
        LogError: ``event_malformed``.
    """
    family = FAMILIES.get(type_)
    if family is None:
        raise malformed("No such type of event exists.")
    _check_scope(type_, "job", family.job, job, DIGEST)
    _check_scope(type_, "round", family.round, round_, COUNT)
    if round_ is not None and job is None:
        raise malformed(f"An event {type_} names a round but no job.")
    kinds, needed = _expected(type_)
    if unknown := sorted(body.keys() - kinds.keys()):
        raise malformed(f"An event {type_} has {len(unknown)} fields that do not exist for it.")
    if missing := sorted(needed - body.keys()):
        raise malformed(f"An event {type_} lacks {', '.join(missing)}.")
    for name, value in body.items():
        if not kinds[name].holds(value):
            raise malformed(f"The field {name} of an event {type_} is not a {kinds[name].meaning}.")


@cache
def _expected(type_: str) -> tuple[dict[str, Kind], set[str]]:
    """Name -> kind of every field of a type, and the names of those that it must have."""
    fields = FAMILIES[type_].fields
    kinds = {name.removesuffix("?"): kind for name, kind in fields.items()}
    return kinds, {name for name in fields if not name.endswith("?")}


def _check_scope(type_: str, scope: str, rule: str, value: object, kind: Kind) -> None:
    if (rule == "always" and value is None) or (rule == "never" and value is not None):
        raise malformed(f"An event {type_} must {'not ' if rule == 'never' else ''}name a {scope}.")
    if value is not None and not kind.holds(value):
        raise malformed(f"The {scope} of an event {type_} is not a {kind.meaning}.")


def names(event: Event, field: str) -> list[str]:
    """A list of sites in an event; [] where the event has none."""
    value: Any = event.body.get(field, ())
    return [str(name) for name in value]


def timestamp(moment: datetime) -> str:
    """A moment with a time zone as UTC, RFC 3339 with milliseconds and ``Z``.

    Raises:
        ValueError: the moment has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone is not a moment")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_time(value: object) -> bool:
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def malformed(what: str) -> LogError:
    """The error for what is not an event."""
    return LogError(
        "event_malformed",
        what,
        "Log only what the vocabulary lists; a file that holds anything else is damaged.",
    )
