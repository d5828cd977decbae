"""``cloister site data`` on rows of a table: what is registered, what is said, and what is refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.client.site.datasets import Dataset, Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy.cli import main
from cloister.privacy.errors import InputError, PlanError
from cloister.privacy.table import parsed
from cloister.privacy.task import Task
from tests import tables
from tests.site_keys import keyed_site

Run = Callable[..., str]
TASK = Task(kind="tabular-classification", labels=tables.TABLE.classes, table=tables.TABLE)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in a folder with the site ``north``; returns what it prints on both streams."""
    monkeypatch.chdir(tmp_path)
    keyed_site(tmp_path / "north")
    (tmp_path / "columns.toml").write_bytes(tables.COLUMNS)
    tables.write(tmp_path / "rows.csv", tables.patients(200, 1))

    def command(line: str, code: int = 0) -> str:
        assert main([*line.split(), "--dir", "north"]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    return command


def test_a_session(run: Run, tmp_path: Path) -> None:
    said = run("site data add rows.csv --name hearts --columns columns.toml --person patient")
    assert f"Learnt from 4 columns, agreed as {tables.TABLE.digest[7:19]}." in said
    assert "128 to 255 rows to train on" in said
    found = Datasets(SiteFolder.open(tmp_path / "north"))["hearts"]
    assert (found.table, found.task, found.identifiers) == (tables.TABLE, TASK.kind, "off")
    train, held = Datasets(SiteFolder.open(tmp_path / "north")).open("hearts")
    assert len(train) + len(held) == 200
    assert np.abs(train.features(tables.TABLE)).max() <= 1
    train.check(TASK)
    checked = run("site data check hearts")
    assert "column age: all values in range" in checked
    assert "column pain: " in checked
    assert "near duplicates (" not in checked
    assert "it would be accepted" in checked
    listed = json.loads(run("site data list --json"))
    assert listed["datasets"][0]["table"]["columns"][0]["low"] == 20


def test_counts_of_what_is_cut_stay_on_the_screen_of_the_site(run: Run, tmp_path: Path) -> None:
    rows = [
        *tables.patients(100, 2),
        *[("19.5", "99", "f", "1", "no", "P")] * 3,
        ("91", "", "m", "", "yes", "P"),
    ]
    tables.write(tmp_path / "rows.csv", rows)
    found = json.loads(run("site data check rows.csv --columns columns.toml --json"))["datasets"][0]
    cells = {cell["name"]: cell for cell in found["facts"]["cells"]}
    assert (cells["age"]["below"], cells["age"]["above"]) == (3, 1)
    assert cells["chol"]["below"] >= 3
    assert cells["age"]["without"] == 0 < cells["pain"]["without"]
    run("site data add rows.csv --name hearts --columns columns.toml")
    log = b"".join(path.read_bytes() for path in (tmp_path / "north" / "log").rglob("*") if path.is_file())
    assert b"hearts" in log
    for word in (b"below", b"above", b"without", b"19.5"):
        assert word not in log


REFUSED: list[tuple[Callable[[list[tuple[str, ...]]], Any], str]] = [
    (lambda rows: rows.append(("old", "", "f", "1", "no", "P")), "column_type"),
    (lambda rows: rows.append(("50", "", "x", "1", "no", "P")), "category_unknown"),
    (lambda rows: rows.append(("", "", "f", "1", "no", "P")), "value_missing"),
    (lambda rows: rows.append(("50", "", "f", "1", "", "P")), "value_missing"),
    (lambda rows: rows.append(("50", "", "f", "1", "perhaps", "P")), "class_unknown"),
    (lambda rows: rows.__setitem__(slice(None), [(*row[:4], "no", row[5]) for row in rows]), "one_class"),
    (lambda rows: rows.__delitem__(slice(10, None)), "site_too_small"),
]


@pytest.mark.parametrize(("spoil", "reason"), REFUSED, ids=lambda one: one if isinstance(one, str) else "")
def test_rows_that_cannot_be_learnt_from(
    run: Run, tmp_path: Path, spoil: Callable[..., Any], reason: str
) -> None:
    rows = tables.patients(120, 3)
    spoil(rows)
    tables.write(tmp_path / "rows.csv", rows)
    said = run("site data add rows.csv --name hearts --columns columns.toml", code=1)
    assert f"[{reason}]" in said
    assert not {"old", "perhaps"} & set(said.split())
    assert Datasets(SiteFolder.open(tmp_path / "north")).all() == ()
    assert f"[{reason}]" in run("site data check rows.csv --columns columns.toml", code=1)


def test_rows_without_a_value_that_is_needed_can_be_left_out(run: Run, tmp_path: Path) -> None:
    rows = [*tables.patients(120, 3), ("", "", "f", "1", "no", "P")]
    tables.write(tmp_path / "rows.csv", rows)
    run("site data add rows.csv --name hearts --columns columns.toml --missing-values drop")
    train, held = Datasets(SiteFolder.open(tmp_path / "north")).open("hearts")
    assert len(train) + len(held) == 120


OPTIONS = [
    ("--columns columns.toml --text age", "Leave out --task, --text and --label."),
    ("--columns columns.toml --task causal-lm", "Leave out --task, --text and --label."),
    ("--columns columns.toml --pair sex", "Leave out --pair."),
    ("--columns columns.toml --identifiers mask", "Leave out --identifiers."),
    ("--task tabular-classification", "Add --columns FILE."),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS)
def test_options_that_do_not_go_together(run: Run, options: str, words: str) -> None:
    assert words in run(f"site data add rows.csv --name hearts {options}", code=2)


def test_a_file_of_columns_that_cannot_be_used(run: Run, tmp_path: Path) -> None:
    assert "[file_missing]" in run("site data add rows.csv --name hearts --columns none.toml", code=1)
    (tmp_path / "columns.toml").write_text("[label]\n")
    assert "[table_malformed]" in run("site data add rows.csv --name hearts --columns columns.toml", code=1)
    (tmp_path / "columns.toml").write_bytes(tables.COLUMNS.replace(b"age", b"years"))
    assert "[column_missing]" in run("site data add rows.csv --name hearts --columns columns.toml", code=1)


@pytest.mark.parametrize("kind", ["parquet", "sqlite"])
def test_numbers_of_other_sources_are_those_of_a_csv(run: Run, tmp_path: Path, kind: str) -> None:
    rows = tables.patients(120, 3)
    tables.write(tmp_path / "rows.csv", rows)
    run("site data add rows.csv --name text --columns columns.toml")
    numbers = [float(row[0]) for row in rows]
    pains = [float(row[3]) if row[3] else None for row in rows]
    others = [[row[place] for row in rows] for place in (1, 2, 4)]
    columns = {"age": numbers, "chol": others[0], "sex": others[1], "pain": pains, "ill": others[2]}
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
        run("site data add rows.parquet --name other --columns columns.toml")
    else:
        with sqlite3.connect(tmp_path / "rows.sqlite") as database:
            database.execute("create table rows (age real, chol text, sex text, pain real, ill text)")
            database.executemany(
                "insert into rows values (?, ?, ?, ?, ?)", zip(*columns.values(), strict=True)
            )
        database.close()
        run(
            f"site data add sqlite:///{tmp_path}/rows.sqlite --table rows --name other --columns columns.toml"
        )
    datasets = Datasets(SiteFolder.open(tmp_path / "north"))
    found = [
        np.concatenate([part.features(tables.TABLE) for part in datasets.open(n)]) for n in ("text", "other")
    ]
    sorted_rows = [each[np.lexsort(each.T)] for each in found]
    np.testing.assert_allclose(*sorted_rows)


def test_a_plan_with_other_columns_or_another_task_is_refused_before_any_row_is_read(
    run: Run, tmp_path: Path
) -> None:
    run("site data add rows.csv --name hearts --columns columns.toml")
    own: Dataset = Datasets(SiteFolder.open(tmp_path / "north"))["hearts"]
    own.require(TASK)
    wider = parsed(tables.COLUMNS.replace(b"low = 20", b"low = 0"))
    with pytest.raises(PlanError, match="the column age differs") as caught:
        own.require(TASK.model_copy(update={"table": wider}))
    assert caught.value.id == "plan_conflict"
    with pytest.raises(PlanError, match="the rows of hearts are for tabular-classification"):
        own.require(Task(labels=("no", "yes")))


def test_rows_that_went_bad_since_are_refused_when_a_plan_is_checked(run: Run, tmp_path: Path) -> None:
    run("site data add rows.csv --name hearts --columns columns.toml")
    rows = tables.patients(200, 1)
    rows[0] = (*rows[0][:2], "unknown", *rows[0][3:])
    tables.write(tmp_path / "rows.csv", rows)
    with pytest.raises(InputError) as caught:
        Datasets(SiteFolder.open(tmp_path / "north")).open("hearts")
    assert caught.value.id == "category_unknown"
