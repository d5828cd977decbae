"""Joint descent over real envelopes, ledgers, logs and state files, all in this process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cloister.client import cli_work
from cloister.privacy.descent import Memory
from cloister.privacy.dp import joint
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import AggregationError, PlanError, RoundError, UpdateError
from cloister.privacy.plan import Plan
from cloister.privacy.update import Clipped, Share, Vector
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.envelope import Header, peek
from cloister.server.checkpoint import Checkpoint
from cloister.server.exchange import Answer, Exchange
from tests.parties import QUICK, Consortium, MeanLearner, asked
from tests.plans import plan, plan_json
from tests.server.test_sums import FOUR, SECURE, Weather, run

pytestmark = pytest.mark.job

JOINT = plan_json()["privacy"] | {"mode": "joint"}
TRAINING = plan_json()["training"] | {"rounds": 4, "steps": 1}
ADAM = {"optimizer": "adam", "head_rate": 0.02, "adapter_rate": 0.02, "momentum": 0.8}
by_both = pytest.mark.parametrize("steps_by", [{}, ADAM], ids=["sgd", "adam"])


def changes(**more: Any) -> dict[str, Any]:
    return {"privacy": JOINT, "training": TRAINING, "aggregation": SECURE} | more


def consortium(folder: Path, **more: Any) -> Consortium:
    folder.mkdir(exist_ok=True)
    return Consortium(folder, FOUR, **changes(**more))


def bodies(found: Consortium, site: str, type_: str) -> list[Mapping[str, Any]]:
    return [event.body for event in found.sites[site].log.entries() if event.type == type_]


class TestPlan:
    """What a plan of joint mode must say."""

    def test_a_round_is_one_step_and_costs_what_the_fewest_unknown_shares_give(self) -> None:
        found = plan(FOUR, **changes())
        assert found.joint
        assert found.round_mechanism == GaussianSteps(1.5, 0.25, 1)
        assert (found.grid.n_min, found.grid.t, found.grid.sites) == (3, 1, 4)
        alone = found.site_mechanism
        assert alone is not None
        assert alone.noise_multiplier == pytest.approx(1.5 / math.sqrt(2), rel=0.01)

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"aggregation": {"secure": False, "minimum_sites": 3, "range": 4.0}}, "secure aggregation"),
            ({"training": TRAINING | {"steps": 2}}, "one step"),
            ({"privacy": JOINT | {"noise_multiplier": 0.001}}, "grid units of noise"),
            ({"privacy": JOINT | {"noise_multiplier": 0.0}}, "noise_multiplier"),
        ],
    )
    def test_terms_that_promise_nothing_are_refused(self, more: dict[str, Any], says: str) -> None:
        with pytest.raises(PlanError, match=says) as caught:
            plan(FOUR, **changes(**more))
        assert caught.value.id == "plan_malformed"

    def test_a_minimum_that_leaves_one_unknown_share_is_refused(self) -> None:
        with pytest.raises(PlanError):
            plan(FOUR, **changes(aggregation=SECURE | {"minimum_sites": 3, "colluding": 2}))


class TestDescent:
    """The steps of a whole job."""

    @by_both
    def test_sites_follow_the_server_and_move_towards_what_they_have_in_common(
        self, tmp_path: Path, steps_by: dict[str, Any]
    ) -> None:
        found = consortium(
            tmp_path, training=TRAINING | {"rounds": 12} | steps_by, privacy=JOINT | {"noise_multiplier": 0.5}
        )
        said: list[str] = []
        for site in found.sites.values():
            site.complain = said.append
        end = run(found, Weather())
        assert (end.round, said) == (12, [])
        assert end.model.mean() > 0.05, "the sites' points are 1 to 4, the noise of the mean is 0.01"
        for site in found.sites.values():
            assert isinstance(site.learner, MeanLearner)
            assert site.learner.trained == 12
            np.testing.assert_array_equal(site.learner.released[0], end.model)

    @by_both
    def test_the_model_is_that_of_the_opened_sums(self, tmp_path: Path, steps_by: dict[str, Any]) -> None:
        found = consortium(tmp_path, training=TRAINING | steps_by)
        run(found, Weather())
        before: Vector = np.zeros(5, dtype=np.float32)
        memory: Memory = ()
        for state in found.saved:
            if state.taken is None or state.survivors:
                continue
            assert found.descent is not None
            step = found.descent.at(state.round)
            assert step is not None
            change, memory = step.take(memory, state.taken.words, state.taken.survivors)
            before = before + change
            np.testing.assert_array_equal(state.model, before)
        assert np.abs(before).max() > 0

    def test_each_step_is_reserved_before_it_is_released_and_settled_at_its_shares(
        self, tmp_path: Path
    ) -> None:
        found = consortium(tmp_path)
        run(found, Weather())
        rows = found.sites["north"].ledger.rows("notes")
        assert [row.kind for row in rows] == ["reserved", "released", "spent"] * 4
        reserved, _, spent = (row.reservation.mechanism for row in rows[:3])
        assert reserved.noise_multiplier == 1.5, "at n_min - t shares"
        assert spent == found.plan.grid.event(0.25, 1, 3)
        assert spent.noise_multiplier == pytest.approx(1.5 * math.sqrt(3 / 2))
        assert rows[-1].total == rows[-2].total, "nothing is given back"

    def test_a_site_that_is_lost_leaves_an_exact_step_over_the_others(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        end = run(found, Weather(("west", messages.TASK), back=messages.FINISH))
        assert end.taken is not None
        assert end.taken.survivors == ("north", "south", "coast")
        spent = [r for r in found.sites["north"].ledger.rows("notes") if r.kind == "spent"]
        assert spent[-1].reservation.mechanism.noise_multiplier == pytest.approx(1.5), "two unknown shares"
        assert len(found.sites["west"].ledger.rows("notes")) == 0

    @pytest.mark.parametrize(
        ("steps_by", "unchecked"), [({}, ["Round 3", "Round 4"]), (ADAM, ["Round 3"])], ids=["sgd", "adam"]
    )
    def test_a_site_that_comes_back_takes_part_again_and_says_what_it_could_not_check(
        self, tmp_path: Path, steps_by: dict[str, Any], unchecked: list[str]
    ) -> None:
        found = consortium(tmp_path, training=TRAINING | {"rounds": 5} | steps_by)
        said: list[str] = []
        found.sites["west"].complain = said.append
        weather = Away("west", rounds={2})
        end = found.federation(present=weather.present).run(found.grid(fault=weather))
        rows = found.sites["west"].ledger.rows("notes")
        assert [row.reservation.round for row in rows if row.kind == "spent"] == [1, 3, 4, 5]
        assert end.taken is not None
        assert end.taken.survivors == FOUR
        assert [line.split(":")[0] for line in said] == unchecked, "then it can follow again"

    def test_a_site_that_the_service_does_not_reach_is_not_waited_for_like_one_that_trains(
        self, tmp_path: Path
    ) -> None:
        found = consortium(tmp_path, training=TRAINING | {"rounds": 2})
        line = Postman(found)
        patient = replace(QUICK, answer=600.0)
        end = found.federation(exchange=line, pace=patient, save=lambda _: line.lose("west")).run(
            found.grid()
        )
        assert end.round == 2
        lost = [
            (e.round, e.body["site"], e.body["reason"]) for e in found.log.entries() if e.type == "site.lost"
        ]
        assert lost == [(1, "west", "site_lost"), (2, "west", "site_lost")]

    def test_a_crash_between_two_writes_costs_a_site_its_round_and_not_the_job(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        west = found.sites["west"]
        honest, seen = west.handle, []

        def stumbling(data: bytes) -> bytes:
            header = peek(data, 1 << 20)
            if (header.kind, header.round) == (messages.TASK, 2):
                seen.append(header.round)
                return west._refuse(header, "sum_over", "the vector came out otherwise").data
            return honest(data)

        west.handle = stumbling  # type: ignore[method-assign]
        end = run(found, Weather())
        assert (seen, end.excluded) == ([2], {})
        assert end.taken is not None
        assert end.taken.survivors == FOUR, "it is back in the last step"

    def test_fewer_sites_than_the_minimum_take_no_step(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        weather = Weather(("west", messages.TASK), ("south", messages.TASK))
        with pytest.raises(RoundError) as caught:
            run(found, weather)
        assert caught.value.id == "below_minimum"
        assert not bodies(found, "north", "sum.signed")
        assert all(row.kind != "spent" for row in found.sites["north"].ledger.rows("notes"))

    @by_both
    def test_a_sum_that_cannot_be_opened_stays_charged_and_the_next_round_goes_on(
        self, tmp_path: Path, steps_by: dict[str, Any]
    ) -> None:
        found = consortium(tmp_path, training=TRAINING | steps_by)
        weather = Weather(("west", messages.TASK), ("south", sums.OPEN), back=sums.ADOPT)
        with pytest.raises(AggregationError) as caught:
            run(found, weather)
        assert caught.value.id == "sum_lost"
        after = found.saved[-1]
        assert (after.round, after.taken, after.moments) == (1, None, ())
        weather.away.clear()
        end = found.federation(resume=after).run(found.grid())
        assert end.round == 4
        kinds = [(r.reservation.round, r.kind) for r in found.sites["north"].ledger.rows("notes")]
        assert [number for number, kind in kinds if kind == "reserved"] == [1, 2, 3, 4]

    def test_a_round_whose_survivor_stays_away_can_be_given_up(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)

        def dying(state: Checkpoint) -> None:
            found.saved.append(state)
            if state.survivors and state.round == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            found.federation(save=dying).run(found.grid())
        begun = found.saved[-1]
        away = Weather(("west", messages.TASK), back=messages.FINISH)
        with pytest.raises(RoundError, match="--give-up"):
            found.federation(resume=begun, present=away.present).run(found.grid(fault=away))
        end = found.federation(resume=begun, give_up=True).run(found.grid())
        assert end.round == 4
        aborted = [e.round for e in found.log.entries() if e.type == "round.aborted"]
        assert aborted == [2]
        reserved = [
            r.reservation.round for r in found.sites["north"].ledger.rows("notes") if r.kind == "reserved"
        ]
        assert reserved == [1, 2, 3, 4], "what was given up stays charged"

    @by_both
    def test_a_restarted_lead_goes_on_from_any_checkpoint_to_the_same_model(
        self, tmp_path: Path, steps_by: dict[str, Any]
    ) -> None:
        found = consortium(tmp_path, training=TRAINING | steps_by)
        end = run(found, Weather())
        state = next(state for state in found.saved if state.round == 2)
        path = tmp_path / "checkpoint"
        state.save(path)
        again = Checkpoint.load(path, found.plan.digest)
        assert again.taken is not None
        assert state.taken is not None
        np.testing.assert_array_equal(again.taken.words, state.taken.words)
        np.testing.assert_array_equal(again.moments, state.moments)
        assert len(again.moments) == (2 if steps_by else 1)
        assert (again.taken.survivors, again.round) == (state.taken.survivors, 2)
        assert end.round == 4

    def test_without_steps_to_take_there_is_no_server(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="joint mode"):
            consortium(tmp_path).federation(descent=None)


class Postman(Exchange):
    """The service's way to sites in this process, some of which it loses."""

    def __init__(self, found: Consortium) -> None:
        super().__init__()
        self._sites, self._reached = found.sites, frozenset(found.sites)
        self._replies: list[Answer] = []

    def lose(self, site: str) -> None:
        self._reached -= {site}

    def reachable(self) -> frozenset[str]:
        return self._reached

    def awaited(self) -> frozenset[str]:
        return frozenset(answer.site for answer in self._replies)

    def send(self, site: str, data: bytes, round: int) -> bool:
        self._replies.append(Answer(site, self._sites[site].handle(data)))
        return True

    def receive(self, wait: float) -> list[Answer]:
        answers, self._replies = self._replies, []
        return answers


