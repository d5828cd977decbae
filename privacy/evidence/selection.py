"""Which events of a log a bundle shows: those of one job, and those at party level that it rests on.

Never an event of another job, of another dataset, or about somebody who is not in the plan. That nothing
of the job was left out, only the writer knows; what others saw of it must match (``checks.rounds``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cloister.privacy.evidence.events import Event
from cloister.privacy.plan import Plan

_STANDING = frozenset(
    {
        *("key.enrolled", "key.confirmed", "key.rotated", "key.revoked"),
        *("certificate.issued", "site.joined", "policy.loaded", "policy.changed"),
        *("budget.opened", "dataset.opened"),
    }
)
"""Holds from when it is written: shown from the beginning of the log to the end of the job."""

_MEANWHILE = frozenset(
    {
        *("log.recovered", "log.gap", "log.stopped", "log.heartbeat", "clock.status", "channel.refused"),
        *(
            "auth.failed",
            "incident.raised",
            "incident.closed",
            "policy.rejected",
            "approval.timeout",
            "site.lost",
        ),
        *("site.returned", "budget.exhausted", "policy.decision"),
    }
)
"""Shown where it was written between the first and the last event of the job."""

_AFTERWARDS = frozenset({"site.withdrew"})
"""Shown from the first event of the job on: it changes what the job is worth, whenever it comes."""

_WITNESS = {"log.witnessed": "party", "log.countersigned": "witness"}
"""Shown from the first event of the job to the first of each party after the last one, which covers it."""

_RENEWED = frozenset({"key.enrolled", "key.rotated", "key.revoked"})
"""After one of these about a party, heads that are witnessed may be of another log of it."""

_CHANNEL = "channel.opened"


_ALWAYS = frozenset({"log.opened", "log.rotated", "log.restored", "clock.stepped"})
"""Which keys a log begins with, and which log goes on from it; and why times in it go back."""


def selected(events: Iterable[Event], plan: Plan) -> Iterator[Event]:
    """The events of a party that a bundle of the plan's job shows, in their order.

    Args:
        events: of the party's log; where it had several, of one after another.
        plan: of the job.
    """
    everything = list(events)
    return (everything[place] for place in chosen(everything, plan))


def chosen(events: Sequence[Event], plan: Plan) -> Iterator[int]:
    """Places of the events that ``selected`` gives."""
    known = [(place, event) for place, event in enumerate(events) if _may_be_shown(event, plan)]
    own = [place for place, event in known if event.job == plan.digest]
    first, last = (own[0], own[-1]) if own else (0, -1)
    before = {
        (event.body.get("party"), event.body.get("route")): place
        for place, event in known
        if event.type == _CHANNEL and place < first
    }
    vouching = {*before.values(), *_witnessed(known, first, last)}
    for place, event in known:
        if event.job == plan.digest or place in vouching or _rests(place, event, first, last):
            yield place


def _witnessed(known: Iterable[tuple[int, Event]], first: int, last: int) -> Iterator[int]:
    """Places of the events about heads that vouch for the job."""
    done: set[tuple[str, str]] = set()
    for place, event in known:
        if place > last and event.type in _RENEWED:
            done |= {(kind, str(event.body["party"])) for kind in _WITNESS}
        if event.type in _WITNESS and place >= first:
            about = (event.type, str(event.body[_WITNESS[event.type]]))
            if about not in done:
                yield place
            if place > last:
                done.add(about)


def _rests(place: int, event: Event, first: int, last: int) -> bool:
    if event.type in _ALWAYS:
        return True
    if event.type in _STANDING:
        return place <= last
    if event.type in _AFTERWARDS:
        return place >= first
    return (event.type in _MEANWHILE or event.type == _CHANNEL) and first <= place <= last


def _may_be_shown(event: Event, plan: Plan) -> bool:
    if event.job is not None:
        return event.job == plan.digest
    parties = {plan.lead.name, *(site.name for site in plan.sites)}
    named = {event.body[field] for field in ("party", "site", "witness") if field in event.body}
    if not named <= parties:
        return False
    datasets = {site.dataset for site in plan.sites if site.name == event.writer}
    return "dataset" not in event.body or event.body["dataset"] in datasets
