"""What the verifier says to a site's word on attacks, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.dp import tails
from cloister.privacy.errors import EvidenceError
from cloister.privacy.evidence import derive
from cloister.privacy.evidence.checks import audits
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.opening import Opening
from cloister.privacy.evidence.part import Shown
from cloister.privacy.plan import Plan
from tests.plans import plan

MODEL, COINS, OTHER = (canonical.digest(name) for name in (b"model", b"coins", b"other"))
PLANTED = {"commitment": COINS, "canaries": 64, "guesses": 32}
MEMBERSHIP = {
    "attack": "membership",
    "model": MODEL,
    "trials": 64,
    "guesses": 32,
    "correct": 28,
    "delta": 1e-5,
    "bound": tails.epsilon_lower_bound(28, 32, 64, 1e-5),
    "covered": False,
}
CANARIES = MEMBERSHIP | {"attack": "canaries", "commitment": COINS, "covered": True}
HONEST = (
    ("audit.planted", PLANTED),
    ("budget.reserved", {}),
    ("model.received", {"model": MODEL}),
    ("audit.model", CANARIES),
    ("audit.model", MEMBERSHIP),
)


@dataclass(frozen=True)
class Told:
    """As much of a case as the check reads."""

    plan: Plan
    shown: tuple[Shown, ...]
    sites: tuple[str, ...] = ("north",)
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def bundle(self) -> Any:
        return SimpleNamespace(files=self.files)

    @property
    def writers(self) -> dict[str, Any]:
        return {"north": self}

    def of_job(self, _: str) -> tuple[Shown, ...]:
        return self.shown


def reasons(events: Any, the_plan: Plan | None = None) -> list[str]:
    the_plan = the_plan or plan(canaries=64)
    found = [
        Event("north", seq, "2026-01-31T11:00:00.000Z", kind, the_plan.digest, None, body, OTHER)
        for seq, (kind, body) in enumerate(events)
    ]
    case: Any = Told(the_plan, tuple(Shown(event, b"", ()) for event in found))
    return [finding.reason for finding in audits.attacks(case)]


def test_what_follows_from_plan_and_log_is_taken() -> None:
    assert reasons(HONEST) == []
    assert reasons(HONEST[1:3] + HONEST[4:], plan()) == []  # a plan without canaries


def changed(place: int, **body: Any) -> Any:
    kind, old = HONEST[place]
    return (*HONEST[:place], (kind, {**old, **body}), *HONEST[place + 1 :])


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (changed(4, bound=3.0), "a bound of 3.0000 is told"),
        (changed(4, bound=0.0), "a bound of 0.0000 is told"),
        (changed(3, correct=32), "a bound of"),
        (changed(3, correct=10), "a bound of"),
        (changed(4, correct=33), "cannot be those of an attack"),
        (changed(4, trials=2**52, guesses=2**51), "cannot be those of an attack"),
        (changed(4, guesses=30), "another number of guesses"),
        (changed(4, delta=1e-9), "its delta is not the plan's"),
        (changed(4, model=OTHER), "another model"),
        (changed(4, covered=True), "real units are told as covered"),
        (changed(3, commitment=OTHER), "others than those that were bound"),
        (changed(0, commitment=OTHER), "others than those that were bound"),
        (changed(0, canaries=32), "another number of canaries"),
        (HONEST[1:], "its canaries were never bound"),
        ((HONEST[1], HONEST[0], *HONEST[2:]), "after the first round was begun"),
        ((HONEST[0], *HONEST), "canaries were bound before"),
        ((*HONEST, HONEST[4]), "was told of before"),
        ((*HONEST[:2], *HONEST[3:], HONEST[2]), "another model"),
    ],
)
def test_anything_else_is_found(events: Any, why: str) -> None:
    found = reasons(events)
    assert any(why in reason for reason in found), found


def test_without_privacy_nothing_is_covered() -> None:
    off = {"mode": "off", "noise_multiplier": 0.0, "epsilon": 0.0, "delta": 0.0}
    the_plan = plan(canaries=64, privacy={"unit": "record", "relation": "add-remove", "bound": 1.0, **off})
    told = CANARIES | {"delta": 0.0, "bound": tails.epsilon_lower_bound(28, 32, 64, 0.0)}
    events = (*HONEST[:3], ("audit.model", told))
    assert reasons(events, the_plan) == ["its figures are told as covered by an epsilon that there is not"]
    assert reasons((*HONEST[:3], ("audit.model", told | {"covered": False})), the_plan) == []


def test_evidence_takes_the_first_word_only_and_rounds_down() -> None:
    the_plan = plan(canaries=64)
    again = ("audit.model", MEMBERSHIP | {"correct": 0, "bound": 0.0})
    events = [
        Event("north", seq, "2026-01-31T11:00:00.000Z", kind, the_plan.digest, None, body, OTHER)
        for seq, (kind, body) in enumerate((*HONEST, again))
    ]
    stated = {"site": "north", "epsilon": "7.998", "outside": None}
    found = {one["attack"]: one for one in derive.attacked(the_plan, stated, events)}
    assert found["membership"]["correct"] == "28"
    assert found["membership"]["claimed"] == "7.998"
    assert float(found["membership"]["bound"]) <= MEMBERSHIP["bound"]  # type: ignore[operator]
    assert set(found) == {"canaries", "membership"}


# Opened canaries

ANOTHER_JOB = canonical.digest(b"another job")


def opening(**changes: Any) -> Opening:
    """64 canaries, every second one trained on, of which 32 were guessed and 28 of these rightly."""
    given: dict[str, Any] = {
        "job": plan(canaries=64).digest,
        "key": "0a" * 32,
        "included": "10" * 32,
        "nonce": "0b" * 32,
        "told_in": tuple(range(0, 32, 2)),
        "told_out": (*range(1, 25, 2), *range(40, 48, 2)),
    }
    return Opening(**given | changes)


def openings(
    told: Opening, shown: bytes | None, *, more: tuple[Any, ...] = (), **changes: Any
) -> list[tuple[str, str]]:
    """What is found where a log is bound to one opening, tells of another, and a bundle has bytes."""
    the_plan, commitment = plan(canaries=64), opening().commitment
    body = {"commitment": commitment, "opening": canonical.digest(told.to_bytes())}
    events = [
        ("audit.planted", PLANTED | {"commitment": commitment}),
        ("model.received", {"model": MODEL}),
        ("audit.model", CANARIES | {"commitment": commitment} | changes),
        ("audit.opened", body),
        *more,
    ]
    found = [
        Event("north", seq, "2026-01-31T11:00:00.000Z", kind, the_plan.digest, None, said, OTHER)
        for seq, (kind, said) in enumerate(events)
        if kind != "audit.opened" or told.job != ANOTHER_JOB
    ]
    files = {} if shown is None else {"openings/north.json": shown}
    case: Any = Told(the_plan, tuple(Shown(event, b"", ()) for event in found), files=files)
    return [(finding.result.word, finding.reason) for finding in audits.openings(case)]


def test_opened_canaries_that_were_bound_are_counted_again() -> None:
    assert opening().correct == 28
    assert openings(opening(), opening().to_bytes()) == []


OTHERS = opening(included="01" * 32)
LUCKIER = opening(told_out=(*range(1, 33, 2),))


@pytest.mark.parametrize(
    ("told", "shown", "how", "found"),
    [
        (opening(), None, {}, "incomplete"),
        (opening(), b"{}", {}, "altered"),
        (OTHERS, opening().to_bytes(), {}, "altered"),
        (OTHERS, OTHERS.to_bytes(), {}, "others than those that were bound"),
        (opening(key="0c" * 32), opening(key="0c" * 32).to_bytes(), {}, "others than those that were bound"),
        (opening(job=OTHER), opening(job=OTHER).to_bytes(), {}, "others than those that were bound"),
        (LUCKIER, LUCKIER.to_bytes(), {}, "32 of the guesses opened are right; its log tells 28"),
        (
            opening(),
            opening().to_bytes(),
            {"correct": 20},
            "28 of the guesses opened are right; its log tells 20",
        ),
        (opening(), opening().to_bytes(), {"attack": "membership"}, "tells of no attack on them before"),
        (opening(), opening().to_bytes(), {"more": (("audit.opened", {}),)}, "canaries were opened before"),
        (opening(job=ANOTHER_JOB), opening().to_bytes(), {}, "no event of north names it"),
    ],
)
def test_anything_else_of_an_opening_is_found(
    told: Opening, shown: bytes | None, how: dict[str, Any], found: str
) -> None:
    findings = openings(told, shown, **how)
    assert any(found in (result, reason) or found in reason for result, reason in findings), findings


@pytest.mark.parametrize(
    "changes",
    [
        {"told_in": (0, 0, *range(2, 30, 2))},
        {"told_in": (1, *range(2, 32, 2))},
        {"told_in": ()},
        {"told_in": (64, *range(2, 32, 2))},
    ],
)
def test_guesses_that_no_attack_makes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError, match="opens no canaries"):
        Opening.from_bytes(opening(**changes).to_bytes())


# Extraction, of a model that writes

WRITER: dict[str, Any] = {"task": {"kind": "causal-lm", "labels": []}, "canaries": 64}
BOUND_COINS = opening(job=plan(**WRITER).digest, recited=(0, 2, 4, 1))
DRAWN = {
    "model": MODEL,
    "commitment": BOUND_COINS.commitment,
    "trained": 32,
    "extracted": 3,
    "others": 32,
    "guessed": 1,
    "before": 0,
    "covered": True,
}


def drawn(*more: tuple[str, Any], the_plan: Plan | None = None, **changes: Any) -> list[str]:
    """What is found where a site tells of an extraction, opens its canaries, and more."""
    events = (
        ("audit.planted", PLANTED | {"commitment": BOUND_COINS.commitment}),
        ("model.received", {"model": MODEL}),
        ("audit.model", CANARIES | {"commitment": BOUND_COINS.commitment}),
        ("audit.extracted", DRAWN | changes),
        *more,
    )
    the_plan = the_plan or plan(**WRITER)
    found = [
        Event("north", seq, "2026-01-31T11:00:00.000Z", kind, the_plan.digest, None, body, OTHER)
        for seq, (kind, body) in enumerate(events)
    ]
    files = {"openings/north.json": BOUND_COINS.to_bytes()}
    case: Any = Told(the_plan, tuple(Shown(event, b"", ()) for event in found), files=files)
    opened = any(kind == "audit.opened" for kind, _ in more)
    return [one.reason for one in (*audits.attacks(case), *(audits.openings(case) if opened else ()))]


OPENED = (
    "audit.opened",
    {"commitment": BOUND_COINS.commitment, "opening": canonical.digest(BOUND_COINS.to_bytes())},
)


def test_an_extraction_that_was_told_truly_is_taken() -> None:
    assert drawn() == []
    assert drawn(OPENED) == []
    assert Opening.from_bytes(BOUND_COINS.to_bytes()) == BOUND_COINS
    assert b"recited" not in opening().to_bytes()  # of a model that names classes
    with pytest.raises(EvidenceError):
        Opening.from_bytes(opening(recited=(64,)).to_bytes())


@pytest.mark.parametrize(
    ("changes", "more", "why"),
    [
        ({"extracted": 33}, (), "cannot be the numbers"),
        ({"trained": 9, "others": 55}, (), "cannot be the numbers"),
        ({"others": 2**40}, (), "cannot be the numbers"),
        ({"before": 33}, (), "cannot be the numbers"),
        ({"model": OTHER}, (), "another model"),
        ({"commitment": OTHER}, (), "others than those that were bound"),
        ({"others": 31}, (), "others than those that were bound"),
        ({}, (("audit.extracted", DRAWN),), "was told of before"),
        ({"extracted": 0}, (OPENED,), "other answers of canaries came out"),
        ({"guessed": 0}, (OPENED,), "other answers of canaries came out"),
        ({"trained": 31, "others": 33}, (OPENED,), "other answers of canaries came out"),
        ({}, (OPENED,), ""),
    ],
)
def test_an_extraction_that_was_not_is_found(
    changes: dict[str, Any], more: tuple[tuple[str, Any], ...], why: str
) -> None:
    found = drawn(*more, **changes)
    assert any(why in reason for reason in found) if why else found == []


def test_only_a_model_that_writes_gives_texts_away() -> None:
    assert "the model of this plan writes nothing that could be drawn out" in drawn(
        the_plan=plan(canaries=64)
    )
    off = {"mode": "off", "noise_multiplier": 0.0, "epsilon": 0.0, "delta": 0.0}
    privacy = {"unit": "record", "relation": "add-remove", "bound": 1.0, **off}
    said = drawn(the_plan=plan(**WRITER, privacy=privacy))
    assert said.count("its figures are told as covered by an epsilon that there is not") == 2


def test_what_a_log_under_new_keys_was_bound_to_before_is_no_second_time() -> None:
    """A site that changes its keys during a job says in its new log what it was bound to in the old one."""
    the_plan = plan(canaries=64)

    def shown(seq: int, kind: str, body: Any, log: str = "") -> Shown:
        event = Event("north", seq, "2026-01-31T11:00:00.000Z", kind, the_plan.digest, None, body, OTHER)
        return Shown(event, b"", (), log, 2 if log else 0)

    old = [shown(seq, *told) for seq, told in enumerate(HONEST[:2])]
    new = [shown(seq, *told, "@" + "0" * 16) for seq, told in enumerate((HONEST[0], *HONEST[2:]))]
    case: Any = Told(the_plan, (*old, *new))
    assert [finding.reason for finding in audits.attacks(case)] == []
    again: Any = Told(the_plan, (*old, shown(2, "audit.planted", PLANTED), *new))
    assert "canaries were bound before" in [finding.reason for finding in audits.attacks(again)]
