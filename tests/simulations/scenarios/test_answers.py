"""Answers to questions: nine institutes, a tiny model, and LoRA by every method through plans and sums."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cloister.client.site.ledger import Ledger
from cloister.client.site.records import Records
from cloister.privacy.cli import main
from cloister.privacy.errors import UsageError
from cloister.privacy.model import describe
from cloister.simulations.engine.plans import DATASET
from cloister.simulations.scenarios import answers, institutes
from cloister.simulations.scenarios.catalogue import SCENARIOS, Scenario
from cloister.simulations.scenarios.institutes import Corpus
from cloister.simulations.scenarios.simulation import simulate
from cloister.simulations.sweep.description import Sweep, ordered

REAL = Path(__file__).parents[3] / "../shared/data"
SITES = ("north", "south", "west")


def rows(site: str, many: int) -> Records:
    asked = tuple(f"what helps case {n} at {site}" for n in range(many))
    return Records(asked, tuple(f"rest {n % 3} days" for n in range(many)), kind="causal-lm")


@pytest.mark.job
def test_the_tiny_model_is_the_same_each_time(tmp_path):
    one, other = (describe(institutes.write(tmp_path / name)) for name in ("one", "other"))
    assert one.digest == other.digest


@pytest.mark.job
@pytest.mark.skipif(not (REAL / "medquad").is_dir(), reason="medquad is not here")
def test_nine_institutes_keep_back_diseases_of_their_own():
    found = institutes.corpus(REAL, 0)
    assert len(found.train) == 9
    sizes = {name: len(held) + len(found.own[name]) for name, held in found.train.items()}
    assert sizes["ghr"] == 4875 // institutes.ONE_IN
    assert sizes["cdc"] == institutes.FEWEST
    assert len(found.test) == institutes.TEST
    for name, held in found.train.items():
        assert not set(held.texts) & set(found.own[name].texts)
        assert held.persons is None
    folder = found.base.path
    assert folder.is_dir()
    del found
    assert not folder.exists()


@pytest.mark.job
def test_every_plan_comes_to_its_end_and_every_ledger_keeps_its_promise(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "ROUNDS", 2)
    monkeypatch.setattr(answers, "JOINT_ROUNDS", 3)
    base = describe(institutes.write(tmp_path / "model"))

    def material(_data, _seed, _mix=None):
        train = {name: rows(name, 24 + 8 * place) for place, name in enumerate(SITES)}
        return Corpus(base, train, {name: rows(name + "s", 8) for name in SITES}, rows("home", 12))

    out = tmp_path / "out"
    told = SCENARIOS["medical-qa"]
    scenario = Scenario("tiny", "A title", "A story.", 8.0, 1e-5, material, meaning=told.meaning)
    found = simulate(scenario, out=out)
    result = json.loads((out / "result.json").read_text())
    methods = result["methods"]
    assert set(methods) == set(answers.WORDS)
    assert {name: methods[name]["sums"] for name in methods if name.startswith("federated")} == {
        "federated_local": 2,
        "federated_joint": 3,
        "federated_averaging": 2,
    }
    for name in ("pooled", "local_only", "federated_averaging"):
        assert methods[name]["loss"] < result["loss"] - 0.1
        assert methods[name]["epsilon"] is None
    for name in ("local_only_private", "pooled_private", "federated_local", "federated_joint"):
        assert 7 < methods[name]["epsilon"] <= 8
        assert math.isfinite(methods[name]["loss"])
    for name in ("federated_local", "federated_joint"):
        for site in SITES:
            ledger = Ledger(out / "ledgers" / name / f"{site}.sqlite")
            assert ledger.epsilon(DATASET) == methods[name]["epsilon"]
    page = (out / "simulation.html").read_text()
    assert "no accuracy is claimed" in page
    assert "SIMULATION" in page
    assert "Should they federate" not in page
    assert "perplexity" in page
    assert found.foreseen == ()
    assert "random" in found.advice[0]


def test_a_test_of_the_machinery_is_not_swept():
    with pytest.raises(UsageError) as caught:
        ordered(Sweep(scenario="medical-qa", epsilon=[1.0]))
    assert caught.value.id == "option_invalid"


@pytest.mark.parametrize("name", ["medical-qa", "clinical-entities"])
def test_without_its_data_a_scenario_says_so_in_one_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", name, "--data", str(tmp_path / "nowhere"), "--out", "out"]) == 1
    said = capsys.readouterr().err.strip()
    assert SCENARIOS[name].needs in said
    assert "--data" in said
    assert "\n" not in said
