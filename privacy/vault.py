"""Secret files of a folder: in clear, or encrypted under a key that is not beside them.

A folder that names no key has the vault ``Open``: its secrets are files of mode 0600. One that names a key
(``privacy.keyring``) has a ``Locked`` vault, in which a secret file is::

    "cloister-vault/1\\n"   17 bytes
    nonce                  12 bytes, fresh at every write
    AES-256-GCM            the content, and a tag of 16 bytes

The folder's id and the file's name below the folder are associated data.

Formal guarantees:
    Under the assumption that AES-256-GCM is a secure AEAD, whoever has the files of a locked folder without
    its key learns the lengths of the secrets and which of them changed, and a file that such a person wrote,
    cut, or moved to another name or folder is refused. An older version of a file, put back under its own
    name, is not recognised. Nonces are random: a key stands for far fewer than 2^32 writes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.privacy import canonical, durable, folder
from cloister.privacy.errors import StateError

MAGIC = b"cloister-vault/1\n"
KEY, NONCE = 32, 12
_BACKUP = "Restore it from a backup."
_LIMIT = (1 << 31) - 1  # bytes that OpenSSL encrypts in one call


class Vault(Protocol):
    """Reads and writes the secret files of one folder."""

    def read(self, path: Path, otherwise: str = _BACKUP) -> bytes:
        """The content of a secret file.

        Args:
            path: the file, which must be there.
            otherwise: what to do if it is missing.

        Raises:
            StateError: ``state_missing``, ``permissions``, ``state_damaged``, ``state_sealed``.
        """
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Writes a whole secret file, atomically and synced.

        Raises:
            StateError: ``state_unwritable`` or ``disk_full``.
        """
        ...


@dataclass(frozen=True)
class Open:
    """No encryption: files for their owner only."""

    def read(self, path: Path, otherwise: str = _BACKUP) -> bytes:
        """See ``Vault``; raises ``state_sealed`` for a file of a locked folder."""
        data = folder.read(path, otherwise)
        if data.startswith(MAGIC):
            raise StateError(
                "state_sealed",
                f"{path} is encrypted, but its folder names no key.",
                "Restore vault.json from a backup.",
            )
        return data

    def write(self, path: Path, data: bytes) -> None:
        """See ``Vault``."""
        durable.write(path, data)


CLEAR = Open()


@dataclass(frozen=True)
class Locked:
    """Every secret is encrypted; a file in clear is refused.

    Attributes:
        root: the folder.
        id: its id, 16 bytes.
        key: of its files, 32 bytes.
        before: while the key is being changed, that of files that were not reached yet.
        converting: files in clear are taken, because they are being encrypted for the first time.
    """

    root: Path
    id: bytes
    key: bytes = field(repr=False)
    before: bytes | None = field(default=None, repr=False)
    converting: bool = False

    def read(self, path: Path, otherwise: str = _BACKUP) -> bytes:
        """See ``Vault``."""
        data = folder.read(path, otherwise)
        if not data.startswith(MAGIC):
            if self.converting:
                return data
            raise StateError("state_damaged", f"{path} is not encrypted, but its folder is locked.", _BACKUP)
        for key in filter(None, (self.key, self.before)):
            try:
                return unsealed(key, self._bound(path), data)
            except InvalidTag:
                continue
        raise StateError("state_damaged", f"{path} does not decrypt: it was cut, altered or moved.", _BACKUP)

    def write(self, path: Path, data: bytes) -> None:
        """See ``Vault``."""
        if len(data) > _LIMIT:
            raise StateError(
                "state_unwritable", f"{path} is too large to be encrypted.", "Train fewer parameters."
            )
        durable.write(path, sealed(self.key, self._bound(path), data, secrets.token_bytes(NONCE)))

    def _bound(self, path: Path) -> bytes:
        return bound(self.id, path.absolute().relative_to(self.root.absolute()).as_posix())


def bound(folder_id: bytes, name: str) -> bytes:
    """The associated data of a file; the id has a fixed size, so no two files have the same."""
    return MAGIC + folder_id + name.encode()


def sealed(key: bytes, associated: bytes, data: bytes, nonce: bytes) -> bytes:
    """The bytes of a secret file."""
    return MAGIC + nonce + AESGCM(key).encrypt(nonce, data, associated)


def unsealed(key: bytes, associated: bytes, data: bytes) -> bytes:
    """The content of a secret file.

    Raises:
        InvalidTag: another key, another place, or bytes that were altered.
    """
    if not data.startswith(MAGIC):
        raise InvalidTag
    nonce, body = data[len(MAGIC) :][:NONCE], data[len(MAGIC) + NONCE :]
    if len(nonce) != NONCE:
        raise InvalidTag
    return AESGCM(key).decrypt(nonce, body, associated)


def read_json(vault: Vault, path: Path) -> Any:
    """The canonical JSON in a secret file; raises ``state_damaged`` for anything else, or as ``read``."""
    damaged = StateError("state_damaged", f"{path} is damaged.", _BACKUP)
    return canonical.decode(vault.read(path), otherwise=damaged)
