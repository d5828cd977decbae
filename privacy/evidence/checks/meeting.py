"""Two ends, one story: what a site wrote down of a message, and what the lead wrote down of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, altered, incomplete, unfounded
from cloister.privacy.evidence.events import names
from cloister.privacy.evidence.part import Shown

_NOT_SEEN = "not-seen"


def _of(events: Iterable[Shown], *types: str) -> list[Shown]:
    return [one for one in events if one.event.type in types]


def updates(case: Case) -> Findings:
    """Every update that the lead received was sent so, and every one that was sent has an outcome."""
    for name in case.sites:
        site, lead = case.of_job(name), [e for e in case.lead if e.event.body.get("site") == name]
        sent = {(e.event.round, e.event.body["sealed"]): e for e in _of(site, "update.sent")}
        received = {(e.event.round, e.event.body["sealed"]): e for e in _of(lead, "update.received")}
        for key in received.keys() - sent.keys():
            yield altered("updates", received[key].id, f"{name} has no record of sending this update")
        missed = {e.event.round for e in _of(lead, "update.refused", "site.lost")}
        for key in sent.keys() - received.keys():
            if key[0] not in missed:
                reason = "the lead has no record of this update, nor of refusing it"
                yield altered("updates", sent[key].id, reason)
        for one in _of(site, "update.acknowledged"):
            if one.event.body["sealed"] not in {digest for _, digest in received}:
                yield altered("updates", one.id, "the lead acknowledged an update that it did not log")


def outcomes(case: Case) -> Findings:
    """Survivors, models and refusals are the same at both ends."""
    opened = {e.event.round: e for e in _of(case.lead, "round.opened")}
    summed = {_sum(e): e for e in _of(case.lead, "sum.closed")}
    for name in case.sites:
        site = case.of_job(name)
        yield from _survivors(name, site, summed)
        yield from _models(site, opened)
        yield from _refusals(case, name, site)
    yield from _final(case)


def _sum(one: Shown) -> tuple[int | None, Any]:
    """Which secure sum an event is about: its round and step."""
    return one.event.round, one.event.body["step"]


def _survivors(name: str, site: Iterable[Shown], summed: Mapping[tuple[int | None, Any], Shown]) -> Findings:
    signed = {_sum(e): e for e in _of(site, "sum.signed")}
    for number, one in summed.items():
        if name in names(one.event, "signed") and number not in signed:
            yield incomplete("survivors", one.id, f"{name} has no record of signing these survivors")
    for number, one in signed.items():
        theirs = summed.get(number)
        if theirs and names(one.event, "survivors") != names(theirs.event, "survivors"):
            yield altered("survivors", one.id, f"the lead logged other survivors ({theirs.id})")


def _models(site: Iterable[Shown], opened: Mapping[int | None, Shown]) -> Findings:
    for one in _of(site, "update.sent"):
        theirs = opened.get(one.event.round)
        if theirs is None:
            yield altered("rounds", one.id, f"the lead logged no round {one.event.round}")
        elif one.event.body.get("model", theirs.event.body["model"]) != theirs.event.body["model"]:
            yield altered("rounds", one.id, f"the round began with another model at the lead ({theirs.id})")


def _refusals(case: Case, name: str, site: Iterable[Shown]) -> Findings:
    """What a site refused, the lead must have logged as refused or lost."""
    noted = {
        e.event.round
        for e in _of(case.lead, "update.refused", "site.lost")
        if e.event.body.get("site") == name
    }
    done = {e.event.round for e in _of(case.lead, "round.closed") if name in names(e.event, "accepted")}
    ended = {e.event.round for e in _of(case.lead, "round.closed", "round.aborted")}
    for one in _of(site, "incident.raised"):
        number = one.event.round
        if number in ended and number not in noted | done:
            yield altered("refusals", one.id, "the site refused, and the lead has no record of it")


def _final(case: Case) -> Findings:
    """The final model is the one that sites received; approvals were given where the lead says so."""
    for one in _of(case.lead, "model.released"):
        for name in names(one.event, "recipients"):
            got = _of(case.of_job(name), "model.received") if name in case.writers else []
            if not got:
                yield altered("model", one.id, f"{name} has no record of receiving the final model")
            for theirs in got:
                if theirs.event.body["model"] != one.event.body["model"]:
                    yield altered("model", theirs.id, f"another model than the lead released ({one.id})")
    for one in _of(case.lead, "job.accepted"):
        name = str(one.event.body.get("site"))
        if name in case.sites and not _of(case.of_job(name), "approval.granted"):
            yield altered("consent", one.id, f"{name} has no record of approving the plan")


def channels(case: Case) -> Findings:
    """A connection that the lead logged with a site, the site logged with the lead, with the same facts.

    Likewise for Flower, between the certificates of the consortium service, where the lead's end wrote it.
    """
    lead = case.plan.lead.name
    servers = {e.event.body["local"] for e in _of(case.writers[lead].shown, "channel.opened") if _served(e)}
    for name in case.sites:
        yield from _flowers(case, name, servers)
        theirs = [_facts(e.event.body, flip=False) for e in _channels(case, lead, name) if _served(e)]
        for one in filter(_served, _channels(case, name, lead)):
            seen = _facts(one.event.body, flip=True)
            if not any(_agree(seen, other) for other in theirs):
                yield altered("channels", one.id, "the lead logged no such connection")
        for one in _channels(case, lead, name):
            yield from _weak(one)
        ours = [_facts(e.event.body, flip=True) for e in _channels(case, name, lead)]
        newest = theirs[-1:]
        yield from _flowers_met(case, name)
        if newest and not any(_agree(newest[0], own) for own in ours):
            last = next(e for e in reversed(_channels(case, lead, name)) if _served(e))
            yield altered("channels", last.id, f"{name} logged no such connection")


def _served(one: Shown) -> bool:
    """Whether it is a connection to the consortium service, of which both ends keep a record."""
    return bool(one.event.body["route"] == "consortium")


def _flowers(case: Case, name: str, servers: Collection[Any]) -> Findings:
    """A site's end of Flower's connection is between the certificates of the consortium service's."""
    found = _channels(case, name, case.plan.lead.name)
    own = {one.event.body["local"] for one in found if _served(one)}
    for one in found:
        if _served(one):
            continue
        yield from _weak(one)
        if one.event.body.get("remote") not in servers:
            yield altered("channels", one.id, "the lead logged no such certificate of its own")
        if one.event.body["local"] not in own:
            yield altered("channels", one.id, "the site showed another certificate to the consortium service")


