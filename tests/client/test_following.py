"""A site takes the server's steps again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloister.client.following import Following
from cloister.privacy.descent import Descent, Memory
from cloister.privacy.errors import AggregationError
from cloister.privacy.update import Vector
from cloister.privacy.wire.messages import Taken, Task
from tests.plans import plan, plan_json

FOUR = ("north", "south", "west", "coast")
START = np.zeros(5, dtype=np.float32)
RATES = np.full(5, 0.5, dtype=np.float32)


def descent_by(optimizer: str) -> Descent:
    found = plan(
        FOUR,
        privacy=plan_json()["privacy"] | {"mode": "joint"},
        training=plan_json()["training"] | {"rounds": 6, "steps": 1, "optimizer": optimizer},
        aggregation={"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 3, "colluding": 1},
    )
    return Descent(found, RATES)


SGD, ADAM = descent_by("sgd"), descent_by("adam")


@pytest.fixture(params=[SGD, ADAM], ids=["sgd", "adam"])
def descent(request: pytest.FixtureRequest) -> Descent:
    found: Descent = request.param
    return found


def way(descent: Descent, rounds: int) -> list[Task]:
    """The tasks of an honest server."""
    rng = np.random.default_rng(2)
    model: Vector = START
    memory: Memory = ()
    tasks = [Task(model)]
    for number in range(1, rounds):
        survivors = FOUR[:3] if number % 2 else FOUR
        words = rng.integers(0, 1 << 14, 5).astype(np.uint32) - np.uint32(1 << 13)
        change, memory = descent.at(number).take(memory, words, survivors)
        model = model + change
        told = memory if descent.plan.remembered else ()
        tasks.append(Task(model, "", Taken(words, survivors), told))
    return tasks


def refused(following: Following, number: int, task: Task, signed: tuple[str, ...] = ()) -> None:
    with pytest.raises(AggregationError) as caught:
        following.take(number, task, signed)
    assert caught.value.id == "step_differs"


def test_an_honest_way_is_followed_to_its_end(descent: Descent) -> None:
    following = Following(descent, START)
    assert all(following.take(number, task) for number, task in enumerate(way(descent, 6), start=1))
    assert np.abs(way(descent, 6)[-1].model).max() > 0.01


def test_float32_of_another_machine_is_no_lie_and_a_real_difference_is(descent: Descent) -> None:
    following = Following(descent, START)
    first, second = way(descent, 2)
    following.take(1, first)
    assert following.take(2, replace(second, model=second.model * np.float32(1 + 1e-6)))
    following = Following(descent, START)
    following.take(1, first)
    refused(following, 2, replace(second, model=second.model + np.float32(1e-4)))


@pytest.mark.parametrize(
    ("descent", "fault"),
    [
        (SGD, "words"),
        (SGD, "survivors"),
        (SGD, "memory"),
        (ADAM, "words"),
        (ADAM, "memory"),
        (ADAM, "number"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.plan.training.optimizer,
)
def test_every_part_of_a_step_counts(descent: Descent, fault: str) -> None:
    """How many units a sum is divided by hardly changes a step of Adam, nor how many there were descent's."""
    following = Following(descent, START)
    first, second, third = way(descent, 3)
    following.take(1, first)
    following.take(2, second)
    taken, before = third.taken, second.taken
    assert taken is not None
    assert before is not None
    _, memory = descent.at(1).take((), before.words, before.survivors)
    model: Vector = third.model
    if fault == "words":
        taken = Taken(taken.words + np.uint32(1 << 12), taken.survivors)
    elif fault == "survivors":
        taken = Taken(taken.words, FOUR[1:])
    else:
        known, number = ((), 2) if fault == "memory" else (memory, 1)
        change, _ = descent.at(number).take(known, taken.words, taken.survivors)
        model = second.model + change
    refused(following, 3, replace(third, model=model, taken=taken))


