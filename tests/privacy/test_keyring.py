"""``vault.json``: known answers, wrong keys, and changes of the key that are killed anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import canonical, durable, keyring
from cloister.privacy.errors import CloisterError
from cloister.privacy.keysource import KeySource
from cloister.privacy.vault import CLEAR, MAGIC, Locked

VECTORS = Path(__file__).parents[1] / "vectors" / "vault"
GOOD = json.loads((VECTORS / "vault.json").read_text())
BROKEN = json.loads((VECTORS / "vault_broken.json").read_text())["rings"]
NAMES = ("one", "jobs/*/two")
CONTENT = {"one": b"first secret", "jobs/a/two": b"second secret", "jobs/b/two": b"third secret"}


def refused(error_id: str) -> Any:
    return pytest.raises(CloisterError, check=lambda error: error.id == error_id)


STRETCHED = cache(keyring.Stretch.key)
"""The key of a passphrase is computed once for all the times that a test opens the same folder."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_COST", 1 << 14)
    monkeypatch.setattr(keyring.Stretch, "key", lambda stretch, secret: STRETCHED(stretch, secret))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir(mode=0o700)
    return tmp_path / "site"


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], KeySource]:
    def made(name: str) -> KeySource:
        durable.write(tmp_path / name, f"the passphrase called {name}".encode())
        return KeySource("passphrase-file", str(tmp_path / name))

    return made


Made = Callable[[str], KeySource]


def fill(root: Path, locked: KeySource | None) -> None:
    """A folder with secrets."""
    vault = keyring.create(root, locked)
    for name, data in CONTENT.items():
        durable.private_folder((root / name).parent)
        vault.write(root / name, data)


def contents(root: Path) -> dict[str, bytes]:
    vault = keyring.open_vault(root)
    return {name: vault.read(root / name) for name in CONTENT}


