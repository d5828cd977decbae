"""A site's own file: texts, labels and, where there are such columns, persons and places.

The ids of persons come out as they stand in the file; ``client.site.persons`` replaces them.

CSV (also ``.gz``) is read strictly here. JSON lines (also ``.gz``) and Parquet are read through
``datasets``, which keeps a copy of the records as an Arrow file while it reads: that copy is made in
a temporary folder and removed before :func:`load` returns, so that no second copy of the records
stays on the disk. Nothing is asked of any hub or network.

What is told to others about the records is one thing only: the band of :func:`rows_band`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import hmac
import tempfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.errors import InputError

_FORMATS = {".csv": "csv", ".jsonl": "json", ".parquet": "parquet"}
_KNOWN = "a .csv, .jsonl or .parquet file (.csv and .jsonl also as .gz)"


@dataclass(frozen=True)
class Records:
    """Rows of a classification task, in the order of their file.

    Attributes:
        texts: what is classified.
        labels: the class of each text, by name.
        persons: whom each row is about, where such a column is known.
        sites: where each row comes from, where such a column is known.
    """

    texts: tuple[str, ...] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    persons: tuple[str, ...] | None = field(default=None, repr=False)
    sites: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        columns = (self.labels, self.persons, self.sites)
        if any(column is not None and len(column) != len(self.texts) for column in columns):
            raise ValueError("the columns of records differ in length")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Records:
        """The rows of the given places, in the order given."""
        return Records(
            _taken(self.texts, rows),
            _taken(self.labels, rows),
            None if self.persons is None else _taken(self.persons, rows),
            None if self.sites is None else _taken(self.sites, rows),
        )

    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted(set(self.labels)))

    def targets(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Each label as its place in the plan's list of classes: int64, shape (rows,).

        Raises:
            InputError: ``class_unknown``, with the number of rows and not the labels themselves: a
                wrongly chosen column would put contents of records into the message.
        """
        places = {name: place for place, name in enumerate(classes)}
        unknown = [label for label in self.labels if label not in places]
        if unknown:
            raise InputError(
                "class_unknown",
                f"{len(unknown)} of {len(self)} rows have a label that is none of the {len(places)} classes.",
                "Correct the labels, or ask the lead for a plan with these classes.",
            )
        return np.array([places[label] for label in self.labels], dtype=np.int64)


def load(path: Path, *, text: str, label: str, person: str | None = None, site: str | None = None) -> Records:
    """The records of a file.

    Args:
        path: a ``.csv``, ``.jsonl`` (both also ``.gz``) or ``.parquet`` file, UTF-8.
        text: the column to classify.
        label: the column with the class; numbers become their text, ``1`` and ``01`` differ in CSV.
        person: the column that names whom a row is about; it may be empty in some rows.
        site: the column that names where a row comes from.

    Raises:
        InputError: ``file_missing``, ``file_format``, ``column_missing``, ``value_missing`` (any
            named column but ``person`` is empty in some row), ``site_empty`` (no rows), ``one_class``.
    """
    wanted = [name for name in (text, label, person, site) if name is not None]
    columns = _read(path, list(dict.fromkeys(wanted)))
    _check_values(
        path, {name: values for name, values in columns.items() if name not in {person} - {text, label}}
    )
    records = Records(
        columns[text],
        columns[label],
        None if person is None else columns[person],
        None if site is None else columns[site],
    )
    if len(set(records.labels)) < 2:
        raise InputError(
            "one_class",
            f"{path} holds one class only in its column {label}.",
            "Name another column, or a file with at least two classes.",
        )
    return records


def hold_out(records: Records, *, fraction: float, key: bytes) -> tuple[Records, Records]:
    """Training rows and rows held out for testing.

    A row's side is a keyed hash (HMAC-SHA-256) of its person where persons are known, else of its
    text: the same file and key give the same sides in any order of rows. So no person of the test
    rows was seen in training; or, without persons, no test text was: texts that differ only in
    case, space or Unicode form stay on one side.

    Args:
        records: all rows.
        fraction: the expected share held out, in (0, 1).
        key: the site's own key; without it nobody can tell a row's side from its text.

    Returns:
        (training rows, held-out rows), both in file order.

    Raises:
        InputError: ``site_too_small``, one of the two sides has no row.
    """
    if not 0 < fraction < 1:
        raise ValueError("the fraction held out must lie between 0 and 1")
    limit = int(fraction * 2**64)
    deciding = records.texts if records.persons is None else records.persons
    held = np.array([_side(value, key) < limit for value in deciding], dtype=bool)
    if held.all() or not held.any():
        raise InputError(
            "site_too_small",
            "There are too few different persons or texts to hold some out for testing.",
            "Use a file with more rows, or hold out another share.",
        )
    return records.take(np.flatnonzero(~held)), records.take(np.flatnonzero(held))


