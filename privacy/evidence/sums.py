"""The secure sums of a job, as lead and sites wrote them down: who was in each, who fell away and when.

A masked update is hidden by two kinds of masks (``privacy.secagg.rounds``): those that its site shares with
every other site, and one of its own. Of a site without an update in the sum, survivors open the first kind;
of one in the sum, the second is opened, by itself or from shares. Both kinds of one site together would show
its update. Sums that went alike stand together: hundreds of steps that all sites took are one entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cloister.privacy import canonical
from cloister.privacy.clauses import Name
from cloister.privacy.evidence.events import Event, names
from cloister.privacy.evidence.happenings import MOST_CITED, Logs, Names
from cloister.privacy.evidence.kinds import EventId, Reason
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan

Sum = tuple[int, int]
"""Round and step: 0 is what the round is for, 1 its surplus noise (``secagg.surplus``)."""


class Summed(Part):
    """Secure sums that went alike.

    Attributes:
        rounds: whose sums these are, ascending.
        step: 0, or 1 for the surplus noise of a joint step.
        reason: why the sum was not opened; None where it was.
        invited: sites that the lead asked.
        survivors: of these, whose masked update is in the sum.
        signed, opened: survivors that signed the set, and that opened their own mask.
        untold: of the latter, those whose own log does not hold it.
        missing: sites whose shared masks survivors opened, by the survivors' logs.
        recovered: sites of whose own mask others gave shares, by the others' logs.
        events: of the lead, the end of the first and of the last such sum; who fell away in the first, and
            what sites opened there for others.
    """

    rounds: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    step: Literal[0, 1]
    reason: Reason | None
    invited: tuple[Name, ...]
    survivors: tuple[Name, ...]
    signed: tuple[Name, ...]
    opened: tuple[Name, ...]
    untold: tuple[Name, ...]
    missing: tuple[Name, ...]
    recovered: tuple[Name, ...]
    events: Annotated[tuple[EventId, ...], Field(min_length=1, max_length=MOST_CITED)]

    @property
    def lists(self) -> tuple[tuple[str, ...], ...]:
        """Every list of sites."""
        told = (self.untold, self.missing, self.recovered)
        return (self.invited, self.survivors, self.signed, self.opened, *told)

    @property
    def fell(self) -> tuple[tuple[str, list[str]], ...]:
        """Phase -> sites that fell away in it, of phases in which any did; no phase that never began."""
        phases = (
            ("masking", self.invited, self.survivors),
            ("signing", self.survivors, self.signed),
            ("opening", self.signed, self.opened),
        )
        began = ((phase, asked, came) for phase, asked, came in phases if came or self.reason is None)
        found = ((phase, [one for one in asked if one not in came]) for phase, asked, came in began)
        return tuple(one for one in found if one[1])

    @property
    def seen(self) -> list[str]:
        """Sites whose update can be told apart by what was opened: none, if all did as they should."""
        own = {*self.survivors, *self.opened, *self.recovered}
        return [site for site in self.missing if site in own]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if [*self.rounds] != sorted({*self.rounds}):
            raise ValueError("the rounds of a sum are not in order")
        return self


def check(plan: Plan, found: Sequence[Summed]) -> None:
    """Raises ValueError for sums that the plan cannot have, or one that stands twice."""
    if found and not plan.aggregation.secure:
        raise ValueError("the plan has no secure sums")
    each = [(number, one.step) for one in found for number in one.rounds]
    if len({*each}) != len(each):
        raise ValueError("a secure sum stands twice")


def sums(plan: Plan, logs: Logs) -> list[dict[str, Any]]:
    """The sums that end in the lead's log, alike ones together, in the order of their first rounds."""
    if not plan.aggregation.secure:
        return []
    alike: dict[bytes, tuple[dict[str, Any], list[int], list[_Sum]]] = {}
    for number, one in sorted(_gathered(plan, logs).items()):
        if one.end is not None:
            said = one.said(number)
            entry = alike.setdefault(canonical.encode(said), (said, [], []))
            entry[1].append(number[0])
            entry[2].append(one)
    call = Names(logs)
    return [
        {**said, "rounds": rounds, "events": [call(event) for event in _cited(found)]}
        for said, rounds, found in alike.values()
    ]


