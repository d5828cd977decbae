"""The crosswalk on the page: the rows of the document, graded by their weakest part, in each language."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloister.privacy.evidence import crosswalk
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.language import LANGUAGES
from cloister.privacy.evidence.papers import documents
from tests.privacy.evidence.test_render import Element, page, section
from tests.reports import evidence, without_privacy

ORDER = [grade.word for grade in Grade]


def rows(value: dict[str, Any]) -> list[Element]:
    (table,) = [
        one
        for one in section(page(value), 14).tags("table")
        if one.tags("caption")[0].text() == "Rules, and evidence relevant to them"
    ]
    return table.tags("tbody")[0].tags("tr")


@pytest.mark.parametrize("make", [evidence, without_privacy])
def test_the_page_has_the_rows_of_the_document_with_the_weakest_grade(make: Any) -> None:
    written = json.loads(documents(make())["crosswalk.json"])
    found = rows(make())
    assert len(found) == len(written["rows"]) >= 25
    for row, one in zip(found, written["rows"], strict=True):
        for said in (one["source"], one["asks"], one["status"], one["organisation_must_attest"]):
            assert said in row.text()
        assert ("text not read again" in row.text()) is (one["source_checked"] == "memory")
        paths = [path for shown in one["evidence_relevant"] for path in shown["path"].split(", ") if path]
        assert [code.text() for code in row.tags("code")] == paths
        weakest = max((shown["grade"] for shown in one["evidence_relevant"]), key=ORDER.index)
        assert row.grades() == [weakest]
    assert written["as_of"] in section(page(make()), 14).text()


def test_a_rule_about_the_guarantee_is_derived_at_best_and_without_privacy_not_known() -> None:
    (nist,) = [row for row in rows(evidence()) if "SP 800-226" in row.text()]
    assert nist.grades() == ["Declared"]  # the limits that are printed are words
    (record,) = [
        one for one in crosswalk.lines(Evidence.from_json(without_privacy()), "en") if "226" in one.source
    ]
    assert record.grade is Grade.NOT_KNOWN


def test_attacks_that_were_run_are_relevant_and_others_are_said_to_be_missing() -> None:
    value = evidence()
    shown = crosswalk.shown(Evidence.from_json(value))["attacks"]
    assert (shown.key, shown.grade) == ("attacks_none", Grade.NOT_KNOWN)
    found = Evidence.from_json(value)
    tried = found.model_copy(update={"attacks": (object(),)})
    assert crosswalk.shown(tried)["attacks"].grade is Grade.RECORDED
    assert crosswalk.shown(tried)["attacks"].path.startswith("evidence.json#/attacks")


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_has_all_texts(name: str) -> None:
    said = crosswalk._said(name)
    assert said["what"].keys() == crosswalk.WHAT.keys()
    assert said["rows"].keys() == {row.id for row in crosswalk.mapping().rows}
    for row in said["rows"].values():
        assert all(row[field].strip() for field in ("asks", "status", "attest"))


def test_every_key_is_shown_by_something() -> None:
    value = Evidence.from_json(evidence())
    secure = value.plan.aggregation.model_copy(update={"secure": True, "threshold": 3, "colluding": 1})
    others = (
        value,
        value.model_copy(update={"attacks": (object(),)}),
        value.model_copy(update={"sums": (object(),)}),
        value.model_copy(update={"plan": value.plan.model_copy(update={"aggregation": secure})}),
    )
    assert {one.key for each in others for one in crosswalk.shown(each).values()} == crosswalk.WHAT.keys()
