"""Policies and what was decided under them: made again where they are shown, and said where they are not.

How much of a site's policy a bundle shows, the site and the audience decide: whichever shows less. What a
site hands over stands in its signed statement about its part, so that a lead that withholds the rest of it is
found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.errors import CloisterError, InputError
from cloister.privacy.evidence.bundle import AUDIENCES
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Finding, Findings, altered, incomplete, unfounded
from cloister.privacy.evidence.dsse import Envelope
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.part import POLICIES, Shown, statement_place
from cloister.privacy.evidence.rulings import Ruling, Shows, again, decoded, ruling_place
from cloister.privacy.policy.request import Request


def policies(case: Case) -> Findings:
    """Policies and requests that are shown are those that events name; decisions fell under one in force."""
    for name, writer in case.writers.items():
        loaded: set[Any] = set()
        decided: set[Any] = set()
        for one in writer.shown:
            if one.event.type in ("policy.loaded", "policy.changed"):
                loaded.add(one.event.body["policy"])
            if one.event.type == "policy.decision":
                decided |= {one.event.body["request"], one.event.body.get("shared")}
                if one.event.body["policy"] not in loaded:
                    yield unfounded("policy", one.id, "it was decided under a policy that was never loaded")
                yield from decided_again(case, name, one)
        for place, digest in _shown_policies(case, name):
            data = case.bundle.files[place]
            if canonical.digest(data) != digest:
                yield altered("policy", place, "it is not the policy that its name says")
            if digest not in loaded | decided:
                yield altered("policy", place, f"no event of {name} names it")


def decided_again(case: Case, name: str, one: Shown) -> Findings:
    """A decision is what the policies that are shown say to the request that is shown."""
    body = one.event.body
    if one.event.job == case.plan.digest and body.get("shared") != case.plan.policy:
        yield unfounded(
            "policy", one.id, "it was decided under another policy of the consortium than the plan's"
        )
    files = _by_digest(case, name, one.event)
    try:
        made = again(one.event, files)
        if made is None:
            return  # ``hidden_decisions`` counts it
        request = Request.from_json(canonical.decode(files[str(body["request"])], otherwise=_MALFORMED))
    except CloisterError:
        yield altered("policy", one.id, "its policy or its request cannot be read")
        return
    if request != Request.of(case.plan, name, request.known):
        yield unfounded("policy", one.id, "its request says other things than the plan")
    rules = sorted(found.rule for found in made.deciding)
    if (made.outcome, rules) != (body["outcome"], _texts(body["rules"])):
        yield unfounded("policy", one.id, "its policy says otherwise to its request")


_MALFORMED = InputError("evidence_malformed", "A request is not canonical JSON.")


def handed_over(case: Case) -> Findings:
    """What each rule said is what the log says, and what the policy says where that is shown; nothing that a
    site says it hands over is missing."""
    for name, writer in case.writers.items():
        made = {one.id: one for one in writer.shown if one.event.type == "policy.decision"}
        place = ruling_place(name)
        found: Mapping[str, Ruling] = {}
        if place in case.bundle.files:
            try:
                listed = decoded(case.bundle.files[place])
            except CloisterError as error:
                yield Finding.of("policy", place, error)
                continue
            found = {ruling.event: ruling for ruling in listed}
            if [ruling.event for ruling in listed] != [event for event in made if event in found]:
                yield altered("policy", place, f"it rules on what is no decision of {name}, or out of order")
                continue
            for event, ruling in found.items():
                yield from _ruled(case, name, made[event], ruling)
        yield from _missing(case, name, made, found)


def _ruled(case: Case, name: str, one: Shown, ruling: Ruling) -> Findings:
    if not ruling.agrees(one.event):
        yield altered("policy", one.id, f"{ruling_place(name)} says otherwise than the log")
        return
    try:
        made = again(one.event, _by_digest(case, name, one.event))
    except CloisterError:
        return  # ``decided_again`` says so
    if made is not None and Ruling.of(one.id, made) != ruling:
        yield unfounded("policy", one.id, f"{ruling_place(name)} says otherwise than the policy")


def _missing(case: Case, name: str, made: Mapping[str, Shown], ruled: Mapping[str, Ruling]) -> Findings:
    shows = shown_of(case, name)
    for event, one in made.items():
        places = [place for place in _places(name, one.event) if place not in case.withheld]
        if shows == "whole" and not all(place in case.bundle.files for place in places):
            yield incomplete("policy", event, f"its policy or its request is not shown, as {name} says it is")
        if shows != "digest" and event not in ruled:
            yield incomplete("policy", event, f"what each rule said is not shown, as {name} says it is")


def shown_of(case: Case, name: str) -> Shows:
    """How much of a party's policy must be here: what it says that it hands over, or less by the audience."""
    audience = str(case.manifest.predicate.get("audience"))
    return min(handed(case, name), AUDIENCES.get(audience, "whole"), key=SHOWS.index)