class _Sum:
    """What all logs hold of one sum; of names in sites' logs, those of ``everybody`` in the plan count."""

    def __init__(self, everybody: Iterable[str]) -> None:
        self.everybody = frozenset(everybody)
        self.lead: list[Event] = []
        self.sites: list[Event] = []
        self.asked: list[str] = []

    @property
    def end(self) -> Event | None:
        """How it ended at the lead: opened, or given up."""
        found = {event.type: event for event in self.lead if event.type in _ENDS}
        return next((found[kind] for kind in _ENDS if kind in found), None)

    def said(self, number: Sum) -> dict[str, Any]:
        """An entry without its rounds and events."""
        end = self.end
        done = end is not None and end.type == "sum.closed"
        opened = names(end, "opened") if end and done else self._by("sum.opened")
        told = self._by("sum.opened")
        return {
            "step": number[1],
            "reason": None if end is None or done else end.body["reason"],
            "invited": self.asked,
            "survivors": self._survivors(end),
            "signed": names(end, "signed") if end and done else self._by("sum.signed"),
            "opened": opened,
            "untold": [site for site in opened if site not in told],
            "missing": self._named("sum.opened", "missing"),
            "recovered": self._named("sum.recovered", "lost"),
        }

    def _survivors(self, end: Event | None) -> list[str]:
        """Of a sum that was not opened, those whose masked update came: by the lead, else as sites signed."""
        if end is not None and end.type == "sum.closed":
            return names(end, "survivors")
        if end is not None and end.type == "surplus.kept":
            return self._by("surplus.given")
        came = names(end, "accepted") if end is not None else []
        return came or self._named("sum.signed", "survivors")

    def _by(self, kind: str) -> list[str]:
        return sorted({event.writer for event in self.sites if event.type == kind})

    def _named(self, kind: str, field: str) -> list[str]:
        found = {site for one in self.sites if one.type == kind for site in names(one, field)}
        return sorted(found & self.everybody)


_ENDS = ("sum.closed", "surplus.kept", "round.aborted")
"""How a sum ends at the lead; one that was opened stays so, whatever became of its round."""
_FELL = ("site.lost", "update.refused")
_AT_LEAD = (*_ENDS, *_FELL)
_AT_SITES = ("sum.signed", "sum.opened", "sum.recovered", "surplus.given")
_SURPLUS = ("surplus.kept", "surplus.given")


def _gathered(plan: Plan, logs: Logs) -> Mapping[Sum, _Sum]:
    """Every sum of the job with what all logs hold of it."""
    found: dict[Sum, _Sum] = {}
    everybody = [site.name for site in plan.sites]
    for writer, events in logs.items():
        at_lead = writer == plan.lead.name
        for event in events:
            if event.job != plan.digest or event.round is None:
                continue
            if at_lead and event.type == "round.opened":  # again after a restart, which asks survivors alone
                one = found.setdefault((event.round, 0), _Sum(everybody))
                one.asked = sorted({*one.asked, *names(event, "invited")})
            elif event.type in (_AT_LEAD if at_lead else _AT_SITES):
                one = found.setdefault((event.round, _step(event)), _Sum(everybody))
                (one.lead if at_lead else one.sites).append(event)
    for (number, step), one in found.items():
        if step and (number, 0) in found:
            one.asked = found[number, 0]._survivors(found[number, 0].end)
    return found


def _step(event: Event) -> int:
    step: Any = event.body.get("step", int(event.type in _SURPLUS))
    return int(bool(step))


def _cited(found: Sequence[_Sum]) -> list[Event]:
    """What an entry rests on: the ends of its first and last sum, and what was unusual in the first."""
    ends = [one.end for one in (found[0], *found[1:][-1:]) if one.end is not None]
    return [*ends, *_unusual(found[0])][:MOST_CITED]


def _unusual(one: _Sum) -> Iterator[Event]:
    yield from (event for event in one.lead if event.type in _FELL)
    yield from (event for event in one.sites if event.type == "sum.recovered")
    yield from (event for event in one.sites if event.type == "sum.opened" and event.body["missing"])


def lists(found: Iterable[Summed]) -> Iterator[list[str]]:
    """Every list of sites in the entries."""
    return ([*sites] for one in found for sites in one.lists)
