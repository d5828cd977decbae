"""``cloister simulate``, as sessions of a terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from markupsafe import escape

from cloister.client.site.ledger import Ledger
from cloister.privacy.cli import main
from cloister.simulations.engine.plans import DATASET
from cloister.simulations.scenarios.figures import METHODS
from cloister.simulations.scenarios.simulation import simulate
from tests import hearts, models
from tests.hearts import SITES

pytestmark = pytest.mark.job

REAL = Path(__file__).parents[3] / "../shared/data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearts.folder(tmp_path_factory.mktemp("data") / "all")


@pytest.fixture(scope="module")
def played(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    out = tmp_path_factory.mktemp("out") / "heart"
    return out, main(
        [
            "simulate",
            "heart",
            "--data",
            str(data),
            "--out",
            str(out),
            "--epsilon",
            "4",
            "--seeds",
            "2",
            "--json",
        ]
    )


class TestSession:
    def test_the_list_names_every_scenario_and_what_it_needs(self, capsys):
        assert main(["simulate", "--list"]) == 0
        assert capsys.readouterr().out == (
            "hospital-triage   Four hospitals route triage notes to departments\n"
            "clinical-entities Four clinics find diseases in what they write   needs ncbi_disease\n"
            "medical-qa        Nine institutes teach a model to answer questions on health   needs medquad\n"
            "bank-intents      Four banks recognise what customers ask for   needs banking77\n"
            "credit-risk       Four regional banks judge credit applications   needs south_german_credit\n"
            "heart             Four real hospitals predict heart disease   needs heart_disease\n"
        )
        assert main(["simulate", "--list", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["heart"]["needs"] == "heart_disease"

    @pytest.mark.slow
    def test_every_method_is_in_the_table_and_the_answer_below_it(self, data, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        out = tmp_path / "new"
        assert main(["simulate", "heart", "--data", str(data), "--out", str(out), "--seeds", "1"]) == 0
        shown = capsys.readouterr().out
        assert "SIMULATION: Four real hospitals predict heart disease" in shown
        for words in METHODS.values():
            assert re.search(rf"│ {re.escape(words)} +│ +\d\d\.\d", shown), words
        assert re.search(r"^- (Yes|No|Hardly): at epsilon 1 ", shown, re.MULTILINE)
        to_copy = f"cloister verify {out}/bundle --trust {out}/trust.json"
        assert to_copy in shown.splitlines()
        assert main(["verify", str(out / "bundle"), "--trust", str(out / "trust.json")]) == 0
        assert max(len(line) for line in shown.splitlines() if line != to_copy) <= 80

    @pytest.mark.parametrize(
        ("options", "code", "line"),
        [
            ([], 2, "No scenario is named. See `cloister simulate --list`. [option_invalid]"),
            (
                ["hart"],
                2,
                "There is no scenario hart. There is: hospital-triage, clinical-entities, medical-qa,",
            ),
            (["heart", "--epsilon", "0"], 2, "Epsilon must be above 0, delta between 0 and 1"),
            (["heart", "--delta", "1"], 2, "Epsilon must be above 0, delta between 0 and 1"),
            (["heart", "--data", "/nowhere"], 1, "There is no /nowhere/heart_disease/flamby_train.csv."),
            (["missing.toml"], 1, "missing.toml cannot be read."),
        ],
    )
    def test_what_cannot_be_done_ends_in_one_line(self, options, code, line, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["simulate", *options]) == code
        said = capsys.readouterr().err.strip()
        assert line in said
        assert "\n" not in said

    def test_a_folder_that_is_in_use_is_left_alone(self, data, tmp_path, capsys):
        (tmp_path / "mine").write_text("x")
        assert main(["simulate", "heart", "--data", str(data), "--out", str(tmp_path)]) == 2
        assert "[folder_in_use]" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]


class TestResult:
    def test_the_result_has_every_method_site_and_promise(self, played):
        out, code = played
        assert code == 0
        result = json.loads((out / "result.json").read_text())
        assert result["simulation"] is True
        assert set(result["methods"]) == set(METHODS)
        assert result["target"] == {"epsilon": 4.0, "delta": 1e-4, "unit": "record"}
        for name, method in result["methods"].items():
            assert set(method["sites"]) == set(method["common"]) == set(SITES)
            assert method["worst_site"] in SITES
            assert method["interval"][0] <= method["accuracy"] <= method["interval"][1]
            private = name.endswith(("private", "local", "joint"))
            assert (method["epsilon"] is not None) is private
            assert not private or 3.9 < method["epsilon"] <= 4.0
        factors = {name: method["noise_factor"] for name, method in result["methods"].items()}
        assert factors["federated_local"] == 2.0
        assert factors["federated_joint"] == pytest.approx(2**0.5)
        assert len(result["methods"]["federated_joint"]["seeds"]) == 2

    def test_one_round_is_as_good_as_pooling_here(self, played):
        methods = json.loads((played[0] / "result.json").read_text())["methods"]
        assert abs(methods["federated_ridge"]["accuracy"] - methods["pooled"]["accuracy"]) < 0.05
        assert methods["federated_ridge"]["accuracy"] > 0.75

    @pytest.mark.parametrize("method", ["federated_local", "federated_joint"])
    def test_every_site_has_a_ledger_of_its_own_that_says_the_same_epsilon(self, played, method):
        out = played[0]
        told = json.loads((out / "result.json").read_text())["methods"][method]
        for site in SITES:
            ledger = Ledger(out / "ledgers" / method / f"{site}.sqlite")
            rows = ledger.rows(DATASET)
            assert ledger.epsilon(DATASET) == told["epsilon"]
            assert [row.kind for row in rows] == ["reserved", "spent"] * told["sums"]

    def test_shared_models_have_a_path_a_calibration_and_groups(self, played):
        out = played[0]
        result = json.loads((out / "result.json").read_text())
        assert set(result["groups"]["rows"]) == {"0", "1"}
        for name, method in result["methods"].items():
            shared = not name.startswith("local_only")
            assert (method["calibration"] is not None) is shared
            assert set(method["groups"]) == (set(result["groups"]["rows"]) if shared else set())
            if name.startswith("federated"):
                sums, sent, end = method["path"][-1]
                assert (sums, sent) == (method["sums"], method["bytes_up"])
                assert end == method["seeds"][0]
                assert [step[0] for step in method["path"]] == sorted({step[0] for step in method["path"]})
            else:
                assert method["path"] == []
        calibrated = result["methods"]["federated_ridge"]["calibration"]
        assert calibrated["after"] < calibrated["before"]
        weights, groups = result["groups"]["rows"], result["methods"]["pooled"]["groups"]
        mean = sum(weights[name] * groups[name] for name in weights) / sum(weights.values())
        assert mean == pytest.approx(result["methods"]["pooled"]["accuracy"])
        assert any("temperatures" in line for line in result["not_covered_by_epsilon"])

    def test_other_targets_stand_beside_the_scenarios_own(self, played):
        result = json.loads((played[0] / "result.json").read_text())
        for name, points in result["curves"].items():
            assert [epsilon for epsilon, _ in points] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
            assert [4.0, result["methods"][name]["accuracy"]] in points

    def test_the_recommended_way_leaves_a_bundle_that_verifies_and_is_marked(self, played, capsys):
        bundle, trust = played[0] / "bundle", str(played[0] / "trust.json")
        capsys.readouterr()
        assert main(["verify", str(bundle), "--trust", trust, "--json"]) == 0
        verdict = json.loads(capsys.readouterr().out)
        assert (verdict["result"], verdict["notes"]) == ("verified", [])
        evidence = json.loads((bundle / "evidence.json").read_text())
        assert evidence["kind"] == "simulation"
        result = json.loads((played[0] / "result.json").read_text())
        best = max(("federated_local", "federated_joint"), key=lambda m: result["methods"][m]["accuracy"])
        method = result["methods"][best]
        assert evidence["plan"]["privacy"]["mode"] == best.removeprefix("federated_")
        if evidence["plan"]["training"]["algorithm"] == "fedavg":
            assert evidence["accuracy"]["federated"] == method["seeds"][0]  # the same rows, steps and noise
        assert len(evidence["rounds"]) == method["sums"]
        told = max(float(stated["epsilon"]) for stated in evidence["privacy"])
        assert told == pytest.approx(method["epsilon"], abs=0.001)
        for page in ("report.html", "report.zh.html", "first-page.en.html", "first-page.zh.html"):
            text = (bundle / page).read_text()
            mark = "模拟 SIMULATION" if "zh" in page else "SIMULATION"
            assert f'body::before {{ content: "{mark}"; position: fixed' in text, page  # on every sheet, too
            assert (f'@top-right {{ content: "{mark}"' in text) is page.startswith("report"), page
        page = (bundle / "report.html").read_text()
        assert "Checked: noise does not come from a seed" not in page
        assert "Not checked: that noise does not come from a seed" in page

    def test_the_page_is_marked_and_loads_nothing(self, played):
        page = (played[0] / "simulation.html").read_text()
        assert page.count("SIMULATION") > 5
        assert not re.search(r"(src|href)=|@import|url\(", page)
        assert "<script" not in page
        for words in METHODS.values():
            assert str(escape(words)) in page

    @pytest.mark.slow
    def test_the_seed_decides_everything(self, played, data):
        again = simulate("heart", data=data, epsilon=4.0, seeds=2).to_json()
        other = simulate("heart", data=data, epsilon=4.0, seed=1, seeds=2).to_json()
        first = json.loads((played[0] / "result.json").read_text())
        for one in (first, again, other):
            del one["seconds"], one["bundle"]
        assert json.loads(json.dumps(again)) == first
        assert other["methods"] != first["methods"]


OWN = """
name = "mine"
title = "Our wards"
story = "Words <b>with</b> markup."
epsilon = 8.0
delta = 1e-5
data = "notes.csv"
split = "iid"
person = "who"
model = "{model}"
"""


class TestFile:
    @pytest.mark.slow
    def test_a_file_of_ones_own_from_text_to_page(self, tmp_path):
        model = models.write(tmp_path / "tiny")
        rows = [
            f"{word} pain since monday {k},{word},{k // 2}" for k in range(260) for word in ("chest", "head")
        ]
        (tmp_path / "notes.csv").write_text("text,label,who\n" + "\n".join(rows) + "\n")
        expected = "reachable = 0.9\ncommon = 0.55\n"
        (tmp_path / "mine.toml").write_text(OWN.format(model=model) + expected)
        assert (
            main(["simulate", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"), "--seeds", "1"])
            == 0
        )
        result = json.loads((tmp_path / "out" / "result.json").read_text())
        assert result["target"]["unit"] == "person"
        assert result["simple"] == {"accuracy": 1.0, "model": "TF-IDF and logistic regression"}
        assert result["methods"]["federated_ridge"]["accuracy"] > 0.9
        assert "by the 90 that are expected without any" in result["planner"][0]
        assert "Words &lt;b&gt;with&lt;/b&gt; markup." in (tmp_path / "out" / "simulation.html").read_text()

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            (("epsilon = 8.0", "epsilon = -1.0"), "epsilon"),
            (('name = "mine"', 'name = "Mine"'), "name"),
            (('split = "iid"', 'spilt = "iid"'), "spilt"),
            (("delta = 1e-5", 'delta = "small"'), "delta"),
            (('title = "Our wards"', "title = "), "not TOML"),
            (('split = "iid"', "reachable = 1.2"), "reachable"),
            (('split = "iid"', "common = 0.6"), "common: without reachable it says nothing"),
            (('split = "iid"', "common = 0.6\nreachable = 0.6"), "reachable: whoever always answers"),
        ],
    )
    def test_a_field_that_cannot_be_used_is_named(self, change, word, tmp_path, capsys):
        (tmp_path / "mine.toml").write_text(OWN.replace(*change))
        assert main(["simulate", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err.strip()
        assert word in said
        assert said.endswith("[file_format]")
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the data sets are not here")
def test_real_hospitals_gain_by_federating_with_privacy():
    found = simulate("heart", data=REAL)
    methods = found.comparison.methods
    assert methods["federated_joint"].accuracy > methods["local_only"].accuracy + 0.05
    assert methods["federated_ridge"].accuracy > 0.79
    assert found.advice[0].startswith("Yes: at epsilon 1 ")
