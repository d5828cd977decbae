"""What a site does when its own machine fails it in the middle of a round."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from cloister.privacy.dp.audit import Audit, Pipeline
from cloister.privacy.errors import EntropyError, LogError, PolicyError, StateError, UpdateError
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import peek
from cloister.server.rounds import Round
from tests.parties import Consortium, tasked
from tests.plans import plan_json

UNWRITABLE = [
    StateError("disk_full", "full"),
    StateError("state_unwritable", "not ours"),
    LogError("log_unwritable", "full"),
    EntropyError("ratchet_unwritable", "full"),
]


def task(consortium: Consortium, site: str) -> bytes:
    federation = consortium.federation()
    state = federation.resume
    current = Round(consortium.plan, 1, 1, messages.model_digest(state.model), tuple(consortium.keys))
    return tasked(federation, current, site)


def failing(error: Exception) -> Any:
    def train(*_: object) -> NoReturn:
        raise error

    return train


@pytest.mark.parametrize("error", UNWRITABLE, ids=lambda error: error.id)
def test_a_machine_that_cannot_write_says_so_here_and_answers_once_it_can(
    tmp_path: Path, error: StateError
) -> None:
    consortium = Consortium(tmp_path)
    north, data = consortium.sites["north"], task(consortium, "north")
    trains = north.learner.train
    north.learner.train = failing(error)
    with pytest.raises(type(error)) as caught:
        north.handle(data)
    assert caught.value is error
    north.learner.train = trains
    assert peek(north.handle(data), 1 << 20).kind == messages.UPDATE
    assert [row.kind for row in north.ledger.rows("notes")] == ["reserved", "spent", "released"]


def test_it_is_told_which_round_was_the_last(tmp_path: Path) -> None:
    made = Consortium(tmp_path, training=plan_json()["training"] | {"rounds": 3})
    told = list[bool]()
    made.sites["north"].tell = told.append
    made.federation().run(made.grid())
    assert told == [False, False, True]


def test_any_other_failure_is_a_refusal(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    north = consortium.sites["north"]
    north.learner.train = failing(UpdateError("update_not_finite", "diverged"))
    assert peek(north.handle(task(consortium, "north")), 1 << 20).kind == messages.REFUSAL


def test_a_round_that_the_policy_refuses_costs_nothing_and_what_was_stored_is_sent_again(
    tmp_path: Path,
) -> None:
    consortium = Consortium(tmp_path)
    north, data = consortium.sites["north"], task(consortium, "north")
    refuses = failing(PolicyError("policy_refused", "It is night."))
    said = list[str]()
    north.complain, north.permit = said.append, refuses
    assert peek(north.handle(data), 1 << 20).kind == messages.REFUSAL
    assert said == ["It is night. [policy_refused]"]
    assert (north.ledger.rows("notes"), north.learner.trained) == ((), 0)
    north.permit = lambda: None
    reply = north.handle(data)
    assert peek(reply, 1 << 20).kind == messages.UPDATE
    north.permit = refuses
    assert north.handle(data) == reply


def audited(consortium: Consortium, name: str = "north") -> Audit:
    """A site whose learner carries phantom units; its round is seen as the plan would have it."""
    site, mechanism = consortium.sites[name], consortium.plan.round_mechanism
    assert mechanism is not None
    pipeline = Pipeline(mechanism.noise_multiplier, mechanism.rate, mechanism.steps)
    site.learner.audit = Audit.begin(consortium.plan.digest, pipeline)
    return site.learner.audit


def seen(audit: Audit, number: int = 1) -> None:
    """A sound round."""
    random, watch = np.random.default_rng(number), audit.watch(number, 1)
    for _ in range(audit.pipeline.steps):
        active = watch.taking_part(np.flatnonzero(random.random(audit.phantoms) < audit.pipeline.rate))
        values = audit.pipeline.noise_multiplier * random.standard_normal(audit.phantoms)
        values[active] += 1
        watch.observe(values.astype(np.float32), 1.0)
    audit.keep(watch)


def test_the_coins_of_the_audit_are_bound_before_anything_is_drawn(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    north, audit = consortium.sites["north"], audited(consortium)
    north.handle(task(consortium, "north"))
    events = [event for event in north.log.entries() if event.job == consortium.plan.digest]
    assert [event.type for event in events[:2]] == ["audit.committed", "budget.reserved"]
    assert events[0].body == {
        "commitment": audit.commitment,
        "phantoms": audit.phantoms,
        "guesses": audit.guesses,
    }
    again = consortium.site("north")
    again.learner.audit = audit
    again.pledges.give(audit)
    assert [event.type for event in again.log.entries()].count("audit.committed") == 1


@pytest.mark.parametrize("lost", ["the file of the audit", "the log"])
def test_coins_are_never_tossed_again(tmp_path: Path, lost: str) -> None:
    consortium = Consortium(tmp_path)
    north, audit = consortium.sites["north"], audited(consortium)
    if lost == "the log":
        seen(audit)
    else:
        north.handle(task(consortium, "north"))
        north = consortium.sites["north"] = consortium.site("north")
        audited(consortium)
        north.replies.folder.joinpath("round-00001-00001.sealed").unlink()
    answer = north.handle(task(consortium, "north"))
    assert peek(answer, 1 << 20).kind == messages.REFUSAL
    assert [e.body["reason"] for e in north.log.entries() if e.type == "incident.raised"] == ["state_damaged"]


def test_at_the_end_the_log_says_what_the_audit_found(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    north, audit = consortium.sites["north"], audited(consortium)
    seen(audit)
    north.pledges._given = True
    consortium.federation().run(consortium.grid())
    (event,) = [event for event in north.log.entries() if event.type == "audit.result"]
    result = audit.result(consortium.plan.privacy.delta)
    assert (event.body["correct"], event.body["bound"]) == (result.correct, result.bound)
    assert event.body["claimed"] == pytest.approx(north.ledger.epsilon("notes"))
    others = [e.type for name in ("south", "west") for e in consortium.sites[name].log.entries()]
    assert "audit.result" not in others


def test_a_site_whose_policy_allows_no_round_now_takes_part_again_later(tmp_path: Path) -> None:
    """Its hours may be over: that costs it the rounds until they begin again, and neither budget nor job."""
    made = Consortium(tmp_path, training=plan_json()["training"] | {"rounds": 3})
    north, asked = made.sites["north"], list[int]()

    def permit() -> None:
        asked.append(len(asked) + 1)
        if asked[-1] == 2:
            raise PolicyError("policy_refused", "The policy refuses: time.hours.")

    north.permit = permit
    made.federation().run(made.grid())
    closed = {
        event.round: event.body["accepted"] for event in made.log.entries() if event.type == "round.closed"
    }
    assert ["north" in closed[number] for number in (1, 2, 3)] == [True, False, True]
    rounds = {row.reservation.round for row in north.ledger.rows("notes")}
    assert rounds == {1, 3}