class Away(Weather):
    """A site that is away for whole rounds."""

    def __init__(self, name: str, rounds: set[int]) -> None:
        super().__init__()
        self.name, self.rounds = name, rounds

    def __call__(self, name: str, message: Any) -> None:
        there = int(message.metadata.group_id) not in self.rounds
        self.away = set() if there else {self.name}
        super().__call__(name, message)


class TestLies:
    """A server that steps otherwise, and sites whose noise is too small."""

    def tampered(self, found: Consortium, round: int, change: Any) -> list[str]:
        """Runs a job whose tasks a lying lead changes from a round on; the ids that sites refuse with."""
        federation = found.federation()
        honest = federation._task

        def lying(kind: str, answer: str, state: Checkpoint) -> Any:
            return honest(kind, answer, change(state) if state.round + 1 >= round else state)

        federation._task = lying  # type: ignore[method-assign]
        stage = federation._stage
        federation._stage = lambda state, number: stage(  # type: ignore[method-assign]
            change(state) if number >= round else state, number
        )
        with pytest.raises(RoundError):
            federation.run(found.grid())
        return [e.body["reason"] for e in found.log.entries() if e.type == "update.refused"]  # type: ignore[misc]

    def test_a_model_that_no_step_leads_to_is_refused_by_every_site(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        shifted = replace_model(np.array([0, 0, 1e-3, 0, 0], dtype=np.float32))
        assert self.tampered(found, 3, shifted) == ["step_differs"] * 4
        assert all(row.reservation.round < 3 for row in found.sites["north"].ledger.rows("notes"))

    def test_a_round_that_the_lead_leaves_out_is_written_down_at_every_site(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)
        federation = found.federation()
        honest = federation._round

        def leaping(grid: Any, state: Checkpoint, number: int) -> Checkpoint:
            return replace(state, round=number) if number == 2 else honest(grid, state, number)

        federation._round = leaping  # type: ignore[method-assign]
        federation.run(found.grid())
        for name in FOUR:
            unchecked = [e.round for e in found.sites[name].log.entries() if e.type == "step.unchecked"]
            assert unchecked == [3, 4]

    @pytest.mark.parametrize("kind", [messages.TASK, messages.FINISH])
    def test_a_second_attempt_or_an_early_end_is_no_part_of_the_plan(self, tmp_path: Path, kind: str) -> None:
        found = consortium(tmp_path)
        federation = found.federation()
        state = federation.resume
        ask = federation._task(kind, messages.UPDATE, state)
        current = federation._stage(state, 1)
        if kind == messages.TASK:
            current.attempt = 2
        site = found.sites["north"]
        answer = site.handle(asked(federation, current, "north", ask))
        opened = federation.mail.questions.opened(current, "north", (messages.REFUSAL,), answer)
        assert messages.refusal_reason(opened.content) == "wrong_context"
        assert not site.ledger.rows("notes")
        assert isinstance(site.learner, MeanLearner)
        assert not site.learner.released

    def test_a_step_over_another_set_than_was_signed_is_refused(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)

        def change(state: Checkpoint) -> Checkpoint:
            assert state.taken is not None
            return replace(state, taken=messages.Taken(state.taken.words, FOUR[:3]))

        assert self.tampered(found, 3, change) == ["step_differs"] * 4

    def test_a_share_of_less_noise_than_was_reserved_does_not_leave(self, tmp_path: Path) -> None:
        found = consortium(tmp_path)

        class Weak(MeanLearner):
            def share(self, model: Vector, header: Header) -> Share:
                honest = super().share(model, header)
                return Share(honest.values, (GaussianSteps(1.0, 0.25, 1),))

        site = found.sites["west"]
        site.learner = Weak(found.plan, 3.0, site.entropy)
        run(found, Weather())
        refused = [e.body for e in found.log.entries() if e.type == "update.refused"]
        assert (refused[0]["site"], refused[0]["reason"]) == ("west", "reservation_conflict")
        assert not [row for row in site.ledger.rows("notes") if row.kind == "released"]

    def test_a_sum_that_was_cut_to_another_bound_gets_no_noise(self) -> None:
        grid = plan(FOUR, **changes()).grid
        with pytest.raises(UpdateError) as caught:
            joint.share(Clipped(np.zeros(5), 0.7), grid, 0.25, streams("x"))
        assert caught.value.id == "update_unnoised"


def streams(seed: str) -> joint.Streams:
    """Key streams by purpose, all of one moment."""
    entropy = FixedEntropy(seed.encode())
    return lambda purpose: entropy.stream(purpose, round=1, model="")


def replace_model(shift: Vector) -> Any:
    return lambda state: replace(state, model=state.model + shift)


class TestDistribution:
    """What is opened is distributed as pooled DP-SGD of the same total noise."""

    GRID = Grid(bound=0.5, parameters=400, noise_multiplier=1.5, sites=4, n_min=3, t=1, sampled=1000)

    def opened(self, sites: int, draw: int, sums_: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """An opened sum in units of the gradient: float64, shape (d,)."""
        total = np.zeros(400, dtype=np.int64)
        for site in range(sites):
            share = joint.share(Clipped(sums_[site], 0.5), self.GRID, 0.25, streams(f"{site} {draw}"))
            total += share.values
        return total * self.GRID.step

    @pytest.mark.parametrize("sites", [3, 4])
    def test_mean_and_spread_are_those_of_one_gaussian_on_the_pooled_sum(self, sites: int) -> None:
        rng = np.random.default_rng(3)
        parts = [rng.normal(0, 0.3, 400) for _ in range(sites)]
        pooled = np.sum(parts, axis=0)
        noise = np.concatenate([self.opened(sites, draw, parts) - pooled for draw in range(25)])
        # Pooled DP-SGD of the noise that so many shares make, in units of the charged sensitivity.
        sigma = 1.5 * math.sqrt(sites / 2) * self.GRID.sensitivity * self.GRID.step
        assert stats.kstest(noise, "norm", args=(0, sigma)).pvalue > 1e-4
        for wrong in (sigma * 0.9, sigma * 1.1, sigma / math.sqrt(sites)):
            assert stats.kstest(noise, "norm", args=(0, wrong)).pvalue < 1e-4, "the test tells them apart"

    def test_coordinates_of_one_opening_are_independent_of_those_of_the_next(self) -> None:
        parts = [np.zeros(400) for _ in range(4)]
        first, second = (self.opened(4, draw, parts) for draw in (1, 2))
        assert abs(float(np.corrcoef(first, second)[0, 1])) < 0.25


def test_whoever_approves_is_told_what_the_promise_rests_on() -> None:
    told = cli_work._terms(plan(FOUR, **changes()))
    assert told.startswith("4 rounds of 1 step, epsilon 8 per record, with 4 sites; the noise is shared:")
    assert "at most 1 of the others act together with the lead" in told
    local = cli_work._terms(plan(FOUR, aggregation=SECURE))
    assert "epsilon 8 per record" in local
    assert "shared" not in local


def test_a_plan_of_joint_mode_survives_its_bytes() -> None:
    found = plan(FOUR, **changes())
    assert Plan.from_bytes(found.to_bytes()) == found
