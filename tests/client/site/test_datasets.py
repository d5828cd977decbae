"""Registered datasets: the unit of privacy, public bands, budgets, and what a job gets to see."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cloister.client.site.datasets import SMALLEST, Datasets
from cloister.client.site.persons import PersonColumn
from cloister.privacy import canonical
from cloister.privacy.clauses import Persons, Rows
from cloister.privacy.errors import BudgetError, InputError, StateError
from cloister.privacy.evidence.events import Event
from tests.notes import notes
from tests.site_keys import keyed_site

COLUMNS, BUDGET = ("text", "label"), (8.0, 1e-5)
PERSON = PersonColumn("patient", most_rows=2)
JOB = "sha256:" + "5" * 64


def events(datasets: Datasets) -> list[Event]:
    """What the log says of datasets."""
    return [entry for entry in datasets.site.log.entries() if entry.type.startswith("dataset.")]


@pytest.fixture
def datasets(tmp_path: Path) -> Datasets:
    return Datasets(keyed_site(tmp_path / "north"))


def test_without_a_person_column_the_unit_is_the_record(datasets: Datasets, tmp_path: Path) -> None:
    found = datasets.register(notes(tmp_path / "notes.csv", 60), "notes", COLUMNS, BUDGET)
    assert (found.unit, found.persons, found.person) == ("record", None, None)
    assert found.units == found.rows == Rows(low=128, high=255)
    assert [budget.unit for budget in datasets.ledger.budgets()] == ["record"]
    assert datasets.offer("notes").persons is None
    assert datasets.open("notes")[0].persons is None


def test_with_one_it_is_the_person(datasets: Datasets, tmp_path: Path) -> None:
    found = datasets.register(notes(tmp_path / "notes.csv", 60), "notes", COLUMNS, BUDGET, PERSON)
    assert found.unit == "person"
    assert found.units == found.persons == Persons(low=32, high=63, most_rows=2)
    assert found.rows == Rows(low=64, high=127)  # of about 54 persons, 2 rows each
    assert [budget.unit for budget in datasets.ledger.budgets()] == ["person"]
    offer = datasets.offer("notes")
    assert (offer.unit, offer.rows, offer.persons) == ("person", found.rows, found.persons)
    assert datasets["notes"] == found


def test_persons_are_bounded_hashed_and_on_one_side(datasets: Datasets, tmp_path: Path) -> None:
    datasets.register(notes(tmp_path / "notes.csv", 60), "notes", COLUMNS, BUDGET, PERSON)
    train, held = datasets.open("notes")
    assert train.persons is not None
    assert held.persons is not None
    assert not set(train.persons) & set(held.persons)
    assert {train.persons.count(person) for person in train.persons} == {2}
    assert all(len(person) == 64 and "atient" not in person for person in train.persons + held.persons)
    assert datasets.open("notes")[0] == train


def test_the_key_is_the_owners_alone_and_nothing_kept_names_a_person(
    datasets: Datasets, tmp_path: Path
) -> None:
    datasets.register(notes(tmp_path / "notes.csv", 60), "notes", COLUMNS, BUDGET, PERSON)
    key = datasets.site.path / "datasets" / "persons.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    kept = [path for path in datasets.site.path.rglob("*") if path.is_file()]
    assert key in kept
    assert not any(b"Patient" in path.read_bytes() for path in kept)


def test_two_sites_have_hashes_of_their_own(datasets: Datasets, tmp_path: Path) -> None:
    other = Datasets(keyed_site(tmp_path / "south"))
    path = notes(tmp_path / "notes.csv", 60)
    seen = []
    for site in (datasets, other):
        site.register(path, "notes", COLUMNS, BUDGET, PERSON)
        seen.append(set().union(*(part.persons or () for part in site.open("notes"))))
    assert not seen[0] & seen[1]


def test_rows_without_an_id_are_refused_or_dropped(datasets: Datasets, tmp_path: Path) -> None:
    path = notes(tmp_path / "notes.csv", 60, missing=40)
    with pytest.raises(InputError) as caught:
        datasets.register(path, "notes", COLUMNS, BUDGET, PERSON)
    assert caught.value.id == "person_missing"
    assert datasets.all() == ()
    dropping = PersonColumn("patient", most_rows=2, missing="drop")
    datasets.register(path, "notes", COLUMNS, BUDGET, dropping)
    assert not any("unsigned" in text for part in datasets.open("notes") for text in part.texts)


def test_a_site_needs_so_many_persons_however_many_rows_they_have(datasets: Datasets, tmp_path: Path) -> None:
    path = notes(tmp_path / "notes.csv", SMALLEST - 1, rows=30)
    with pytest.raises(InputError, match=f"at least {SMALLEST}") as caught:
        datasets.register(path, "notes", COLUMNS, BUDGET, PersonColumn("patient", most_rows=30))
    assert caught.value.id == "site_too_small"
    assert datasets.register(path, "notes", COLUMNS, BUDGET).unit == "record"


def test_a_band_of_persons_that_was_left_is_refused(datasets: Datasets, tmp_path: Path) -> None:
    path = notes(tmp_path / "notes.csv", 60, rows=2)
    datasets.register(path, "notes", COLUMNS, BUDGET, PERSON)
    notes(path, 110, rows=1)  # as many rows, but of more persons
    with pytest.raises(InputError, match="persons") as caught:
        datasets.open("notes")
    assert caught.value.id == "rows_changed"


@pytest.mark.parametrize(("first", "second"), [(None, PERSON), (PERSON, None)])
def test_a_budget_keeps_its_unit(
    datasets: Datasets, tmp_path: Path, first: PersonColumn | None, second: PersonColumn | None
) -> None:
    path = notes(tmp_path / "notes.csv", 60)
    before = datasets.register(path, "notes", COLUMNS, BUDGET, first)
    with pytest.raises(BudgetError) as caught:
        datasets.register(path, "notes", COLUMNS, BUDGET, second)
    assert caught.value.id == "budget_conflict"
    assert datasets["notes"] == before


def test_a_registration_without_its_person_column_is_damaged(datasets: Datasets, tmp_path: Path) -> None:
    datasets.register(notes(tmp_path / "notes.csv", 60), "notes", COLUMNS, BUDGET, PERSON)
    path = datasets.site.path / "datasets" / "notes.json"
    text = path.read_text()
    path.write_text(text.replace('"person":"patient"', '"person":null'))
    assert path.read_text() != text
    with pytest.raises(StateError) as caught:
        datasets["notes"]
    assert caught.value.id == "state_damaged"


class TestFingerprint:
    """What becomes of data that change under a registration."""

    def test_the_log_says_what_was_registered_and_opened(self, datasets: Datasets, tmp_path: Path) -> None:
        found = datasets.register(notes(tmp_path / "notes.csv", 60), "notes", COLUMNS, BUDGET, PERSON)
        datasets.open("notes")
        datasets.open("notes", JOB)
        registered, opened = events(datasets)
        assert (registered.type, opened.type, opened.job) == ("dataset.registered", "dataset.opened", JOB)
        told = {
            "dataset": "notes",
            "rows": "64-127",
            "unit": "person",
            "persons": "32-63",
            "cap": 2,
            "columns": canonical.digest_of({"text": "text", "label": "label", "person": "patient"}),
            "read": 3,
            "commitment": found.fingerprint,
        }
        assert opened.body == told
        assert registered.body == told | {"pinned": False}

    def test_another_order_is_the_same_data(self, datasets: Datasets, tmp_path: Path) -> None:
        path = notes(tmp_path / "notes.csv", 60)
        datasets.register(path, "notes", COLUMNS, BUDGET, pinned=True)
        first, *rest = path.read_text().splitlines(keepends=True)
        path.write_text("".join([first, *reversed(rest)]))
        datasets.open("notes", JOB)
        assert datasets.changed("notes") == ""

    def test_changed_data_are_allowed_within_the_band_and_said_once(
        self, datasets: Datasets, tmp_path: Path
    ) -> None:
        path = notes(tmp_path / "notes.csv", 60)
        found = datasets.register(path, "notes", COLUMNS, BUDGET)
        original = path.read_text()
        path.write_text(original.replace("note 2 of 7,", "note 2 of seven,"))
        assert len(datasets.open("notes", JOB)[0]) > 0
        datasets.open("notes", JOB)
        assert "not those that were registered" in datasets.changed("notes")
        kinds = [event.type for event in events(datasets)]
        assert kinds == ["dataset.registered", "dataset.changed", "dataset.opened", "dataset.opened"]
        change = events(datasets)[1]
        assert (change.job, change.body["previous"], change.body["outcome"]) == (
            JOB,
            found.fingerprint,
            "allowed",
        )
        path.write_text(original)
        datasets.open("notes")
        assert datasets.changed("notes") == ""
        assert events(datasets)[-1].body["commitment"] == found.fingerprint

    def test_pinned_data_that_changed_are_refused(self, datasets: Datasets, tmp_path: Path) -> None:
        path = notes(tmp_path / "notes.csv", 60)
        datasets.register(path, "notes", COLUMNS, BUDGET, pinned=True)
        path.write_text(path.read_text().replace("note 2 of 7,", "note 2 of seven,"))
        for _ in range(2):
            with pytest.raises(InputError, match="pinned") as caught:
                datasets.open("notes", JOB)
            assert caught.value.id == "data_changed"
        assert [event.type for event in events(datasets)] == ["dataset.registered", "dataset.changed"]
        assert events(datasets)[1].body["outcome"] == "refused"
        datasets.register(path, "notes", COLUMNS, BUDGET, pinned=True)
        assert datasets.open("notes", JOB)
        assert datasets.changed("notes") == ""

    def test_two_sites_do_not_have_the_same_one(self, datasets: Datasets, tmp_path: Path) -> None:
        path = notes(tmp_path / "notes.csv", 60)
        other = Datasets(keyed_site(tmp_path / "south"))
        found = [site.register(path, "notes", COLUMNS, BUDGET).fingerprint for site in (datasets, other)]
        assert found[0] != found[1]

    def test_rows_without_a_value_are_refused_or_dropped(self, datasets: Datasets, tmp_path: Path) -> None:
        path = notes(tmp_path / "notes.csv", 60)
        path.write_text(path.read_text() + ",a,Patient 1\n")
        with pytest.raises(InputError) as caught:
            datasets.register(path, "notes", COLUMNS, BUDGET)
        assert caught.value.id == "value_missing"
        datasets.register(path, "notes", COLUMNS, BUDGET, missing="drop")
        assert sum(map(len, datasets.open("notes"))) == 180
