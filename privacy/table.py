"""The columns of a table, as a part of a plan: how a row becomes features, by public constants alone.

Each column has a public range or a public list of values, chosen before anybody looks at a record: those of
a textbook, a form or a code list. No mean, spread, rank or list of what occurs is ever taken from the data,
for no epsilon would cover it. A number is cut to its range and scaled, so that the range becomes -1 to 1; of
two values one is -1 and the other 1; of more, each has a feature of its own. A row is then divided by the
square root of the number of its features: its Euclidean length is at most 1, as is that of a text's pooled
features.

A column says what a cell without a value becomes. Without a word on it such rows are refused; ``flag`` puts
a number in the middle of its range, and a choice on none of its values, and says so in a feature beside.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from cloister.privacy import canonical
from cloister.privacy.errors import InputError, PlanError
from cloister.privacy.frozen import Part

Floats: TypeAlias = NDArray[np.float64]
Cells: TypeAlias = Sequence[str]
"""What stands in the cells of one column, as text."""
Word = Annotated[str, Field(min_length=1, max_length=200)]
Missing = Literal["flag"]

MOST_FEATURES = 4096
_MOST_BYTES = 1 << 20
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_DO = "See docs/tasks.md for how columns are written."


class Empty(Part):
    """What all columns have.

    Attributes:
        name: of the column in every site's data.
        missing: what becomes of a cell without a value; such rows are refused where this is absent.
        empty: texts that say "no value" beside an empty cell, such as ``NA`` or ``-9``; numbers are compared
            as numbers. Absent from the bytes where there are none.
    """

    name: Word
    missing: Missing | None = None
    empty: Annotated[tuple[Word, ...], Field(min_length=1, max_length=100)] | None = None

    @cached_property
    def _nothing(self) -> frozenset[str]:
        return frozenset({"", *(normal(word) for word in self.empty or ())})

    def gaps(self, cells: Cells) -> NDArray[np.bool_]:
        """Which cells have no value."""
        return np.array([normal(cell) in self._nothing for cell in cells], dtype=np.bool_)

    def _flagged(self, features: Floats, gaps: NDArray[np.bool_]) -> Floats:
        """Features of all cells, and where the column says so a last one that is 1 where there was no value.

        Raises:
            InputError: ``value_missing``.
        """
        if self.missing is None and gaps.any():
            raise InputError(
                "value_missing",
                f"{int(gaps.sum())} of {len(gaps)} rows have no value in the column {self.name}.",
                'Fill them in or leave them out; or agree on a plan whose column says missing = "flag".',
            )
        return features if self.missing is None else np.column_stack([features, np.where(gaps, 1.0, -1.0)])


class Number(Empty):
    """A column of numbers.

    Attributes:
        low, high: its public range; what lies outside is cut to it.
    """

    kind: Literal["number"] = "number"
    low: float
    high: float

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise ValueError(f"the column {self.name} needs a low below its high")
        return self

    @property
    def width(self) -> int:
        """How many features it gives."""
        return 1 if self.missing is None else 2

    def numbers(self, cells: Cells) -> Floats:
        """The numbers of cells, NaN where there is no value: float64, shape (rows,).

        Raises:
            InputError: ``column_type``.
        """
        gaps = self.gaps(cells)
        written = [cell.strip() for cell in cells]
        wrong = sum(not gap and not _NUMBER.fullmatch(cell) for gap, cell in zip(gaps, written, strict=True))
        if wrong:
            raise InputError(
                "column_type",
                f"{wrong} of {len(cells)} rows have something in the column {self.name} that is no number.",
                "Correct these rows, or name what stands for no value under `empty`.",
            )
        found = [math.nan if gap else float(cell) for gap, cell in zip(gaps, written, strict=True)]
        return np.array(found, dtype=np.float64)

    def readable(self, cells: Cells) -> Floats:
        """The cells that are numbers, in their order; others are left out."""
        written = [cell.strip() for cell in cells]
        return np.array([float(cell) for cell in written if _NUMBER.fullmatch(cell)], dtype=np.float64)

    def features(self, cells: Cells) -> Floats:
        """Features in [-1, 1], float64, shape (rows, width).

        Raises:
            InputError: ``value_missing`` or ``column_type``.
        """
        numbers = self.numbers(cells)
        gaps = np.isnan(numbers)
        middle, half = self.low / 2 + self.high / 2, self.high / 2 - self.low / 2
        scaled = (np.clip(np.where(gaps, middle, numbers), self.low, self.high) - middle) / half
        return self._flagged(np.clip(scaled, -1.0, 1.0)[:, None], gaps)


class Choice(Empty):
    """A column of a few values.

    Attributes:
        values: all that may occur, at least two; numbers are compared as numbers, so that ``1`` is ``1.0``.
    """

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Word, ...], Field(min_length=2, max_length=1000)]

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        if len({*map(normal, self.values)} | self._nothing) != len(self.values) + len(self._nothing):
            raise ValueError(f"the column {self.name} names a value twice, or one that says there is none")
        return self

    @property
    def width(self) -> int:
        """How many features it gives."""
        own = 1 if len(self.values) == 2 else len(self.values)
        return own if self.missing is None else own + 1

    def unknown(self, cells: Cells) -> int:
        """How many cells hold a value that is none of those."""
        known = {*map(normal, self.values)} | self._nothing
        return sum(normal(cell) not in known for cell in cells)

    def features(self, cells: Cells) -> Floats:
        """Features in [-1, 1], float64, shape (rows, width).

        Raises:
            InputError: ``value_missing`` or ``category_unknown``.
        """
        if unknown := self.unknown(cells):
            raise InputError(
                "category_unknown",
                f"{unknown} of {len(cells)} rows have a value in the column {self.name} that is none of its "
                f"{len(self.values)}.",
                "Correct these rows, or ask the lead for a plan that names the value.",
            )
        gaps = self.gaps(cells)
        places = {normal(value): place for place, value in enumerate(self.values)}
        rows = [places.get(normal(cell), 0) for cell in cells]
        hot = 2 * np.eye(len(self.values))[rows] - 1
        if len(self.values) == 2:
            return self._flagged(np.where(gaps, 0.0, hot[:, 1])[:, None], gaps)
        return self._flagged(np.where(gaps[:, None], -1.0, hot), gaps)


Column: TypeAlias = Annotated[Number | Choice, Field(discriminator="kind")]


class Table(Part):
    """What is learnt of the rows of a table, and from which columns.

    Attributes:
        label: the column with the class of a row.
        classes: all classes; numbers are compared as numbers.
        columns: in the order of their features.
    """

    label: Word
    classes: Annotated[tuple[Word, ...], Field(min_length=2, max_length=1000)]
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [column.name for column in self.columns]
        if len({*names, self.label}) != len(names) + 1:
            raise ValueError("a column stands twice, or is the label as well")
        if len({*map(normal, self.classes)}) != len(self.classes):
            raise ValueError("a class stands twice")
        if self.width > MOST_FEATURES:
            raise ValueError(f"there are {self.width} features; at most {MOST_FEATURES} are learnt from")
        return self

    @cached_property
    def digest(self) -> str:
        """The digest of the columns: what stands in a plan in the place of a base model's."""
        return canonical.digest(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json", exclude_none=True))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that features are made of."""
        return tuple(column.name for column in self.columns)

    @property
    def width(self) -> int:
        """How many features a row has."""
        return sum(column.width for column in self.columns)

    def features(self, cells: Mapping[str, Cells]) -> Floats:
        """Features of rows, float64, shape (rows, width): each row of Euclidean length at most 1.

        Formal guarantees:
            A row's features are a function of that row and of the plan's constants alone.

        Args:
            cells: column name -> what stands in it; others than those of the plan may be there.

        Raises:
            InputError: ``column_missing``, ``value_missing``, ``column_type`` or ``category_unknown``; none
                shows a cell.
        """
        gone = [name for name in self.names if name not in cells]
        if gone:
            raise InputError(
                "column_missing", f"There is no column {', '.join(gone)}.", "Name data that have all columns."
            )
        parts = [column.features(cells[column.name]) for column in self.columns]
        return np.concatenate(parts, axis=1) / math.sqrt(self.width)

    def spelled(self, label: str) -> str:
        """A label as the table spells it; as it stands where it is none of the classes."""
        return self._spellings.get(normal(label), label)

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {normal(name): name for name in self.classes}

    def differs(self, other: Table) -> str:
        """Where another table first says something else, in words; "" where both are the same."""
        if self.label != other.label:
            return "the label"
        if self.classes != other.classes:
            return "the classes"
        if self.names != other.names:
            return "the names or the order of the columns"
        pairs = zip(self.columns, other.columns, strict=True)
        return next((f"the column {one.name}" for one, two in pairs if one != two), "")


def normal(cell: str) -> str:
    """A cell in the form that is compared: numbers in one form, all else without space around it."""
    text = cell.strip()
    return repr(float(text) + 0.0) if _NUMBER.fullmatch(text) else text


def read(path: Path) -> Table:
    """The table of a TOML file: ``label`` with ``column`` and ``classes``, and ``columns`` by name.

    Raises:
        InputError: ``file_missing``.
        PlanError: ``table_malformed``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(
            "file_missing", f"{path} does not exist or cannot be read.", "Give a TOML file of columns."
        ) from error
    return parsed(data, path.name)


def parsed(data: bytes, title: str = "The table") -> Table:
    """The table of the bytes of a TOML file; see ``read``.

    Raises:
        PlanError: ``table_malformed``, naming the place.
    """
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError("it is larger than any list of columns")
        found = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise PlanError("table_malformed", f"{title} is not TOML in UTF-8.", _DO) from error
    label, columns = found.pop("label", None), found.pop("columns", None)
    if found or not isinstance(label, dict) or not isinstance(columns, dict):
        raise PlanError("table_malformed", f"{title} needs [label] and [columns], and nothing else.", _DO)
    if set(label) != {"column", "classes"}:
        raise PlanError("table_malformed", f"[label] of {title} needs column and classes, alone.", _DO)
    value = {
        "label": label["column"],
        "classes": _words(label["classes"]),
        "columns": tuple(_column(name, said, title) for name, said in columns.items()),
    }
    try:
        return Table.model_validate(value)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        raise PlanError(
            "table_malformed", f"{title}: {_place(first['loc'], columns)}{first['msg']}.", _DO
        ) from error


def _column(name: str, said: Any, title: str) -> dict[str, Any]:
    if not isinstance(said, dict) or "kind" in said or "name" in said:
        raise PlanError("table_malformed", f"{title}: the column {name} needs low and high, or values.", _DO)
    if ("values" in said) == ("low" in said or "high" in said):
        raise PlanError("table_malformed", f"{title}: the column {name} needs low and high, or values.", _DO)
    kind = "choice" if "values" in said else "number"
    found = {**said, "name": name, "kind": kind}
    if found.get("missing") == "refuse":  # what is said of every column without a word on it
        del found["missing"]
    found |= {key: float(said[key]) for key in ("low", "high") if type(said.get(key)) is int}
    return found | {key: _words(said[key]) for key in ("values", "empty") if key in said}


def _words(value: Any) -> Any:
    """A TOML list as texts: whole numbers are written as such; anything else is left for its refusal."""
    if not isinstance(value, list):
        return value
    return tuple(str(one) if type(one) in (int, float) else one for one in value)


def _place(location: Sequence[Any], columns: Mapping[str, Any]) -> str:
    """Where a fault is, by the name of its column."""
    if location[:1] == ("columns",) and len(location) > 1:
        return f"the column {list(columns)[location[1]]}: {'.'.join(map(str, location[3:]))}: "
    return f"{'.'.join(map(str, location))}: " if location else ""
