"""What a scenario plays with, once the shared base model or the public ranges have made features of it."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloister.client.site import persons
from cloister.client.site.records import Records, hold_out
from cloister.privacy import canonical
from cloister.privacy.analytic.tabular import Columns
from cloister.privacy.errors import InputError
from cloister.privacy.model import BaseModel
from cloister.privacy.task import OUTSIDE
from cloister.simulations.engine import frozen
from cloister.simulations.engine.holding import Floats, Holding, Indices
from cloister.simulations.scenarios.figures import FOUND, RIGHT, Measure
from cloister.simulations.scenarios.groups import Groups

OWN_SHARE = 0.2
KEY = b"cloister simulate: rows of a site kept back"
"""Of the hash that keeps rows back: a public one, for a simulation has no secret."""


@dataclass(frozen=True, eq=False)
class Material:
    """Sites and test rows.

    Attributes:
        labels: the classes.
        train: site name -> what it trains on.
        own: site name -> rows of its own that nobody trains on.
        test: the common test rows.
        base: what the features come from: a name and a digest.
        texts: site name -> its training texts, and those of the test, as the simple model reads them; None
            for tables.
        groups: a column of the test rows whose values are looked at one by one; None for none.
        licence: what the base model's card declares; None likewise.
    """

    labels: tuple[str, ...]
    train: Mapping[str, Holding]
    own: Mapping[str, Holding]
    test: Holding
    base: tuple[str, str]
    texts: tuple[Mapping[str, tuple[str, ...]], tuple[str, ...]] | None = None
    groups: Groups | None = None
    licence: str | None = None

    @property
    def tagged(self) -> bool:
        """Whether words are tagged, and whole entities counted."""
        return self.test.documents is not None

    @property
    def measure(self) -> Measure:
        """What figures of accuracy are."""
        return FOUND if self.tagged else RIGHT

    @property
    def by_person(self) -> bool:
        """Whether the unit of privacy is the person."""
        return all(held.units is not None for held in self.train.values())


def of_texts(
    base: BaseModel, train: Mapping[str, Records], test: Records, groups: Groups | None = None
) -> Material:
    """The material of texts: of each site a fifth, by person where known, is kept back as its own test.

    Raises:
        InputError: ``class_unknown``, a class that no site has; ``one_class``, a site has no other;
            ``site_too_small``, nothing could be kept back.
        ModelError: the base model cannot be loaded.
    """
    classes = {name: records.labels for name, records in train.items()}
    _require_two(classes)
    _require_known(classes, test.labels)
    sides = {name: hold_out(records, fraction=OWN_SHARE, key=KEY) for name, records in train.items()}
    labels = tuple(sorted({label for records in (*train.values(), test) for label in records.classes()}))
    parts = [part for pair in sides.values() for part in pair] + [test]
    told = _features(base, [text for part in parts for text in part.texts])
    ends = np.cumsum([len(part) for part in parts])[:-1]
    held = [_held(part, rows, labels) for part, rows in zip(parts, np.split(told, ends), strict=True)]
    return _dealt(labels, held, base, sides, test, groups)


def _dealt(
    labels: tuple[str, ...],
    held: Sequence[Holding],
    base: BaseModel,
    sides: Mapping[str, tuple[Records, Records]],
    test: Records,
    groups: Groups | None = None,
) -> Material:
    """The material of parts in a row: what each site trains on, and what it keeps back; last the test."""
    names = list(sides)
    return Material(
        labels,
        dict(zip(names, held[0:-1:2], strict=True)),
        dict(zip(names, held[1:-1:2], strict=True)),
        held[-1],
        (base.name, base.digest),
        ({name: pair[0].texts for name, pair in sides.items()}, test.texts),
        groups,
        base.licence,
    )


def _require_two(train: Mapping[str, Sequence[str]]) -> None:
    """Refuses a site that could learn nothing by itself, as the registration of a dataset does."""
    alone = [name for name, labels in train.items() if len(set(labels)) < 2]
    if alone:
        raise InputError(
            "one_class",
            f"{alone[0]} holds one class only, which no site can register.",
            "Give it rows of another class, leave it out, or deal rows out more evenly: a larger ALPHA of "
            "dirichlet:ALPHA, or 2 or more of pathological:K.",
        )


def _require_known(train: Mapping[str, Sequence[str]], test: Sequence[str]) -> None:
    """Refuses test rows of a class that nobody could learn."""
    known = {label for labels in train.values() for label in labels}
    if unknown := sum(label not in known for label in test):
        raise InputError(
            "class_unknown",
            f"{unknown} of {len(test)} test rows have a class that no site has.",
            "Leave these rows out, or ask a site that has the class.",
        )


def of_tags(base: BaseModel, train: Mapping[str, Records], test: Records, *, by_person: bool) -> Material:
    """The material of tagged sentences, a fifth of each site kept back by person, as its own test.

    Args:
        base: the base model.
        train: site name -> sentences, with persons.
        test: the common test sentences.
        by_person: whether the unit of privacy is the person; the sentence otherwise.

    Raises:
        InputError: ``tags_invalid``; ``class_unknown``; ``site_too_small``, nothing could be kept back.
        ModelError: the base model cannot be loaded.
    """
    sides = {name: hold_out(records, fraction=OWN_SHARE, key=KEY) for name, records in train.items()}
    tags = sorted({tag for records in train.values() for row in records.tagged() for tag in row.tags})
    labels = (OUTSIDE, *(tag for tag in tags if tag != OUTSIDE))
    parts = [part for pair in sides.values() for part in pair] + [test]
    rows = [part.tags(labels) for part in parts]
    told = frozen.words(base, [row for part in rows for row in part])
    ends = np.searchsorted(told.documents, np.cumsum([0, *(len(part) for part in parts)]))
    held = []
    for number, part in enumerate(parts):
        at = slice(*ends[number : number + 2])
        documents = told.documents[at] - told.documents[at][0]
        units = persons.numbers(part)[documents] if by_person else None
        held.append(Holding(told.features[at], told.tags[at], units, documents, labels))
    return _dealt(labels, held, base, sides, test)


def _features(base: BaseModel, texts: Sequence[str]) -> Floats:
    """What the base model says of each text; different ones are read once, in an order that is theirs alone.

    So the same texts, dealt out over other sites, have the same features bit for bit.
    """
    different, places = np.unique(np.array(texts, dtype=object), return_inverse=True)
    return _read(base, tuple(different))[places]


@functools.lru_cache(maxsize=2)
def _read(base: BaseModel, texts: tuple[str, ...]) -> Floats:
    return frozen.features(base, texts)


def _held(records: Records, features: Floats, labels: Sequence[str]) -> Holding:
    units = persons.numbers(records) if records.persons is not None else None
    return Holding(features, records.targets(labels), units)


@dataclass(frozen=True)
class Table:
    """Rows of a file as text, by column."""

    columns: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: Indices) -> Table:
        """Some of the rows."""
        return Table({name: tuple(values[row] for row in rows) for name, values in self.columns.items()})


def read(path: Path) -> Table:
    """The rows of a CSV file.

    Raises:
        InputError: ``file_missing``, ``file_format``, ``site_empty``.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = "file_missing" if isinstance(error, OSError) else "file_format"
        raise InputError(
            reason, f"{path} cannot be read: {error}.", "Name a CSV file with a header."
        ) from error
    if not rows:
        raise InputError("site_empty", f"{path} has no rows.", "Name a file that has rows.")
    if any(None in row or None in row.values() for row in rows):
        raise InputError(
            "file_format", f"A row of {path} has more or fewer values than its header.", "Correct it."
        )
    return Table({name: tuple(row[name] for row in rows) for name in rows[0]})


def of_tables(
    columns: Columns,
    label: str,
    train: Mapping[str, Table],
    own: Mapping[str, Table],
    test: Table,
    group: str | None = None,
) -> Material:
    """The material of tables, by public ranges; ``group`` names a column, which need not be trained on.

    Raises:
        InputError: ``column_missing``, ``value_missing``, ``class_unknown``.
    """
    for table in (*train.values(), test):
        if label not in table.columns:
            raise InputError("column_missing", f"The table has no column {label}.", "Name the right column.")
    _require_known({name: table.columns[label] for name, table in train.items()}, test.columns[label])
    labels = tuple(sorted({value for table in train.values() for value in table.columns[label]}))

    def held(table: Table) -> Holding:
        records = Records(table.columns[label], table.columns[label])
        return Holding(columns.features(table.columns), records.targets(labels))

    digest = canonical.digest(repr(columns).encode())
    return Material(
        labels,
        {name: held(table) for name, table in train.items()},
        {name: held(table) for name, table in own.items()},
        held(test),
        ("public ranges of a table", digest),
        groups=None if group is None else Groups(group, test.columns[group]),
    )