def test_a_model_without_a_step_must_be_the_one_before(descent: Descent) -> None:
    following = Following(descent, START)
    first, second = way(descent, 2)
    following.take(1, first)
    refused(following, 2, Task(second.model))
    assert following.take(2, Task(first.model)), "a round that was given up changes nothing"
    assert following.take(2, Task(first.model)), "the same round may be asked for again"
    refused(following, 2, second)
    refused(following, 1, Task(second.model))


def test_after_a_round_that_was_given_up_the_way_goes_on() -> None:
    following = Following(SGD, START)
    first, second, third = way(SGD, 3)
    following.take(1, first)
    following.take(2, second)
    assert following.take(3, Task(second.model))
    assert following.take(4, third)


def test_a_round_that_was_given_up_counts_as_a_step_of_adam() -> None:
    following = Following(ADAM, START)
    first, second, third = way(ADAM, 3)
    assert third.taken is not None
    following.take(1, first)
    following.take(2, second)
    assert following.take(3, replace(second, taken=None))
    refused(following, 4, third)
    change, memory = ADAM.at(3).take(second.memory, third.taken.words, third.taken.survivors)
    assert following.take(4, Task(second.model + change, "", third.taken, memory))


def test_survivors_are_those_that_were_signed_and_enough(descent: Descent) -> None:
    following = Following(descent, START)
    first, second = way(descent, 2)
    assert second.taken is not None
    following.take(1, first)
    refused(following, 2, replace(second, taken=Taken(second.taken.words, FOUR[:2])))
    refused(following, 2, second, FOUR)
    assert following.take(2, second, FOUR[:3])


def test_who_missed_a_round_follows_descent_again_once_two_models_were_seen() -> None:
    following = Following(SGD, START)
    tasks = way(SGD, 6)
    following.take(1, tasks[0])
    assert [following.take(number, tasks[number - 1]) for number in (4, 5, 6)] == [False, False, True]


def test_what_adam_remembers_comes_with_the_task_to_who_missed_a_round() -> None:
    tasks = way(ADAM, 6)
    missed = Following(ADAM, START)
    missed.take(1, tasks[0])
    assert [missed.take(number, tasks[number - 1]) for number in (4, 5, 6)] == [False, True, True]
    anew = Following(ADAM, START)
    assert [anew.take(number, tasks[number - 1]) for number in (4, 5)] == [False, True]


def test_a_memory_that_the_lead_made_up_leads_nowhere() -> None:
    """It makes a site refuse the right model, or take a wrong one that no other site signs."""
    tasks = way(ADAM, 5)
    honest, cheated = Following(ADAM, START), Following(ADAM, START)
    fourth, fifth = tasks[3:]
    assert fifth.taken is not None
    made_up = tuple(np.float32(3) * one for one in fourth.memory[:1]) + fourth.memory[1:]
    assert not cheated.take(4, replace(fourth, memory=made_up))
    change, memory = ADAM.at(4).take(made_up, fifth.taken.words, fifth.taken.survivors)
    wrong = Task(fourth.model + change, "", fifth.taken, memory)
    refused(cheated, 5, fifth)
    honest.take(4, fourth)
    refused(honest, 5, wrong)


def test_a_site_that_follows_takes_nothing_from_the_lead() -> None:
    tasks = way(ADAM, 5)
    following = Following(ADAM, START)
    assert all(
        following.take(number, replace(task, memory=tuple(2 * one for one in task.memory)))
        for number, task in enumerate(tasks, start=1)
    )


def test_the_start_is_the_plans(descent: Descent) -> None:
    refused(Following(descent, START), 1, Task(np.full(5, 1e-6, dtype=np.float32)))


def test_nothing_is_remembered_before_the_first_step() -> None:
    tasks = way(ADAM, 3)
    following = Following(ADAM, START)
    assert following.take(1, replace(tasks[0], memory=tasks[2].memory))
    assert following.take(2, tasks[1])
