"""What the folders of a lead and of a site have in common: one owner, one writer, private files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloister.privacy import canonical, durable
from cloister.privacy.errors import StateError, UsageError


def claim(path: Path) -> None:
    """Makes a new private folder; one that exists must be empty.

    Raises:
        UsageError: ``folder_in_use``.
        StateError: ``state_unwritable``.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("folder_in_use", f"{path} holds something already.", "Name a new folder with --dir.")
    durable.private_folder(path)
    path.chmod(0o700)


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Holds a folder's lock file; the lock ends with the process, however it ends.

    Raises:
        StateError: ``state_locked``, another process holds it.
    """
    with _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def edit(path: Path) -> Iterator[None]:
    """Waits for a lock file that others hold for the time of one change."""
    with _lock(path, fcntl.LOCK_EX):
        yield


@contextmanager
def _lock(path: Path, operation: int) -> Iterator[None]:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise durable.unwritable(path, error) from error
    try:
        try:
            fcntl.flock(file, operation)
        except BlockingIOError as error:
            raise StateError(
                "state_locked", f"Another process works in {path.parent}.", "Stop it first, or wait for it."
            ) from error
        yield
    finally:
        os.close(file)


def read(path: Path, otherwise: str = "Restore it from a backup.") -> bytes:
    """A file that must be there and that nobody else may read.

    Args:
        path: the file.
        otherwise: what to do if it is missing.

    Raises:
        StateError: ``state_missing`` or ``permissions``.
    """
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise StateError("state_missing", f"{path} cannot be read: {error.strerror}.", otherwise) from error
    if mode & 0o077:
        raise StateError("permissions", f"Others can read {path}.", f"Run: chmod 600 {path}")
    return data


def read_json(path: Path, otherwise: str = "Restore it from a backup.") -> Any:
    """The canonical JSON of such a file; raises ``state_damaged`` for anything else, or as ``read``."""
    damaged = StateError("state_damaged", f"{path} is damaged.", "Restore it from a backup.")
    return canonical.decode(read(path, otherwise), otherwise=damaged)