def _flowers_met(case: Case, name: str) -> Findings:
    """The lead's end of Flower's connection wrote what the site's end did, where it wrote anything."""
    lead = case.plan.lead.name
    theirs = [
        (*_facts(e.event.body, flip=False), e.event.body["cipher"])
        for e in _channels(case, lead, name)
        if not _served(e)
    ]
    for own in [one for one in _channels(case, name, lead) if not _served(one)][-1:]:
        seen = (*_facts(own.event.body, flip=True), own.event.body["cipher"])
        if theirs and not any(_agree(seen, other) for other in theirs):
            yield altered("channels", own.id, "the lead wrote other things of this connection")


def _channels(case: Case, writer: str, party: str) -> list[Shown]:
    found = _of(case.writers[writer].shown, "channel.opened")
    return [one for one in found if one.event.body["party"] == party]


def _facts(body: Mapping[str, Any], *, flip: bool) -> tuple[Any, ...]:
    lead, site = ("remote", "local") if flip else ("local", "remote")
    return (body["route"], body["tls"], body["group"], body.get(lead), body.get(site))


def _agree(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Equal wherever both ends saw the fact."""
    return all(a == b or _NOT_SEEN in (a, b) or None in (a, b) for a, b in zip(one, other, strict=True))


def _weak(one: Shown) -> Findings:
    if one.event.body["tls"] == "1.2":
        yield unfounded("channels", one.id, "the connection was below TLS 1.3")
