"""The files of a log: lines of ``events.jsonl``, and one file per signed head under ``heads/``: ``.head``, or
``.light`` for a light one.

Nothing here decides; what cannot be written becomes ``LogError`` with the id ``log_unwritable``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloister.privacy import durable
from cloister.privacy.errors import LogError, StateError
from cloister.privacy.evidence.events import LINE_LIMIT, malformed
from cloister.privacy.evidence.heads import NOTE_LIMIT, SignedHead

EVENTS, HEADS = "events.jsonl", "heads"
_LOST = "lost"


@contextmanager
def refusing_unwritable() -> Iterator[None]:
    """Turn any failure of the operating system into ``log_unwritable``."""
    try:
        yield
    except OSError as error:
        if durable.full(error):
            raise unwritable("The disk is full: the event log was not written.") from error
        raise unwritable(f"The event log cannot be written: {error.strerror}.") from error


def unwritable(what: str) -> LogError:
    """The error for a log that cannot be written."""
    return LogError("log_unwritable", what, "Free disk space or correct the permissions; nothing was done.")


def begin(folder: Path) -> None:
    """Make the folder and an empty log where there is none, readable by the owner only."""
    with refusing_unwritable():
        (folder / HEADS).mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(folder / EVENTS, os.O_CREAT | os.O_WRONLY, 0o600))
        durable.sync_folder(folder)


def lock(folder: Path) -> int:
    """Descriptor of the events file, open for appending and locked against everybody else.

    A new descriptor each time: ``flock`` belongs to the open file, so that two threads or a forked
    child that shared one would not exclude each other.
    """
    with refusing_unwritable():
        file = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file


def unlock(file: int) -> None:
    """Release the lock, also where a forked child still holds the descriptor."""
    fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def written(folder: Path) -> int:
    """Bytes of the events file at a moment when nobody is writing."""
    with (folder / EVENTS).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        return os.fstat(file.fileno()).st_size


def lines(folder: Path, start: int, end: int) -> Iterator[bytes]:
    """Lines between two offsets, each with its newline; the last may lack it.

    Raises:
        LogError: ``event_malformed``, a line is longer than ``LINE_LIMIT``.
    """
    with (folder / EVENTS).open("rb") as file:
        file.seek(start)
        while start < end:
            line = file.readline(min(LINE_LIMIT + 1, end - start))
            if len(line) > LINE_LIMIT:
                raise malformed("A line of the log is too long.")
            if not line:
                return
            start += len(line)
            yield line


def write(file: int, data: bytes) -> None:
    """Write all of ``data``, or raise ``OSError``."""
    while data:
        data = data[os.write(file, data) :]


def lose(folder: Path) -> None:
    """Leaves a mark that an event could not be written, if that much can be: an empty file takes no room."""
    with suppress(OSError):
        os.close(os.open(folder / _LOST, os.O_CREAT | os.O_WRONLY, 0o600))


def lost(folder: Path) -> bool:
    """Whether that mark is there."""
    return (folder / _LOST).exists()


def found(folder: Path) -> None:
    """Takes the mark away, once the log says so itself."""
    with refusing_unwritable():
        (folder / _LOST).unlink(missing_ok=True)


def head_path(folder: Path, size: int, *, light: bool = False) -> Path:
    """Where the head of a size is stored."""
    return folder / HEADS / f"{size:015d}.{'light' if light else 'head'}"


def read_head(path: Path) -> SignedHead:
    """A stored head.

    Raises:
        LogError: ``head_invalid``.
    """
    with path.open("rb") as file:
        return SignedHead.parse(file.read(NOTE_LIMIT + 1))


def write_head(folder: Path, head: SignedHead) -> None:
    """Store a head, whole or not at all."""
    try:
        durable.write(head_path(folder, head.size, light=head.light), head.serialise())
    except StateError as error:
        raise unwritable(error.what) from error


def stored_heads(folder: Path, *, light: bool = False) -> tuple[SignedHead, ...]:
    """All heads under ``heads/`` of one weight, smallest first; not verified.

    Raises:
        LogError: ``head_invalid``.
    """
    return tuple(map(read_head, sorted((folder / HEADS).glob("*.light" if light else "*.head"))))


def newest_head(folder: Path) -> tuple[SignedHead, ...]:
    """The largest head under ``heads/``, of either weight, if there is one; not verified.

    Raises:
        LogError: ``head_invalid``.
    """
    found = (path for kind in ("*.head", "*.light") for path in (folder / HEADS).glob(kind))
    return tuple(map(read_head, sorted(found)[-1:]))
