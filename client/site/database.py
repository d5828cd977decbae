"""SQLite files of a site: every commit is on the disk before it returns, every failure has a name.

Write-ahead logging with full syncs; a connection per use, so that threads and processes share nothing
but the file. Whoever uses a file again and again holds it open meanwhile (``held``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cloister.privacy.durable import sync_folder, unwritable
from cloister.privacy.errors import StateError

WAIT_S = 30.0
"""How long to wait for another process that writes."""

_LOG_PAGES = 100
"""After so many pages (of 4 KiB) the write-ahead log is folded into the file, also while others hold it."""
_CACHE_PAGES = 32
"""So many a connection keeps in memory: sums run through whole tables, and those only grow."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_SCHEMA)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for reading; the file is made, mode 0600, if it does not exist.

    Raises:
        StateError: ``state_unwritable``, ``state_damaged``, ``state_locked`` or ``disk_full``.
    """
    try:
        if not path.exists():
            path.touch(mode=0o600)
            sync_folder(path.parent)
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            database.execute(f"PRAGMA cache_size = {_CACHE_PAGES}")
            yield database
    except sqlite3.DatabaseError as error:
        raise _named(error, path) from error
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keeps the file open: SQLite folds the write-ahead log into it, with several syncs, at its last close.

    Uses inside then sync once each. What is committed is as durable as ever; a process that is killed leaves
    the log beside the file, for the next one to go on with.

    Raises:
        StateError: as ``reading``.
    """
    with reading(path) as database:
        database.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
        yield


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction under the write lock: committed at the end, undone by whatever is raised inside.

    Raises:
        StateError: as ``reading``.
    """
    with reading(path) as database:
        database.execute("BEGIN IMMEDIATE")
        yield database
        database.execute("COMMIT")


def _named(error: sqlite3.DatabaseError, path: Path) -> StateError:
    """What SQLite's primary result code means for the person at this machine."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StateError("disk_full", f"The disk is full; {path.name} was not changed.", "Make room first.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StateError("state_locked", f"Another process holds {path.name}.", "Try again when it is done.")
    if code in _DAMAGED:
        return StateError("state_damaged", f"{path.name} is not what it should be: {error}.")
    return StateError(
        "state_unwritable", f"{path.name} cannot be used: {error}.", "Check the folder's owner and mode."
    )
