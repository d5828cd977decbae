"""The inventory entry: every field is filled with grade and events, or left to the organisation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.papers import inventory
from tests.reports import evidence, jointly, licensed, per_person, replanned, without_privacy

FIELDS = (
    *("id", "name", "purpose", "kind", "owner", "base_model", "developers", "inputs", "outputs"),
    *("assumptions", "limitations", "outcomes", "privacy", "sensitivity_to_epsilon"),
    *("monitoring_triggers", "dependencies", "dates"),
    *("materiality_tier", "validation", "approval", "monitoring_results"),
)
CASES = {
    "vector": evidence(),
    "person": per_person(),
    "joint": jointly(),
    "off": without_privacy(),
    "licensed": licensed(),
    "nothing": evidence(accuracy=None, datasets=[], traffic=[], channels=[], progress=[]),
}


def entry(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inventory.inventory(Evidence.from_json(value)))
    return found


def said(value: dict[str, Any], name: str) -> list[Any]:
    return [one["answer"] for one in entry(value)["fields"][name]]


@pytest.mark.parametrize("value", CASES.values(), ids=CASES)
def test_every_field_is_there_with_grades_and_events_that_exist(value: dict[str, Any]) -> None:
    fields = entry(value)["fields"]
    assert tuple(fields) == FIELDS
    known = {one["event"] for one in value["cited"]}
    for name, answers in fields.items():
        assert answers, name
        for one in answers:
            assert one["grade"] in {grade.word for grade in Grade}
            assert {*one.get("events", ())} <= known
            if "epsilon at most" in str(one["answer"]):
                assert one["grade"] == "Derived"


def test_what_only_people_can_say_is_left_to_them() -> None:
    for name in ("owner", "materiality_tier", "validation", "approval", "monitoring_results"):
        assert said(evidence(), name) == ["the organisation must supply"]
        (only,) = entry(evidence())["fields"][name]
        assert only["grade"] == "Not known"


def test_a_field_rests_on_the_events_of_what_it_is_about() -> None:
    fields = entry(evidence())["fields"]
    assert fields["id"][0]["answer"]["model_digest"] == evidence()["model"]["digest"]
    assert fields["id"][0]["events"] == ["valley-trust/43"]
    assert fields["dependencies"][0]["events"] == ["valley-trust/15"]
    assert fields["dependencies"][0]["answer"]["torch"] == "2.13.0+cpu"
    sources = {one["about"]: one["events"] for one in evidence()["sources"]}
    assert fields["inputs"][0]["events"] == sources["data.hill-clinic"]
    assert fields["privacy"][0]["events"] == sources["privacy.hill-clinic"]


def test_inputs_are_bands_by_log_or_by_plan() -> None:
    by_site = {one["answer"]["site"]: one for one in entry(evidence())["fields"]["inputs"]}
    assert by_site["hill-clinic"]["grade"] == "Recorded"
    assert by_site["hill-clinic"]["answer"]["rows_band"] == "1024-2047"
    assert by_site["river-practice"]["grade"] == "Proven"
    assert by_site["river-practice"]["answer"]["rows_band"] == "256-511"


def test_outcomes_have_their_interval_or_are_not_measured() -> None:
    (common, *_) = said(evidence(), "outcomes")
    low, high = map(float, common["interval_95"])
    assert low < float(common["value"]) < high
    assert said(evidence(accuracy=None), "outcomes") == ["not measured"]
    value = evidence()
    value["accuracy"] |= {"test_rows": "9", "sites": [], "worst_site": None}
    assert said(value, "outcomes") == ["not measured"]


def test_a_licence_is_declared_or_not_known() -> None:
    for value, text, grade in (
        (licensed(), "apache-2.0", "Declared"),
        (evidence(), "not declared", "Not known"),
    ):
        one = entry(value)["fields"]["base_model"][1]
        assert (one["answer"]["licence"], one["grade"]) == (text, grade)


def test_how_accuracy_changes_with_epsilon_is_never_known() -> None:
    for value in (evidence(), without_privacy()):
        last = entry(value)["fields"]["sensitivity_to_epsilon"][-1]
        assert last["grade"] == "Not known"
        assert "accuracy changes with epsilon was not measured" in last["answer"]
    assert len(said(without_privacy(), "sensitivity_to_epsilon")) == 1


def test_a_generative_model_is_said_to_be_outside() -> None:
    value = replanned(task={"kind": "causal-lm", "labels": []}, canaries=64)
    assert said(value, "kind") == ["generative"]
    assert "is outside what they cover" in entry(value)["note"]
    assert "is inside what they cover" in entry(evidence())["note"]