def kept(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# Opening


def test_the_cost_of_a_guess_is_not_lowered(
    root: Path, source: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    keyring.create(root, source("key"))
    stretch = json.loads((root / "vault.json").read_bytes())["terms"]["scrypt"]
    assert (stretch["n"], stretch["r"], stretch["p"], len(stretch["salt"])) == (1 << 17, 8, 1, 64)


def test_a_folder_without_a_key_is_open(root: Path) -> None:
    fill(root, None)
    assert keyring.open_vault(root) is CLEAR
    assert kept(root) == CONTENT


def test_a_locked_folder_opens_with_its_key_only(root: Path, source: Made, tmp_path: Path) -> None:
    fill(root, source("key"))
    assert contents(root) == CONTENT
    assert all(data.startswith(MAGIC) for name, data in kept(root).items() if name != "vault.json")
    durable.write(tmp_path / "key", b"another passphrase that is long")
    with refused("state_sealed"):
        keyring.open_vault(root)
    (tmp_path / "key").unlink()
    with refused("state_sealed"):
        keyring.open_vault(root)


def test_neither_key_nor_passphrase_is_in_the_folder(root: Path, source: Made) -> None:
    fill(root, source("key"))
    vault = keyring.open_vault(root)
    assert isinstance(vault, Locked)
    everything = b"".join(kept(root).values())
    for secret in (vault.key, b"the passphrase called key", *CONTENT.values()):
        assert secret not in everything
        assert secret.hex().encode() not in everything


def test_two_folders_under_one_passphrase_share_nothing(root: Path, source: Made, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = keyring.create(root, source("key")), keyring.create(tmp_path / "other", source("key"))
    assert isinstance(one, Locked)
    assert isinstance(two, Locked)
    assert one.key != two.key
    assert one.id != two.id


# Known answers


def ring(root: Path, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    durable.write(root / "vault.json", canonical.encode(value))
    durable.write(root.parent / "vault", GOOD["rings"]["secret"].encode())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(root.parent))


@pytest.mark.parametrize("state", ["settled", "changing", "converting"])
def test_a_known_ring_opens(root: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    ring(root, GOOD["rings"][state], monkeypatch)
    before = bytes.fromhex(GOOD["rings"]["before"]) if state == "changing" else None
    key, folder_id = bytes.fromhex(GOOD["key"]), bytes.fromhex(GOOD["id"])
    assert keyring.open_vault(root) == Locked(root, folder_id, key, before, state == "converting")


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["what"])
def test_a_broken_ring_does_not_open(
    root: Path, monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    ring(root, case["ring"], monkeypatch)
    with refused(case["error"]):
        keyring.open_vault(root)


@pytest.mark.parametrize("data", [b"", b"{}", b"{", b"[]", b"\xff"])
def test_a_damaged_ring_is_not_taken_for_an_open_folder(root: Path, data: bytes) -> None:
    durable.write(root / "vault.json", data)
    with refused("state_damaged"):
        keyring.open_vault(root)


# Changes of the key


@pytest.mark.parametrize("before", ["clear", "locked"])
def test_a_change_encrypts_every_secret_anew(root: Path, source: Made, tmp_path: Path, before: str) -> None:
    fill(root, source("old") if before == "locked" else None)
    old, was = keyring.open_vault(root), kept(root)
    keyring.change(root, source("new"), NAMES)
    assert contents(root) == CONTENT
    now = kept(root)
    assert not set(now.values()) & set(was.values())
    assert json.loads(now["vault.json"])["terms"]["state"] == "settled"
    with refused("state_damaged" if before == "locked" else "state_sealed"):
        old.read(root / "one")
    (tmp_path / "old").unlink(missing_ok=True)
    assert contents(root) == CONTENT


def test_what_cannot_be_read_stops_a_change_before_it_begins(root: Path, source: Made) -> None:
    fill(root, source("old"))
    (root / "jobs/b/two").write_bytes(b"in clear")
    was = kept(root)
    with refused("state_damaged"):
        keyring.change(root, source("new"), NAMES)
    assert kept(root) == was


def test_a_source_that_gives_nothing_changes_nothing(root: Path, source: Made, tmp_path: Path) -> None:
    fill(root, source("old"))
    was = kept(root)
    with refused("state_sealed"):
        keyring.change(root, KeySource("passphrase-file", str(tmp_path / "none")), NAMES)
    assert kept(root) == was


class Killed(BaseException):
    """The process ends here."""


def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The write after ``after`` others does not happen."""
    write, left = durable.write, [after]

    def counted(path: Path, data: bytes, *more: Any, **options: Any) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write(path, data, *more, **options)

    monkeypatch.setattr(durable, "write", counted)


WRITES = 2 + len(CONTENT)


@pytest.mark.parametrize("before", ["clear", "locked"])
@pytest.mark.parametrize("after", range(WRITES))
def test_killed_anywhere_a_change_leaves_a_folder_that_opens(
    root: Path, source: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: int
) -> None:
    fill(root, source("old") if before == "locked" else None)
    new = source("new")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        dying(patched, after)
        keyring.change(root, new, NAMES)
    if after:
        (tmp_path / "old").unlink(missing_ok=True)  # the new key alone opens it
    else:
        (tmp_path / "new").unlink()
    assert contents(root) == CONTENT
    keyring.settle(root, NAMES)
    assert contents(root) == CONTENT
    if after:
        now = kept(root)
        assert json.loads(now.pop("vault.json"))["terms"]["state"] == "settled"
        assert all(data.startswith(MAGIC) for data in now.values())


def test_a_change_is_done_after_as_many_writes_as_the_tests_kill_it_in(
    root: Path, source: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, source("old"))
    new = source("new")
    dying(monkeypatch, WRITES)
    keyring.change(root, new, NAMES)


def test_a_second_change_finishes_the_first(
    root: Path, source: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, source("old"))
    new, newest = source("new"), source("newest")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        dying(patched, 2)
        keyring.change(root, new, NAMES)
    keyring.change(root, newest, NAMES)
    for name in ("old", "new"):
        (tmp_path / name).unlink()
    assert contents(root) == CONTENT


def test_a_change_removes_what_a_crash_left_beside_a_secret(root: Path, source: Made) -> None:
    fill(root, None)
    left = root / "jobs" / "a" / ".two.0123456789abcdef"
    durable.write(left, b"an older secret in clear")
    keyring.change(root, source("new"), NAMES)
    assert not left.exists()


def test_nobody_can_make_a_locked_folder_take_files_in_clear(root: Path, source: Made) -> None:
    fill(root, source("key"))
    value = json.loads((root / "vault.json").read_bytes())
    value["terms"]["state"] = "converting"
    durable.write(root / "vault.json", canonical.encode(value))
    durable.write(root / "one", b"the attacker's key")
    with refused("state_sealed"):
        keyring.open_vault(root)
