"""Whole files or none: what is on disk after a write, a refusal, a crash."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import durable
from cloister.privacy.errors import StateError


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def failing(number: int) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for data in (b"old", b"", b"new" * 100_000):
        durable.write(path, data)
        assert path.read_bytes() == data
    assert names(tmp_path) == {"state"}


def test_only_the_owner_can_read_it_by_default(tmp_path: Path, umask: int) -> None:
    durable.write(tmp_path / "secret", b"x")
    durable.write(tmp_path / "public", b"x", mode=0o644)
    assert mode(tmp_path / "secret") == 0o600
    assert mode(tmp_path / "public") == 0o644 & ~umask


def test_a_new_secret_does_not_inherit_the_mode_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.touch(mode=0o666)
    path.chmod(0o666)
    durable.write(path, b"x")
    assert mode(path) == 0o600


def test_the_bytes_are_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    durable.write(tmp_path / "state", b"x")
    assert done == ["file", "rename", "folder"]
    done.clear()
    durable.write(tmp_path / "state", b"y", sync=False)
    assert done == ["rename"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EIO, "state_unwritable"),
        (errno.EROFS, "state_unwritable"),
    ],
)
@pytest.mark.parametrize("where", ["open", "fsync"])
def test_a_failed_write_is_typed_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int, reason: str
) -> None:
    path = tmp_path / "state"
    durable.write(path, b"old")
    with monkeypatch.context() as patch, pytest.raises(StateError) as caught:
        patch.setattr(os, where, failing(number))
        durable.write(path, b"new")
    assert caught.value.id == reason
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"state"}


def test_a_failed_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    durable.write(path, b"old")
    with monkeypatch.context() as patch, pytest.raises(StateError) as caught:
        patch.setattr(Path, "replace", failing(errno.EACCES))
        durable.write(path, b"new")
    assert caught.value.id == "state_unwritable"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"state"}


def test_a_folder_that_is_missing_is_typed(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        durable.write(tmp_path / "none" / "state", b"x")
    assert caught.value.id == "state_unwritable"


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    texts = [bytes([65 + i]) * 50_000 for i in range(4)]

    def write(text: bytes) -> None:
        for _ in range(5):
            durable.write(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in texts
    assert names(tmp_path) == {"state"}


class PowerCut(BaseException):
    """What no handler of ours may see."""


def cut(*_: Any, **__: Any) -> None:
    raise PowerCut


def test_what_a_crash_left_is_swept_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state[1]"
    durable.write(path, b"old")
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Path, "replace", cut)
        patch.setattr(Path, "unlink", cut)
        durable.write(path, b"new")
    others = {".state1.0123456789abcdef", f".{path.name}.notes", ".hidden"}
    for other in others:
        (tmp_path / other).touch()
    assert len(names(tmp_path)) == 5
    durable.sweep(path)
    assert names(tmp_path) == {path.name} | others
    assert path.read_bytes() == b"old"


def test_private_folders_are_private_all_the_way_down(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o755)
    made = tmp_path / "a" / "b" / "c"
    durable.private_folder(made)
    durable.private_folder(made)
    assert [mode(p) for p in (made, made.parent, made.parent.parent)] == [0o700] * 3
    assert mode(tmp_path) == 0o755


def test_a_folder_where_a_file_stands_is_typed(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(StateError) as caught:
        durable.private_folder(tmp_path / "a" / "b")
    assert caught.value.id == "state_unwritable"
