"""A site's own records: texts, labels and, where there are such columns, persons and places.

The ids of persons come out as they stand in the source; ``client.site.persons`` replaces them.

What is told to others about the records is one thing only: the band of :func:`rows_band`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cloister.client.site.sources import reading
from cloister.client.site.sources.place import Place
from cloister.client.site.tagging import Tagged, tagged
from cloister.privacy.errors import InputError
from cloister.privacy.table import Table
from cloister.privacy.task import Task, TaskKind

Missing = Literal["refuse", "drop"]
"""What becomes of rows without a value: the source is refused, or those rows are left out."""


@dataclass(frozen=True)
class Records:
    """Rows of a task, in the order of their file.

    Attributes:
        texts: what is classified or tagged, or asked; of a row of a table its cells, a JSON list of texts.
        labels: what is learnt of each text: its class by name, its tags (``client.site.tagging``), or an
            answer.
        persons: whom each row is about, where such a column is known.
        sites: where each row comes from, where such a column is known.
        seconds: the second text of each row, where rows are pairs.
        kind: of the task.
        table: the columns of the cells, where rows are those of a table.
    """

    texts: tuple[str, ...] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    persons: tuple[str, ...] | None = field(default=None, repr=False)
    sites: tuple[str, ...] | None = field(default=None, repr=False)
    seconds: tuple[str, ...] | None = field(default=None, repr=False)
    kind: TaskKind = "sequence-classification"
    table: Table | None = None

    def __post_init__(self) -> None:
        columns = (self.labels, self.persons, self.sites, self.seconds)
        if any(column is not None and len(column) != len(self.texts) for column in columns):
            raise ValueError("the columns of records differ in length")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Records:
        """The rows of the given places, in the order given."""
        return replace(
            self,
            texts=_taken(self.texts, rows),
            labels=_taken(self.labels, rows),
            persons=None if self.persons is None else _taken(self.persons, rows),
            sites=None if self.sites is None else _taken(self.sites, rows),
            seconds=None if self.seconds is None else _taken(self.seconds, rows),
        )

    def check(self, task: Task) -> None:
        """Refuses records that a task cannot be learnt from.

        Raises:
            InputError: ``class_unknown``, a class or tag is none of the task's; ``tags_invalid``;
                ``column_missing``, ``value_missing``, ``column_type`` or ``category_unknown`` of cells.
        """
        if task.table:
            self.features(task.table)
            self.targets(task.labels)
        if task.kind == "sequence-classification":
            self.targets(task.labels)
        elif task.kind == "token-classification":
            self.tags(task.labels)

    def cells(self) -> dict[str, tuple[str, ...]]:
        """The cells of each column of a table, by its name; none of other rows."""
        if self.table is None:
            return {}
        names = self.table.names
        rows = [json.loads(text) for text in self.texts]
        return {name: tuple(row[place] for row in rows) for place, name in enumerate(names)}

    def features(self, table: Table) -> NDArray[np.float64]:
        """Features of rows of a table, by a plan's ranges: shape (rows, ``table.width``).

        Raises:
            InputError: as ``Table.features``.
        """
        return table.features(self.cells())

    def tags(self, labels: Sequence[str]) -> tuple[tuple[tuple[str, ...], NDArray[np.int64]], ...]:
        """The words of each row, and each word's tag as its place in the plan's list.

        Raises:
            InputError: ``tags_invalid``, or ``class_unknown`` with the number of rows.
        """
        places = {name: place for place, name in enumerate(labels)}
        rows = self.tagged()
        unknown = sum(any(tag not in places for tag in row.tags) for row in rows)
        if unknown:
            raise _unknown(unknown, len(self), len(places), "tag", "tags")
        return tuple((row.words, np.array([places[tag] for tag in row.tags], dtype=np.int64)) for row in rows)

    def tagged(self) -> tuple[Tagged, ...]:
        """The words and tags of each row.

        Raises:
            InputError: ``tags_invalid``, with the number of such rows.
        """
        found = [_tagged(text, marks) for text, marks in zip(self.texts, self.labels, strict=True)]
        whole = tuple(row for row in found if row is not None)
        if len(whole) < len(found):
            raise InputError(
                "tags_invalid",
                f"{len(found) - len(whole)} of {len(self)} rows have no tag for each of their words, and no "
                "spans within their text.",
                "Give words and tags as lists of one length, or a text and a list of spans.",
            )
        return whole

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
            raise _unknown(len(unknown), len(self), len(places), "label", "classes")
        return np.array([places[label] for label in self.labels], dtype=np.int64)


def _unknown(rows: int, of: int, known: int, label: str, classes: str) -> InputError:
    return InputError(
        "class_unknown",
        f"{rows} of {of} rows have a {label} that is none of the {known} {classes}.",
        f"Correct the {label}s, or ask the lead for a plan with these {classes}.",
    )


def _tagged(text: str, marks: str) -> Tagged | None:
    try:
        return tagged(text, marks)
    except ValueError:
        return None


def load(
    source: Path | Place,
    *,
    text: str,
    label: str,
    person: str | None = None,
    site: str | None = None,
    pair: str | None = None,
    missing: Missing = "refuse",
    table: Table | None = None,
) -> Records:
    """The usable records of a source.

    Args:
        source: a file, a folder, or a table or query of a database (``client.site.sources``).
        text: the column to classify.
        label: the column with the class; numbers become their text, ``1`` and ``01`` differ in CSV.
        person: the column that names whom a row is about; it may be empty in some rows.
        site: the column that names where a row comes from.
        pair: the column of second texts.
        missing: what becomes of rows without a text, label or site.
        table: the columns, in the place of a text and label, where rows are those of a table.

    Raises:
        InputError: as ``raw`` and ``usable``.
    """
    place = source if isinstance(source, Place) else Place.of(source)
    if table:
        found = rows_of(place, table, person=person, site=site)
        return usable(found, place.title, {"label": table.label, "site": site or ""}, missing)
    found = raw(place, text=text, label=label, person=person, site=site, pair=pair)
    names = {"text": text, "label": label, "site": site or "", "pair": pair or ""}
    return usable(found, place.title, names, missing)


def raw(
    place: Place,
    *,
    text: str,
    label: str,
    person: str | None = None,
    site: str | None = None,
    pair: str | None = None,
    kind: TaskKind = "sequence-classification",
) -> Records:
    """All rows of a source, with "" where a cell has no value.

    Raises:
        InputError: as ``sources.reading.read``.
    """
    wanted = [name for name in (text, label, person, site, pair) if name is not None]
    lists = (text, label) if kind == "token-classification" else ()
    columns = reading.read(place, wanted, lists)
    return Records(
        columns[text],
        columns[label],
        None if person is None else columns[person],
        None if site is None else columns[site],
        None if pair is None else columns[pair],
        kind,
    )


def rows_of(place: Place, table: Table, *, person: str | None = None, site: str | None = None) -> Records:
    """All rows of a source as those of a table, with "" where a cell has no value.

    Raises:
        InputError: as ``sources.reading.read``.
    """
    others = [name for name in (person, site) if name is not None]
    columns = reading.read(place, [table.label, *table.names, *others])
    cells = zip(*(columns[name] for name in table.names), strict=True)
    return Records(
        tuple(json.dumps(row, ensure_ascii=False) for row in cells),
        columns[table.label],
        None if person is None else columns[person],
        None if site is None else columns[site],
        kind="tabular-classification",
        table=table,
    )


def usable(records: Records, title: str, names: Mapping[str, str], missing: Missing) -> Records:
    """The rows that have a text, a label and, where sites are known or rows are pairs, a site or second text.

    Args:
        records: as ``raw`` gives them.
        title: what errors call the source.
        names: what the columns ``text``, ``label``, ``site`` and ``pair`` are called in it.
        missing: what becomes of the other rows.

    Raises:
        InputError: ``value_missing``, ``site_empty`` (no rows), ``one_class``, ``tags_invalid``; of a table
            ``column_type``, ``category_unknown`` and ``class_unknown``.
    """
    if not records:
        raise InputError("site_empty", f"{title} has no rows.", "Name a source that has rows.")
    empty = gaps(records)
    if empty and missing == "refuse":
        counts = ", ".join(
            f"{names.get(role, role.removeprefix('column '))} in {len(rows)}" for role, rows in empty.items()
        )
        raise InputError(
            "value_missing",
            f"{title} has rows without a value: {counts} of {len(records)}.",
            "Fill them in, or leave those rows out with --missing-values drop.",
        )
    without = set().union(*empty.values())
    found = records.take([row for row in range(len(records)) if row not in without]) if without else records
    if not found:
        raise InputError("site_empty", f"{title} has no row with all values.", "Name another column.")
    if found.kind == "token-classification":
        found.tagged()
    if (table := found.table) is not None:
        found = replace(found, labels=tuple(map(table.spelled, found.labels)))
        found.features(table)
        found.targets(table.classes)
    if found.kind in ("sequence-classification", "tabular-classification") and len(set(found.labels)) < 2:
        raise InputError(
            "one_class",
            f"{title} holds one class only in its column {names['label']}.",
            "Name another column, or a source with at least two classes.",
        )
    return found


def gaps(records: Records) -> dict[str, list[int]]:
    """The rows without a value, by ``text``, ``label``, ``site`` and ``pair``; only those with such rows.

    Of a table, by the names of the columns in which a value must not be missing.
    """
    columns = {"text": records.texts, "label": records.labels}
    columns |= {"site": records.sites or (), "pair": records.seconds or ()}
    found = {
        role: [row for row, value in enumerate(values) if not value.strip()]
        for role, values in columns.items()
    }
    if records.table:
        cells = records.cells()
        needed = [column for column in records.table.columns if column.missing is None]
        found |= {f"column {c.name}": np.flatnonzero(c.gaps(cells[c.name])).tolist() for c in needed}
    return {role: rows for role, rows in found.items() if rows}


def hold_out(records: Records, *, fraction: float, key: bytes) -> tuple[Records, Records]:
    """Training rows and rows held out for testing.

    A row's side is a keyed hash (HMAC-SHA-256) of its person where persons are known, else of its
    text: the same file and key give the same sides in any order of rows. So no person of the test
    rows was seen in training; or, without persons, no test text was: texts that differ only in
    case, space or Unicode form stay on one side. Of few units chance may hold out none: then it is the
    one with the least hash, so that a site is not refused by chance.

    Formal guarantees:
        The training rows of two files that differ in one unit differ in one unit at most, under the same key.

    Args:
        records: all rows.
        fraction: the expected share held out, in (0, 1).
        key: the site's own key; without it nobody can tell a row's side from its text.

    Returns:
        (training rows, held-out rows), both in file order.

    Raises:
        InputError: ``site_too_small``, no row is left to train on.
    """
    if not 0 < fraction < 1:
        raise ValueError("the fraction held out must lie between 0 and 1")
    limit = int(fraction * 2**64)
    deciding = records.texts if records.persons is None else records.persons
    sides = np.array([_side(value, key) for value in deciding], dtype=np.uint64)
    held = sides < limit
    if len(sides) and not held.any():
        held = sides == sides.min()
    if held.all():
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


def plain(text: str) -> str:
    """A text without regard to case, space and Unicode form: two texts with the same one are the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _side(text: str, key: bytes) -> int:
    return int.from_bytes(hmac.digest(key, plain(text).encode(), hashlib.sha256)[:8])
