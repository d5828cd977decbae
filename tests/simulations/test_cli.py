"""``cloister demo``: what its options make of the data and the terms, without running anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from cloister.client.site.persons import PersonColumn
from cloister.client.site.records import load
from cloister.privacy.cli import main
from cloister.privacy.model import Columns
from cloister.simulations import cli, stage
from cloister.simulations.demo import Demo
from cloister.simulations.stage import write
from tests import tables

Asked = Callable[..., Demo]
NOTES = cache(stage.triage)
"""The synthetic notes, made once for all command lines that ask for the same."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "triage", NOTES)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What a command line would have run."""

    def of(*options: str) -> Demo:
        seen: list[Demo] = []
        monkeypatch.setattr(cli, "_perform", lambda demo, **_: seen.append(demo))
        assert main(["demo", "--out", str(tmp_path / "out"), "--sites", "2", "--no-secure", *options]) == 0
        (demo,) = seen
        return demo

    return of


def test_without_a_person_column_the_unit_is_the_record(asked: Asked) -> None:
    demo = asked()
    assert (demo.terms.unit, demo.terms.mode, demo.stage.person) == ("record", "local", None)


def test_secure_aggregation_is_on_unless_it_is_switched_off(asked: Asked) -> None:
    assert not asked().terms.secure
    assert asked("--sites", "3", "--secure").terms.secure


def test_a_parameter_travels_as_32_bits_unless_fewer_are_asked_for(asked: Asked) -> None:
    assert asked("--sites", "3", "--secure").terms.bits is None
    assert asked("--sites", "3", "--secure", "--bits", "12").terms.bits == 12


def test_surplus_noise_is_taken_back_if_asked(asked: Asked) -> None:
    joint = ("--sites", "4", "--secure", "--privacy", "joint")
    assert not asked(*joint).terms.surplus
    assert asked(*joint, "--take-back").terms.surplus


@pytest.mark.parametrize("privacy", ["local", "off"])
def test_with_one_it_is_the_person(asked: Asked, privacy: str) -> None:
    demo = asked("--person", "patient", "--rows-per-person", "3", "--privacy", privacy)
    assert (demo.terms.unit, demo.terms.mode) == ("person", privacy)
    assert demo.stage.person == PersonColumn("patient", most_rows=3)


def test_a_column_of_a_file_and_its_policy(asked: Asked, tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    rows = [f"note {k} of {k // 3},{'ab'[k % 2]},{k // 3}" for k in range(600)]
    file.write_text("\n".join(["text,label,who", *rows, "unsigned,a,"]) + "\n")
    demo = asked("--data", str(file), "--person", "who", "--missing-persons", "drop", "--split", "iid")
    assert demo.stage.person == PersonColumn("who", missing="drop")
    assert not any("unsigned" in part.texts for part in demo.stage.train.values())


def test_a_table_is_read_by_its_columns(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "columns.toml").write_bytes(tables.COLUMNS)
    file = tables.write(tmp_path / "rows.csv", tables.patients(400, 1))
    options = ("--data", str(file), "--columns", str(tmp_path / "columns.toml"), "--split", "iid")
    demo = asked(*options, "--hidden", "6", "--person", "patient", "--model", "nowhere")
    assert (demo.terms.table, demo.terms.labels, demo.terms.hidden) == (tables.TABLE, ("no", "yes"), 6)
    assert demo.base() == Columns.of(tables.TABLE)
    assert demo.stage.person == PersonColumn("patient")
    write(demo.stage.train["site-1"], tmp_path / "site.csv", demo.stage.person)
    again = load(tmp_path / "site.csv", text="", label="", table=tables.TABLE, person="person")
    assert again == demo.stage.train["site-1"]
    for wrong in (("--text", "age"), ("--pair", "sex"), ("--canaries", "20")):
        assert main(["demo", "--out", str(tmp_path / "other"), *options, *wrong]) == 2


@pytest.mark.parametrize(
    ("options", "code", "id"),
    [
        (["--person", "nobody"], 1, "column_missing"),
        (["--model", "nowhere"], 1, "model_missing"),
        (["--sites", "2"], 2, "option_invalid"),  # two sites hide nothing from each other
        (["--privacy", "joint", "--no-secure"], 2, "option_invalid"),
        (["--privacy", "joint", "--sites", "2"], 2, "option_invalid"),
        (["--privacy", "joint", "--bits", "12"], 1, "plan_conflict"),
        (["--no-secure", "--bits", "12"], 1, "plan_conflict"),
        (["--take-back"], 1, "plan_conflict"),
        (["--columns", "columns.toml"], 2, "option_invalid"),
        (["--hidden", "4"], 1, "plan_conflict"),
        (["--sites", "20", "--bits", "6"], 1, "plan_conflict"),
    ],
)
def test_what_is_refused(
    options: list[str], code: int, id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), *options]) == code
    assert capsys.readouterr().err.strip().endswith(f"[{id}]")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bits", ["5", "32", "33"])
def test_bits_out_of_range_are_named(bits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), "--bits", bits]) == 2
    assert "'--bits'" in capsys.readouterr().err
