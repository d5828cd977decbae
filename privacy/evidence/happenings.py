"""Who allowed what, what was refused, what went wrong, and which events a line of the report rests on.

All of it follows from the events that a bundle shows, so whoever verifies derives it again. Decisions and
incidents that repeat stand as one entry with their number, first and last event: ten thousand refused
sign-ins are one line. A line cites at most ``MOST_CITED`` events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest, Name
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.kinds import Day, EventId, Moment, Reason, Whole
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan

MOST_CITED = 12
"""The most events that one line of a report names: where more bear on it, the first and the last of them."""

Consent = Literal[
    "approval.requested",
    "approval.granted",
    "approval.denied",
    "approval.timeout",
    "job.accepted",
    "consent.recorded",
    "release.approved",
]
Decision = Literal[
    "policy.loaded",
    "policy.changed",
    "policy.rejected",
    "policy.decision",
    "job.refused",
    "update.refused",
    "budget.refused",
    "budget.exhausted",
    "release.denied",
    "dataset.changed",
    "deid.scan",
]
Trouble = Literal[
    "incident.raised",
    "incident.closed",
    "auth.failed",
    "channel.refused",
    "invite.refused",
    "site.withdrew",
    "site.lost",
    "site.returned",
    "key.rotated",
    "key.revoked",
    "log.rotated",
    "log.restored",
    "log.recovered",
    "log.gap",
    "clock.stepped",
    "clock.status",
    "round.aborted",
    "job.resumed",
    "job.aborted",
    "step.unchecked",
    "model.rolled_back",
]
"""Types of events that each list is made of."""

Logs = Mapping[str, Sequence[Event]]
_T = TypeVar("_T")


class Cited(Part):
    """An event that a line of the report names."""

    event: EventId
    type: Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")]
    round: Annotated[int, Field(ge=0)] | None
    at: Moment


class Source(Part):
    """What a line is about, such as ``round.3`` or ``privacy.north``, and the events that it rests on."""

    about: Annotated[str, Field(pattern=r"^[a-z]+(\.[a-z0-9-]{1,40})?$")]
    events: Annotated[tuple[EventId, ...], Field(min_length=1, max_length=MOST_CITED)]


class Consented(Part):
    """An approval or a document about consent, in the log of a party.

    Attributes:
        site: the one it is about, where the party is not itself.
        key: of the person who approved, where the site's software checked a signature by one.
        about: digest of what was approved, or of the document.
        until: the day on which the document ends.
        event: the one that says so.
    """

    party: Name
    type: Consent
    role: Literal["lead", "administrator", "steward", "researcher", "auditor", "validator", "policy"] | None
    stage: Literal["plan", "start", "first-release", "release", "policy"] | None
    form: Literal["data-use-agreement", "processor-agreement", "ethics-approval", "permit", "other"] | None
    site: Name | None
    key: Digest | None = None
    about: Digest | None
    until: Day | None
    reason: Reason | None
    at: Moment
    event: EventId


class _Repeated(Part):
    """Something that a party wrote down once or several times: how often, when first and last, and where."""

    party: Name
    about: Name | None
    reason: Reason | None
    times: Whole
    first: Moment
    last: Moment
    events: Annotated[tuple[EventId, ...], Field(min_length=1, max_length=2)]


class Decided(_Repeated):
    """A decision of a policy, or a refusal; ``rules`` are ids of rules of a site's policy."""

    type: Decision
    outcome: Literal["allow", "ask", "refuse"] | None
    rules: tuple[str, ...]
    policy: Digest | None


How = Literal[
    "restart",
    "unclean",
    "paused",
    "unwritable",
    "back",
    "forward",
    "synchronised",
    "not-synchronised",
    "unknown",
]


class Incident(_Repeated):
    """Something that went wrong, or changed who is there under which key.

    Attributes:
        how: of a gap, why; of a clock that was set, which way; of one whose state changed, to which.
        lasted: of a gap and of a clock that was set, by how much.
    """

    type: Trouble
    how: How | None = None
    lasted: Literal["seconds", "minutes", "hours", "days"] | None = None


class Names:
    """How a report names events: ``north/7``, and ``north@0123456789abcdef/7`` in a log under later keys.

    Args:
        logs: every event that is named, those of one party log after log.
    """

    def __init__(self, logs: Logs) -> None:
        self._names: dict[tuple[str, int, str, str], str] = {}
        for name, events in logs.items():
            opened = 0
            label = ""
            for event in events:
                if event.type == "log.opened":
                    opened += 1
                    label = f"@{str(event.body['identity'])[7:23]}" if opened > 1 else ""
                self._names[_key(event)] = f"{name}{label}/{event.seq}"

    def __call__(self, event: Event) -> str:
        """The name of an event."""
        return self._names[_key(event)]


