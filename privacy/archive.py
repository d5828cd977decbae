"""A backup: the files of a folder in one encrypted file, with a manifest of their digests.

::

    "cloister-backup/1\\n"   the form
    one line               canonical JSON: kind, name, where the key is, scrypt's parameters
    a sealed body          as a secret file of a folder (``privacy.vault``); the line is associated data

The body is a ZIP file whose first entry is ``manifest.json``: path -> digest of every other entry.

Formal guarantees:
    Under the assumption that AES-256-GCM is a secure AEAD, whoever has the file without its key learns its
    length and its first lines, and a file that such a person wrote, cut or altered is refused.
"""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from cryptography.exceptions import InvalidTag
from pydantic import ValidationError

from cloister.privacy import canonical, durable
from cloister.privacy.clauses import Name
from cloister.privacy.errors import StateError, UsageError
from cloister.privacy.frozen import Part
from cloister.privacy.keyring import Stretch
from cloister.privacy.keysource import KeySource
from cloister.privacy.vault import NONCE, sealed, unsealed

MAGIC = b"cloister-backup/1\n"
MANIFEST = "manifest.json"
_LINE = 4096
_MOST = (1 << 31) - (1 << 20)
_EPOCH = (1980, 1, 1, 0, 0, 0)

Kind = Literal["site", "lead"]


class Label(Part):
    """What the first line says in clear."""

    version: Literal[1] = 1
    kind: Kind
    name: Name
    source: str
    scrypt: Stretch


def write(path: Path, kind: Kind, name: str, files: Mapping[str, bytes], source: KeySource) -> None:
    """Writes a backup, whole or not at all, for its owner only.

    Args:
        path: the file; there must be none.
        kind: whose folder it is.
        name: of the party.
        files: path below the folder -> content.
        source: where the key of the backup comes from.

    Raises:
        UsageError: ``folder_in_use``.
        StateError: ``state_sealed``, the source gives nothing; ``state_unwritable`` or ``disk_full``.
    """
    if path.exists():
        raise UsageError("folder_in_use", f"{path} is there already.", "Name another file with --out.")
    label = Label(kind=kind, name=name, source=str(source), scrypt=Stretch.fresh())
    line = canonical.encode(label.model_dump(mode="json")) + b"\n"
    body = _packed(files)
    if len(body) > _MOST:
        raise StateError(
            "state_unwritable", "The backup would be larger than 2 GiB.", "Remove old jobs first."
        )
    key = label.scrypt.key(source.secret(path))
    durable.write(path, MAGIC + line + sealed(key, line, body, secrets.token_bytes(NONCE)))


def read(path: Path, kind: Kind, source: KeySource | None = None) -> tuple[Label, dict[str, bytes]]:
    """The files of a backup, every one as the manifest says.

    Args:
        path: the file.
        kind: of folder that is expected.
        source: where its key is now, if not where it was.

    Raises:
        StateError: ``backup_damaged``; ``state_sealed``, the key is missing or another.
        UsageError: ``option_invalid``, it is the backup of another kind of folder.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(f"{path} cannot be read: {error.strerror}.") from error
    line, label = _label(data, path)
    if label.kind != kind:
        raise UsageError("option_invalid", f"{path} is the backup of a {label.kind}, not of a {kind}.")
    try:
        origin = source or KeySource(*label.source.split(":", 1))
        key = label.scrypt.key(origin.secret(path))
        body = unsealed(key, line, data[len(MAGIC) + len(line) :])
    except InvalidTag as error:
        raise StateError(
            "state_sealed",
            f"The key does not open {path}, or the file was cut or altered.",
            "Name the key that it was made with: --key.",
        ) from error
    except (UsageError, ValueError, TypeError) as error:
        raise _damaged(f"{path} names no key that can be used.") from error
    return label, _unpacked(body, path)


def _label(data: bytes, path: Path) -> tuple[bytes, Label]:
    refusal = _damaged(f"{path} is not a backup.")
    end = data.find(b"\n", len(MAGIC), len(MAGIC) + _LINE)
    if not data.startswith(MAGIC) or end < 0:
        raise refusal
    line = data[len(MAGIC) : end + 1]
    try:
        return line, Label.model_validate(canonical.decode(line[:-1], otherwise=refusal))
    except ValidationError as error:
        raise refusal from error


def _packed(files: Mapping[str, bytes]) -> bytes:
    """The same files always give the same bytes."""
    manifest = {name: canonical.digest(data) for name, data in files.items()}
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [(MANIFEST, canonical.encode(manifest)), *sorted(files.items())]:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return held.getvalue()


def _unpacked(body: bytes, path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise _damaged(f"{path} holds no files.") from error
    manifest = canonical.decode(found.pop(MANIFEST, b""), otherwise=_damaged(f"{path} has no manifest."))
    if manifest != {name: canonical.digest(data) for name, data in found.items()}:
        raise _damaged(f"The files in {path} are not those of its manifest.")
    for name in found:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name:
            raise _damaged(f"{path} names a file outside its folder.")
    return found


def _damaged(what: str) -> StateError:
    return StateError("backup_damaged", what, "Use another backup.")
