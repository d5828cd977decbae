"""The planner: its numbers are those of the job, and joint noise is proposed where it was measured to pay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloister.privacy.dp import accounting
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.ways import HeadSteps, OneRound, Setting
from cloister.simulations.expectation import Expectation
from cloister.simulations.planner import Question, forecast, propose

BANKING = Question(((2048, 4095),) * 4, 77, 384, 3.0, 1e-5)
SST2 = Question(((16384, 32767), (16384, 32767), (16384, 32767), (1024, 2047)), 2, 384, 1.0, 4.9e-6)
HEART = Question(((128, 255), (128, 255), (16, 31), (64, 127)), 2, 16, 1.0, 1e-4, steps=30)


@pytest.mark.parametrize("surplus", [False, True])
@pytest.mark.parametrize("mode", ["local", "joint"])
@pytest.mark.parametrize("method", ["head", "ridge", "means"])
def test_every_number_is_that_of_the_job_itself(method, mode, surplus):
    rng = np.random.default_rng(0)
    held = {f"site-{k}": Holding(rng.normal(size=(40, 5)) / 3, rng.integers(0, 3, 40)) for k in range(4)}
    parties = Parties(held, ("a", "b", "c"), ("made up", "sha256:" + "0" * 64), surplus=surplus)
    way = HeadSteps(Course(6, 1, 0.1), bound=1.0) if method == "head" else OneRound(kind=method)
    promise = Promise(mode, 2.0, 1e-5)
    entropies = {name: FixedEntropy(name.encode()) for name in held}
    done = way.federated(Setting(parties, promise, entropies))
    found = forecast(Question(((32, 63),) * 4, 3, 5, 2.0, 1e-5, steps=6, surplus=surplus), method, mode)
    assert found.refused == ""
    assert found.epsilon == accounting.epsilon(done.mechanisms, 1e-5)
    assert found.bytes_up == done.bytes_up
    assert found.sums == done.sums
    assert found.noise_factor == done.noise_factor


@pytest.mark.parametrize(
    ("question", "mode"),
    [
        (replace(BANKING, epsilon=8.0), "local"),  # measured: 0.2 points
        (BANKING, "joint"),  # 2.0
        (replace(BANKING, epsilon=1.0), "joint"),  # 6.0
        (SST2, "local"),  # nothing
        (replace(SST2, epsilon=3.0), "local"),
        (replace(SST2, epsilon=8.0), "local"),
        (HEART, "local"),  # 0.2
        (replace(HEART, epsilon=0.5), "local"),  # 0.4
        (replace(HEART, epsilon=3.0), "local"),
        (replace(HEART, epsilon=8.0), "local"),
        (replace(HEART, epsilon=0.1), "joint"),  # 4.6
    ],
)
def test_joint_is_proposed_where_it_was_measured_to_pay(question, mode):
    found = propose(question)
    assert found.chosen.mode == mode
    assert found.why[0].startswith("Joint noise pays" if mode == "joint" else "Joint noise buys nothing")


def test_surplus_noise_taken_back_costs_a_second_vector_and_leaves_the_colluders_factor():
    plain, back = (forecast(replace(BANKING, surplus=way), "head", "joint") for way in (False, True))
    assert (plain.noise_factor, back.noise_factor) == pytest.approx((2**0.5, (4 / 3) ** 0.5))
    assert (back.sums, back.bytes_up) == (2 * plain.sums, 2 * plain.bytes_up)
    assert back.epsilon == plain.epsilon
    assert "1.15 times while nobody is lost" in propose(BANKING).why[-1]
    assert "--take-back" not in propose(replace(BANKING, surplus=True)).why[-1]


def test_where_no_site_may_be_lost_nothing_can_be_taken_back():
    three = replace(BANKING, units=BANKING.units[:3], surplus=True)
    assert "No site may be lost" in forecast(three, "head", "joint").refused
    assert "--take-back" not in " ".join(propose(replace(three, surplus=False)).why)


def test_features_of_a_language_model_take_steps_and_those_of_a_table_one_release():
    for question in (BANKING, SST2, replace(SST2, units=((128, 255),) * 4)):
        assert propose(question).chosen.method == "head"
        assert "Method head: on 384 features" in propose(question).why[1]
    assert propose(HEART).chosen.method == "ridge"
    assert "class means do about the same where classes are alike" in propose(HEART).why[1]


def test_near_the_threshold_it_says_that_both_may_do_about_the_same():
    near = " That is near where it begins: both may do about the same."
    for epsilon, said, unsure in (
        (0.1, "Joint noise pays", False),
        (0.5, "buys nothing", True),
        (3, "buys", False),
    ):
        first = propose(replace(HEART, epsilon=epsilon)).why[0]
        assert said in first
        assert (near in first) == unsure


@pytest.mark.parametrize(
    ("expected", "epsilon", "mode", "method"),
    [
        (Expectation(0.8), 0.1, "joint", "means"),
        (Expectation(0.8), 3.0, "local", "means"),
        (Expectation(0.8, 0.7), 0.5, "joint", "ridge"),  # where classes alike would gain less
        (Expectation(0.8, 0.7), 0.03, "local", "ridge"),  # both answer the most common class
        (Expectation(0.99), 0.3, "local", "means"),  # so far apart that noise does little
    ],
)
def test_with_an_expectation_classes_decide_mode_and_method(expected, epsilon, mode, method):
    found = propose(replace(HEART, epsilon=epsilon, expected=expected))
    assert (found.chosen.mode, found.chosen.method) == (mode, method)
    assert found.why[0].startswith("Joint noise pays." if mode == "joint" else "Joint noise buys nothing")
    assert f"by the {100 * expected.reachable:.3g} that are expected without any." in found.why[0]
    assert not any("No accuracy is expected" in line for line in found.why)


def test_without_an_expectation_the_answer_says_that_one_would_make_it_firmer():
    assert "No accuracy is expected" in propose(HEART).why[2]
    assert propose(replace(BANKING, expected=Expectation(0.93))).chosen.method == "head"


def test_joint_is_proposed_from_one_point_on_and_near_it_both_may_do_the_same():
    """From targets that both keep to those where joint pays."""
    near = "That is near a point"
    seen = []
    for epsilon in (3.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1):
        question = replace(HEART, epsilon=epsilon, expected=Expectation(0.8))
        found = propose(question)
        loads = {mode: forecast(question, "means", mode).load for mode in ("joint", "local")}
        joint, local = (Expectation(0.8).accuracy(2, loads[mode]) for mode in ("joint", "local"))
        assert (found.chosen.mode == "joint") == (joint - local >= 0.01)
        assert (near in found.why[0]) == (0.005 <= joint - local < 0.02)
        seen.append((found.chosen.mode, near in found.why[0]))
    assert len(set(seen)) == 4


def test_a_limit_of_bytes_is_kept():
    free = propose(BANKING)
    assert free.chosen.bytes_up == 4 * 77 * 385 * 60
    tight = propose(replace(BANKING, most_bytes=200_000))
    assert tight.chosen.method == "means"
    assert "Method means: head would lose less to noise, but it does not fit." in tight.why
    assert tight.chosen.bytes_up == 4 * 77 * 385 <= 200_000
    assert "bytes" in next(each for each in tight.forecasts if each.method == "head").refused
    with pytest.raises(PlanError) as caught:
        propose(replace(BANKING, most_bytes=100))
    assert caught.value.id == "plan_conflict"


def test_what_no_grid_holds_is_left_out_with_the_reason():
    huge = replace(BANKING, units=((2**20, 2**21 - 1),) * 4)
    joint = forecast(huge, "head", "joint")
    assert "the ring holds" in joint.refused
    assert propose(huge).chosen.mode == "local"


@pytest.mark.parametrize(
    "change",
    [
        {"units": ()},
        {"units": ((8, 15), (8, 15))},
        {"units": ((0, 15),) * 4},
        {"colluding": 3},
        {"classes": 1},
        {"steps": 0},
        {"expected": Expectation(0.9, common=0.01)},
        {"expected": Expectation(0.01)},
    ],
)
def test_questions_that_make_no_sense_are_refused(change):
    with pytest.raises(PlanError) as caught:
        replace(BANKING, **change)
    assert caught.value.id == "plan_conflict"