def _key(event: Event) -> tuple[str, int, str, str]:
    """What no two events share: two logs of a party have the same numbers, and begin alike."""
    return event.writer, event.seq, event.prev, event.ts


def consents(logs: Logs) -> list[dict[str, Any]]:
    """All consents and approvals, party by party."""
    names = Names(logs)
    return [{**_consent(event), "event": names(event)} for event in _of(logs, get_args(Consent))]


def _consent(event: Event) -> dict[str, Any]:
    body = event.body
    return {
        "party": event.writer,
        "type": event.type,
        "role": body.get("role"),
        "stage": body.get("stage"),
        "form": body.get("form") if event.type.startswith("consent.") else None,
        "site": body.get("site"),
        "key": body.get("key"),
        "about": body.get("subject", body.get("document", body.get("artefact", event.job))),
        "until": body.get("not_after"),
        "reason": body.get("reason"),
        "at": event.ts,
    }


def decisions(logs: Logs) -> list[dict[str, Any]]:
    """Decisions and refusals: those of one party that are alike stand together."""
    return _together(logs, ((event, _decision(event)) for event in _of(logs, get_args(Decision))))


_OUTCOMES = {"allowed": "allow", "refused": "refuse"}


def _decision(event: Event) -> dict[str, Any]:
    said: Any = event.body.get("outcome")
    rules: Any = event.body.get("rules", ())
    return {
        **_what(event),
        "outcome": _OUTCOMES.get(said, said),
        "rules": [str(rule) for rule in rules],
        "policy": event.body.get("policy"),
    }


def incidents(logs: Logs) -> list[dict[str, Any]]:
    """What went wrong or changed: entries of one party that are alike stand together."""
    found = (event for event in _of(logs, get_args(Trouble)) if event.body.get("occasion") not in _USUAL)
    return _together(logs, ((event, {**_what(event), **_how(event)}) for event in found))


_USUAL = ("start", "job")
"""When a clock's state is told of that did not change: no incident, but a line about the party's clock."""


def _how(event: Event) -> dict[str, Any]:
    body = event.body
    if event.type == "log.gap":
        return {"how": body["reason"], "reason": None, "lasted": body["lasted"]}
    if event.type == "clock.stepped":
        return {"how": body["way"], "lasted": body["by"]}
    return {"how": body["state"] if event.type == "clock.status" else None, "lasted": None}


def _what(event: Event) -> dict[str, Any]:
    body = event.body
    about = next((body[field] for field in ("party", "site", "dataset") if field in body), None)
    return {"party": event.writer, "type": event.type, "about": about, "reason": body.get("reason")}


def _together(logs: Logs, found: Iterable[tuple[Event, dict[str, Any]]]) -> list[dict[str, Any]]:
    names = Names(logs)
    alike: dict[bytes, tuple[dict[str, Any], list[Event]]] = {}
    for event, said in found:
        alike.setdefault(canonical.encode(said), (said, []))[1].append(event)
    return [
        {
            **said,
            "times": str(len(events)),
            "first": events[0].ts,
            "last": events[-1].ts,
            "events": [names(event) for event in (events[0], *events[1:][-1:])],
        }
        for said, events in alike.values()
    ]


def _of(logs: Logs, types: tuple[str, ...]) -> Iterator[Event]:
    return (event for events in logs.values() for event in events if event.type in types)


def sources(plan: Plan, logs: Logs) -> list[dict[str, Any]]:
    """What the lines of a report rest on; lines about nothing that was written down have no entry."""
    lead = [event for event in logs.get(plan.lead.name, ()) if event.job == plan.digest]
    found: dict[str, list[Event]] = {
        "plan": _typed(lead, "job.proposed"),
        "job": _typed(lead, "job.started", "job.finished"),
        "model": _typed(lead, "job.finished"),
    }
    for event in _typed(lead, "round.closed", "round.aborted"):
        found[f"round.{event.round}"] = [event]
    for event in _typed(lead, "site.lost", "update.refused"):
        found.get(f"round.{event.round}", []).append(event)
    for name, events in logs.items():
        found[f"party.{name}"] = _typed(events, "log.opened")
        found[f"software.{name}"] = of_software(plan, events)
    for site in plan.sites:
        found |= _of_site(plan, site.name, logs, lead)
    names = Names(logs)
    return [
        {"about": about, "events": [names(event) for event in _few(events)]}
        for about, events in found.items()
        if events
    ]


