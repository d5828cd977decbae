"""Figures of long runs are run once, and a folder of others is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cloister.privacy.errors import StateError, UsageError
from cloister.simulations.bench.kept import Kept


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    ran = []

    def run() -> dict[str, float]:
        ran.append(1)
        return {"accuracy": 0.1 + 0.2, "bytes": 7}

    for _ in range(2):
        with Kept(tmp_path / "out").held({"a": 1}):
            assert Kept(tmp_path / "out").run("joint-0", ("accuracy", "bytes"), run) == {
                "accuracy": 0.1 + 0.2,
                "bytes": 7.0,
            }
    assert len(ran) == 1


def test_without_a_folder_nothing_is_kept() -> None:
    with Kept(None).held({}):
        assert [Kept(None).run("x", ("n",), lambda n=n: {"n": n})["n"] for n in (1, 2)] == [1, 2]


def test_what_was_finished_outlives_a_kill(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from cloister.simulations.bench.kept import Kept
        kept = Kept(Path({str(tmp_path / "out")!r}))
        with kept.held({{"a": 1}}):
            kept.run("first", ("n",), lambda: {{"n": 1.0}})
            kept.run("second", ("n",), lambda: os.kill(os.getpid(), signal.SIGKILL))
    """)
    ended = subprocess.run([sys.executable, "-c", code], timeout=120, env=dict(os.environ), check=False)
    assert ended.returncode == -signal.SIGKILL
    kept = Kept(tmp_path / "out")
    with kept.held({"a": 1}):
        assert kept.run("first", ("n",), lambda: {"n": 2.0}) == {"n": 1.0}
        assert kept.run("second", ("n",), lambda: {"n": 2.0}) == {"n": 2.0}


@pytest.mark.parametrize("what", ["other settings", "something else", "a file"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    if what == "other settings":
        with Kept(out).held({"a": 1}):
            pass
    elif what == "something else":
        out.mkdir()
        (out / "letter.txt").write_text("dear")
    else:
        out.write_text("dear")
    with pytest.raises(UsageError) as refused, Kept(out).held({"a": 2}):
        pass
    assert refused.value.id == "folder_in_use"


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with Kept(tmp_path).held({}), pytest.raises(StateError) as refused, Kept(tmp_path).held({}):
        pass
    assert refused.value.id == "state_locked"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"n": "x"}', b'{"n": null}', b'{"m": 1}', b"{}"])
def test_a_damaged_figure_is_refused(tmp_path: Path, content: bytes) -> None:
    kept = Kept(tmp_path / "out")
    with kept.held({}):
        (tmp_path / "out" / "joint-0.json").write_bytes(content)
        with pytest.raises(StateError) as refused:
            kept.run("joint-0", ("n",), lambda: {"n": 1.0})
    assert refused.value.id == "state_damaged"


@pytest.mark.parametrize("name", ["about.json", "joint-0.json"])
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    with Kept(tmp_path / "out").held({}):
        pass
    (tmp_path / "out" / name).unlink(missing_ok=True)
    (tmp_path / "out" / name).mkdir()
    kept = Kept(tmp_path / "out")
    with pytest.raises(StateError) as refused, kept.held({}):
        kept.run("joint-0", ("n",), lambda: {"n": 1.0})
    assert refused.value.id == "state_damaged"
