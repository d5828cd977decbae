"""Rows with entities marked in them: two forms read, all else refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloister.client.cli import app
from cloister.client.site.datasets import Datasets
from cloister.client.site.records import Records
from cloister.client.site.tagging import tagged
from cloister.privacy.errors import InputError, PlanError
from cloister.privacy.task import Task, tags_agree
from tests.site_keys import keyed_site

TAGS = ("O", "B-X", "I-X", "B-Y")


def spans(*found: tuple[int, int, str]) -> str:
    return json.dumps([{"start": start, "end": end, "label": label} for start, end, label in found])


@pytest.mark.parametrize(
    ("text", "marks", "words", "tags"),
    [
        ('["a", "b c"]', '["B-X", "O"]', ("a", "b c"), ("B-X", "O")),
        ("the APC gene.", spans((4, 8, "X")), ("the", "APC", "gene", "."), ("O", "B-X", "O", "O")),
        ("head ache now", spans((0, 9, "X")), ("head", "ache", "now"), ("B-X", "I-X", "O")),
        ("a b", spans((0, 1, "X"), (2, 3, "X")), ("a", "b"), ("B-X", "B-X")),
        ("headache", spans((4, 8, "X")), ("headache",), ("B-X",)),
        ("nothing here", "[]", ("nothing", "here"), ("O", "O")),
    ],
)
def test_both_forms(text: str, marks: str, words: tuple[str, ...], tags: tuple[str, ...]) -> None:
    found = tagged(text, marks)
    assert (found.words, found.tags) == (words, tags)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ('["a", "b"]', '["O"]'),
        ('["a", 1]', '["O", "O"]'),
        ('["a"]', '["X"]'),
        ('["a"]', "[]"),
        ("a", '["O"]'),
        ("a", "O"),
        ("a", "{}"),
        ("a", '[{"start": 0, "end": 2, "label": "X"}]'),
        ("a", '[{"start": true, "end": 1, "label": "X"}]'),
        ("a", '[{"start": 0, "end": 1}]'),
        ("", "[]"),
        ("a", "[" * 100_000),
    ],
)
def test_anything_else_is_refused(text: str, marks: str) -> None:
    with pytest.raises(ValueError):
        tagged(text, marks)


@pytest.mark.parametrize(
    ("tags", "good"),
    [
        (("O", "B-X"), True),
        (("B-X", "I-X", "O", "B-Y"), True),
        (("O", "I-X"), False),
        (("B-X", "I-X"), False),
        (("O", "X"), False),
        (("O", "B-"), False),
        (("O",), False),
    ],
)
def test_tags_are_those_of_iob2(tags: tuple[str, ...], *, good: bool) -> None:
    assert tags_agree(tags) is good


def test_tags_that_a_plan_does_not_know_are_counted_and_not_quoted() -> None:
    found = Records(("a b",), (spans((0, 1, "Mrs Agatha")),), kind="token-classification")
    with pytest.raises(InputError, match="1 of 1 rows have a tag that is none of the 4 tags") as caught:
        found.tags(TAGS)
    assert caught.value.id == "class_unknown"
    assert "Agatha" not in caught.value.line()


def rows(path: Path, kind: str) -> Path:
    """Forty rows in lists, or with a fault in one of them."""
    with path.open("w") as file:
        for row in range(40):
            tags = ["B-X", "O"] if row or kind == "whole" else ["B-X"]
            file.write(json.dumps({"words": ["ache", str(row)], "tags": tags, "other": "so"}) + "\n")
    return path


def add(site: Path, *options: str) -> Any:
    given = ["data", "add", str(site / "rows.jsonl"), "--dir", str(site), "--name", "rows", *options]
    return CliRunner().invoke(app, given)


TOKENS = ("--task", "token-classification", "--text", "words", "--label", "tags")


def test_a_site_registers_tagged_words_and_a_plan_of_another_task_is_refused(tmp_path: Path) -> None:
    site = keyed_site(tmp_path / "north")
    rows(site.path / "rows.jsonl", "whole")
    assert add(site.path, *TOKENS).exit_code == 0
    found = Datasets(site)["rows"]
    assert found.task == "token-classification"
    train, held = Datasets(site).open("rows")
    assert len(train) + len(held) == 40
    train.check(Task(kind="token-classification", labels=TAGS))
    found.require(Task(kind="token-classification", labels=TAGS))
    with pytest.raises(PlanError, match="the rows of rows are for token-classification") as caught:
        found.require(Task(labels=("a", "b")))
    assert caught.value.id == "plan_conflict"
    checked = CliRunner().invoke(app, ["data", "check", "rows", "--dir", str(site.path)])
    assert checked.exit_code == 0
    assert "labels: 'B-X' 40, 'O' 40" in checked.output


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("faulty", TOKENS, "tags_invalid"),
        ("whole", (*TOKENS, "--identifiers", "mask"), "tags_invalid"),
        ("whole", (*TOKENS, "--pair", "other"), "option_invalid"),
        ("whole", ("--text", "words", "--label", "tags"), "column_type"),
        ("whole", ("--text", "other", "--label", "other", "--pair", "none"), "column_missing"),
    ],
)
def test_what_cannot_be_registered(tmp_path: Path, kind: str, options: tuple[str, ...], reason: str) -> None:
    site = keyed_site(tmp_path / "north")
    rows(site.path / "rows.jsonl", kind)
    done = add(site.path, *options)
    assert done.exit_code != 0
    assert getattr(done.exception, "id", "") == reason


def test_identifiers_in_answers_are_masked_too(tmp_path: Path) -> None:
    site = keyed_site(tmp_path / "north")
    with (site.path / "rows.jsonl").open("w") as file:
        file.writelines(
            json.dumps({"q": f"whom to ask {row}", "a": "mail jane@example.org"}) + "\n" for row in range(40)
        )
    options = ("--task", "causal-lm", "--text", "q", "--label", "a", "--identifiers", "mask")
    assert add(site.path, *options).exit_code == 0
    train, _ = Datasets(site).open("rows")
    assert all("jane" not in answer for answer in train.labels)
