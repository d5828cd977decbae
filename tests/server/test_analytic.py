"""An analytic round through real participants, ledgers, secure sums and aggregator, in one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.privacy.analytic.moments import plain
from cloister.privacy.analytic.ridge import solve
from cloister.privacy.analytic.solution import Solution, head
from cloister.privacy.dp import accounting
from cloister.privacy.errors import PlanError, RoundError
from cloister.privacy.evidence.card import card
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.render import render
from cloister.privacy.wire import messages
from cloister.server.checkpoint import Checkpoint
from tests.analytic import FOUR, analytic_json
from tests.parties import Consortium, MeanLearner
from tests.plans import plan
from tests.privacy.evidence.checks.test_real_jobs import checked, lines, ran
from tests.server.test_sums import Weather

pytestmark = pytest.mark.job

MODES = ("off", "local", "joint")


def consortium(folder: Path, mode: str, **constants: Any) -> Consortium:
    return Consortium(folder, FOUR, **analytic_json(mode, **constants))


def learner(found: Consortium, name: str) -> MeanLearner:
    one = found.sites[name].learner
    assert isinstance(one, MeanLearner)
    return one


@pytest.mark.parametrize("kind", ["ridge", "means"])
def test_without_privacy_the_model_is_that_of_all_rows_in_one_place(tmp_path: Path, kind: str) -> None:
    found = consortium(tmp_path, "off", kind=kind)
    end = found.federation().run(found.grid())
    release, analytic = found.plan.release, found.plan.training.analytic
    assert release is not None
    assert analytic is not None
    parts = [learner(found, name).rows() for name in FOUR]
    features, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    lifted = analytic.lift(cut=False).rows(features)
    model = solve(release.terms, plain(release.terms, lifted, labels), analytic.ridge)
    expected = head(analytic.lift(cut=False), model)
    assert np.linalg.norm(end.model - expected) / np.linalg.norm(expected) < 1e-3
    assert model.accuracy(lifted, labels) > 0.9
    for name in FOUR:
        (kept,) = learner(found, name).released
        assert np.array_equal(kept, end.model)
        assert not [e for e in found.sites[name].log.entries() if e.type.startswith("budget.reserved")]


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_with_privacy_it_is_charged_once_as_a_full_batch_at_the_accountants_epsilon(
    tmp_path: Path, mode: str
) -> None:
    found = consortium(tmp_path, mode)
    end = found.federation().run(found.grid())
    mechanism = found.plan.round_mechanism
    assert mechanism is not None
    assert (mechanism.rate, mechanism.steps) == (1.0, 1)
    exact = accounting.epsilon([mechanism], 1e-5)
    assert 0.97 * 4.0 < exact <= 4.0
    left = found.plan.grid.settled(1.0, len(FOUR)) if mode == "joint" else mechanism
    for site in found.sites.values():
        rows = site.ledger.rows("notes")
        order = ["reserved", "released", "spent"] if mode == "joint" else ["reserved", "spent", "released"]
        assert [row.kind for row in rows] == order
        assert rows[0].reservation.mechanism == mechanism
        assert next(row for row in rows if row.kind == "spent").reservation.mechanism == left
        assert site.ledger.epsilon("notes") == pytest.approx(exact)  # nothing is refunded
        assert [e.body["sampler"] for e in site.log.entries() if e.type == "dp.step_summary"] == [
            "full-batch"
        ]
    assert end.model.any()


@pytest.mark.parametrize("mode", MODES)
def test_its_evidence_verifies(tmp_path: Path, mode: str) -> None:
    found = consortium(tmp_path, mode)
    verdict = checked(found, ran(found))
    assert lines(verdict) == []
    assert verdict.result is Result.VERIFIED


@pytest.mark.parametrize("mode", MODES)
def test_its_report_says_what_left_and_what_it_is_charged_as(tmp_path: Path, mode: str) -> None:
    found = consortium(tmp_path, mode)
    evidence = json.loads(ran(found).files["evidence.json"])
    english, chinese = (render(evidence, name) for name in ("en", "zh"))
    assert "sums of products over all its records" in english
    assert "one analytic round: ridge regression on 6 frozen features" in english
    assert "no measurement on training records" not in english
    assert "对其全部记录所求的乘积之和" in chinese
    assert "解析轮" in chinese
    for said in ("charged as one full batch", "phantoms take part in steps", "noise, which are statistics"):
        assert (said in english) == (mode != "off")
    assert ("no epsilon covers" in english) == (mode == "off")
    assert "1 rounds of 1 steps" not in english + card(evidence)


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_evidence_of_less_noise_than_was_charged_does_not(tmp_path: Path, mode: str) -> None:
    found = consortium(tmp_path, mode)
    log = found.sites["north"].log
    real = log.note

    def lying(type: str, **fields: Any) -> Any:
        if type == "dp.step_summary":
            fields |= {"noise_multiplier": fields["noise_multiplier"] / 2}
        return real(type, **fields)

    log.note = lying  # type: ignore[method-assign]
    verdict = checked(found, ran(found))
    assert verdict.result is Result.NOT_REPRODUCIBLE
    assert any("noise_multiplier" in line for line in lines(verdict))


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_a_share_that_is_too_small_never_leaves(tmp_path: Path, mode: str) -> None:
    """Noise for another promise than was reserved is refused at the site, and the others go on."""
    found = consortium(tmp_path, mode)
    little = plan(FOUR, **analytic_json(mode, epsilon=8.0))
    learner(found, "west").plan = little
    end = found.federation().run(found.grid())
    refused = [e.body["reason"] for e in found.log.entries() if e.type == "update.refused"]
    assert refused == ["reservation_conflict"]
    kinds = [row.kind for row in found.sites["west"].ledger.rows("notes")]
    assert kinds == ["reserved"]
    assert not [e for e in found.sites["west"].log.entries() if e.type == "update.sent"]
    assert end.model.any()


@pytest.mark.parametrize(
    "change", [{"ridge": 30.0}, {"noise_share": 5.0}, {"weight": 0.25}, {"constant": 0.9}]
)
def test_in_joint_mode_a_lead_that_solves_with_other_constants_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    found = consortium(tmp_path, "joint")
    other = plan(FOUR, **analytic_json("joint", **change))
    found.federation(descent=Solution.of(other)).run(found.grid())
    for name in FOUR:
        assert learner(found, name).released == []
        raised = [e.body["reason"] for e in found.sites[name].log.entries() if e.type == "incident.raised"]
        assert raised == ["step_differs"]


def test_sums_that_are_not_private_stay_with_the_lead(tmp_path: Path) -> None:
    """Only in joint mode do sites get the opened sum, to take the step again."""
    for mode in MODES:
        (tmp_path / mode).mkdir()
        found = consortium(tmp_path / mode, mode)
        end = found.federation().run(found.grid())
        assert (end.taken is not None) == (mode == "joint")


def test_a_checkpoint_keeps_a_sum_that_is_longer_than_the_model(tmp_path: Path) -> None:
    found = consortium(tmp_path, "joint")
    end = found.federation().run(found.grid())
    assert end.taken is not None
    assert end.taken.words.size == found.plan.summands(1) != end.model.size
    end.save(tmp_path / "checkpoint")
    again = Checkpoint.load(tmp_path / "checkpoint", found.plan.digest)
    assert again.taken is not None
    assert np.array_equal(again.taken.words, end.taken.words)
    assert np.array_equal(again.model, end.model)


def test_a_round_that_was_given_up_leaves_no_model(tmp_path: Path) -> None:
    found = consortium(tmp_path, "off")
    state = replace(found.federation().resume, survivors=FOUR, agreed=True)
    with pytest.raises(RoundError) as caught:
        found.federation(resume=state, give_up=True).run(found.grid())
    assert caught.value.id == "nothing_aggregated"
    assert all(not learner(found, name).released for name in FOUR)


def test_a_site_that_goes_away_is_left_out(tmp_path: Path) -> None:
    found = consortium(tmp_path, "joint")
    weather, there = Weather(("east", messages.TASK)), [name for name in FOUR if name != "east"]
    found.federation(present=lambda: [n for n in FOUR if n not in weather.away]).run(
        found.grid(fault=weather)
    )
    for name in there:
        rows = found.sites[name].ledger.rows("notes")
        spent = next(row for row in rows if row.kind == "spent")
        assert spent.reservation.mechanism == found.plan.grid.settled(1.0, 3) == found.plan.round_mechanism
    assert list(found.sites["east"].ledger.rows("notes")) == []


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("aggregation", {"secure": False, "threshold": None, "colluding": None}, "nearly are its rows"),
        ("aggregation", {"range": 2.0}, "the range is below"),
        ("aggregation", {"bits": 8, "norm": 1.0}, "no few bits"),
        ("training", {"rounds": 2}, "one round of one step"),
        ("training", {"rate": 0.5}, "one round of one step"),
        ("training", {"analytic": None}, "belong to the algorithm analytic"),
        ("training", {"algorithm": "fedavg"}, "belong to the algorithm analytic"),
        ("training", {"proximal": 0.1}, "takes no steps"),
        ("adapter", {"top_layers": 1}, "a head on its features"),
        ("adapter", {"parameters": 5}, "a head on its features"),
    ],
)
def test_what_does_not_go_together_is_no_plan(part: str, change: dict[str, Any], says: str) -> None:
    value = analytic_json("local")
    both = {key: each for key, each in (value[part] | change).items() if each is not None}
    with pytest.raises(PlanError, match=says):
        plan(FOUR, **(value | {part: both}))


@pytest.mark.parametrize(
    ("change", "says"),
    [({"noise_multiplier": 1e7}, "could reach"), ({"noise_multiplier": 0.001}, "grid units")],
)
def test_a_share_that_fits_no_grid_is_no_plan(change: dict[str, Any], says: str) -> None:
    value = analytic_json("joint")
    value["aggregation"] |= {"range": 1e12}
    with pytest.raises(PlanError, match=says):
        plan(FOUR, **(value | {"privacy": value["privacy"] | change}))


def test_its_bytes_are_absent_from_other_plans() -> None:
    assert b"analytic" not in plan().to_bytes()
    assert plan().digest == "sha256:c4f2daded39bba0af1cdde1a891b3c75c6d30ffe832c97f585c5c43d5dfc795c"
    assert plan(FOUR, **analytic_json()).method == (
        "analytic, ridge regression on frozen features and 20 random cosines, one sum"
    )
