"""What a simulated site holds: features that the shared base model gave once, and whose rows they are.

A record is a row, with a class; or a document, whose rows are its words, each with a tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn.model import SCALE
from cloister.client.site.records import rows_band
from cloister.privacy.analytic.moments import OuterNorms
from cloister.privacy.clauses import Persons, Rows
from cloister.simulations.engine import spans

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Holding:
    """Records of one site, or of several.

    Attributes:
        features: float64, shape (rows, inputs).
        labels: class numbers, int64, shape (rows,).
        units: whose row each is, int64, shape (rows,), numbered from 0 without gaps; None where every record
            is a unit of its own.
        documents: which document each row is a word of, ascending from 0 without gaps; None where every row
            is a record of its own.
        tags: the tags by name, where there are documents.
    """

    features: Floats
    labels: Indices
    units: Indices | None = None
    documents: Indices | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = (self.labels, self.units, self.documents)
        if {len(column) for column in columns if column is not None} != {len(self.features)}:
            raise ValueError("each row has one label and, where persons are known, one person")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def records(self) -> int:
        """Documents, or rows where each is a record of its own."""
        return len(self) if self.documents is None else _number(self.documents)

    @property
    def whose(self) -> Indices | None:
        """The unit of privacy of each row, shape (rows,); None where each row is one."""
        return self.documents if self.units is None else self.units

    @property
    def number_of_units(self) -> int:
        """Persons where they are known, else records."""
        return self.records if self.units is None else _number(self.units)

    @property
    def rows_band(self) -> Rows:
        """The public band of the number of records.

        Raises:
            InputError: ``site_empty``.
        """
        low, high = rows_band(self.records)
        return Rows(low=low, high=high)

    @property
    def most_words(self) -> int:
        """The upper end of the public band of the number of rows, words where records are documents.

        Raises:
            InputError: ``site_empty``.
        """
        return rows_band(len(self))[1]

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
        """The most records of one unit."""
        if self.units is None:
            return 1
        owners = self.units if self.documents is None else self.units[self._firsts]
        return int(np.bincount(owners).max())

    def take(self, rows: Indices) -> Holding:
        """Some of the rows, of a document all or none; their units and documents numbered anew."""
        return replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            units=_anew(self.units, rows),
            documents=_anew(self.documents, rows),
        )

    def rows_of(self, units: Indices) -> Indices:
        """The rows of some units, ascending."""
        if self.whose is None:
            return units
        return np.flatnonzero(np.isin(self.whose, units)).astype(np.int64)

    def score(self, found: Indices) -> float:
        """How good an answer for each row is: the share that is right; of tags the F1 of whole entities."""
        if self.documents is None:
            return float((found == self.labels).mean())
        return spans.f1(self.counts(found))

    def counts(self, found: Indices) -> Indices:
        """Of each document, entities found rightly, found and meant: shape (documents, 3)."""
        return spans.counts(found, self.labels, self._firsts, self.tags)

    # What a head's steps need again and again

    @cached_property
    def inputs(self) -> Floats:
        """Scaled features and a constant, shape (rows, inputs + 1)."""
        return np.hstack([SCALE * self.features, np.ones((len(self), 1))])

    @cached_property
    def weights(self) -> Floats:
        """What each row counts, shape (rows, 1): a document as much as any other, however long."""
        if self.documents is None:
            return np.ones((len(self), 1))
        return 1.0 / np.bincount(self.documents)[self.documents][:, None]

    @cached_property
    def outer_norms(self) -> OuterNorms:
        """The norm of each unit's sum of outer products of ``inputs`` with what is given."""
        return OuterNorms(self.inputs, self.whose)

    @cached_property
    def _firsts(self) -> Indices:
        """The first row of each document, or of each row where there are none."""
        if self.documents is None:
            return np.arange(len(self))
        return np.asarray(np.unique(self.documents, return_index=True)[1])


def _number(of_row: Indices) -> int:
    return int(of_row.max(initial=-1)) + 1


def _anew(of_row: Indices | None, rows: Indices) -> Indices | None:
    return None if of_row is None else np.unique(of_row[rows], return_inverse=True)[1]


def pooled(holdings: Sequence[Holding] | Mapping[str, Holding]) -> Holding:
    """All rows in one place, which only a simulation can have; a person at two sites counts as two."""
    parts = list(holdings.values()) if isinstance(holdings, Mapping) else list(holdings)
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    units, documents = ([getattr(part, name) for part in parts] for name in ("units", "documents"))
    return Holding(features, labels, _end_to_end(units), _end_to_end(documents), parts[0].tags)


def _end_to_end(parts: Sequence[Indices | None]) -> Indices | None:
    """Numbers of several parts, those of each after those of the ones before; None if one has none."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    starts = np.cumsum([0, *(_number(part) for part in known)])
    return np.concatenate([part + start for part, start in zip(known, starts, strict=False)])
