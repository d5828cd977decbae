"""The files of a folder at one moment, while processes write to it.

Every file is written whole (``privacy.durable``), so each one is read as it was before or after a write; the
order in which they are read makes the whole of them sound: what says that something is over is read before
what must then be complete, and the event log, which is written first, is read last.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path

from cloister.privacy import durable
from cloister.privacy.errors import StateError
from cloister.privacy.evidence import files
from cloister.privacy.vault import Vault

LOG = "log/events.jsonl"


def names(root: Path, leave: Iterable[str], only_in_jobs: Iterable[str]) -> Iterator[str]:
    """Paths below a folder of the files that a backup holds.

    Args:
        root: the folder.
        leave: patterns of files that are left out.
        only_in_jobs: in ``jobs/``, patterns of the only files that are taken.
    """
    leave, only = tuple(leave), tuple(only_in_jobs)
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or not path.is_file() or path.name.startswith("."):
            continue
        if name.startswith("jobs/"):
            if any(fnmatch(name, pattern) for pattern in only):
                yield name
        elif not any(fnmatch(name, pattern) for pattern in leave):
            yield name


def content(root: Path, name: str, secrets: Iterable[str], vault: Vault) -> bytes:
    """One file; secrets in clear, SQLite files and logs as of one moment."""
    path = root / name
    if any(fnmatch(name, pattern) for pattern in secrets):
        return vault.read(path)
    if name.endswith(".sqlite"):
        return _database(path)
    if path.name == files.EVENTS:
        return whole_lines(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateError("state_missing", f"{path} cannot be read: {error.strerror}.") from error


def whole_lines(path: Path) -> bytes:
    """The events that were written; a line that is being written is not among them."""
    with path.open("rb") as file:
        data = file.read(files.written(path.parent))
    return data[: data.rfind(b"\n") + 1]


def late_heads(root: Path, found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Heads of the log that were signed while the files were read, of no more events than its copy has."""
    size, heads = found[LOG].count(b"\n"), (root / LOG).parent / files.HEADS
    late = (path for path in sorted(heads.glob("*")) if path.stem.isdigit() and int(path.stem) <= size)
    named = ((path.relative_to(root).as_posix(), path) for path in late)
    return {name: path.read_bytes() for name, path in named if name not in found}


def _database(path: Path) -> bytes:
    """A consistent copy by SQLite's own backup, which waits for nobody."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".backup-") as place:
            copy = Path(place) / "copy"
            opened = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
            with closing(opened) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")
            return copy.read_bytes()
    except sqlite3.DatabaseError as error:
        raise StateError("state_damaged", f"{path.name} cannot be copied: {error}.") from error
    except OSError as error:
        raise durable.unwritable(path, error) from error


def unpack(root: Path, found: dict[str, bytes], secrets: Iterable[str], vault: Vault) -> None:
    """Writes the files of a backup into a new folder, secrets as its vault keeps them.

    Raises:
        StateError: ``state_unwritable`` or ``disk_full``.
    """
    patterns = tuple(secrets)
    for name, data in sorted(found.items()):
        path = root / name
        durable.private_folder(path.parent)
        if any(fnmatch(name, pattern) for pattern in patterns):
            vault.write(path, data)
        else:
            durable.write(path, data)
