"""The clocks of a job's parties: what each wrote down of its own, and how far apart two logs show them.

Nobody's time is taken for right. But what a site sends has left it before the lead has it, and what a round
asks for comes after the lead has opened it; so the times that both wrote down bound how far the site's clock
is ahead of the lead's: Cristian's argument (1989), with the messages of the job itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from cloister.privacy.clauses import Name
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.happenings import Logs, Names
from cloister.privacy.evidence.kinds import EventId, Whole
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan

Seconds = Annotated[str, Field(pattern=r"^-?(0|[1-9]\d{0,11})\.\d{3}$")]
_GAPS = ("log.gap", "log.recovered")


class Clocked(Part):
    """What is known of a party's clock, and of the gaps in its log, during a job.

    Attributes:
        state, source, error: by its kernel, as it told last; None where it told of none.
        set: how often the clock was set.
        gaps: how often nothing was written although the job ran.
        at_least, at_most: seconds by which the clock was ahead of the lead's, by both logs; None at the lead,
            and where no message bounds it.
        events: the first and the last that say so.
    """

    party: Name
    state: Literal["synchronised", "not-synchronised", "unknown"] | None
    source: Literal["pulse", "service", "none", "unknown"] | None
    error: Literal["10ms", "100ms", "1s", "10s", "more", "unknown"] | None
    set: Whole
    gaps: Whole
    at_least: Seconds | None
    at_most: Seconds | None
    events: Annotated[tuple[EventId, ...], Field(max_length=2)]


@dataclass(frozen=True)
class Ahead:
    """By how many seconds a site's clock was ahead of the lead's, and the events that say so."""

    at_least: float
    at_most: float
    low: Event
    high: Event


def ahead(site: Iterable[Event], lead: Iterable[Event]) -> Ahead | None:
    """The bounds that follow from the updates of a site; None where nothing bounds both ends.

    Args:
        site, lead: their events of one job.
    """
    opened: dict[int | None, Event] = {}
    received: dict[Any, Event] = {}
    for event in lead:
        if event.type == "round.opened":
            opened.setdefault(event.round, event)
        if event.type == "update.received":
            received.setdefault((event.round, event.body["sealed"]), event)
    lows, highs = list[tuple[float, Event]](), list[tuple[float, Event]]()
    for event in site:
        if event.type != "update.sent":
            continue
        if (got := received.get((event.round, event.body["sealed"]))) is not None:
            lows.append((at(event) - at(got), event))
        if (asked := opened.get(event.round)) is not None:
            highs.append((at(event) - at(asked), event))
    if not lows or not highs:
        return None
    (low, first), (high, last) = max(lows, key=_bound), min(highs, key=_bound)
    return Ahead(low, high, first, last)


def _bound(found: tuple[float, Event]) -> float:
    return found[0]


def at(event: Event) -> float:
    """The time of an event, in seconds."""
    return datetime.fromisoformat(event.ts).timestamp()


def clocks(plan: Plan, logs: Logs) -> list[dict[str, Any]]:
    """What is known of everybody's clock, party by party."""
    names = Names(logs)
    lead = _of_job(plan, logs.get(plan.lead.name, ()))
    return [_clock(plan, party, events, lead, names) for party, events in logs.items()]


def _clock(
    plan: Plan, party: str, events: Sequence[Event], lead: Sequence[Event], names: Names
) -> dict[str, Any]:
    told = [event for event in events if event.type == "clock.status"]
    said: Mapping[str, Any] = told[-1].body if told else {}
    bounds = None if party == plan.lead.name else ahead(_of_job(plan, events), lead)
    return {
        "party": party,
        **{name: said.get(name) for name in ("state", "source", "error")},
        "set": str(sum(event.type == "clock.stepped" for event in events)),
        "gaps": str(sum(event.type in _GAPS for event in events)),
        "at_least": None if bounds is None else f"{math.floor(bounds.at_least * 1000) / 1000:.3f}",
        "at_most": None if bounds is None else f"{math.ceil(bounds.at_most * 1000) / 1000:.3f}",
        "events": [names(event) for event in _ends(told)],
    }


def _of_job(plan: Plan, events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.job == plan.digest]


def _ends(events: Sequence[Event]) -> Iterator[Event]:
    yield from events[:1]
    yield from events[1:][-1:]
