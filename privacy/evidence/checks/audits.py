"""Attacks on the finished model: bound before the first step, made on that model, and counted right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.dp import accounting, membership, tails
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Finding, Findings, altered, incomplete, unfounded
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.evidence import MOST_PHANTOMS
from cloister.privacy.evidence.extraction import possible
from cloister.privacy.evidence.opening import Opening, opening_place
from cloister.privacy.evidence.part import Shown

_CHECK = "audits"
_CLOSE = 1e-9


def pipelines(case: Case) -> Findings:
    """The audit of private steps: bound before the first of them, told after the last, counted right.

    How many guesses were right is the site's word. A site that was killed as it told may tell once more.
    """
    for name in case.sites:
        if name not in case.writers:
            continue
        events = case.of_job(name)
        bound = _bound(events, "audit.committed")
        told = [one for one in events if one.event.type == "audit.result"]
        begun = _begun(events)
        for one in bound:
            if begun is not None and one.place > begun.place:
                yield unfounded(
                    _CHECK, one.id, f"phantom units were bound after the first round was begun ({begun.id})"
                )
        for one in bound[1:]:
            yield unfounded(_CHECK, one.id, "phantom units were bound before")
        for one in told:
            if any(e.event.type == "budget.reserved" for e in events if e.place > one.place):
                yield unfounded(_CHECK, one.id, "it is told before the last round was begun")
            for reason in _miscounted(case, events, bound[:1], one):
                yield unfounded(_CHECK, one.id, reason)


def _begun(events: Sequence[Shown]) -> Shown | None:
    """The first event of a site that tells of work on a round."""
    return next((e for e in events if e.event.type in ("budget.reserved", "update.sent")), None)


def _bound(events: Sequence[Shown], kind: str) -> list[Shown]:
    """What binds a site. A log under new keys says again what the one before it was bound to: that is one."""
    found: list[Shown] = []
    for one in events:
        again = any(o.log != one.log and o.event.body == one.event.body for o in found)
        if one.event.type == kind and not again:
            found.append(one)
    return found


def _before(events: Sequence[Shown], one: Shown) -> list[Shown]:
    return [other for other in events if other.place < one.place]


def _miscounted(case: Case, events: Sequence[Shown], bound: Sequence[Shown], one: Shown) -> Iterator[str]:
    """What is wrong with the result of a pipeline's audit."""
    body, each, delta = _numbers(one), case.plan.site_mechanism, case.plan.privacy.delta
    if each is None or not bound or body["commitment"] != bound[0].event.body["commitment"]:
        yield "its phantom units were never bound"
        return
    numbers = _numbers(bound[0])
    correct, guesses, phantoms = body["correct"], numbers["guesses"], numbers["phantoms"]
    if not correct <= guesses <= phantoms <= MOST_PHANTOMS or body["delta"] != delta:
        yield "its guesses cannot be those of an audit of this plan"
        return
    lower = tails.epsilon_lower_bound(correct, guesses, phantoms, delta)
    if not math.isclose(body["bound"], lower, rel_tol=_CLOSE, abs_tol=_CLOSE):
        yield f"a bound of {body['bound']:.4f} is told; its guesses give {lower:.4f}"
    reserved = sum(e.event.type == "budget.reserved" for e in events)
    most = accounting.epsilon([each] * reserved, delta)
    if body["claimed"] > most * (1 + _CLOSE):
        yield f"its bound is held to {body['claimed']:.4f}; {reserved} rounds of the plan cost {most:.4f}"


def attacks(case: Case) -> Findings:
    """Every attack that a site tells of is one that plan and log allow, with the bound that follows.

    How many guesses were right is the site's word, where it did not open its canaries (``openings``).
    """
    for name in case.sites:
        if name not in case.writers:
            continue
        events = case.of_job(name)
        yield from _planted(case, events)
        seen: set[Any] = set()
        for one in (one for one in events if one.event.type == "audit.model"):
            if one.event.body["attack"] in seen:
                yield unfounded(_CHECK, one.id, "this attack was told of before, and counts once")
            seen.add(one.event.body["attack"])
            for reason in (*_faults(case, one), *_terms(case, events, one)):
                yield unfounded(_CHECK, one.id, reason)
        told = [one for one in events if one.event.type == "audit.extracted"]
        for place, one in enumerate(told):
            for reason in (*_impossible(case, one), *_drawn(case, events, one, again=place > 0)):
                yield unfounded(_CHECK, one.id, reason)


def openings(case: Case) -> Findings:
    """Opened canaries are those that the log was bound to, and the right guesses are as many as it tells."""
    for name in case.sites:
        if name not in case.writers:
            continue
        events, place = case.of_job(name), opening_place(name)
        told = [one for one in events if one.event.type == "audit.opened"]
        for one in told[1:]:
            yield unfounded(_CHECK, one.id, "canaries were opened before")
        data = case.bundle.files.get(place)
        if told and data is None:
            yield incomplete(_CHECK, place, f"{told[0].id} names it, and it is not here")
        elif data is not None and not told:
            yield altered(_CHECK, place, f"no event of {name} names it")
        elif data is not None:
            yield from _opened(case, events, told[0], data)


