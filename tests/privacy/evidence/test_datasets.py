"""What a report says of data follows from the logs, and from those of the plan's job and dataset alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cloister.client.site.datasets import SMALLEST
from cloister.client.site.identifiers import screening
from cloister.privacy.canonical import digest
from cloister.privacy.errors import InputError
from cloister.privacy.evidence import recall, render
from cloister.privacy.evidence.datasets import LOWEST, datasets, needed
from cloister.privacy.evidence.events import GENESIS, Event
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.language import LANGUAGES, language
from cloister.privacy.evidence.vocabulary import IDENTIFIERS
from cloister.privacy.table import Number, Table
from tests.privacy.evidence.test_render import lines, page, section
from tests.reports import evidence, per_person, replanned

PLAN = Evidence.from_json(evidence()).plan
SITE = PLAN.sites[0]
DETECTOR = recall.everything()[-1]["detector"]


def event(type_: str, job: str | None = PLAN.digest, **body: Any) -> Event:
    said = {"dataset": SITE.dataset, **body}
    return Event(SITE.name, 1, "2026-11-24T14:11:40.000Z", type_, job, None, said, GENESIS)


def opened(**body: Any) -> Event:
    about = {"rows": "1024-2047", "unit": "record", "columns": digest(b"c"), "commitment": digest(b"r")}
    return event("dataset.opened", **{**about, **body})


def scan(**found: str) -> Event:
    how = {"action": "warn", "detector": DETECTOR, "texts": "1024-2047"}
    return event("deid.scan", **how, **(dict.fromkeys(IDENTIFIERS, "0-15") | found))


def told(events: Sequence[Event]) -> Any:
    (found,) = datasets(PLAN, {SITE.name: events})
    return found


def test_a_site_that_wrote_nothing_of_its_data_has_no_entry() -> None:
    other = replace(opened(), job=digest(b"another job"))
    for events in ([], [scan()], [other], [opened(dataset="others")]):
        assert datasets(PLAN, {SITE.name: events}) == []
    assert datasets(PLAN, {}) == []


def test_openings_are_counted_and_held_against_the_first() -> None:
    found = told([opened(), opened(), opened(commitment=digest(b"other rows")), opened(rows="16-31")])
    assert (found["times"], found["others"], found["rows"]) == ("4", "2", "1024-2047")
    assert found["commitment"] == digest(b"r")


def test_persons_and_their_cap_stand_as_they_were_written() -> None:
    found = told([opened(unit="person", persons="64-127", cap=8)])
    assert (found["persons"], found["cap"]) == ("64-127", "8")
    assert (told([opened()])["persons"], told([opened()])["cap"]) == (None, None)


def test_how_many_columns_were_read_stands_as_it_was_written() -> None:
    assert told([opened(read=2)])["read"] == "2"
    assert told([opened()])["read"] is None


def test_the_most_columns_that_a_task_needs_are_those_of_the_plan() -> None:
    plan = evidence()["plan"]
    pairs = Evidence.from_json(replanned(task=plan["task"] | {"pair": True})).plan
    persons = Evidence.from_json(per_person()).plan
    assert [needed(one, SITE.name) for one in (PLAN, pairs, persons)] == [2, 3, 3]
    rows = Table(label="class", classes=("a", "b"), columns=(Number(name="age", low=0, high=9),))
    task = PLAN.task.model_copy(update={"table": rows})
    assert needed(PLAN.model_copy(update={"task": task}), SITE.name) == 2


def test_the_page_says_who_read_more_columns_than_the_task_needs() -> None:
    value = evidence()
    shown = section(page(value), 18).text()
    assert "no more columns were read than the plan’s task needs, which is 2 at most" in shown
    assert "more columns were read than the plan’s task needs, as the log says" not in shown
    assert "2 columns" in shown
    value["datasets"][0]["read"] = "7"
    assert "At hill-clinic, more columns were read" in section(page(value), 18).text()


def test_columns_that_a_policy_refused_are_those_of_a_table() -> None:
    found = Evidence.from_json(evidence())
    base = next(one for one in found.decisions if one.type == "policy.decision")
    refused = base.model_copy(update={"outcome": "refuse", "rules": ("models.base",)})
    plan = found.plan.model_copy(update={"task": found.plan.task.model_copy(update={"table": object()})})
    assert render._refuses_columns(plan, refused)
    assert not render._refuses_columns(found.plan, refused)
    assert not render._refuses_columns(plan, base)
    assert (
        "policies of this release have no rule about the columns of texts"
        in section(page(evidence()), 18).text()
    )


def test_accuracy_by_groups_of_people_is_not_computed() -> None:
    (said,) = [one for one in lines(section(page(evidence()), 7)) if "by groups of people" in one.text()]
    assert said.grades() == ["Not known"]


def test_searches_that_found_the_same_stand_once_and_others_beside() -> None:
    found = told([opened(), scan(), scan(), scan(name="64-127")])
    assert [one["found"]["name"] for one in found["scans"]] == ["0-15", "64-127"]
    assert found["scans"][0]["found"].keys() == {*IDENTIFIERS}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one["scans"][0]["found"].pop("name"),
        lambda one: one["scans"][0]["found"].update(soul="0-15"),
        lambda one: one["scans"][0]["found"].update(name="12"),
        lambda one: one.update(rows="17"),
        lambda one: one.update(site="nobody"),
        lambda one: one.update(text="free"),
    ],
)
def test_what_no_log_could_say_is_not_read(spoil: Any) -> None:
    value = evidence()
    spoil(value["datasets"][0])
    with pytest.raises(InputError, match="cannot be used"):
        Evidence.from_json(value)


def test_every_site_has_one_entry_at_most() -> None:
    value = evidence()
    value["datasets"].append(value["datasets"][0])
    with pytest.raises(InputError, match="twice"):
        Evidence.from_json(value)


def test_recall_is_that_of_the_detectors_that_ran() -> None:
    rows = {one.kind: one for one in recall.recalls(DETECTOR, IDENTIFIERS)}
    assert rows["name"].others == ("0.15", "247")
    assert rows["own"].others is rows["own"].ours is None
    assert recall.recalls(digest(b"others"), IDENTIFIERS) == []


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_smallest_numbers_are_those_that_a_site_keeps(name: str) -> None:
    words = language(name).words
    numbers = [int(number) for number in re.findall(r"\d+", words["data_cells"])]
    assert numbers == [SMALLEST, screening.NARROWEST]
    assert screening.band(0) == screening.band(screening.NARROWEST - 1) == LOWEST
    assert LOWEST.replace("-", "–") in words["scan_others"]
    assert LOWEST.replace("-", "–") in words["scan_none"]
