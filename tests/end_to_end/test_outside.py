"""Nothing outside is looked for: a whole demo in a network that has the loopback interface only."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.by_hand import guarded
from tests.hands import CLOISTER, Hands, write_records

pytestmark = pytest.mark.slow

ALONE = ("unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""Runs what follows in a network namespace of its own: nothing there leads anywhere else."""

PROBE = "import socket; s = socket.socket(); s.setblocking(False); print(s.connect_ex(('192.0.2.1', 9)))"


def test_a_demo_needs_no_network_and_looks_for_none(tmp_path: Path, model: Path) -> None:
    outside = tmp_path / "outside.txt"
    person = Hands(tmp_path, **guarded(outside))
    if person.run("true", program=ALONE).code != 0:
        pytest.skip("no network namespace can be made here; test_by_hand.py has the guard without one")
    assert person.run("-c", PROBE, program=(*ALONE, sys.executable)).out == "101\n"  # network unreachable
    assert outside.read_text() == "192.0.2.1\n"
    outside.unlink()

    notes = write_records(tmp_path / "notes.csv", seed=4, rows=360)
    data = ("--data", str(notes), "--label", "department", "--split", "iid", "--sites", "3")
    terms = ("--rounds", "2", "--model", str(model), "--out", str(tmp_path / "demo"), "--json")
    said = person.run("demo", *data, *terms, program=(*ALONE, *CLOISTER))
    assert said.code == 0, said
    assert (tmp_path / "demo" / "result.json").exists()
    assert not outside.exists(), outside.read_text()
