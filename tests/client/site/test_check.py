"""The dry run: every figure on tables small enough to count by hand, and what it must not leave behind."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.client.site.check import Leakage, Report, Spread, examine
from cloister.client.site.datasets import SMALLEST, Datasets
from cloister.client.site.persons import PersonColumn
from cloister.client.site.selection import Selection
from cloister.client.site.sources.place import Place
from cloister.privacy.errors import InputError
from tests.site_keys import keyed_site

Row = tuple[str, str, str]
PERSON = PersonColumn("patient", most_rows=2)


@pytest.fixture
def datasets(tmp_path: Path) -> Datasets:
    return Datasets(keyed_site(tmp_path / "north"))


def selection(path: Path, rows: list[Row], person: PersonColumn | None = None) -> Selection:
    with (path / "notes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "patient"), *rows])
    return Selection(Place.of(path / "notes.csv"), "text", "label", person)


def notes(count: int) -> list[Row]:
    return [(f"note {k}", "ab"[k % 2], f"p{k // 3}") for k in range(count)]


def test_rows_gaps_and_labels(datasets: Datasets, tmp_path: Path) -> None:
    rows = [*notes(60), ("", "a", "p1"), (" ", "", "p1"), ("lone", "c", ""), ("odd", "", "p1")]
    report = examine(datasets, selection(tmp_path, rows, PERSON))
    assert report.facts is not None
    assert report.facts.rows == 64
    assert report.facts.without == {"text": 2, "label": 2, "person": 1}
    assert report.facts.usable == 60
    assert report.facts.labels == {"a": 30, "b": 30}
    assert report.facts.words == Spread(2, 2, 2, 2)
    assert report.facts.characters == Spread(6, 7, 7, 7)
    assert (report.reason, report.parts, report.told) == ("value_missing", None, None)


def test_dropping_makes_it_usable_and_the_rows_of_the_others_count(
    datasets: Datasets, tmp_path: Path
) -> None:
    rows = [*notes(90), ("", "a", "p1"), ("lone", "a", "")]
    chosen = selection(tmp_path, rows, replace(PERSON, missing="drop"))
    report = examine(datasets, replace(chosen, missing="drop"))
    assert report.parts is not None
    assert report.facts is not None
    assert (report.refusal, report.facts.usable) == ("", 90)
    assert report.parts.train + report.parts.held + report.parts.capped == 90
    assert report.parts.capped == report.parts.units  # 3 rows a person, of which 2 count
    assert report.parts.units == report.parts.train // 2
    assert report.told is not None
    assert report.told.rows_per_person == 2
    assert report.told.persons is not None
    assert report.told.persons[0] <= report.parts.units <= report.told.persons[1]
    assert report.told.rows[0] <= report.parts.train <= report.told.rows[1]


def test_persons(datasets: Datasets, tmp_path: Path) -> None:
    rows = [*notes(60), ("one more", "a", " P1 "), ("and more", "a", "P1")]
    report = examine(datasets, selection(tmp_path, rows, PERSON))
    assert report.facts is not None
    assert report.facts.people is not None
    assert (report.facts.people.persons, report.facts.people.forms) == (20, 1)
    assert report.facts.people.rows == Spread(3, 3, 3, 5)


def test_same_and_near_texts(datasets: Datasets, tmp_path: Path) -> None:
    long = " ".join(f"w{n}" for n in range(40))
    rows = [
        *notes(60),
        ("NOTE  1", "b", "x"),  # as another row, with its label
        ("note 2", "b", "x"),  # as another row, with another label
        (long, "a", "y"),
        (f"{long} more", "a", "y"),
        (long.upper(), "a", "y"),
    ]
    report = examine(datasets, selection(tmp_path, rows))
    assert report.facts is not None
    twice = report.facts.twice
    assert (twice.exact, twice.conflicting, twice.pairs, twice.near, twice.complete) == (3, 1, 1, 3, True)


def test_by_construction_no_same_text_and_no_person_is_on_both_sides(
    datasets: Datasets, tmp_path: Path
) -> None:
    rows = [(f"note {k // 2}", "ab"[k % 2], f"p{k // 3}") for k in range(200)]
    by_text = examine(datasets, selection(tmp_path, rows))
    assert by_text.parts is not None
    assert by_text.parts.leakage == Leakage(None, 0, 0)
    by_person = examine(datasets, selection(tmp_path, rows, PERSON))
    assert by_person.parts is not None
    assert by_person.parts.leakage.persons == 0


def test_leakage_is_counted_where_it_can_be(datasets: Datasets, tmp_path: Path) -> None:
    """Texts of many persons are on both sides, and so are near texts."""
    long = " ".join(f"w{n}" for n in range(60))
    rows = [(f"{long} {k % 4}", "ab"[k % 2], f"p{k}") for k in range(200)]
    report = examine(datasets, selection(tmp_path, rows, PERSON))
    assert report.parts is not None
    assert report.parts.leakage == Leakage(0, report.parts.held, report.parts.held)
    lone = examine(datasets, selection(tmp_path, [(f"{long} {k}", "ab"[k % 2], "") for k in range(100)]))
    assert lone.parts is not None
    assert lone.parts.held > 0
    assert lone.parts.leakage == Leakage(None, 0, lone.parts.held)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (notes(SMALLEST - 1), "site_too_small"),
        ([("a", "a", "p")] * 50, "one_class"),
        ([], "site_empty"),
        ([("", "a", "p")] * 50, "value_missing"),
    ],
)
def test_what_registering_would_refuse(
    datasets: Datasets, tmp_path: Path, rows: list[Row], reason: str
) -> None:
    report = examine(datasets, selection(tmp_path, rows))
    assert report.reason == reason
    assert report.refusal.endswith(f"[{reason}]")
    with pytest.raises(InputError) as caught:
        datasets.register(tmp_path / "notes.csv", "notes", ("text", "label"), (8.0, 1e-5))
    assert caught.value.id == reason


def test_a_missing_column(datasets: Datasets, tmp_path: Path) -> None:
    chosen = replace(selection(tmp_path, notes(60)), label="ward")
    report = examine(datasets, chosen)
    assert (report.columns, report.missing) == (("text", "label", "patient"), ("ward",))
    assert (report.reason, report.facts) == ("column_missing", None)


def test_tokens_where_somebody_counts_them(datasets: Datasets, tmp_path: Path) -> None:
    report = examine(datasets, selection(tmp_path, notes(60)), lambda texts: [len(text) for text in texts])
    assert report.facts is not None
    assert report.facts.tokens == report.facts.characters


def test_nothing_is_registered_or_logged(datasets: Datasets, tmp_path: Path) -> None:
    before = [entry.type for entry in datasets.site.log.entries()]
    report = examine(datasets, selection(tmp_path, notes(90), PERSON))
    assert isinstance(report, Report)
    assert [entry.type for entry in datasets.site.log.entries()] == before
    assert datasets.all() == ()
    assert datasets.ledger.budgets() == ()
