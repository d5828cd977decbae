"""``vault.json``: where the key of a locked folder is, and the key of its files under that key.

The files of a folder are encrypted under a random key (``privacy.vault``). ``vault.json`` holds it, encrypted
with AES-256-GCM under what scrypt makes of the source's secret; everything else in ``vault.json`` is in clear
and is associated data. A secret that is not the right one fails at the tag, so the tag is the check value.

A change of the key encrypts every file anew. It begins with one write of ``vault.json``, which then holds
the new key and the old one, both under the new source: killed before, the folder opens with the old source,
killed after, with the new one. ``settle`` finishes what was interrupted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, ValidationError

from cloister.privacy import canonical, durable, folder
from cloister.privacy.errors import StateError, UsageError
from cloister.privacy.frozen import Part
from cloister.privacy.keysource import KeySource
from cloister.privacy.vault import CLEAR, KEY, NONCE, Locked, Vault

FILE = "vault.json"
_COST = 1 << 17
"""scrypt's n: 128 MiB and a third of a second for each guess."""
_CONTEXT = b"cloister/vault-keys/1\n"
_ID, _SALT = 16, 32

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$")]
State = Literal["settled", "changing", "converting"]


class Stretch(Part):
    """scrypt's parameters (RFC 7914)."""

    n: Annotated[int, Field(ge=1 << 14, le=1 << 20)] = _COST
    r: Literal[8] = 8
    p: Literal[1] = 1
    salt: Hex

    @classmethod
    def fresh(cls) -> Self:
        """Parameters of today with a new salt."""
        return cls(n=_COST, salt=secrets.token_hex(_SALT))

    def key(self, secret: bytes) -> bytes:
        """The key that a source's secret makes; raises ``ValueError`` where n is no power of two."""
        return Scrypt(bytes.fromhex(self.salt), KEY, self.n, self.r, self.p).derive(secret)


class Terms(Part):
    """What ``vault.json`` says in clear.

    Attributes:
        id: of the folder; files of another folder do not decrypt in it.
        source: where the key is.
        scrypt: how the source's secret becomes a key.
        state: ``changing`` while files are under two keys, ``converting`` while some are in clear.
    """

    version: Literal[1] = 1
    id: Annotated[Hex, Field(min_length=2 * _ID, max_length=2 * _ID)]
    source: str
    scrypt: Stretch
    state: State

    @property
    def bound(self) -> bytes:
        """Associated data of the keys."""
        return _CONTEXT + canonical.encode(self.model_dump(mode="json"))


class Ring(Part):
    """``vault.json``: the terms, and under them the key of the files, then in a change the one before."""

    terms: Terms
    nonce: Annotated[Hex, Field(min_length=2 * NONCE, max_length=2 * NONCE)]
    keys: Hex


def create(root: Path, source: KeySource | None) -> Vault:
    """The vault of a new folder: open, or locked with a new key.

    Raises:
        StateError: ``state_sealed`` or ``permissions``, the source gives nothing; or it cannot be written.
    """
    if source is None:
        return CLEAR
    return _keep(root, source, secrets.token_bytes(_ID), "settled", secrets.token_bytes(KEY))


def open_vault(root: Path) -> Vault:
    """The vault of a folder that is there.

    Raises:
        StateError: ``state_sealed``, the key is missing or another; ``permissions``; ``state_damaged``.
    """
    return _unlock(root, ring) if (ring := _read(root)) else CLEAR


def change(root: Path, source: KeySource, names: Iterable[str]) -> None:
    """Encrypts the secrets of a folder under a new key, whether they were in clear or under another one.

    The caller holds the folder. Whatever is unreadable stops the change before it begins.

    Args:
        root: the folder.
        source: where the new key comes from.
        names: patterns of all its secret files.

    Raises:
        StateError: as ``open_vault``, or a file cannot be read or written.
    """
    patterns = tuple(names)
    settle(root, patterns)
    now = open_vault(root)
    for path in _files(root, patterns):
        now.read(path)
    key = secrets.token_bytes(KEY)
    if isinstance(now, Locked):
        _keep(root, source, now.id, "changing", key + now.key)
    else:
        _keep(root, source, secrets.token_bytes(_ID), "converting", key)
    settle(root, patterns)


def settle(root: Path, names: Iterable[str]) -> None:
    """Finishes a change of the key that was interrupted; does nothing otherwise.

    Raises:
        StateError: as ``change``.
    """
    ring = _read(root)
    if ring is None or ring.terms.state == "settled":
        return
    vault = _unlock(root, ring)
    for path in _files(root, names):
        durable.sweep(path)
        vault.write(path, vault.read(path))
    _keep(root, _source(root, ring), vault.id, "settled", vault.key)


def _files(root: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        yield from sorted(root.glob(name))


def _keep(root: Path, source: KeySource, folder_id: bytes, state: State, keys: bytes) -> Locked:
    """Writes ``vault.json``."""
    secret = source.secret(root)
    stretch = Stretch.fresh()
    terms = Terms(id=folder_id.hex(), source=str(source), scrypt=stretch, state=state)
    nonce = secrets.token_bytes(NONCE)
    wrapped = AESGCM(stretch.key(secret)).encrypt(nonce, keys, terms.bound)
    ring = Ring(terms=terms, nonce=nonce.hex(), keys=wrapped.hex())
    durable.write(root / FILE, canonical.encode(ring.model_dump(mode="json")))
    return _locked(root, terms, keys)


def _locked(root: Path, terms: Terms, keys: bytes) -> Locked:
    converting = terms.state == "converting"
    return Locked(root, bytes.fromhex(terms.id), keys[:KEY], keys[KEY:] or None, converting)


def _read(root: Path) -> Ring | None:
    path = root / FILE
    if not path.exists():
        return None
    try:
        return Ring.model_validate(folder.read_json(path))
    except ValidationError as error:
        raise _damaged(root) from error


def _damaged(root: Path) -> StateError:
    return StateError("state_damaged", f"{root / FILE} is damaged.", "Restore it from a backup.")


def _source(root: Path, ring: Ring) -> KeySource:
    kind, _, value = ring.terms.source.partition(":")
    try:
        return KeySource(kind, value)
    except UsageError as error:
        raise _damaged(root) from error


def _unlock(root: Path, ring: Ring) -> Locked:
    secret = _source(root, ring).secret(root)
    nonce, wrapped = bytes.fromhex(ring.nonce), bytes.fromhex(ring.keys)
    try:
        keys = AESGCM(ring.terms.scrypt.key(secret)).decrypt(nonce, wrapped, ring.terms.bound)
    except InvalidTag as error:
        raise StateError(
            "state_sealed",
            f"The key from {ring.terms.source} does not open {root}.",
            "Give back the key that it was locked with, or restore vault.json.",
        ) from error
    except ValueError as error:
        raise _damaged(root) from error
    if len(keys) != (2 if ring.terms.state == "changing" else 1) * KEY:
        raise _damaged(root)
    return _locked(root, ring.terms, keys)