def rows_band(rows: int) -> tuple[int, int]:
    """The band ``(2^k, 2^(k+1) - 1)`` that a number of rows or persons lies in, both ends included.

    Formal guarantees:
        None under differential privacy: one row or person more or less can move a site into the next band.
        The band is approved by the site and public; no exact count is ever told.

    Raises:
        InputError: ``site_empty``, there are no rows.
    """
    if rows < 1:
        raise InputError("site_empty", "There are no rows to train on.", "Name a file that has rows.")
    low = 1 << (rows.bit_length() - 1)
    return low, 2 * low - 1


def _taken(column: tuple[str, ...], rows: Sequence[int] | NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(column[int(row)] for row in rows)


def _side(text: str, key: bytes) -> int:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return int.from_bytes(hmac.digest(key, plain.encode(), hashlib.sha256)[:8])


def _read(path: Path, wanted: list[str]) -> dict[str, tuple[str, ...]]:
    kind = _kind(path)
    _check_readable(path)
    with _format_errors(path):
        table = _csv(path, wanted) if kind == "csv" else _typed(path, kind, wanted)
    return {name: tuple(_text(path, name, value) for value in table[name]) for name in wanted}


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = _FORMATS.get("".join(suffixes[-2:-1] if packed else suffixes[-1:]))
    if kind is None or (packed and kind == "parquet"):
        raise InputError("file_format", f"{path} is of a format that is not read.", f"Give {_KNOWN}.")
    return kind


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise InputError(
            "file_missing", f"{path} does not exist or cannot be read.", "Give the path of a readable file."
        ) from error
    if not first:
        raise InputError("site_empty", f"{path} is empty.", "Name a file that has rows.")


def _csv(path: Path, wanted: list[str]) -> dict[str, list[str]]:
    """All values as text: a label ``01`` stays ``01`` and a text ``NA`` is a text."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        header = next(lines, [])
        _check_columns(path, header, wanted)
        rows = [row for row in lines if row]
    if any(len(row) != len(header) for row in rows):  # an unquoted comma would move a text into the label
        raise ValueError("a row has another number of fields than the header")
    return {name: [row[header.index(name)] for row in rows] for name in wanted}


def _typed(path: Path, kind: str, wanted: list[str]) -> dict[str, list[Any]]:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    reader = Dataset.from_json if kind == "json" else Dataset.from_parquet
    with tempfile.TemporaryDirectory(prefix="cloister-records-") as cache, _quiet():
        try:
            dataset = reader(str(path), cache_dir=cache, keep_in_memory=True)
        except DatasetGenerationError as error:
            raise ValueError("datasets cannot read the file") from error
        _check_columns(path, dataset.column_names, wanted)
        table: dict[str, list[Any]] = dataset.select_columns(wanted).to_dict()
        return table


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no log lines: those of ``datasets`` quote the rows that it cannot read."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL + 1)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def _format_errors(path: Path) -> Iterator[None]:
    """Failures to parse as ``file_format``, without the parser's words: they may quote records."""
    try:
        yield
    except (ValueError, EOFError, csv.Error, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            "file_format", f"{path} is not what its ending says, or not UTF-8.", f"Give {_KNOWN}."
        ) from error


def _check_columns(path: Path, there: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(
            "column_missing",
            f"{path} has no column {', '.join(missing)}.",
            f"It has: {', '.join(there)}.",
        )


def _text(path: Path, name: str, value: object) -> str:
    if value is None or value != value:  # Parquet has both null and NaN
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    raise InputError(
        "file_format", f"The column {name} of {path} holds no text.", "Name a column of texts or numbers."
    )


def _check_values(path: Path, columns: dict[str, tuple[str, ...]]) -> None:
    names = list(columns)
    rows = len(columns[names[0]])
    if rows == 0:
        raise InputError("site_empty", f"{path} has no rows.", "Name a file that has rows.")
    empty = Counter(name for name in names for value in columns[name] if not value.strip())
    if empty:
        counts = ", ".join(f"{name} in {count}" for name, count in empty.items())
        raise InputError(
            "value_missing",
            f"{path} has rows without a value: {counts} of {rows}.",
            "Fill them in or take those rows out.",
        )
