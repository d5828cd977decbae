"""What a dataset is like, what a job could use of it, and what would be told of it: a dry run at the site.

Everything here is for the screen of the site: exact counts, names of classes, similarities. Nothing of it is
written into the log or told to anybody.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cloister.client.site import duplicates, persons, records
from cloister.client.site.datasets import SMALLEST, Datasets, Split, band, check_size
from cloister.client.site.records import Records, plain
from cloister.client.site.selection import Selection
from cloister.client.site.sources import reading
from cloister.privacy.errors import InputError
from cloister.privacy.table import Choice

Lengths = Callable[[Sequence[str]], Sequence[int]]
"""From texts to their numbers of tokens."""


@dataclass(frozen=True)
class Spread:
    """Smallest, middle, 95th percentile (nearest rank) and largest of some lengths."""

    low: int
    middle: int
    p95: int
    high: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Spread:
        """The spread of one or more values."""
        found = np.quantile(np.array(values), [0.0, 0.5, 0.95, 1.0], method="inverted_cdf")
        return cls(*(int(value) for value in found))


@dataclass(frozen=True)
class People:
    """What the column of person ids is like.

    Attributes:
        persons: different ids among the usable rows.
        rows: of one person.
        forms: ids that are written in more than one way (case, outer space, Unicode form).
    """

    persons: int
    rows: Spread
    forms: int


@dataclass(frozen=True)
class Twice:
    """Texts that occur more than once.

    Attributes:
        exact: rows whose text an earlier row has, too.
        conflicting: different texts that have more than one label.
        near: rows whose text is near to another one, which is not the same.
        pairs: pairs of different texts that are near.
        complete: whether all candidates for near pairs were looked at; else there may be more.
    """

    exact: int
    conflicting: int
    near: int
    pairs: int
    complete: bool


@dataclass(frozen=True)
class Leakage:
    """What training rows and held-out rows have in common.

    Attributes:
        persons: that are on both sides; None where no column names persons.
        texts: held-out rows whose text is among the training rows.
        near: held-out rows whose text is near to one of the training rows.
    """

    persons: int | None
    texts: int
    near: int


@dataclass(frozen=True)
class Parts:
    """Training rows that count, held-out rows, and the rows that the cap of rows per person drops."""

    train: int
    held: int
    capped: int
    units: int
    leakage: Leakage


@dataclass(frozen=True)
class Told:
    """What the lead would be told, beside the dataset's name."""

    rows: tuple[int, int]
    persons: tuple[int, int] | None
    rows_per_person: int | None


@dataclass(frozen=True)
class Cells:
    """What stands in one column of a table.

    Attributes:
        name: of the column.
        without: cells without a value.
        below, above: numbers that would be cut to the column's range; 0 of a choice.
        wrong: cells of the others that are no number, or none of the values.
    """

    name: str
    without: int
    below: int
    above: int
    wrong: int


@dataclass(frozen=True)
class Facts:
    """What the rows are like.

    Attributes:
        rows: all of them.
        without: rows without a text, label or person; a row may count more than once.
        usable: rows that have all of them.
        labels: rows of each label, or words of each tag, of the usable ones, most frequent first; none of
            answers, which are texts.
        characters, words, tokens: of the usable texts; tokens where a base model is at hand. None of a table.
        cells: of each column of a table; these counts are told to nobody.
    """

    rows: int
    without: dict[str, int]
    usable: int
    labels: dict[str, int]
    characters: Spread | None
    words: Spread | None
    tokens: Spread | None
    people: People | None
    twice: Twice
    cells: tuple[Cells, ...] = ()


@dataclass(frozen=True)
class Report:
    """A dry run.

    Attributes:
        source: what it is called.
        unit: ``person`` or ``record``.
        smallest: the least number of training units.
        columns: all that are there.
        missing: those that were named and are not there.
        facts: None where a column is missing.
        fingerprint: of the data as they are now.
        parts, told: None where the data would be refused.
        refusal: the line of the error that registering would end in; "" where it would work.
        reason: its id.
    """

    source: str
    unit: str
    smallest: int
    columns: tuple[str, ...]
    missing: tuple[str, ...]
    facts: Facts | None = None
    fingerprint: str = ""
    parts: Parts | None = None
    told: Told | None = None
    refusal: str = ""
    reason: str = ""


def examine(datasets: Datasets, selection: Selection, lengths: Lengths | None = None) -> Report:
    """A dry run of a selection.

    Args:
        datasets: of the site; only its keys are used.
        selection: what would be registered, or was.
        lengths: counts tokens.

    Raises:
        InputError: the source cannot be read at all.
    """
    there = reading.columns(selection.place)
    missing = tuple(name for name in selection.names.values() if name not in there)
    unit = "person" if selection.person else "record"
    head = (selection.place.title, unit, SMALLEST, there, missing)
    if missing:
        error = InputError("column_missing", f"{selection.place.title} has no column {', '.join(missing)}.")
        return Report(*head, refusal=error.line(), reason=error.id)
    raw = selection.raw()
    mark = datasets.fingerprint(selection, raw)
    near = _Near(_usable(raw))
    facts = _facts(raw, near, lengths)
    try:
        split = datasets.split(selection, raw)
        check_size(selection, split.units)
    except InputError as error:
        return Report(*head, facts, mark, refusal=error.line(), reason=error.id)
    return Report(*head, facts, mark, _parts(split, near), _told(selection, split))