SHOWS: tuple[Shows, ...] = ("digest", "rules", "whole")


def handed(case: Case, name: str) -> Shows:
    """How much of its policy a party says that it hands over; who says nothing hands over all of it."""
    try:
        said = Envelope.from_bytes(case.bundle.files[statement_place(name)]).statement().predicate
    except (CloisterError, KeyError):
        return "whole"  # the check of signatures says what is wrong
    found = said.get(POLICIES)
    return next((shows for shows in SHOWS if shows == found), "whole")


def _texts(value: Any) -> list[str]:
    return [str(one) for one in value]


def _named(decision: Event) -> list[str]:
    """Digests of the request and the policy of a decision, and of the consortium's if it was asked."""
    return [str(decision.body[field]) for field in ("request", "policy", "shared") if field in decision.body]


def _place(name: str, digest: str) -> str:
    return f"policies/{name}@{digest.removeprefix('sha256:')}.json"


def _places(name: str, decision: Event) -> list[str]:
    """Where a bundle shows what a decision was made of."""
    return [_place(name, digest) for digest in _named(decision)]


def _by_digest(case: Case, name: str, decision: Event) -> dict[str, bytes]:
    """Digest -> bytes of what a decision was made of, as far as it is shown."""
    found = {digest: case.bundle.files.get(_place(name, digest)) for digest in _named(decision)}
    return {digest: data for digest, data in found.items() if data is not None}


def notes(case: Case, name: str) -> Iterator[str]:
    """What a reader should know of a party's policies that are not shown."""
    if policies := hidden_policies(case).get(name):
        yield f"{policies} policies of {name} are named by digest only."
    if decisions := hidden_decisions(case).get(name):
        ruled = ruling_place(name) in case.bundle.files
        stated = f" What each rule said is the word of {name}." if ruled else ""
        yield (
            f"{decisions} policy decisions of {name} were not made again: policy or request is not shown."
            f"{stated}"
        )
    if (said := handed(case, name)) != "whole":
        but = " but what each rule said" if said == "rules" else ""
        yield f"By its own statement, {name} hands over no policy{but}."


def hidden_decisions(case: Case) -> dict[str, int]:
    """Name of a party -> how many of its policy decisions cannot be made again from what is shown."""
    decisions = {
        name: [one for one in writer.events if one.type == "policy.decision"]
        for name, writer in case.writers.items()
    }
    hidden = {
        name: sum(any(place not in case.bundle.files for place in _places(name, one)) for one in found)
        for name, found in decisions.items()
    }
    return {name: count for name, count in hidden.items() if count}


def hidden_policies(case: Case) -> dict[str, int]:
    """Name of a party -> how many policies its events name that the bundle does not show."""
    found = {}
    for name, writer in case.writers.items():
        events = [e for e in writer.events if e.type in ("policy.loaded", "policy.changed")]
        shown = {digest for _, digest in _shown_policies(case, name)}
        if hidden := {str(e.body["policy"]) for e in events} - shown:
            found[name] = len(hidden)
    return found


def _shown_policies(case: Case, name: str) -> Iterator[tuple[str, str]]:
    for place in sorted(case.bundle.files):
        if match := re.fullmatch(rf"policies/{name}@([0-9a-f]{{64}})\.json", place):
            yield place, f"sha256:{match[1]}"
