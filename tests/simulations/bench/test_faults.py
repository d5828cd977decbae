"""The benchmark of faults: its points exist, its program strikes where it should, no loss is overlooked."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.simulations.bench import faults
from cloister.simulations.bench.ends import End, Struck, differences, figures, judged, table
from cloister.simulations.bench.faults import LIMITS, SITES
from cloister.simulations.bench.faulty import Armed
from cloister.simulations.bench.points import BEGUN, CABLE, FLOWER, LEAD, POINTS, SITE, Point

CALM = End(
    models=("a", "b", "c"),
    accepted=(SITES, SITES, SITES),
    rows={name: [("reserved", 1, 1, "m"), ("spent", 1, 1, "m")] for name in SITES},
    epsilon=dict.fromkeys(SITES, 1.5),
)


@pytest.mark.parametrize("point", [BEGUN, *POINTS], ids=lambda point: point.name)
def test_every_point_is_a_function_of_the_product(point: Point) -> None:
    owner, name = point.owner()
    assert callable(getattr(owner, name))


def test_there_are_enough_points_of_every_kind() -> None:
    assert len({point.name for point in POINTS}) == len(POINTS) >= LIMITS["points"].limit
    assert {point.victim for point in POINTS} == {SITE, LEAD, FLOWER, CABLE}
    assert {point.phase for point in POINTS} == {"start", "round", "end"}
    assert min(Counter((point.phase, point.role) for point in POINTS).values()) >= 2


PROGRAM = """
import sys
from pathlib import Path
from cloister.simulations.bench import faulty
from cloister.simulations.bench.points import BEGUN, CABLE, FLOWER, LEAD, POINTS, SITE, Point
point = Point("round", "north", "privacy.durable:write", sys.argv[2], "north")
faulty.POINTS = (point,)
faulty.wrap("north", faulty.Armed(Path(sys.argv[1]), "north"))
from cloister.privacy import durable
durable.write(Path(sys.argv[1]) / "file", b"first")
(Path(sys.argv[1]) / "north.due").write_text(point.name)
durable.write(Path(sys.argv[1]) / "file", b"second")
print("alive")
"""


@pytest.mark.parametrize(("when", "content"), [("before", b"first"), ("after", b"second")])
def test_a_process_dies_before_or_after_the_function_once_it_is_due(
    tmp_path: Path, when: str, content: bytes
) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), when], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == b""
    assert (tmp_path / "file").read_bytes() == content
    assert (tmp_path / "north.struck").exists()
    assert not (tmp_path / "north.due").exists()


def test_another_point_than_the_due_one_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "north.due").write_text("north: before somewhere")
    Armed(tmp_path, "north").strike(next(point for point in POINTS if point.role == SITE))
    assert (tmp_path / "north.due").exists()


def test_ends_that_agree_have_no_mismatch() -> None:
    struck = [Struck(POINTS[0], 2.0), Struck(POINTS[1], 4.0)]
    found = figures(struck, CALM, CALM)
    assert found["points"] == 2
    assert found["recovery_s"] == 3.0
    assert [found[name] for name in ("model_mismatches", "ledger_losses", "epsilon_mismatches")] == [0, 0, 0]
    assert found["sum_mismatches"] == 0
    lines = [line.split() for line in table(judged(struck, CALM, CALM)).splitlines()]
    assert [line[-3:] for line in lines] == [["same", "2.0", "s"], ["same", "4.0", "s"]]


@pytest.mark.parametrize(
    ("disturbed", "outcomes"),
    [
        (CALM, ["same", "same", "same"]),
        (replace(CALM, models=("x", "y", "z")), ["other model"] * 3),
        (replace(CALM, models=("a", "y", "z")), ["same", "other model", "other model"]),
        (replace(CALM, models=("a", "b")), ["same", "same", "other model"]),
        (replace(CALM, accepted=(SITES, SITES, SITES[1:])), ["same", "same", "other sum"]),
        (
            replace(
                CALM, accepted=(SITES, SITES[1:], SITES), rows=CALM.rows | {"west": CALM.rows["west"][:1]}
            ),
            ["other ledger", "other sum", "same"],
        ),
    ],
)
def test_the_outcome_of_a_point_is_that_of_the_rounds_to_the_next(
    disturbed: End, outcomes: list[str]
) -> None:
    struck = [Struck(point, 1.0, closed) for closed, point in enumerate(POINTS[:3])]
    assert [each.outcome for each in judged(struck, CALM, disturbed)] == outcomes


def test_what_the_program_prints_is_what_the_command_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [point for point in POINTS if point.victim != CABLE][:2]
    struck = [Struck(points[1], 4.0, 1), Struck(points[0], 2.0, 0)]
    monkeypatch.setattr(faults, "compare", lambda *_, **__: (struck[::-1], CALM, CALM))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(faults.wire, "isolation", list)
    faults.main([str(tmp_path), "model", *(point.name for point in points)])
    done = subprocess.CompletedProcess([], 0, capsys.readouterr().out, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    read, found = faults.apart(tmp_path, "model", points)
    assert read == judged(struck[::-1], CALM, CALM)
    assert (found["points"], found["cabled"]) == (2, 0)


def test_the_outcome_of_a_point_outside_all_rounds_is_that_of_the_whole_job() -> None:
    struck = [Struck(POINTS[0], 1.0, 0), Struck(POINTS[1], 1.0, 0), Struck(POINTS[-1], 1.0, 3)]
    late = judged(struck, CALM, replace(CALM, models=("a", "b", "x")))
    assert [each.outcome for each in late] == ["other model"] * 3


@pytest.mark.parametrize(
    ("disturbed", "figure"),
    [
        (replace(CALM, models=("a", "x", "y")), "model_mismatches"),
        (replace(CALM, models=("a", "b")), "model_mismatches"),
        (replace(CALM, accepted=(SITES, SITES[1:], SITES)), "sum_mismatches"),
        (replace(CALM, rows=CALM.rows | {"south": CALM.rows["south"][:1]}), "ledger_losses"),
        (replace(CALM, rows={name: CALM.rows[name] for name in SITES[1:]}), "ledger_losses"),
        (replace(CALM, epsilon=CALM.epsilon | {"west": 1.6}), "epsilon_mismatches"),
    ],
)
def test_whatever_differs_is_counted(disturbed: End, figure: str) -> None:
    found = figures([], CALM, disturbed)
    assert found[figure] >= 1
    assert sum(found[name] for name in found if name.endswith(("mismatches", "losses"))) == found[figure]


def test_what_only_one_run_has_differs() -> None:
    assert differences("abc", "abd") == 1
    assert differences("abc", "abcde") == 2
    assert differences((), ()) == 0
