from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cloister.privacy import folder
from cloister.privacy.errors import CloisterError


def reason(action: object) -> str:
    assert callable(action)
    with pytest.raises(CloisterError) as caught:
        action()
    return caught.value.id


def test_a_claimed_folder_is_private_and_claimed_once(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    folder.claim(place)
    folder.claim(place)  # still empty
    assert place.stat().st_mode & 0o777 == 0o700
    (place / "file").touch()
    assert reason(lambda: folder.claim(place)) == "folder_in_use"
    assert reason(lambda: folder.claim(place / "file")) == "folder_in_use"


def test_an_open_folder_that_is_empty_becomes_private(tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir(mode=0o755)
    folder.claim(place)
    assert place.stat().st_mode & 0o777 == 0o700


def hold(path: Path) -> None:
    with folder.hold(path):
        pass


def test_a_held_folder_cannot_be_held_twice(tmp_path: Path) -> None:
    with folder.hold(tmp_path / "lock"):
        assert reason(lambda: hold(tmp_path / "lock")) == "state_locked"
    hold(tmp_path / "lock")


def test_a_lock_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    assert reason(lambda: hold(tmp_path / "missing" / "lock")) == "state_unwritable"


def test_edits_wait_for_each_other(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with folder.edit(tmp_path / "lock"):
            order.append("second")

    with folder.edit(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.02)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_files_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"{}")
    for mode, expected in ((0o600, ""), (0o400, ""), (0o640, "permissions"), (0o604, "permissions")):
        path.chmod(mode)
        if expected:
            assert reason(lambda: folder.read(path)) == expected
        else:
            assert folder.read_json(path) == {}


@pytest.mark.parametrize("data", [b"", b"{", b"{ }", b"\xff", b'{"b":1,"a":1}'])
def test_files_that_are_not_canonical_are_damaged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    path.write_bytes(data)
    assert reason(lambda: folder.read_json(path)) == "state_damaged"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert reason(lambda: folder.read(tmp_path / "none")) == "state_missing"
