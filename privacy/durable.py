"""Files that are either whole or absent, whatever crashes.

A file is written beside its place, synced, renamed over it, and the folder is synced. A reader sees
the old bytes or the new ones, never a part.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
from pathlib import Path

from cloister.privacy.errors import StateError

_UNIQUE = 8


def write(path: Path, data: bytes, mode: int = 0o600, *, sync: bool = True) -> None:
    """Writes a whole file atomically and, unless ``sync`` is False, durably.

    Without ``sync`` a reader still never sees a part, but the newest text may be lost with the power:
    for what is only shown, never for what is relied on.

    Raises:
        StateError: ``disk_full`` or ``state_unwritable``; the file is still the old one, or the new one
            where nothing but syncing its folder failed.
    """
    # A name of its own for every call: neither two threads nor what a crash left can get in the way.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(_UNIQUE)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def sweep(path: Path) -> None:
    """Removes what a crash in the middle of ``write`` left beside a file that has one writer.

    Raises:
        StateError: ``state_unwritable``.
    """
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 2 * _UNIQUE}"
    try:
        for partial in path.parent.glob(pattern):
            partial.unlink()
    except OSError as error:
        raise unwritable(path, error) from error


def sync_folder(folder: Path) -> None:
    """Makes a rename or a new name in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full(error: OSError) -> bool:
    """Whether a write failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unwritable(path: Path, error: OSError) -> StateError:
    """The typed error for a failed write."""
    if full(error):
        return StateError(
            "disk_full", f"The disk is full: {path} was not written.", "Make room; nothing was lost."
        )
    return StateError(
        "state_unwritable",
        f"{path} cannot be written: {error.strerror}.",
        "Check the folder's owner and mode.",
    )


def private_folder(path: Path) -> None:
    """Makes a folder, and those above it, that only its owner can enter; what exists stays as it is.

    Raises:
        StateError: ``disk_full`` or ``state_unwritable``.
    """
    if path.is_dir():
        return
    private_folder(path.parent)  # with ``parents``, mkdir would let everybody enter those
    try:
        path.mkdir(exist_ok=True, mode=0o700)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