def _opened(case: Case, events: tuple[Shown, ...], one: Shown, data: bytes) -> Findings:
    place = opening_place(one.event.writer)
    if canonical.digest(data) != one.event.body["opening"]:
        yield altered(_CHECK, place, f"it is not what {one.id} names")
        return
    try:
        found = Opening.from_bytes(data)
    except CloisterError as error:
        yield Finding.of(_CHECK, place, error)
        return
    earlier = _before(events, one)
    before = [e.event for e in earlier]
    bound = [e.event.body["commitment"] for e in _bound(earlier, "audit.planted")]
    if (
        found.job != case.plan.digest
        or [found.commitment] != bound
        or bound != [one.event.body["commitment"]]
    ):
        yield unfounded(_CHECK, one.id, "its canaries are others than those that were bound")
    counted = [
        e.body["correct"] for e in before if e.type == "audit.model" and e.body["attack"] == "canaries"
    ]
    yield from _recited(before, one, found)
    if counted[:1] != [found.correct]:
        said = f"its log tells {counted[0]}" if counted else "its log tells of no attack on them before"
        yield unfounded(_CHECK, one.id, f"{found.correct} of the guesses opened are right; {said}")


def _recited(before: Sequence[Event], one: Shown, found: Opening) -> Findings:
    """As many answers came out as the log tells."""
    for body in [e.body for e in before if e.type == "audit.extracted"][:1]:
        told = body["extracted"], body["guessed"], body["trained"]
        if told != (found.drawn(trained=True), found.drawn(trained=False), found.included.count("1")):
            yield unfounded(_CHECK, one.id, "other answers of canaries came out than its log tells")


def _impossible(case: Case, one: Shown) -> Iterator[str]:
    body = _numbers(one)
    counts = {name: body[name] for name in ("trained", "extracted", "others", "guessed", "before")}
    if not possible(**counts):
        yield "these cannot be the numbers of an extraction"
    if not case.plan.task.generates:
        yield "the model of this plan writes nothing that could be drawn out"


def _drawn(case: Case, events: tuple[Shown, ...], one: Shown, *, again: bool) -> Iterator[str]:
    """What is wrong with an extraction in view of the plan and of what the site wrote before."""
    body, before = _numbers(one), [e.event for e in _before(events, one)]
    if again:
        yield "this attack was told of before, and counts once"
    if body["model"] not in [e.body["model"] for e in before if e.type == "model.received"]:
        yield "it was made on another model than the site received at the end"
    bound = [e.body for e in before if e.type == "audit.planted"]
    if not bound or (body["commitment"], body["trained"] + body["others"]) != (
        bound[0]["commitment"],
        bound[0]["canaries"],
    ):
        yield "its canaries are others than those that were bound"
    if body["covered"] and case.plan.privacy.mode == "off":
        yield "its figures are told as covered by an epsilon that there is not"


def _planted(case: Case, events: tuple[Shown, ...]) -> Findings:
    """Canaries are as many as the plan says, and bound once, before anything was trained."""
    begun = _begun(events)
    planted = _bound(events, "audit.planted")
    for one in planted:
        if one.event.body["canaries"] != case.plan.canaries:
            yield unfounded(_CHECK, one.id, "the plan has another number of canaries")
        if begun is not None and one.place > begun.place:
            yield unfounded(
                _CHECK, one.id, f"canaries were bound after the first round was begun ({begun.id})"
            )
    for one in planted[1:]:
        yield unfounded(_CHECK, one.id, "canaries were bound before")


def _faults(case: Case, one: Shown) -> Iterator[str]:
    """What is wrong with an attack's numbers by themselves."""
    body, plan = _numbers(one), case.plan
    if not body["correct"] <= body["guesses"] <= body["trials"] <= membership.MOST_TRIALS:
        yield "its guesses cannot be those of an attack"
        return
    if body["guesses"] != membership.guesses_of(body["trials"]):
        yield "it made another number of guesses than so many units have"
    if body["delta"] != plan.privacy.delta:
        yield "its delta is not the plan's"
        return
    counts = (body["correct"], body["guesses"], body["trials"])
    bound = tails.epsilon_lower_bound(*counts, body["delta"])
    if not math.isclose(body["bound"], bound, rel_tol=_CLOSE, abs_tol=_CLOSE):
        yield f"a bound of {body['bound']:.4f} is told; its guesses give {bound:.4f}"


def _terms(case: Case, events: tuple[Shown, ...], one: Shown) -> Iterator[str]:
    """What is wrong with an attack in view of the plan and of what the site wrote before."""
    body, private = one.event.body, case.plan.privacy.mode != "off"
    before = [e.event for e in _before(events, one)]
    if body["model"] not in [e.body["model"] for e in before if e.type == "model.received"]:
        yield "it was made on another model than the site received at the end"
    if body["attack"] == "membership":
        if body["covered"]:
            yield "figures about real units are told as covered by epsilon"
        return
    bound = [e.body for e in before if e.type == "audit.planted"]
    if not bound:
        yield "its canaries were never bound"
    elif (body.get("commitment"), body["trials"], body["guesses"]) != tuple(
        bound[0][name] for name in ("commitment", "canaries", "guesses")
    ):
        yield "its canaries are others than those that were bound"
    if body["covered"] and not private:
        yield "its figures are told as covered by an epsilon that there is not"


def _numbers(one: Shown) -> Mapping[str, Any]:
    return one.event.body
