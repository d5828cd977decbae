"""A head that starts from an analytic round, through participants, ledgers, secure sums and aggregator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.client.summing import Summing
from cloister.privacy.analytic.solution import Solution
from cloister.privacy.descent import Started
from cloister.privacy.dp import accounting
from cloister.privacy.errors import CloisterError, PlanError, RoundError
from cloister.privacy.evidence.card import card
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.render import render
from cloister.privacy.plan import Plan
from cloister.server.checkpoint import Checkpoint
from tests.analytic import CLASSES, FOUR, INPUTS, started_json
from tests.parties import Consortium, MeanLearner
from tests.plans import plan
from tests.privacy.evidence.checks.test_real_jobs import checked, lines, ran

pytestmark = pytest.mark.job

MODES = ("off", "local", "joint")
ROUNDS = 3


def consortium(folder: Path, mode: str, **constants: Any) -> Consortium:
    return Consortium(folder, FOUR, **started_json(mode, rounds=ROUNDS, **constants))


def surplus(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"aggregation": value["aggregation"] | {"surplus": True}}


def learner(found: Consortium, name: str) -> MeanLearner:
    one = found.sites[name].learner
    assert isinstance(one, MeanLearner)
    return one


@pytest.mark.parametrize("kind", ["ridge", "means"])
@pytest.mark.parametrize("mode", MODES)
def test_the_second_round_starts_from_the_solution_of_the_first(tmp_path: Path, mode: str, kind: str) -> None:
    found = consortium(tmp_path, mode, kind=kind)
    found.federation().run(found.grid())
    after = next(state for state in found.saved if state.round == 1 and not state.survivors)
    if mode == "joint":
        assert after.taken is not None
        assert after.taken.words.size == found.plan.summands(1)
        solved = Solution.of(found.plan)
        expected, _ = solved.take((), after.taken.words, FOUR)
        assert np.array_equal(after.model, expected)
    features, labels = (
        np.concatenate(each) for each in zip(*(learner(found, n).rows() for n in FOUR), strict=True)
    )
    weights = after.model[CLASSES:].reshape(CLASSES, INPUTS)
    scores = features @ weights.T + after.model[:CLASSES] / 8
    assert (scores.argmax(axis=1) == labels).mean() > (0.9 if mode == "off" else 0.6)
    # The change of a start is no momentum of the first step after it.
    assert after.moments == ()
    assert [learner(found, name).trained for name in FOUR] == [ROUNDS] * 4


def test_steps_of_adam_after_a_start_are_followed_and_count_from_their_first(tmp_path: Path) -> None:
    value = started_json("joint", rounds=ROUNDS)
    found = Consortium(tmp_path, FOUR, **value | {"training": value["training"] | {"optimizer": "adam"}})
    said: list[str] = []
    for site in found.sites.values():
        site.complain = said.append
    end = found.federation().run(found.grid())
    states = {state.round: state for state in found.saved if not state.survivors}
    assert [len(states[number].moments) for number in (1, 2, 3)] == [0, 2, 2]
    first = states[2].model - states[1].model
    np.testing.assert_allclose(np.abs(first), found.plan.training.head_rate, rtol=0.01)
    assert (said, end.round) == ([], ROUNDS)


@pytest.mark.parametrize("taken_back", [False, True])
@pytest.mark.parametrize("mode", ["local", "joint"])
def test_every_round_is_charged_alike_and_the_evidence_verifies(
    tmp_path: Path, mode: str, taken_back: bool
) -> None:
    value = started_json(mode, rounds=ROUNDS)
    if taken_back and mode == "local":
        with pytest.raises(PlanError, match="surplus noise belongs to joint"):
            plan(FOUR, **surplus(value))
        return
    found = Consortium(tmp_path, FOUR, **(surplus(value) if taken_back else value))
    verdict = checked(found, ran(found))
    assert lines(verdict) == []
    assert verdict.result is Result.VERIFIED
    mechanism = found.plan.round_mechanism
    assert mechanism is not None
    assert 0.97 * 4.0 < accounting.epsilon([mechanism] * ROUNDS, 1e-5) <= 4.0
    for site in found.sites.values():
        reserved = [row.reservation for row in site.ledger.rows("notes") if row.kind == "reserved"]
        assert [row.round for row in reserved] == [1, 2, 3]
        assert {row.mechanism for row in reserved} == {mechanism}
        told = [e for e in site.log.entries() if e.type == "dp.step_summary"]
        assert [e.body["clip"] for e in told] == [1.0, 2.4, 2.4]
        given = [e.round for e in site.log.entries() if e.type == "surplus.given"]
        assert given == ([2, 3] if taken_back else [])


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_evidence_of_less_noise_in_the_first_round_does_not_verify(tmp_path: Path, mode: str) -> None:
    found = consortium(tmp_path, mode)
    log = found.sites["north"].log
    real = log.note

    def lying(type: str, **fields: Any) -> Any:
        if type == "dp.step_summary" and fields["round"] == 1:
            fields |= {"clip": 2.4}  # the bound of the others: its noise would be in units of another
        return real(type, **fields)

    log.note = lying  # type: ignore[method-assign]
    verdict = checked(found, ran(found))
    assert verdict.result is Result.NOT_REPRODUCIBLE
    assert any("clip was 2.4" in line for line in lines(verdict))


@pytest.mark.parametrize("change", [{"ridge": 30.0}, {"constant": 0.9}])
def test_in_joint_mode_a_lead_that_solves_with_other_constants_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    found = consortium(tmp_path, "joint")
    steps = found.descent
    assert isinstance(steps, Started)
    other = Started(Solution.of(plan(FOUR, **started_json("joint", rounds=ROUNDS, **change))), steps.others)
    with pytest.raises(RoundError):
        found.federation(descent=other).run(found.grid())
    for name in FOUR:
        raised = [e.body["reason"] for e in found.sites[name].log.entries() if e.type == "incident.raised"]
        assert raised == ["step_differs"]
        assert learner(found, name).trained == 1


def test_after_a_crash_of_everybody_the_start_is_summed_from_the_same_vectors(tmp_path: Path) -> None:
    found = consortium(tmp_path, "joint")

    def dying(state: Checkpoint) -> None:
        state.save(tmp_path / "checkpoint")
        if state.survivors:  # of round 1: all vectors are there, and the sum is about to be opened
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.federation(save=dying).run(found.grid())
    found.sites = {name: found.site(name) for name in FOUR}
    again = Checkpoint.load(tmp_path / "checkpoint", found.plan.digest)
    end = found.federation(resume=again).run(found.grid())
    assert end.round == ROUNDS
    for name in FOUR:
        assert learner(found, name).trained == ROUNDS - 1  # the first vector was sent again as it was
        log = [e for e in found.sites[name].log.entries() if e.type in ("update.sent", "budget.reserved")]
        assert sorted((e.type, e.round) for e in log) == [
            (type_, number) for type_ in ("budget.reserved", "update.sent") for number in (1, 2, 3)
        ]
        assert [e for e in found.sites[name].log.entries() if e.type == "incident.raised"] == []


def test_a_checkpoint_keeps_the_sum_of_the_start_beside_one_that_is_still_taken_back(tmp_path: Path) -> None:
    found = Consortium(tmp_path, FOUR, **surplus(started_json("joint", rounds=ROUNDS)))
    found.federation().run(found.grid())
    both = next(state for state in found.saved if state.round == 1 and state.pending)
    assert both.taken is not None
    assert both.pending is not None
    assert (both.taken.words.size, both.pending.words.size) == (
        found.plan.summands(1),
        found.plan.summands(2),
    )
    both.save(tmp_path / "checkpoint")
    again = Checkpoint.load(tmp_path / "checkpoint", found.plan.digest)
    for one, other in ((again.taken, both.taken), (again.pending, both.pending)):
        assert one is not None
        assert np.array_equal(one.words, other.words)
    assert np.array_equal(again.model, both.model)


def test_a_round_that_was_given_up_leaves_steps_from_zero(tmp_path: Path) -> None:
    found = consortium(tmp_path, "joint")

    def dying(state: Checkpoint) -> None:
        found.saved.append(state)
        if state.survivors:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.federation(save=dying).run(found.grid())
    end = found.federation(resume=found.saved[-1], give_up=True).run(found.grid())
    assert end.round == ROUNDS
    assert [learner(found, name).trained for name in FOUR] == [ROUNDS] * 4
    begun = next(state for state in found.saved if state.round == 1)
    assert not begun.model.any()
    assert end.model.any()


def test_no_surplus_of_an_analytic_round_is_ever_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Consortium(tmp_path, FOUR, **surplus(started_json("joint", rounds=ROUNDS)))
    real, asked = Summing._give_surplus, []

    def asked_early(summing: Summing, opened: Any, learner: Any) -> Any:
        early = replace(opened, header=replace(opened.header, round=1))
        with pytest.raises(CloisterError) as caught:
            real(summing, early, learner)
        asked.append(caught.value.id)
        return real(summing, opened, learner)

    monkeypatch.setattr(Summing, "_give_surplus", asked_early)
    found.federation().run(found.grid())
    assert asked[:4] == ["surplus_refused"] * 4
    assert asked[4:] == ["replay"] * 4 * (ROUNDS - 2)  # once a site gave some, it is asked too late


def test_the_report_says_what_the_first_round_was(tmp_path: Path) -> None:
    found = consortium(tmp_path, "joint")
    evidence = json.loads(ran(found).files["evidence.json"])
    english, chinese = (render(evidence, name) for name in ("en", "zh"))
    assert "its first round is one analytic round: ridge regression on 6 frozen features" in english
    assert "sums of products over all its records" in english
    assert "In every step, the clipped sum of its gradients" in english
    assert "no measurement on training records" not in english
    assert "其第一轮为" in chinese
    assert "started from ridge regression on frozen features, one sum, 3 rounds of 1 steps" in card(evidence)


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("aggregation", {"secure": False, "threshold": None, "colluding": None}, "nearly are its rows"),
        ("aggregation", {"bits": 8, "norm": 1.0}, "no few bits"),
        ("training", {"rounds": 1}, "the first round of several"),
        ("training", {"rate": 0.5}, "one step on the full batch"),
        ("training", {"steps": 2}, "one step on the full batch"),
        ("training", {"centred": 1.0}, "no change to cut"),
        ("training", {"factors": "up"}, "has no factors"),
        ("adapter", {"top_layers": 1}, "a head on its features"),
        ("adapter", {"parameters": 5}, "a head on its features"),
    ],
)
def test_what_does_not_go_together_is_no_plan(part: str, change: dict[str, Any], says: str) -> None:
    value = started_json("local")
    both = {key: each for key, each in (value[part] | change).items() if each is not None}
    with pytest.raises(PlanError, match=says):
        plan(FOUR, **(value | {part: both}))


def test_cosines_are_no_start() -> None:
    value = started_json("local")
    value["training"]["start"]["analytic"]["cosines"] = 8
    with pytest.raises(PlanError, match="on the frozen features"):
        plan(FOUR, **value)


def test_its_bytes_are_absent_from_other_plans() -> None:
    assert b"start" not in plan().to_bytes()
    started = plan(FOUR, **started_json())
    assert Plan.from_bytes(started.to_bytes()) == started
    assert started.method == "fedavg, started from ridge regression on frozen features, one sum"
