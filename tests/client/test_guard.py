"""A global model that does worse at a site than one before is noticed there, and refused if it says so."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.guard import Guard, Score, Tolerance
from cloister.privacy.errors import RoundError
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import peek
from tests.parties import Consortium, tasked

MANY = 10_000
REFUSING = Tolerance(points=10, action="refuse")


def judged(guard: Guard, *accuracies: float, rows: int = MANY) -> list[str]:
    faults = (guard.judge(number, Score(accuracy, rows)) for number, accuracy in enumerate(accuracies))
    return [fault.id if fault else "" for fault in faults]


def test_a_fall_is_one_from_the_best_model_so_far() -> None:
    assert judged(Guard(REFUSING), 0.3, 0.8, 0.75, 0.65, 0.8) == ["", "", "", "model_fell", ""]


def test_small_steps_down_add_up() -> None:
    assert judged(Guard(REFUSING), 0.80, 0.76, 0.72, 0.68)[-1] == "model_fell"


def test_on_few_rows_chance_alone_moves_an_accuracy() -> None:
    assert judged(Guard(REFUSING), 0.8, 0.6, rows=20) == ["", ""]
    assert judged(Guard(REFUSING), 0.8, 0.6, rows=2_000) == ["", "model_fell"]


def test_a_site_may_ignore_it() -> None:
    assert judged(Guard(Tolerance(10, "ignore")), 0.9, 0.1) == ["", ""]


@given(best=st.floats(0, 1), now=st.floats(0, 1), points=st.floats(0, 100), rows=st.integers(1, 10**6))
def test_nothing_within_the_tolerance_is_held_against_a_model(
    best: float, now: float, points: float, rows: int
) -> None:
    fault = Guard(Tolerance(points, "refuse"), Score(best, rows)).judge(3, Score(now, rows))
    before, after = ((each * rows + 1) / (rows + 2) for each in (best, now))
    chance = 2 * math.sqrt((before * (1 - before) + after * (1 - after)) / (rows + 2))
    assert (fault is not None) == (best - now > points / 100 and before - after > points / 100 + chance)


@pytest.mark.parametrize(("rows", "told"), [(1, ""), (2, ""), (3, ""), (5, "model_fell")])
def test_a_few_rows_that_were_all_right_and_are_all_wrong_are_chance(rows: int, told: str) -> None:
    assert judged(Guard(REFUSING), 1.0, 0.0, rows=rows) == ["", told]


def test_a_site_of_few_rows_is_seldom_told_of_a_fall_that_is_none() -> None:
    """Of two models that are right on seven rows of ten, the better by luck is seldom ten points better."""
    drawn = np.random.default_rng(7).binomial(12, 0.7, size=(20_000, 2)) / 12
    told = sum(judged(Guard(REFUSING), *pair, rows=12)[1] == "model_fell" for pair in drawn)
    assert told / len(drawn) < 0.03


def fallen(tmp_path: Path, tolerance: Tolerance, *names: str) -> Consortium:
    """A consortium at some of whose sites the model after round 1 does far worse than the first."""
    made = Consortium(tmp_path)
    for name in names:
        site = made.sites[name]
        site.guard = Guard(tolerance)
        site.learner.scores = {0: Score(0.8, MANY), 1: Score(0.2, MANY), 2: Score(0.8, MANY)}
    return made


def reasons(made: Consortium, name: str) -> list[str]:
    return [e.body["reason"] for e in made.sites[name].log.entries() if e.type == "incident.raised"]


def test_a_site_that_warns_goes_on_and_keeps_that_it_saw_it(tmp_path: Path) -> None:
    made, said = fallen(tmp_path, Tolerance(), "north"), list[str]()
    made.sites["north"].complain = said.append
    made.federation().run(made.grid())
    assert reasons(made, "north") == ["model_fell"]
    assert "20.0%" in said[0]
    assert "lead rollback" in said[0]
    assert made.sites["north"].learner.trained == made.plan.training.rounds


def test_a_refusal_costs_the_round_and_nothing_of_the_budget(tmp_path: Path) -> None:
    made = fallen(tmp_path, REFUSING, "north")
    made.federation().run(made.grid())
    rounds = [row.reservation.round for row in made.sites["north"].ledger.rows() if row.kind == "reserved"]
    assert rounds == [number for number in range(1, made.plan.training.rounds + 1) if number != 2]
    told = [
        (e.round, e.body["site"], e.body["reason"]) for e in made.log.entries() if e.type == "update.refused"
    ]
    assert told == [(2, "north", "model_fell")]
    assert reasons(made, "north") == ["model_fell"]


def test_when_most_sites_refuse_the_round_fails_and_says_why(tmp_path: Path) -> None:
    made = fallen(tmp_path, REFUSING, "north", "south", "west")
    with pytest.raises(RoundError, match="model_fell"):
        made.federation().run(made.grid())
    assert made.saved[-1].round == 1


def test_a_final_model_that_fell_is_not_kept_and_the_job_ends(tmp_path: Path) -> None:
    made = fallen(tmp_path, REFUSING, "north")
    north, rounds, ended = made.sites["north"], made.plan.training.rounds, list[bool]()
    north.learner.scores = {0: Score(0.8, MANY), rounds: Score(0.2, MANY)}
    north.done = lambda: ended.append(True)
    made.federation().run(made.grid())
    assert ended == [True]
    assert north.learner.released == []
    assert "model.received" not in [event.type for event in north.log.entries()]
    assert made.sites["south"].learner.released


def test_the_lead_hears_the_reason_and_no_figure(tmp_path: Path) -> None:
    made = fallen(tmp_path, REFUSING, "north")
    made.sites["north"].guard.best = Score(0.99, MANY)
    federation = made.federation()
    current = federation._stage(federation.resume, 1)
    answer = made.sites["north"].handle(tasked(federation, current, "north"))
    assert peek(answer, 1 << 20).kind == messages.REFUSAL
    opened = federation.mail.questions.opened(current, "north", (messages.REFUSAL,), answer)
    assert messages.refusal_reason(opened.content) == "model_fell"
    assert opened.content == messages.refusal("model_fell")
