"""CSV and JSON lines, both strict, read row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cloister.client.site.sources import cells, files
from cloister.privacy.errors import InputError

_LONGEST_LINE = 16 * cells.MOST_CHARACTERS


class Csv:
    """All cells as text: a label ``01`` stays ``01`` and a text ``NA`` is a text."""

    ordered = True

    def __init__(self, file: IO[str]) -> None:
        csv.field_size_limit(2 * cells.MOST_CHARACTERS)  # what is a little too long gets the clearer error
        self._lines = csv.reader(file, strict=True)
        self.columns: Sequence[str] = next(self._lines, [])

    def rows(self, names: Sequence[str]) -> Generator[Sequence[str], None, None]:
        """See ``Table``. An unquoted comma would move a text into the label: such a row is a fault."""
        places = [self.columns.index(name) for name in names]
        for row in self._lines:
            if row and len(row) != len(self.columns):
                raise ValueError("a row has another number of fields than the header")
            if row:
                yield [row[place] for place in places]


class JsonLines:
    """One object a line. A key that a line lacks is a cell without a value."""

    ordered = True

    def __init__(self, file: IO[str], title: str) -> None:
        self._file, self._title = file, title
        self.columns: Sequence[str] = list(dict.fromkeys(key for row in self._objects() for key in row))

    def rows(self, names: Sequence[str]) -> Generator[Sequence[object], None, None]:
        """See ``Table``."""
        for row in self._objects():
            yield [row.get(name) for name in names]

    def _objects(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        while line := self._file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE and not line.endswith("\n"):
                raise ValueError("a line is too long")
            if line.strip():
                yield self._object(line)

    def _object(self, line: str) -> dict[str, Any]:
        value = json.loads(line, object_pairs_hook=self._pairs, parse_constant=_refuse)
        if not isinstance(value, dict):
            raise ValueError("a line is no object")
        return value

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InputError(
                "column_twice",
                f"{self._title} has a line that names a key twice.",
                "Keep one of them.",
            )
        return found


@contextmanager
def delimited(path: Path) -> Iterator[Csv]:
    """An open CSV file."""
    with files.text(path) as file:
        yield Csv(file)


@contextmanager
def lines(path: Path) -> Iterator[JsonLines]:
    """An open file of JSON lines."""
    with files.text(path) as file:
        yield JsonLines(file, str(path))


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
