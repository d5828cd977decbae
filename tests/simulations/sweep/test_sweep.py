"""Sweeps: what a file may say, cells that are run once whatever happens, one table, a page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from cloister.privacy.cli import main
from cloister.privacy.errors import CloisterError, StateError
from cloister.simulations.scenarios.figures import METHODS
from cloister.simulations.sweep import page, running
from cloister.simulations.sweep.description import Cell, Method, Place, Sweep, ordered, read
from cloister.simulations.sweep.results import Results, Row
from tests import hearts

FILE = """
scenario = "heart"
epsilon = [1, 4.0]
methods = ["pooled", "federated_ridge", "pooled_private", "federated_joint"]
seeds = [0, 1]
"""


def row(
    method: str = "federated_joint", epsilon: float | None = 1.0, accuracy: float = 0.7, **more: object
) -> Row:
    values: dict[str, object] = {
        "scenario": "heart",
        "seed": 0,
        "method": method,
        "sites": 4,
        "skew": None,
        "epsilon": epsilon,
        "delta": 1e-4,
        "unit": "record",
        "refused": "",
        "accuracy": accuracy,
        "low": 0.6,
        "high": 0.8,
        "test_rows": 160,
        "worst_site": "va",
        "worst_accuracy": 0.5,
        "spent": epsilon,
        "noise_factor": 1.2,
        "bytes_up": 4000,
        "sums": 1,
        "way": "class means, one round",
        "seconds": 2.0,
    }
    return Row(**(values | more))  # type: ignore[arg-type]


class TestDescription:
    def test_methods_without_privacy_are_run_once_whatever_the_targets_are(self, tmp_path):
        (tmp_path / "s.toml").write_text(FILE)
        cells = read(tmp_path / "s.toml").sweep.cells()
        assert len(cells) == 2 * (2 + 2 * 2)
        assert len({cell.key for cell in cells}) == len(cells)
        assert [cell.epsilon for cell in cells if cell.method == "pooled"] == [0.0, 0.0]

    def test_cells_of_one_place_come_together_so_that_its_sites_are_made_once(self):
        sweep = Sweep(scenario="hospital-triage", epsilon=[1.0], sites=[3, 4], skew=[0.1, 1.0], seeds=[0, 1])
        places = [cell.place for cell in sweep.cells()]
        assert len(places) == 8 * len(METHODS)
        assert len(set(places)) == 8
        assert places == sorted(places)

    def test_the_methods_are_those_that_are_compared(self):
        assert Method.__args__ == tuple(METHODS)

    @pytest.mark.parametrize(
        ("change", "word", "reason"),
        [
            (("epsilon = [1, 4.0]", "epsilon = []"), "epsilon", "file_format"),
            (("epsilon = [1, 4.0]", "epsilon = [0]"), "epsilon.0", "file_format"),
            (("epsilon = [1, 4.0]", "epsilon = [1, 1.0]"), "stands in it twice", "file_format"),
            (("epsilon = [1, 4.0]", "epsilon = [nan]"), "epsilon.0", "file_format"),
            (("epsilon = [1, 4.0]", "epsilon = [true]"), "epsilon.0", "file_format"),
            (("epsilon = [1, 4.0]", "epsilon = 3"), "epsilon", "file_format"),
            (('"pooled", ', '"pooling", '), "methods.0", "file_format"),
            (("seeds = [0, 1]", "seeds = [-1]"), "seeds.0", "file_format"),
            (("seeds", "seed"), "seed", "file_format"),
            (('scenario = "heart"', 'scenario = "hart"'), "no scenario hart", "option_invalid"),
            (('scenario = "heart"', 'scenario = "own.toml"'), "own.toml", "file_missing"),
            (
                ('scenario = "heart"', 'scenario = "heart"\nskew = [0.5]'),
                "cannot change skew",
                "option_invalid",
            ),
            (
                ('scenario = "heart"', 'scenario = "heart"\nsites = [4]'),
                "cannot change sites",
                "option_invalid",
            ),
            (('scenario = "heart"', 'scenario = "credit-risk"\nsites = [2]'), "sites.0", "file_format"),
            (('scenario = "heart"', "scenario = "), "not TOML", "file_format"),
        ],
    )
    def test_what_cannot_be_swept_is_refused_by_field(self, change, word, reason, tmp_path):
        (tmp_path / "s.toml").write_text(FILE.replace(*change))
        with pytest.raises(CloisterError, match=re.escape(word)) as caught:
            read(tmp_path / "s.toml")
        assert caught.value.id == reason

    def test_a_product_that_nobody_meant_is_refused(self):
        sweep = Sweep(scenario="heart", epsilon=[1.0], seeds=list(range(5000)))
        with pytest.raises(CloisterError, match="the most"):
            ordered(sweep)


class TestProgress:
    def test_the_time_left_is_that_of_cells_of_the_same_method(self):
        cells = [
            Cell(Place(seed, 0, 0.0), method, 0.0) for seed in range(3) for method in ("pooled", "local_only")
        ]
        done = {cells[0]: row("pooled", seconds=1.0), cells[1]: row("local_only", seconds=10.0)}
        assert running.left(cells, done) == "about 22 s left"
        assert running.left(cells, {cell: row() for cell in cells}) == "all done"
        long = {cells[0]: row("pooled", seconds=2000.0)}
        assert running.left(cells, long) == "about 2 h 47 min left"


class TestPage:
    def test_intervals_are_of_student_over_seeds_and_of_wilson_for_one(self):
        """Known answer: 0.6 and 0.8 have mean 0.7, standard error 0.1, and t is 12.706 at one degree."""
        one, several = (page.means(rows)[0] for rows in ([row()], [row(accuracy=0.69), row(accuracy=0.71)]))
        assert one.interval == (0.6, 0.8)
        assert several.interval == pytest.approx((0.7 - 0.12706, 0.7 + 0.12706))
        assert several.seeds == 2

    def test_private_methods_are_lines_over_epsilon_and_others_lines_across(self):
        rows = [row("pooled", None, 0.9), row(epsilon=4.0, accuracy=0.8), row(epsilon=1.0)]
        (chart,) = page.charts(page.means(rows))
        assert [level.name for level in chart.levels] == [METHODS["pooled"]]
        assert [point.x for point in chart.series[0].points] == [1.0, 4.0]
        assert chart.logarithmic

    def test_a_cell_that_cannot_be_had_says_why_and_is_no_point(self):
        bad = row(accuracy=None, low=None, high=None, refused="no sound grid")
        (mean,) = page.means([bad])
        assert (mean.seeds, mean.refused) == (0, "no sound grid")
        assert next(page.charts([mean]), None) is None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return hearts.folder(tmp_path_factory.mktemp("data") / "all")


def quick(**changes: object) -> Sweep:
    return Sweep.model_validate(
        {"scenario": "heart", "epsilon": [1.0, 4.0], "methods": ["federated_ridge", "pooled_private"]}
        | changes
    )


class TestRunning:
    def test_a_second_run_runs_nothing_and_gives_the_same(self, data, tmp_path):
        said: list[str] = []
        first = running.sweep(quick(), tmp_path / "out", data=data, say=said.append)
        assert (first.ran, len(first.rows)) == (3, 3)
        assert [line for line in said if "cells" in line][-1] == "  3 of 3 cells, all done"
        again = running.sweep(quick(), tmp_path / "out", data=data)
        assert (again.ran, again.rows) == (0, first.rows)
        assert pq.read_table(tmp_path / "out" / "results.parquet") == first.table
        assert first.table.column("accuracy").null_count == 0
        spent = {row.epsilon: row.spent for row in first.rows}
        assert spent[None] is None
        assert 3.9 < spent[4.0] <= 4.0
        text = (tmp_path / "out" / "sweep.html").read_text()
        assert not re.search(r"(src|href)=|@import|url\(|<script", text)
        assert text.count("SIMULATION") > 5

    @pytest.mark.parametrize(
        ("changes", "word"),
        [({"epsilon": [1.0, 8.0]}, "another epsilon"), ({"seeds": [0, 1], "delta": 1e-6}, "delta and seeds")],
    )
    def test_another_sweep_is_refused_with_what_differs(self, changes, word, data, tmp_path):
        out = tmp_path / "out"
        with Results(out).held(ordered(quick()), data):
            pass
        with pytest.raises(CloisterError, match=word) as caught:
            running.sweep(quick(**changes), out, data=data)
        assert caught.value.id == "folder_in_use"

    def test_other_data_or_another_version_are_refused(self, data, tmp_path, monkeypatch):
        out, other = tmp_path / "out", hearts.folder(tmp_path / "other")
        with Results(out).held(ordered(quick()), data):
            pass
        hearts.hearts(other / "heart_disease" / "flamby_train.csv", 60, 7)
        with pytest.raises(CloisterError, match="the data or the scenario's file has changed"):
            running.sweep(quick(), out, data=other)
        monkeypatch.setattr("cloister.privacy.code.installed", lambda: "sha256:" + "0" * 64)
        with pytest.raises(CloisterError, match="another version"):
            running.sweep(quick(), out, data=data)

    def test_a_folder_with_something_else_is_left_alone(self, data, tmp_path):
        (tmp_path / "mine").write_text("x")
        with pytest.raises(CloisterError) as caught:
            running.sweep(quick(), tmp_path, data=data)
        assert caught.value.id == "folder_in_use"
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_data_that_is_not_there_leaves_no_folder_behind(self, tmp_path):
        (tmp_path / "own.toml").write_text(
            'name = "mine"\ntitle = "t"\nstory = "s"\nepsilon = 1.0\ndelta = 1e-5\ndata = "none.csv"\n'
        )
        (tmp_path / "s.toml").write_text('scenario = "own.toml"\nepsilon = [1]\n')
        for what in (quick(), tmp_path / "s.toml"):
            with pytest.raises(CloisterError) as caught:
                running.sweep(what, tmp_path / "out", data=tmp_path / "nowhere")
            assert caught.value.id == "file_missing"
            assert not (tmp_path / "out").exists()

    def test_two_processes_do_not_work_in_one_folder(self, data, tmp_path):
        with Results(tmp_path / "out").held(ordered(quick()), data), pytest.raises(StateError) as caught:
            running.sweep(quick(), tmp_path / "out", data=data)
        assert caught.value.id == "state_locked"

    @pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"{", b"\xff"])
    def test_a_damaged_cell_is_named_and_not_believed(self, content, data, tmp_path):
        results, order = Results(tmp_path / "out"), ordered(quick())
        cell = order.sweep.cells()[0]
        with results.held(order, data):
            results.keep(cell, row("federated_ridge", None))
            assert results.finished([cell])
            results._file(cell).write_bytes(content)
            with pytest.raises(StateError, match="Delete it") as caught:
                results.finished([cell])
        assert caught.value.id == "state_damaged"

    def test_the_cell_of_another_place_is_not_taken(self, data, tmp_path):
        results, order = Results(tmp_path / "out"), ordered(quick())
        one, other = order.sweep.cells()[1:3]
        with results.held(order, data):
            results.keep(one, row("pooled_private", one.epsilon))
            results._file(one).rename(results._file(other))
            with pytest.raises(StateError):
                results.finished([other])

    def test_what_cannot_be_had_is_a_row_and_not_the_end(self, data, tmp_path):
        asked = quick(epsilon=[1e-9], delta=1e-15, methods=["federated_joint", "federated_ridge"])
        found = running.sweep(asked, tmp_path / "out", data=data)
        bad, good = found.rows
        assert bad.refused.startswith("No noise keeps")
        assert (bad.accuracy, bad.way) == (None, "")
        assert good.accuracy is not None
        assert "cannot be had" in (tmp_path / "out" / "sweep.html").read_text()

    @pytest.mark.parametrize("option", [["heart"], ["--epsilon", "3"], ["--seed", "1"]])
    def test_options_that_the_file_says_are_refused(self, option, tmp_path, capsys):
        (tmp_path / "s.toml").write_text(FILE)
        assert (
            main(["simulate", *option, "--sweep", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o")])
            == 2
        )
        assert "[option_invalid]" in capsys.readouterr().err
        assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_where_it_was(data, tmp_path, capsys):
    (tmp_path / "s.toml").write_text(FILE)
    out, cells = tmp_path / "out", tmp_path / "out" / "cells"
    command = ["simulate", "--sweep", str(tmp_path / "s.toml"), "--data", str(data), "--out", str(out)]
    script = f"import sys; from cloister.privacy.cli import main; sys.exit(main({command!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=dict(os.environ), stdout=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 240
        while len(list(cells.glob("*.json"))) < 3 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 3 <= len(kept) < 12
    (cells / ".part.json.0123456789abcdef").write_text("{")
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ran"] == 12 - len(kept)
    assert len(told["cells"]) == 12
    assert {name: (cells / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(cells.glob(".*"))
    whole = running.sweep(tmp_path / "s.toml", tmp_path / "whole", data=data)
    columns = [name for name in whole.table.column_names if name != "seconds"]
    assert pq.read_table(out / "results.parquet").select(columns) == whole.table.select(columns)
