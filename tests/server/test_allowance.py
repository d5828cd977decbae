"""What is too much is refused with the nearest plan that is not, worked out by the accountant of the plan."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy.cli import main
from cloister.privacy.dp import accounting
from cloister.privacy.dp.calibration import noise_multiplier, target_within
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import PlanError
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.policy.terms import Policy
from cloister.server import cli_propose
from cloister.server.allowance import Allowed, require
from cloister.server.analytic import Choice
from cloister.server.outline import outline
from cloister.server.terms import Terms
from tests import models
from tests.policies import policy, policy_json
from tests.server.test_planning import ground

TERMS = Terms("notes", ("a", "b", "c"), secure=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("models") / "tiny"))


def sent(base: BaseModel, **changes: Any) -> int:
    return outline(replace(TERMS, **changes), ground(base)).bytes_up


CASES: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({}, {"epsilon": 3.0}, "Epsilon 8.0 is asked, and 3.0 is allowed.", "--epsilon 3.0 (epsilon "),
    ({"rounds": 20}, {"rounds": 6}, "Rounds 20 is asked", "--rounds 6 (epsilon "),
    ({"rate": 0.5}, {"rate": 0.125, "delta": 1e-6}, "delta 1e-05 is asked", "--delta 1e-06 --rate 0.125"),
    ({"mode": "off"}, {"rounds": 3, "epsilon": 1.0}, "Rounds 4 is asked", "--rounds 3 ("),
    ({}, {"steps": 0}, "sets a limit to 0", "another policy"),
    ({"mode": "joint"}, {"epsilon": 0.0}, "sets a limit to 0", "another policy"),
]


@pytest.mark.parametrize(("changes", "limits", "what", "do"), CASES)
def test_numbers_above_the_limit_come_back_at_it(
    base: BaseModel, changes: dict[str, Any], limits: dict[str, Any], what: str, do: str
) -> None:
    with pytest.raises(PlanError) as caught:
        require(replace(TERMS, **changes), ground(base), Allowed(**limits))
    assert caught.value.id == "plan_conflict"
    assert what.lower() in caught.value.what.lower()
    assert do in caught.value.do
    fits = {"epsilon": 8.0, "delta": 1e-5, "rounds": 20, "steps": 3, "rate": 1.0}
    require(replace(TERMS, **changes), ground(base), Allowed(**fits))  # what is at the limit is within it


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_too_many_bytes_come_back_as_fewer_rounds_at_the_same_target(base: BaseModel, mode: Any) -> None:
    terms = replace(TERMS, mode=mode, rounds=20)
    each = sent(base, mode=mode, rounds=1)
    with pytest.raises(PlanError) as caught:
        require(terms, ground(base), Allowed(sent=7 * each - 1))
    assert f"would send {20 * each:,} bytes, and {7 * each - 1:,} are allowed" in caught.value.what
    near = outline(replace(terms, rounds=6), ground(base))
    assert f"--rounds 6 (epsilon {near.epsilon:.4g}, {6 * each:,} bytes from each site)" in caught.value.do
    require(near.terms, ground(base), Allowed(sent=7 * each - 1))


@pytest.mark.parametrize(
    ("changes", "share", "do"),
    [
        ({"mode": "joint", "surplus": True, "rounds": 1}, 0.5, "no --take-back"),
        ({"analytic": Choice()}, 0.9, "No plan of this method fits"),
        ({"rounds": 1}, 0.9, "No plan of this method fits"),
    ],
)
def test_where_not_even_one_round_fits_it_says_what_does(
    base: BaseModel, changes: dict[str, Any], share: float, do: str
) -> None:
    terms, most = replace(TERMS, **changes), sent(base, **changes)
    with pytest.raises(PlanError) as caught:
        require(terms, ground(base), Allowed(sent=int(share * most)))
    assert do in caught.value.do
    require(terms, ground(base), Allowed(sent=most))


def test_a_policy_of_the_consortium_says_what_is_allowed() -> None:
    found = Allowed.of(policy(privacy__epsilon=2.5, training__rounds=9), 5)
    assert (found.epsilon, found.rounds, found.sent) == (2.5, 9, 5)
    strict = policy_json(privacy__epsilon=2.5)
    strict["datasets"]["notes"] = strict["datasets"]["*"] | {"epsilon": 1.5}
    for datasets, epsilon in ((["notes", "scans"], 1.5), (["scans"], 2.5)):
        assert Allowed.of(Policy.of(strict), None, datasets).epsilon == epsilon
    assert Allowed.of(None) == Allowed()


def test_a_proposal_beyond_the_policy_or_the_bytes_is_one_line_and_proposes_nothing(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lead = ("--dir", str(tmp_path / "lead"))
    assert main(["lead", "init", "--name", "hospitals", *lead]) == 0
    (tmp_path / "lead" / "policy.yaml").write_text(json.dumps(policy_json(privacy__epsilon=3)))
    (tmp_path / "lead" / "policy.yaml").chmod(0o600)
    known = ground(base)
    monkeypatch.setattr(cli_propose, "Ground", lambda *_: known)
    capsys.readouterr()
    common = ["lead", "propose", *lead, "--purpose", "notes", "--labels", "a,b,c", "--model", str(base.path)]
    assert main([*common]) == 1
    told = capsys.readouterr()
    assert re.search(r"Epsilon 8.0 is asked, and 3.0 is allowed\. The nearest .* --epsilon 3.0", told.err)
    assert told.err.count("\n") == 1
    assert main([*common, "--epsilon", "3", "--most-bytes", "10"]) == 1
    assert "10 are allowed" in capsys.readouterr().err
    assert not list((tmp_path / "lead" / "jobs").glob("*/plan.json"))
    assert main([*common, "--epsilon", "3"]) == 0


@pytest.mark.parametrize("spent", [(), (GaussianSteps(1.2, 0.3, 20),)])
def test_the_largest_target_that_a_budget_bears_is_found_by_the_accountant(spent: Any) -> None:
    found = target_within((8.0, 1e-5), spent, delta=1e-6, rate=0.2, steps=12)
    assert found is not None

    def total(target: float) -> float:
        sigma = noise_multiplier(target, 1e-6, 0.2, 12)
        return accounting.epsilon([*spent, GaussianSteps(sigma, 0.2, 12)], 1e-5)

    assert total(found) <= 8.0 < total(found + 0.01)
    assert target_within((8.0, 1e-5), [GaussianSteps(0.2, 1.0, 9)], delta=1e-6, rate=0.2, steps=12) is None


def test_a_target_that_no_noise_keeps_names_the_least_that_it_does() -> None:
    with pytest.raises(PlanError) as caught:
        noise_multiplier(1e-9, 1e-15, 0.2, 12)
    (named,) = re.findall(r"epsilon ([0-9.e-]+);", caught.value.do)
    assert noise_multiplier(float(named), 1e-15, 0.2, 12) <= 1e6
