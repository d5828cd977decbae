"""What is refused, in one clear line and with its exit code, before anything is computed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.by_hand import RECORDS, ByHand
from tests.hands import Said, until, write_records

pytestmark = pytest.mark.slow


def refused(said: Said, reason: str, code: int = 1) -> str:
    """The one line of a refusal."""
    assert (said.code, said.out) == (code, ""), said
    assert said.line.endswith(f" [{reason}]")
    return said.line


def test_a_plan_over_budget(by_hand: ByHand) -> None:
    job = by_hand.propose("--epsilon", "8", "--rounds", "2")
    line = refused(by_hand.hands.run("site", "approve", job[7:19], "--dir", "north"), "budget_exceeded")
    total, budget = re.search(r"would reach epsilon ([\d.]+) of ([\d.]+) for notes", line).groups()
    assert float(total) > float(budget) == 8.0
    by_hand.hands.do("site", "refuse", job[7:19], "--dir", "north", "--reason", "budget_exceeded")
    entry = by_hand.ended(job)
    assert (entry["state"], entry["reason"]) == ("refused", "north refuses: budget_exceeded")
    assert entry["decisions"] == {"north": False}


def test_another_model_than_the_plan_names(by_hand: ByHand, tmp_path: Path) -> None:
    other = Path(shutil.copytree(by_hand.model, tmp_path / "other"))
    config = other / "config.json"
    config.write_text(config.read_text().replace("{", '{"made_by": "somebody else",', 1))
    assert by_hand.sites["north"].end() == 0
    north = by_hand.site_up("north", "--model", str(other))
    job = by_hand.propose("--privacy", "off", "--rounds", "1")
    by_hand.approve(job)
    north.hear("[model_mismatch]")
    assert by_hand.jobs()[job]["decisions"].get("north") is None  # the lead was not told that all is well
    assert north.end() == 0
    (line,) = [line for line in north.said.splitlines() if "model_mismatch" in line]
    assert line.startswith("The files of other have the digest sha256:")
    by_hand.site_up("north")
    assert by_hand.ended(job)["state"] == "finished"


@pytest.mark.parametrize("taken", ["fleet", "consortium"])
def test_a_port_in_use(by_hand: ByHand, tmp_path: Path, taken: str) -> None:
    config = by_hand.hands.json(
        "lead", "init", "--dir", str(tmp_path / "lead"), "--name", "other", *by_hand.ports(taken)
    )
    assert config["consortium"] == "other"
    said = by_hand.hands.run("lead", "up", "--dir", str(tmp_path / "lead"))
    assert "is taken" in refused(said, "port_in_use")


def test_a_second_process_in_a_folder(by_hand: ByHand) -> None:
    refused(by_hand.hands.run("lead", "up", "--dir", "lead"), "state_locked")
    second = by_hand.hands.run("site", "up", "--dir", "north")
    assert (second.code, second.line.endswith("[state_locked]")) == (1, True)


def test_a_member_that_nobody_confirmed(by_hand: ByHand) -> None:
    """Last in this folder: the roster has another member from here on."""
    do = by_hand.hands.do
    do("lead", "invite", "west", "--dir", "lead", "--out", "west.invite")
    do("site", "init", "--dir", "west", "--name", "west")
    do("site", "join", "west.invite", "--dir", "west")
    notes = write_records(by_hand.hands.place / "west.csv", *RECORDS["west"])
    do("site", "data", "add", str(notes), "--dir", "west", "--name", "notes", "--label", "department")
    by_hand.site_up("west")
    until(lambda: (by_hand.hands.place / "lead" / "offers" / "west.signed").exists(), "the offer of west")
    job = by_hand.propose("--privacy", "off", "--rounds", "1")
    line = refused(by_hand.hands.run("site", "approve", job[7:19], "--dir", "north"), "peer_unconfirmed")
    assert line.startswith("The keys of west were never confirmed here.")
    refused(by_hand.hands.run("site", "approve", "0000", "--dir", "north"), "plan_unknown")
