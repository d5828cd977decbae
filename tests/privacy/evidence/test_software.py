"""What a report says of software follows from the logs, and where parties differ it says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cloister.privacy.canonical import digest
from cloister.privacy.errors import InputError
from cloister.privacy.evidence.events import GENESIS, Event
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.software import Ran, by_version, differing, software
from tests.privacy.evidence.test_render import lines, page, section
from tests.reports import evidence

PLAN = Evidence.from_json(evidence()).plan
SITE = PLAN.sites[0].name


def said(**other: Any) -> dict[str, Any]:
    known = {"python": "3.11.7", "code": digest(b"code"), "installed": digest(b"packages"), "numpy": "2.4.6"}
    return known | other


def event(body: Mapping[str, Any], job: str | None = PLAN.digest) -> Event:
    return Event(SITE, 1, "2026-11-24T14:11:40.000Z", "software.recorded", job, None, body, GENESIS)


def ran(party: str, **other: Any) -> Ran:
    (found,) = software(PLAN, {party: [event(said(**other))]})
    return Ran.model_validate(found)


def test_the_first_event_of_the_job_counts_and_others_are_counted() -> None:
    told = [event(said()), event(said()), event(said(numpy="2.5"))]
    (found,) = software(PLAN, {SITE: [event(said(python="2.7"), digest(b"another job")), *told]})
    assert (found["python"], found["versions"]) == ("3.11.7", {"numpy": "2.4.6"})
    assert (found["times"], found["others"], found["image"]) == ("3", "1", None)


def test_a_party_that_wrote_nothing_has_no_entry() -> None:
    assert software(PLAN, {SITE: [replace(event(said()), type="log.opened")]}) == []


def test_what_is_not_the_same_everywhere() -> None:
    same = ran("a"), ran("b")
    assert differing(same) == []
    assert by_version(same, "numpy") == [("2.4.6", ["a", "b"])]
    assert by_version(same, "torch") == by_version(same, "image") == []
    assert differing([*same, ran("c", python="3.12.0")]) == ["python"]
    assert differing([*same, ran("c", installed=digest(b"more"))]) == ["installed"]
    assert differing([*same, ran("c", torch="2.13.0")]) == ["torch"]
    assert differing([*same, ran("c", torch="2.13.0"), ran("d", numpy="2.5")]) == ["torch", "numpy"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one["versions"].update(torch="north.example"),
        lambda one: one["versions"].update(pandas="2.0"),
        lambda one: one.update(python="3.11 of Dr Grey"),
        lambda one: one.update(image="cloister:latest"),
        lambda one: one.update(party="nobody"),
        lambda one: one.update(host="north"),
    ],
)
def test_what_no_log_could_say_is_not_read(spoil: Any) -> None:
    value = evidence()
    spoil(value["software"][0])
    with pytest.raises(InputError, match="cannot be used"):
        Evidence.from_json(value)


def test_every_party_has_one_entry_at_most() -> None:
    value = evidence()
    value["software"].append(value["software"][0])
    with pytest.raises(InputError, match="twice"):
        Evidence.from_json(value)


def test_the_page_has_a_row_for_each_party_and_says_where_they_differ() -> None:
    shown = section(page(evidence()), 8)
    (table,) = [one for one in shown.tags("table") if one.tags("caption")[0].text() == "Software by party"]
    rows = {row.tags("th")[0].text().split()[0]: row for row in table.tags("tbody")[0].tags("tr")}
    assert [*rows] == [party["name"] for party in evidence()["parties"]]
    assert "torch 2.13.0+cpu" in rows["valley-trust"].text()
    assert rows["valley-trust"].tags("a")[0].text() == "valley-trust/15"
    assert "1 of these on other software" in rows["lake-hospital"].text()
    assert [rows[name].grades() for name in ("valley-trust", "river-practice")] == [
        ["Recorded"],
        ["Not known"],
    ]
    text = shown.text()
    assert (
        "Not the same everywhere: Python, 3.11.7 at valley-trust, hill-clinic and lake-hospital; 3.12.3"
        in text
    )
    assert "river-practice: what ran there is not recorded." in text
    (image,) = [one for one in lines(shown) if "in a container of image" in one.text()]
    assert image.text().startswith("hill-clinic")
    assert image.grades() == ["Declared"]


def test_other_code_than_the_plans_is_said() -> None:
    value = evidence()
    value["software"][0]["code"] = digest(b"mine")
    assert "not the plan’s" in section(page(value), 8).text()


def test_where_all_say_the_same_one_line_says_so() -> None:
    value = evidence()
    first = value["software"][0]
    value["software"] = [first | {"party": one["party"]} for one in value["software"]]
    text = section(page(value), 8).text()
    assert "All 4 parties wrote down the same versions, and the same packages." in text
    assert "Not the same everywhere" not in text


def test_the_guarantee_names_the_versions_behind_it() -> None:
    found = lines(section(page(evidence()), 3))
    (ledger,) = [one for one in found if "the ledger charged by the RDP of dp-accounting" in one.text()]
    assert ledger.text().startswith("At hill-clinic, lake-hospital and town-hospital, ")
    (lead,) = [one for one in found if one.text().startswith("At the lead, RDP and PLD")]
    assert "dp-accounting 0.6.0 , and PRV that of opacus 1.6.0" in lead.text()
    (silent,) = [one for one in found if "the ledger charged by is not recorded" in one.text()]
    assert silent.text().startswith("river-practice: ")
    assert [one.grades() for one in (ledger, lead, silent)] == [["Recorded"], ["Recorded"], ["Not known"]]
