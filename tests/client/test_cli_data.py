"""``cloister site data`` as sessions: what is typed and what is said, word for word."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from cloister.privacy.cli import main
from tests.site_keys import keyed_site

Run = Callable[..., str]
SECRET = "secret words of Ms Smith"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in a folder with the site ``north``; returns what it prints on both streams."""
    monkeypatch.chdir(tmp_path)
    keyed_site(tmp_path / "north")

    def command(line: str, *more: str, code: int = 0) -> str:
        assert main([*line.split(), *more, "--dir", "north"]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    return command


def write(path: Path, persons: int = 40, extra: str = "") -> None:
    rows = [f"note {k} of {k // 3},{'ab'[k % 2]},P{k // 3}\n" for k in range(3 * persons)]
    path.write_text("text,label,patient\n" + "".join(rows) + extra)


def test_a_check_before_anything_is_registered(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "notes.csv")
    said = run("site data check notes.csv --person patient --rows-per-person 2")
    assert said == dedent(
        f"""\
        {tmp_path}/notes.csv, unit person
          columns: text, label, patient
          rows: 120, of which 120 have every value
          labels: 'a' 60, 'b' 60
          characters a text: 11 to 14, middle 13, 95 % up to 14
          words a text: 4 to 4, middle 4, 95 % up to 4
          persons: 40; rows of one: 3 to 3, middle 3, 95 % up to 3
          same text as an earlier row: 0; texts with more than one label: 0
          near duplicates (similarity of three-word runs 0.8 or more): 0 pairs, 0 rows; a pair at 0.8 is missed with probability 4e-04
          training: 76 rows, 38 units of at least 16; the cap of rows a person drops 38
          held out: 6 rows; also in training: persons 0, same texts 0, near duplicates 0
          the lead is told: 64 to 127 rows to train on, of 32 to 63 persons, at most 2 rows of each, and the name; nothing else leaves
          it would be accepted
        """  # noqa: E501
    )
    assert run("site data list") == ""


def test_add_list_and_check_again(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "notes.csv")
    assert "Budget: epsilon 8" in run("site data add notes.csv --name notes --pinned")
    listed = run("site data list").splitlines()
    assert listed[:2] == [
        f"notes: {tmp_path}/notes.csv, pinned",
        "  the lead is told: 64 to 127 rows to train on",
    ]
    assert listed[2].startswith("  fingerprint sha256:")
    assert run("site data check").endswith("  it would be accepted\n")
    write(tmp_path / "notes.csv", extra="one more,a,P1\n")
    said = run("site data check notes", code=1).splitlines()
    assert "  the data are not those that were registered" in said
    assert said[-1] == (
        "  it would be refused: "
        "The dataset is pinned, and its data are others; register it again. [data_changed]"
    )
    write(tmp_path / "notes.csv", persons=90)
    assert "[rows_changed]" in run("site data check notes", code=1)


def test_missing_values_and_columns(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "notes.csv", extra=f"{SECRET},,P1\n")
    said = run("site data check notes.csv", code=1)
    assert "  rows: 121, of which 120 have every value\n  without label: 1\n" in said
    assert said.endswith(
        "Fill them in, or leave those rows out with --missing-values drop. [value_missing]\n"
    )
    assert "[value_missing]" in run("site data add notes.csv --name notes", code=1)
    assert run("site data check notes.csv --missing-values drop").endswith("it would be accepted\n")
    assert "notes: " in run("site data add notes.csv --name notes --missing-values drop")
    said = run("site data check notes.csv --label ward", code=1)
    assert "  columns: text, label, patient\n  not there: ward\n  it would be refused: " in said


def test_for_programs(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "notes.csv")
    run("site data add notes.csv --name notes")
    (entry,) = json.loads(run("site data list --json"))["datasets"]
    assert (entry["name"], entry["changed"]) == ("notes", False)
    (checked,) = json.loads(run("site data check --json"))["datasets"]
    assert (checked["name"], checked["refusal"], checked["changed"]) == ("notes", "", False)
    assert checked["fingerprint"] == entry["fingerprint"]
    assert checked["facts"]["labels"] == {"a": 60, "b": 60}
    (refused,) = json.loads(run("site data check notes.csv --json --label ward", code=1))["datasets"]
    assert (refused["reason"], refused["name"]) == ("column_missing", None)


def test_a_database(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "notes.csv")
    rows = [*csv.reader((tmp_path / "notes.csv").read_text().splitlines())][1:]
    connection = sqlite3.connect(tmp_path / "notes.db")
    connection.execute("CREATE TABLE notes (text TEXT, label TEXT, patient TEXT)")
    connection.executemany("INSERT INTO notes VALUES (?, ?, ?)", rows)
    connection.commit()
    connection.close()
    assert "notes: 64 to 127 rows" in run(
        "site data add sqlite:///notes.db --name notes --query",
        f"SELECT text, label FROM notes WHERE patient <> '{SECRET}'",
    )
    assert run("site data list").startswith("notes: The query to the sqlite database\n")
    assert run("site data check notes").endswith("it would be accepted\n")
    assert SECRET not in run("site data list") + run("site data check") + run("site log")


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("add postgresql://me:hunter2@host/db --table notes --name notes", 1, "password_exposed"),
        ("check postgresql://me:hunter2@host/db --table notes", 1, "password_exposed"),
        ("add postgresql://me@host/db --name notes", 2, "option_invalid"),
        ("add notes.csv --table notes --name notes", 2, "option_invalid"),
        ("add nowhere.csv --name notes", 1, "file_missing"),
        ("check nowhere.csv", 1, "file_missing"),
        ("check", 2, "option_invalid"),
        ("check postgresql://me@host/db --table notes --password-env NOWHERE", 1, "password_missing"),
    ],
)
def test_refusals_in_one_line(run: Run, line: str, code: int, reason: str) -> None:
    said = run(f"site data {line}", code=code)
    assert said.endswith(f"[{reason}]\n")
    assert said.count("\n") == 1
    assert "hunter2" not in said


def test_the_log_holds_no_figure_of_a_check(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "notes.csv")
    run("site data add notes.csv --name notes")
    before: Any = [
        path.read_bytes() for path in sorted((tmp_path / "north" / "log").rglob("*")) if path.is_file()
    ]
    run("site data check")
    assert before == [
        path.read_bytes() for path in sorted((tmp_path / "north" / "log").rglob("*")) if path.is_file()
    ]


@pytest.mark.slow
def test_texts_counted_in_tokens(run: Run, tmp_path: Path) -> None:
    from tests.models import write as write_model

    write(tmp_path / "notes.csv")
    said = run("site data check notes.csv --model", str(write_model(tmp_path / "model")))
    assert "\n  tokens a text: " in said
