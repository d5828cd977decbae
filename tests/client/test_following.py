"""A site takes the server's steps again."""

from __future__ import annotations

import numpy as np
import pytest

from cloister.client.following import Following
from cloister.privacy.descent import Descent
from cloister.privacy.errors import AggregationError
from cloister.privacy.update import Vector
from cloister.privacy.wire.messages import Taken, Task
from tests.plans import plan, plan_json

FOUR = ("north", "south", "west", "coast")
PLAN = plan(
    FOUR,
    privacy=plan_json()["privacy"] | {"mode": "joint"},
    training=plan_json()["training"] | {"rounds": 6, "steps": 1},
    aggregation={"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 3, "colluding": 1},
)
RATES = np.full(5, 0.5, dtype=np.float32)
DESCENT = Descent(PLAN, RATES)


def way(rounds: int) -> list[Task]:
    """The tasks of an honest server."""
    rng = np.random.default_rng(2)
    model, change = np.zeros(5, dtype=np.float32), np.zeros(5, dtype=np.float32)
    tasks = [Task(model)]
    for number in range(rounds - 1):
        survivors = FOUR if number % 2 else FOUR[:3]
        words = rng.integers(0, 1 << 14, 5).astype(np.uint32) - np.uint32(1 << 13)
        change = DESCENT.change(change, words, survivors)
        model = model + change
        tasks.append(Task(model, "", Taken(words, survivors)))
    return tasks


def refused(following: Following, number: int, task: Task, signed: tuple[str, ...] = ()) -> None:
    with pytest.raises(AggregationError) as caught:
        following.take(number, task, signed)
    assert caught.value.id == "step_differs"


def test_an_honest_way_is_followed_to_its_end() -> None:
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    assert all(following.take(number, task) for number, task in enumerate(way(6), start=1))
    assert np.abs(way(6)[-1].model).max() > 0.01


def test_rounding_of_another_machine_is_borne_and_more_is_not() -> None:
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    first, second, *_ = way(3)
    following.take(1, first)
    assert following.take(2, Task(second.model * np.float32(1 + 1e-6), "", second.taken))
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    following.take(1, first)
    refused(following, 2, Task(second.model + np.float32(1e-4), "", second.taken))


@pytest.mark.parametrize("fault", ["words", "survivors", "momentum"])
def test_every_part_of_a_step_counts(fault: str) -> None:
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    first, second, third = way(3)
    following.take(1, first)
    following.take(2, second)
    taken = third.taken
    assert taken is not None
    model: Vector = third.model
    if fault == "words":
        taken = Taken(taken.words + np.uint32(1 << 12), taken.survivors)
    elif fault == "survivors":
        taken = Taken(taken.words, FOUR[1:])
    else:
        model = second.model + DESCENT.change(np.zeros_like(model), taken.words, taken.survivors)
    refused(following, 3, Task(model, "", taken))


def test_a_step_that_no_sum_led_to_is_refused() -> None:
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    first, second, _ = way(3)
    following.take(1, first)
    refused(following, 2, Task(second.model))
    assert following.take(2, Task(first.model)), "a round that was given up changes nothing"
    assert following.take(2, Task(first.model)), "the same round may be asked for again"
    refused(following, 2, second)
    refused(following, 1, Task(second.model))


def test_after_a_round_that_was_given_up_momentum_goes_on() -> None:
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    first, second, third = way(3)
    following.take(1, first)
    following.take(2, second)
    assert following.take(3, Task(second.model))
    assert following.take(4, third)


def test_too_few_survivors_or_others_than_were_signed_are_refused() -> None:
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    first, second, _ = way(3)
    assert second.taken is not None
    following.take(1, first)
    refused(following, 2, Task(second.model, "", Taken(second.taken.words, FOUR[:2])))
    refused(following, 2, second, FOUR)
    assert following.take(2, second, FOUR[:3])


def test_a_site_that_was_away_sees_two_models_before_it_can_follow() -> None:
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    tasks = way(6)
    following.take(1, tasks[0])
    assert [following.take(number, tasks[number - 1]) for number in (4, 5, 6)] == [False, False, True]


def test_another_start_than_the_plan_s_is_refused() -> None:
    following = Following(DESCENT, np.zeros(5, dtype=np.float32))
    refused(following, 1, Task(np.full(5, 1e-6, dtype=np.float32)))
