"""What the verifier says to a site's word on attacks, event by event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.dp import tails
from cloister.privacy.evidence import derive
from cloister.privacy.evidence.checks import audits
from cloister.privacy.evidence.events import Event
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
