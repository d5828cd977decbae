"""Figures of long runs, kept one by one: after ``kill -9`` only what is missing is run again.

::

    DIR/about.json    what the figures are of; a folder of anything else is refused
    DIR/NAME.json     what one run came to, whole or absent
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cloister.privacy import canonical, durable, folder
from cloister.privacy.errors import StateError, UsageError

Numbers = Mapping[str, float]

_MARK = "about.json"
_NUMBERS: TypeAdapter[dict[str, float]] = TypeAdapter(dict[str, float])


@dataclass(frozen=True)
class Kept:
    """A folder of figures.

    Attributes:
        path: where it is; None keeps nothing.
    """

    path: Path | None

    @contextmanager
    def held(self, about: canonical.Json) -> Iterator[None]:
        """Holds the folder for one process, new or begun by a run about the very same.

        Args:
            about: everything that decides what a run comes to.

        Raises:
            UsageError: ``folder_in_use``, something else is in it.
            StateError: ``state_locked``, ``state_damaged``, ``disk_full``, ``state_unwritable``.
        """
        if self.path is None:
            yield
            return
        content, mark = canonical.encode(about), self.path / _MARK
        if not mark.exists() and self.path.exists():
            self._unclaimed(self.path)
        durable.private_folder(self.path)
        with folder.hold(self.path / ".lock"):
            if not mark.exists():
                durable.write(mark, content)
            elif _content(mark) != content:
                raise UsageError(
                    "folder_in_use",
                    f"{self.path} holds figures of other data, settings or another version of Cloister.",
                    "Name another folder with --out.",
                )
            for partial in self.path.glob(".*.json.*"):  # of a write that was killed
                partial.unlink()
            yield

    def run(self, name: str, figures: Collection[str], what: Callable[[], Numbers]) -> dict[str, float]:
        """What a run came to: read where it was run before, else run and kept.

        Args:
            name: of the run, part of a file's name.
            figures: what they are called.
            what: runs it.

        Raises:
            StateError: ``state_damaged``, ``disk_full``, ``state_unwritable``.
        """
        if self.path is None:
            return dict(what())
        path = self.path / f"{name}.json"
        if not path.exists():
            durable.write(path, _NUMBERS.dump_json(dict(what())), mode=0o644)
        try:
            found = _NUMBERS.validate_json(_content(path))
        except ValidationError as error:
            raise _damaged(path) from error
        if set(found) != set(figures):
            raise _damaged(path)
        return found

    def _unclaimed(self, path: Path) -> None:
        """Without a mark a folder may hold the lock of a process that was killed at once, and no more."""
        if not path.is_dir() or any(each.name[:1] != "." for each in path.iterdir()):
            raise UsageError(
                "folder_in_use", f"{path} holds something else.", "Name a new folder with --out."
            )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> StateError:
    return StateError("state_damaged", f"{path} is damaged.", "Delete it, or name another folder with --out.")
