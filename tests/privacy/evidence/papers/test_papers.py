"""The documents of a bundle: valid to public validators, true to the evidence, the same bytes twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloister.privacy.errors import InputError
from cloister.privacy.evidence import crosswalk, papers, reading
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.papers import annex, forms
from tests.reports import VECTOR, evidence, jointly, licensed, per_person, replanned, without_privacy

pytestmark = pytest.mark.job

ROOT = Path(__file__).parents[4]
REGISTRY = ROOT.parent / "shared" / "data" / "opendp_registry" / "deployments-schema.yaml"
HOSTILE = 'a: b # c\n- "d" \u2028 \x7f <script>&{{ x }}|\\'
GRADES = {grade.word for grade in Grade}
OVERCLAIMS = re.compile(
    r"\b(is|are|fully|be) (compliant|anonymous|anonymi[sz]ed|de-identified)|compliant with|unhackable", re.I
)


def hostile() -> dict[str, Any]:
    """Evidence whose free texts would break out of any form that does not quote."""
    return replanned(purpose=HOSTILE[:8] + '\u2028 "d" <script>&{{ x }}|\\ # é 病')


CASES = {
    "vector": evidence(),
    "person": per_person(),
    "joint": jointly(),
    "off": without_privacy(),
    "nothing measured": evidence(accuracy=None, traffic=[], channels=[], progress=[], logs=[]),
    "simulation": evidence(kind="simulation"),
    "licensed": licensed(),
}


@pytest.fixture(params=list(CASES), name="value")
def _value(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CASES[request.param]


def everything(found: Any) -> list[dict[str, Any]]:
    """All objects anywhere in a JSON value."""
    below = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return [
        *([found] if isinstance(found, dict) else []),
        *(one for part in below for one in everything(part)),
    ]


def read(name: str, value: dict[str, Any]) -> Any:
    return json.loads(papers.documents(value)[name])


def test_the_names_are_those_that_the_verifier_expects(value: dict[str, Any]) -> None:
    sites = [site["name"] for site in value["plan"]["sites"]]
    assert [*papers.documents(value)] == papers.names(sites)
    assert "ropa/hill-clinic.json" in papers.names(sites)


def test_the_same_evidence_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "import json, sys; from cloister.privacy import canonical; "
        "from cloister.privacy.evidence.papers import documents; "
        "found = documents(json.load(open(sys.argv[1], encoding='utf-8'))); "
        "print(json.dumps({n: canonical.digest(d) for n, d in found.items()})); "
        "assert 'torch' not in sys.modules and 'flwr' not in sys.modules"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(VECTOR)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 1


def test_the_bill_of_materials_is_valid_cyclonedx(value: dict[str, Any]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = papers.documents(value)["bom.cdx.json"].decode()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    spoilt = json.loads(text)
    spoilt["metadata"]["component"]["modelCard"]["unheard_of"] = 1
    assert validator.validate_str(json.dumps(spoilt)) is not None


def test_the_bill_of_materials_names_model_base_code_and_datasets() -> None:
    found = read("bom.cdx.json", evidence())
    model = found["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    refs = {one["bom-ref"]: one for one in found["components"]}
    assert refs.keys() == set(found["dependencies"][0]["dependsOn"])
    datasets = [one["ref"] for one in model["modelCard"]["modelParameters"]["datasets"]]
    assert [refs[ref]["type"] for ref in datasets] == ["data"] * 4
    assert all("contents" not in data for ref in datasets for data in refs[ref]["data"])
    assert refs["base-model"]["properties"][0]["value"] == evidence()["plan"]["base"]["digest"]
    (metric,) = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    low, high = (float(bound) for bound in metric["confidenceInterval"].values())
    assert low < float(metric["value"]) < high


def test_the_bill_of_materials_names_the_libraries_that_logs_name_and_who_ran_them() -> None:
    refs = {one["bom-ref"]: one for one in read("bom.cdx.json", evidence())["components"]}
    torch = refs["library:torch@2.13.0+cpu"]
    assert torch["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert torch["properties"][0]["value"] == "valley-trust, hill-clinic, lake-hospital"
    assert refs["library:torch@2.13.0+cu130"]["properties"][0]["value"] == "town-hospital"
    told = read("annex-iv.json", evidence())["items"]["1(c)"]["answers"]
    assert [one["grade"] for one in told[1:-1]] == ["Recorded"] * 4
    assert told[1]["answer"]["opacus"] == "1.6.0"


def test_a_licence_of_the_base_model_is_called_declared() -> None:
    refs = {one["bom-ref"]: one for one in read("bom.cdx.json", licensed())["components"]}
    said = {"license": {"name": "apache-2.0", "acknowledgement": "declared"}}
    assert refs["base-model"]["licenses"] == [said]
    refs = {one["bom-ref"]: one for one in read("bom.cdx.json", evidence())["components"]}
    assert "licenses" not in refs["base-model"]


def test_accuracy_of_few_test_records_is_held_back() -> None:
    value = evidence()
    value["accuracy"] |= {"test_rows": "9", "sites": [], "worst_site": None}
    card = read("bom.cdx.json", value)["metadata"]["component"]["modelCard"]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == []
    assert read("annex-iv.json", value)["items"]["2(g)"]["answers"][0]["grade"] == "Not known"


@pytest.mark.skipif(not REGISTRY.exists(), reason="the registry's schema is not on this machine")
def test_the_registry_entry_is_valid_to_the_registry_schema(value: dict[str, Any]) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(yaml.safe_load(REGISTRY.read_text(encoding="utf-8")))
    entry = yaml.safe_load(papers.documents(value)["dp-registry.yaml"])
    assert [error.message for error in validator.iter_errors(entry)] == []
    assert list(validator.iter_errors(entry | {"status": "Certain"}))


def test_the_registry_entry_is_of_tier_three_where_there_is_a_guarantee(value: dict[str, Any]) -> None:
    entry = yaml.safe_load(papers.documents(value)["dp-registry.yaml"])
    worst = reading.Worst.of(Evidence.from_json(value))
    if worst is None:
        assert entry["tier"] == 1
        assert "privacy_loss" not in entry["deployment"]
        return
    assert entry["tier"] == 3
    assert entry["deployment"]["deployment_model"]["model_name"] == "Federated"
    stated = entry["deployment"]["privacy_loss"]["privacy_parameters"]
    assert stated == {"epsilon": float(worst.epsilon), "delta": float(worst.delta)}
    assert entry["status"] == "Draft"


def test_texts_cannot_break_out() -> None:
    value = hostile()
    entry = yaml.safe_load(papers.documents(value)["dp-registry.yaml"])
    assert entry["deployment"]["basic"]["name"] == value["purpose"]
    assert read("bom.cdx.json", value)["metadata"]["component"]["description"] == value["purpose"]


@pytest.mark.parametrize("text", [HOSTILE, "\ufeff", "yes", "1e-05", "~", "\x85", "😀", ": ", "'"])
def test_yaml_gives_texts_back_as_they_were(text: str) -> None:
    value = {"one": text, "two": {"three": [text, "x"]}, "small": 1e-05, "whole": 3, "none": None}
    assert yaml.safe_load(forms.as_yaml(value)) == value


def test_every_answer_has_a_grade_and_epsilon_is_never_proven(value: dict[str, Any]) -> None:
    sites = [site["name"] for site in value["plan"]["sites"]]
    for name in ("annex-iv.json", *(f"ropa/{site}.json" for site in sites)):
        answers = [one for one in everything(read(name, value)) if "answer" in one]
        assert answers
        assert {one["grade"] for one in answers} <= GRADES
        for one in answers:
            if re.search(r"epsilon \d|epsilon at most", str(one["answer"])):
                assert one["grade"] == "Derived"
    entries = [one for row in read("crosswalk.json", value)["rows"] for one in row["evidence_relevant"]]
    assert {one["grade"] for one in entries} <= GRADES
    assert {one["grade"] for one in entries if "guarantee" in one["what"]} <= {"Derived", "Not known"}


def test_every_item_of_annex_iv_is_there_and_says_who_must_supply() -> None:
    items = read("annex-iv.json", evidence())["items"]
    assert [*items] == [*annex.ITEMS]
    for item in items.values():
        assert item["answers"][-1]["answer"] == "the provider must supply"
    for number in ("4", "5", "8", "9"):
        assert len(items[number]["answers"]) == 1


def test_a_record_of_processing_has_all_seven_points() -> None:
    points = read("ropa/hill-clinic.json", evidence())["points"]
    assert [*points] == list("abcdefg")
    assert points["c"]["size_bands"]["answer"] == {"rows": [1024, 2047]}
    assert points["d"]["recipients"][0]["answer"]["bytes"] == "948336"
    assert points["b"]["lawful_basis"]["answer"] == "the controller must supply"


def test_a_record_is_about_its_own_site() -> None:
    found = papers.documents(evidence())["ropa/river-practice.json"].decode()
    assert "948336" not in found
    assert "596463" in found


def test_the_crosswalk_is_dated_and_marks_what_was_not_re_read() -> None:
    found = read("crosswalk.json", evidence())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["as_of"])
    kinds = [row["source_checked"] for row in found["rows"]]
    assert set(kinds) == {"public text", "memory"}
    assert len({row["id"] for row in found["rows"]}) == len(kinds) >= 25
    assert all(row["organisation_must_attest"] for row in found["rows"])


def test_the_crosswalk_points_into_the_bundle(value: dict[str, Any]) -> None:
    known = {*papers.documents(value), "events/", "heads/", "approvals/", "ropa/", "plan.json"}
    sections = {f"report.html#s{number}" for number in range(1, 20)}
    parts = {f"evidence.json#/{part}" for part in Evidence.model_fields}
    for row in read("crosswalk.json", value)["rows"]:
        for one in row["evidence_relevant"]:
            places = one["path"].split(", ") if one["path"] else []
            assert set(places) <= known | sections | parts


def test_every_row_of_the_mapping_is_shown_by_something() -> None:
    shown = crosswalk.shown(Evidence.from_json(evidence()))
    used = {name for row in crosswalk.mapping().rows for name in row.shows}
    assert used == shown.keys()


def test_no_document_promises_too_much(value: dict[str, Any]) -> None:
    for name, data in papers.documents(value).items():
        assert not OVERCLAIMS.search(data.decode()), name


def test_what_is_no_federation_says_so_in_every_document() -> None:
    for name, data in papers.documents(evidence(kind="simulation")).items():
        assert "simulation" in data.decode().lower(), name


def test_malformed_evidence_gives_no_document() -> None:
    with pytest.raises(InputError, match="cannot be used"):
        papers.documents(evidence(job="sha256:" + "0" * 64))


@pytest.mark.parametrize(
    ("share", "rows", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)],
)
def test_the_interval_is_that_of_wilson(share: float, rows: int, low: float, high: float) -> None:
    assert reading.interval(share, rows) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_needs_records() -> None:
    with pytest.raises(ValueError, match="at least one"):
        reading.interval(0.5, 0)
