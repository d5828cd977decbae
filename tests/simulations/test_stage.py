from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cloister.client.site import records
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
