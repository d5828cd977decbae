"""What a simulated site holds: features that the shared base model gave once, and whose rows they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.client.site.records import rows_band
from cloister.privacy.clauses import Persons, Rows

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Holding:
    """Rows of one site, or of several.

    Attributes:
        features: float64, shape (rows, inputs).
        labels: class numbers, int64, shape (rows,).
        units: whose row each is, int64, shape (rows,), numbered from 0 without gaps; None where every row
            is a unit of its own.
    """

    features: Floats
    labels: Indices
    units: Indices | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.features), len(self.labels)} | (
            {len(self.units)} if self.units is not None else set()
        )
        if len(sizes) != 1:
            raise ValueError("each row has one label and, where persons are known, one person")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def number_of_units(self) -> int:
        """Persons where they are known, else rows."""
        return len(self) if self.units is None else int(self.units.max(initial=-1)) + 1

    @property
    def rows_band(self) -> Rows:
        """The public band of the number of rows.

        Raises:
            InputError: ``site_empty``.
        """
        low, high = rows_band(len(self))
        return Rows(low=low, high=high)

    def persons_band(self, most_rows: int) -> Persons | None:
        """The public band of the number of persons; None where they are not known.

        Raises:
            InputError: ``site_empty``.
        """
        if self.units is None:
            return None
        low, high = rows_band(self.number_of_units)
        return Persons(low=low, high=high, most_rows=most_rows)

    @property
    def most_rows(self) -> int:
        """The most rows of one unit."""
        return 1 if self.units is None else int(np.bincount(self.units).max())

    def take(self, rows: Indices) -> Holding:
        """Some of the rows, their units numbered anew."""
        units = None if self.units is None else np.unique(self.units[rows], return_inverse=True)[1]
        return Holding(self.features[rows], self.labels[rows], units)

    def rows_of(self, units: Indices) -> Indices:
        """The rows of some units, ascending."""
        if self.units is None:
            return units
        return np.flatnonzero(np.isin(self.units, units)).astype(np.int64)


def pooled(holdings: Sequence[Holding] | Mapping[str, Holding]) -> Holding:
    """All rows in one place, which only a simulation can have; a person at two sites counts as two."""
    parts = list(holdings.values()) if isinstance(holdings, Mapping) else list(holdings)
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    if any(part.units is None for part in parts):
        return Holding(features, labels)
    starts = np.cumsum([0, *(part.number_of_units for part in parts)])
    units = [part.units + start for part, start in zip(parts, starts, strict=False) if part.units is not None]
    return Holding(features, labels, np.concatenate(units))
