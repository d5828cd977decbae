from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from cloister.client.site import records
from cloister.client.site.persons import PersonColumn
from cloister.privacy.errors import InputError
from cloister.simulations import stage
from cloister.simulations.stage import Source


def table(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label", "ward"), *rows])
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        (f"note {k} of the {'red' if k % 2 else 'blue'} kind", "ab"[k % 2], f"Ward {k % 3}")
        for k in range(600)
    ]
    return table(tmp_path / "notes.csv", rows)


def test_synthetic_notes_come_with_a_test_set_of_their_own() -> None:
    play = stage.triage(4, seed=0)
    assert len(play.train) == 4
    assert play.labels == play.test.classes()
    assert not {t for r in play.train.values() for t in r.texts} & set(play.test.texts)


def test_a_file_is_split_and_a_fifth_is_kept_for_testing(file: Path) -> None:
    play = stage.from_file(Source(file, "text", "label", None, "iid"), 3, seed=0)
    sizes = [len(part) for part in play.train.values()]
    assert list(play.train) == ["site-1", "site-2", "site-3"]
    assert sum(sizes) + len(play.test) == 600
    assert 70 < len(play.test) < 170


def test_natural_sites_are_named_by_their_column(file: Path) -> None:
    play = stage.from_file(Source(file, "text", "label", None, "natural:ward"), 4, seed=0)
    assert list(play.train) == ["ward-0", "ward-1", "ward-2"]


def signed(path: Path, missing: int = 0) -> Path:
    """600 notes of 150 patients, four each, as their rows lie in the file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label", "patient"))
        writer.writerows((f"note {k} of {k // 4}", "ab"[k % 2], f"P{k // 4}") for k in range(600))
        writer.writerows((f"unsigned {k}", "a", "") for k in range(missing))
    return path


def test_with_a_person_column_a_person_is_at_one_site_and_not_in_the_test_set(tmp_path: Path) -> None:
    source = Source(signed(tmp_path / "notes.csv"), "text", "label", None, "iid", PersonColumn("patient"))
    play = stage.from_file(source, 3, seed=0)
    places = [set(part.persons or ()) for part in (*play.train.values(), play.test)]
    assert all(places)
    assert sum(len(place) for place in places) == len(set().union(*places)) == 150
    assert sum(len(part) for part in (*play.train.values(), play.test)) == 600
    assert play.person == PersonColumn("patient")


def test_rows_without_a_person_follow_the_policy(tmp_path: Path) -> None:
    file = signed(tmp_path / "notes.csv", missing=30)
    with pytest.raises(InputError) as caught:
        stage.from_file(Source(file, "text", "label", None, "iid", PersonColumn("patient")), 3, seed=0)
    assert caught.value.id == "person_missing"
    dropping = PersonColumn("patient", missing="drop")
    play = stage.from_file(Source(file, "text", "label", None, "iid", dropping), 3, seed=0)
    assert sum(len(part) for part in (*play.train.values(), play.test)) == 600


def test_the_synthetic_notes_have_patients() -> None:
    play = stage.triage(3, seed=0, person=PersonColumn("patient"))
    for part in play.train.values():
        counts = Counter(part.persons)
        assert set(counts.values()) == {1, 2, 3, 4}
        assert len(counts) < len(part) < 3 * len(counts)
    with pytest.raises(InputError) as caught:
        stage.triage(3, seed=0, person=PersonColumn("nobody"))
    assert caught.value.id == "column_missing"


def test_a_site_reads_the_persons_that_it_is_given(tmp_path: Path) -> None:
    part = stage.triage(2, seed=0).train["riverside"]
    stage.write(part, tmp_path / "site.csv", PersonColumn("patient"))
    found = records.load(tmp_path / "site.csv", text="text", label="label", person=stage.PERSON)
    assert (found.texts, found.persons) == (part.texts, part.persons)
    stage.write(part, tmp_path / "plain.csv")
    assert (tmp_path / "plain.csv").read_text().startswith("text,label\n")


def test_one_class_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "one.csv", [(f"note {k}", "a", "x") for k in range(50)])
    with pytest.raises(InputError) as caught:
        stage.from_file(Source(path, "text", "label", None, "iid"), 2, seed=0)
    assert caught.value.id == "one_class"


def test_sites_that_would_be_too_small_are_refused(file: Path) -> None:
    with pytest.raises(InputError) as caught:
        stage.from_file(Source(file, "text", "label", None, "iid"), 20, seed=0)
    assert caught.value.id == "site_too_small"


def test_what_a_site_is_given_is_what_it_reads(file: Path, tmp_path: Path) -> None:
    play = stage.from_file(Source(file, "text", "label", None, "iid"), 2, seed=0)
    part = play.train["site-1"]
    stage.write(part, tmp_path / "site.csv")
    found = records.load(tmp_path / "site.csv", text="text", label="label")
    assert (found.texts, found.labels) == (part.texts, part.labels)


@pytest.mark.parametrize(
    ("value", "name"), [("Ward 3", "ward-3"), ("7", "site-7"), ("Ä/Ö", "site"), ("x" * 60, "x" * 40)]
)
def test_any_text_gives_a_name_of_a_party(value: str, name: str) -> None:
    assert stage.slug(value) == name or stage.slug(value).startswith(name)
