"""Reading the named columns of any source as texts."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from cloister.client.site.sources import columnar, plain
from cloister.client.site.sources.cells import Texts
from cloister.client.site.sources.place import Place
from cloister.client.site.sources.table import Table
from cloister.privacy.errors import InputError

_KNOWN = "a .csv, .jsonl or .parquet file (.csv and .jsonl also as .gz), or a folder of a dataset"
_FILES: dict[str, Callable[[Path], AbstractContextManager[Table]]] = {
    ".csv": plain.delimited,
    ".jsonl": plain.lines,
    ".parquet": columnar.parquet,
}


def columns(place: Place) -> tuple[str, ...]:
    """The names of all columns; raises ``InputError`` as ``read`` does."""
    with _format_errors(place), _opened(place) as table:
        return tuple(table.columns)


def read(place: Place, names: Sequence[str], lists: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The texts of the named columns, "" where there is no value.

    Files and folders keep their order. Databases have none: their rows are sorted by their texts, so that
    the same rows come out the same way each time.

    Args:
        place: of the source.
        names: of the columns.
        lists: those whose cells may be lists, which come out as JSON.

    Raises:
        InputError: ``file_missing``, ``file_format``, ``site_empty`` (a file without a byte),
            ``source_replaced``, ``source_invalid``, ``column_missing``, ``column_twice``, ``column_type``,
            ``cell_invalid``, and for databases ``database_failed``, ``driver_missing``,
            ``password_missing``. None of them quotes a cell.
    """
    wanted = list(dict.fromkeys(names))
    with _format_errors(place), _opened(place) as table:
        _check_columns(place, table.columns, wanted)
        texts = Texts(place.title, wanted, lists)
        with closing(
            table.rows(wanted)
        ) as cells:  # a refusal in the middle ends a query, and not some time later
            rows = [texts.row(row) for row in cells]
        ordered = table.ordered
    if not ordered:
        rows.sort()
    return {name: tuple(row[number] for row in rows) for number, name in enumerate(wanted)}


def _opened(place: Place) -> AbstractContextManager[Table]:
    if place.database:
        from cloister.client.site.sources import database

        return database.opened(place)
    path = Path(place.location)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = "".join(suffixes[-2:-1] if packed else suffixes[-1:])
    if kind in _FILES and not (packed and kind == ".parquet"):
        return _FILES[kind](path)
    if path.is_dir():
        return columnar.folder(path)
    raise InputError("file_format", f"{path} is of a format that is not read.", f"Give {_KNOWN}.")


@contextmanager
def _format_errors(place: Place) -> Iterator[None]:
    """Failures to parse as ``file_format``, without the parser's words: they may quote records."""
    try:
        yield
    except (ValueError, EOFError, RecursionError, csv.Error, gzip.BadGzipFile, zlib.error, OSError):
        raise InputError(
            "file_format", f"{place.title} is not what it says, or not UTF-8.", f"Give {_KNOWN}."
        ) from None


def _check_columns(place: Place, there: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(
            "column_missing",
            f"{place.title} has no column {', '.join(missing)}.",
            f"It has: {', '.join(there)}.",
        )
    twice = [name for name in wanted if list(there).count(name) > 1]
    if twice:
        raise InputError(
            "column_twice", f"{place.title} names the column {', '.join(twice)} twice.", "Rename one of them."
        )