def _of_site(plan: Plan, name: str, logs: Logs, lead: Sequence[Event]) -> dict[str, list[Event]]:
    dataset, everything = plan.site(name).dataset, logs.get(name, ())
    own = [event for event in everything if event.job == plan.digest]
    opened = [e for e in _typed(everything, "budget.opened") if e.body["dataset"] == dataset]
    at_lead = logs.get(plan.lead.name, ())
    enrolled = _typed(at_lead, "key.enrolled")
    met = connection(at_lead, name), connection(everything, plan.lead.name)
    flower = (
        connection(at_lead, name, "flower"),
        connection(everything, plan.lead.name, "flower"),
    )
    counted = [e for e in _typed(lead, "traffic.counted") if e.body["site"] == name]
    audit = _typed(own, "audit.committed", "audit.result")
    charged = _ends(_typed(own, "budget.reserved"))
    noised = _ends(_typed(own, "dp.step_summary"))
    return {
        f"party.{name}": [
            *_typed(everything, "log.opened"),
            *[e for e in enrolled if e.body["party"] == name][-1:],
        ],
        f"privacy.{name}": [*opened, *charged, *noised],
        f"audit.{name}": audit,
        f"canaries.{name}": [
            *_typed(own, "audit.planted"),
            *_attack(own, "canaries"),
            *_typed(own, "audit.opened"),
        ],
        f"membership.{name}": _attack(own, "membership"),
        f"extraction.{name}": _typed(own, "audit.extracted")[:1],
        f"data.{name}": of_data(plan, name, everything),
        f"traffic.{name}": _ends(counted),
        f"channel.{name}": [*filter(None, (*met, met[0] and issued(at_lead, name, met[0])))],
        f"flower.{name}": [*filter(None, flower)],
    }


def of_data(plan: Plan, name: str, events: Iterable[Event]) -> list[Event]:
    """What a site wrote down of the data of a job while it was at it."""
    dataset = plan.site(name).dataset
    found = (event for event in _typed(events, *_DATA) if event.job == plan.digest)
    return [event for event in found if event.body["dataset"] == dataset]


_DATA = ("dataset.opened", "dataset.changed", "deid.scan")


def of_software(plan: Plan, events: Iterable[Event]) -> list[Event]:
    """What a party wrote down of what it ran on, each time that it began to take part in a job."""
    return [event for event in _typed(events, "software.recorded") if event.job == plan.digest]


def connections(events: Iterable[Event], party: str) -> list[Event]:
    """The connections with a party that somebody's log shows."""
    return [event for event in _typed(events, "channel.opened") if event.body["party"] == party]


def connection(events: Iterable[Event], party: str, route: str = "consortium") -> Event | None:
    """The newest connection with a party, by one of the two ways."""
    found = [event for event in connections(events, party) if event.body["route"] == route]
    return found[-1] if found else None


def issued(events: Iterable[Event], party: str, channel: Event) -> Event | None:
    """How the certificate was issued that a party showed on a connection, by the log of the lead."""
    certificate = channel.body.get("remote")
    found = [e for e in _typed(events, "certificate.issued") if e.body["party"] == party]
    return next((e for e in reversed(found) if e.body["certificate"] == certificate), None)


def _attack(events: Iterable[Event], attack: str) -> list[Event]:
    """The first attack of a kind that is told of, which is the one that counts."""
    return [event for event in _typed(events, "audit.model") if event.body["attack"] == attack][:1]


def _typed(events: Iterable[Event], *types: str) -> list[Event]:
    return [event for event in events if event.type in types]


def _ends(events: Sequence[Event]) -> list[Event]:
    """The first and the last."""
    return [*events[:1], *events[1:][-1:]]


def _few(events: Sequence[_T]) -> Sequence[_T]:
    """All of them, or where there are too many the first ones and the last."""
    return events if len(events) <= MOST_CITED else [*events[: MOST_CITED - 1], events[-1]]


def resting(sources: Iterable[Source], about: Iterable[str]) -> list[str]:
    """The events that lines about these things rest on, each once: at most ``MOST_CITED``."""
    known = {source.about: source.events for source in sources}
    found = [*dict.fromkeys(event for one in about for event in known.get(one, ()))]
    return [*_few(found)]


def cited(logs: Logs, *entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every event that the entries name, party by party in the order of its log."""
    named = {
        name
        for listed in entries
        for entry in listed
        for name in (*entry.get("events", ()), *([entry["event"]] if "event" in entry else []))
    }
    names = Names(logs)
    return [
        {"event": names(event), "type": event.type, "round": event.round, "at": event.ts}
        for events in logs.values()
        for event in events
        if names(event) in named
    ]