class _Near:
    """The near texts of some records, looked for once, by plain text."""

    def __init__(self, found: Records) -> None:
        self.records = found
        self.plain = [plain(text) for text in found.texts]
        # Rows of a table are alike by their nature: only those that are the same are looked for.
        texts = [] if found.table else list(dict.fromkeys(self.plain))
        result = duplicates.near(texts)
        self.pairs, self.complete = len(result.pairs), result.complete
        self.of: dict[str, set[str]] = defaultdict(set)
        for first, second in result.pairs:
            self.of[texts[first]].add(texts[second])
            self.of[texts[second]].add(texts[first])


def _gaps(raw: Records) -> dict[str, list[int]]:
    found = records.gaps(raw)
    unsigned = [row for row, person in enumerate(raw.persons or ()) if not persons.normalised(person)]
    return found | {"person": unsigned} if unsigned else found


def _usable(raw: Records) -> Records:
    without = set().union(*_gaps(raw).values())
    return raw.take([row for row in range(len(raw)) if row not in without])


def _facts(raw: Records, near: _Near, lengths: Lengths | None) -> Facts:
    found = near.records
    texts = () if found.table else found.texts
    return Facts(
        rows=len(raw),
        without={role: len(rows) for role, rows in _gaps(raw).items()},
        usable=len(found),
        labels=dict(sorted(_labels(found).items(), key=lambda item: (-item[1], item[0]))),
        characters=_spread([len(text) for text in texts]),
        words=_spread([len(text.split()) for text in texts]),
        tokens=_spread(lengths(texts)) if lengths and texts else None,
        people=_people(found.persons) if found.persons else None,
        twice=_twice(near),
        cells=tuple(_cells(raw)),
    )


def _cells(raw: Records) -> Iterator[Cells]:
    """What stands in each column of a table."""
    cells = raw.cells()
    for column in raw.table.columns if raw.table else ():
        written = [
            cell
            for cell, gap in zip(cells[column.name], column.gaps(cells[column.name]), strict=True)
            if not gap
        ]
        without = len(raw) - len(written)
        if isinstance(column, Choice):
            yield Cells(column.name, without, 0, 0, column.unknown(written))
            continue
        numbers = column.readable(written)
        below, above = int((numbers < column.low).sum()), int((numbers > column.high).sum())
        yield Cells(column.name, without, below, above, len(written) - len(numbers))


def _labels(found: Records) -> Counter[str]:
    if found.kind in ("sequence-classification", "tabular-classification"):
        return Counter(found.labels)
    if found.kind == "causal-lm":
        return Counter()
    try:
        return Counter(tag for row in found.tagged() for tag in row.tags)
    except InputError:  # the report says so as its refusal
        return Counter()


def _spread(values: Sequence[int]) -> Spread | None:
    return Spread.of(values) if values else None


def _people(ids: Sequence[str]) -> People:
    forms: dict[str, set[str]] = defaultdict(set)
    for found in ids:
        forms[persons.normalised(found)].add(found)
    rows = Counter(map(persons.normalised, ids))
    return People(len(rows), Spread.of([*rows.values()]), sum(len(written) > 1 for written in forms.values()))


def _twice(near: _Near) -> Twice:
    labels: dict[str, set[str]] = defaultdict(set)
    for text, label in zip(near.plain, near.records.labels, strict=True):
        labels[text].add(label)
    return Twice(
        exact=len(near.plain) - len(labels),
        conflicting=sum(len(found) > 1 for found in labels.values()),
        near=sum(text in near.of for text in near.plain),
        pairs=near.pairs,
        complete=near.complete,
    )


def _parts(split: Split, near: _Near) -> Parts:
    train, held = {plain(text) for text in split.train.texts}, [plain(text) for text in split.held.texts]
    known = split.train.persons is not None
    both = set(split.train.persons or ()) & set(split.held.persons or ())
    leakage = Leakage(
        persons=len(both) if known else None,
        texts=sum(text in train for text in held),
        near=sum(not train.isdisjoint(near.of.get(text, ())) for text in held),
    )
    capped = len(split.before) - len(split.train)
    return Parts(len(split.train), len(split.held), capped, split.units, leakage)


def _told(selection: Selection, split: Split) -> Told:
    rows = band(len(split.train))
    if selection.person is None:
        return Told((rows.low, rows.high), None, None)
    units = band(split.units)
    return Told((rows.low, rows.high), (units.low, units.high), selection.person.most_rows)
