"""Rows of a table as features, by public constants alone: no mean, no spread, no rank of the data.

A number is centred and scaled by public constants and cut to a public range; a choice of two is -1 or +1, one
of more a column of -1 and +1 for each value. So the features of a row depend on that row and on the plan, and
no statistic of the data is used that epsilon would not cover.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.errors import InputError, PlanError

Floats: TypeAlias = NDArray[np.float64]
Table: TypeAlias = Mapping[str, Sequence[str]]
"""Column name -> its values as they stand in the file, all columns of equal length."""


@dataclass(frozen=True)
class Number:
    """A numeric column.

    Attributes:
        column: its name.
        centre, spread: public constants, say of a textbook: a value becomes (value - centre) / spread.
        limit: and is cut to plus or minus this.
        missing: a value that stands for "not measured"; such a row gets 0 here, and +1, else -1, in a column
            of its own. None where every row has a value.
    """

    column: str
    centre: float
    spread: float
    limit: float = 3.0
    missing: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and 0 < self.spread < math.inf and 0 < self.limit < math.inf):
            raise PlanError("plan_malformed", f"The range of the column {self.column} is no range.")

    @property
    def width(self) -> int:
        """How many features it gives."""
        return 1 if self.missing is None else 2

    def features(self, values: Sequence[str]) -> Floats:
        """Features, shape (rows, width).

        Raises:
            InputError: ``value_missing``, a value is no finite number.
        """
        try:
            numbers = np.array([float(value) for value in values], dtype=np.float64)
        except ValueError as error:
            raise _no_number(self.column) from error
        if not np.isfinite(numbers).all():
            raise _no_number(self.column)
        scaled = np.clip((numbers - self.centre) / self.spread, -self.limit, self.limit)
        if self.missing is None:
            return scaled[:, None]
        gone = numbers == self.missing
        return np.stack([np.where(gone, 0.0, scaled), np.where(gone, 1.0, -1.0)], axis=1)


@dataclass(frozen=True)
class Choice:
    """A column of a few values, which are public.

    Attributes:
        column: its name.
        values: all that may occur, at least two; numbers are compared as numbers, so ``1`` is ``1.0``.
    """

    column: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({_normal(value) for value in self.values}) != len(self.values) or len(self.values) < 2:
            raise PlanError("plan_malformed", f"The values of the column {self.column} are not two or more.")

    @property
    def width(self) -> int:
        """How many features it gives."""
        return 1 if len(self.values) == 2 else len(self.values)

    def features(self, values: Sequence[str]) -> Floats:
        """Features, shape (rows, width).

        Raises:
            InputError: ``value_missing``, a value is none of the public ones; it is not shown.
        """
        places = {_normal(value): place for place, value in enumerate(self.values)}
        found = [places.get(_normal(value), -1) for value in values]
        if -1 in found:
            raise InputError(
                "value_missing",
                f"{found.count(-1)} rows of the column {self.column} hold a value that no plan names.",
                "Correct these rows, or ask the lead for a plan with these values.",
            )
        hot = 2 * np.eye(len(self.values))[found] - 1
        return np.asarray(hot[:, 1:] if self.width == 1 else hot)


Column: TypeAlias = Number | Choice


@dataclass(frozen=True)
class Columns:
    """How a table becomes features.

    Attributes:
        columns: in the order of their features.
    """

    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """Features of a row."""
        return sum(column.width for column in self.columns)

    def features(self, table: Table) -> Floats:
        """Features, float64, shape (rows, width).

        Raises:
            InputError: ``column_missing``, ``value_missing``.
        """
        missing = [column.column for column in self.columns if column.column not in table]
        if missing:
            raise InputError(
                "column_missing", f"The table has no column {', '.join(missing)}.", "Name the right file."
            )
        return np.concatenate([column.features(table[column.column]) for column in self.columns], axis=1)


def _normal(value: str) -> str:
    """Numbers in one form, all else as it stands, without space around it."""
    try:
        return repr(float(value))
    except ValueError:
        return value.strip()


def _no_number(column: str) -> InputError:
    return InputError(
        "value_missing",
        f"A row of the column {column} holds no finite number.",
        "Fill in or leave out such rows.",
    )
