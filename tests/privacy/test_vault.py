"""Secret files: their bytes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import durable
from cloister.privacy.errors import StateError
from cloister.privacy.vault import CLEAR, MAGIC, NONCE, Locked, Vault, bound, read_json, sealed, unsealed

VECTORS = Path(__file__).parents[1] / "vectors" / "vault"
GOOD = json.loads((VECTORS / "vault.json").read_text())
BROKEN = json.loads((VECTORS / "vault_broken.json").read_text())["files"]
KEY, ID = bytes.fromhex(GOOD["key"]), bytes.fromhex(GOOD["id"])
OTHER = bytes(32)


def refused(error_id: str) -> Any:
    return pytest.raises(StateError, check=lambda error: error.id == error_id)


@pytest.fixture
def vault(tmp_path: Path) -> Locked:
    return Locked(tmp_path, ID, KEY)


def test_a_file_has_the_agreed_bytes() -> None:
    place, nonce = bound(ID, GOOD["name"]), bytes.fromhex(GOOD["nonce"])
    assert sealed(KEY, place, GOOD["content"].encode(), nonce).hex() == GOOD["file"]
    assert sealed(KEY, place, b"", nonce).hex() == GOOD["empty"]
    assert unsealed(KEY, place, bytes.fromhex(GOOD["file"])).decode() == GOOD["content"]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["what"])
def test_other_bytes_do_not_open(case: dict[str, str], tmp_path: Path) -> None:
    key, folder_id, data = (bytes.fromhex(case[part]) for part in ("key", "id", "file"))
    with pytest.raises(InvalidTag):
        unsealed(key, bound(folder_id, case["name"]), data)
    path = tmp_path / case["name"]
    durable.private_folder(path.parent)
    durable.write(path, data)
    with refused("state_damaged"):
        Locked(tmp_path, folder_id, key).read(path)


@given(st.binary(max_size=200))
def test_what_was_sealed_opens(data: bytes) -> None:
    assert unsealed(KEY, b"place", sealed(KEY, b"place", data, bytes(NONCE))) == data


@pytest.mark.parametrize("kind", ["clear", "locked"])
def test_every_vault_reads_what_it_wrote(kind: str, vault: Locked, tmp_path: Path) -> None:
    found: Vault = vault if kind == "locked" else CLEAR
    path = tmp_path / "secret"
    for data in (b"", b"one", b"\0" * 70_000, b'{"a":1}'):
        found.write(path, data)
        assert found.read(path) == data
        assert path.stat().st_mode & 0o777 == 0o600
    assert read_json(found, path) == {"a": 1}
    found.write(path, b'{ "a": 1}')
    with refused("state_damaged"):
        read_json(found, path)
    path.chmod(0o640)
    with refused("permissions"):
        found.read(path)
    path.unlink()
    with refused("state_missing"):
        found.read(path)
    assert [*tmp_path.iterdir()] == []


def test_each_write_takes_a_new_nonce(vault: Locked) -> None:
    path, seen = vault.root / "secret", set()
    for _ in range(20):
        vault.write(path, b"the same")
        seen.add(path.read_bytes()[len(MAGIC) :][:NONCE])
        assert b"the same" not in path.read_bytes()
    assert len(seen) == 20


def test_files_cannot_be_swapped_or_moved(vault: Locked, tmp_path: Path) -> None:
    one, other = vault.root / "one", vault.root / "other"
    vault.write(one, b"first")
    vault.write(other, b"second")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    for path in (one, other):
        with refused("state_damaged"):
            vault.read(path)
    one.write_bytes(first)
    assert vault.read(one) == b"first"
    with refused("state_damaged"):
        Locked(tmp_path, bytes(16), KEY).read(one)


def test_a_whole_folder_can_be_moved(vault: Locked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "jobs").mkdir(parents=True)
    Locked(tmp_path / "a", ID, KEY).write(tmp_path / "a" / "jobs" / "secret", b"kept")
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert Locked(Path("b"), ID, KEY).read(tmp_path / "b" / "jobs" / "secret") == b"kept"
    assert Locked(tmp_path / "b", ID, KEY).read(Path("b/jobs/secret")) == b"kept"


def test_a_file_in_clear_is_taken_only_while_converting(vault: Locked) -> None:
    path = vault.root / "secret"
    CLEAR.write(path, b"in clear")
    with refused("state_damaged"):
        vault.read(path)
    converting = Locked(vault.root, ID, KEY, converting=True)
    assert converting.read(path) == b"in clear"
    converting.write(path, b"in clear")
    assert vault.read(path) == b"in clear"


def test_while_the_key_changes_both_keys_read_and_the_new_one_writes(vault: Locked) -> None:
    path = vault.root / "secret"
    Locked(vault.root, ID, OTHER).write(path, b"old")
    changing = Locked(vault.root, ID, KEY, before=OTHER)
    assert changing.read(path) == b"old"
    changing.write(path, b"new")
    assert vault.read(path) == b"new"
    with refused("state_damaged"):
        Locked(vault.root, ID, OTHER).read(path)


def test_a_folder_that_lost_its_vault_file_is_not_taken_for_an_open_one(vault: Locked) -> None:
    path = vault.root / "secret"
    vault.write(path, b"kept")
    with refused("state_sealed"):
        CLEAR.read(path)


def test_a_failed_write_leaves_the_old_secret(vault: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    path = vault.root / "secret"
    vault.write(path, b"old")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with refused("disk_full"):
            vault.write(path, b"new")
    assert vault.read(path) == b"old"
    assert [*vault.root.iterdir()] == [path]


def test_what_is_too_large_is_refused_before_anything_is_written(
    vault: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.privacy.vault._LIMIT", 3)
    with refused("state_unwritable"):
        vault.write(vault.root / "secret", b"1234")
    assert [*vault.root.iterdir()] == []


def test_no_key_is_shown(vault: Locked) -> None:
    shown = repr(Locked(vault.root, ID, KEY, before=OTHER))
    assert repr(KEY) not in shown
    assert KEY.hex() not in shown
    assert repr(OTHER) not in shown
