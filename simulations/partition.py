"""Splits of one data set over simulated sites, in the vocabulary of the federated-learning literature.

===================  ==============================================================================
``iid``              rows at random, sites of equal size
``natural:COLUMN``   by a column of the data: a site for each of its values
``dirichlet:ALPHA``  each class over the sites by a Dirichlet draw, Hsu et al. 2019 (arXiv 1909.06335)
``pathological:K``   K classes at each site, McMahan et al. 2017 (arXiv 1602.05629)
``quantity:ALPHA``   rows at random, sizes of sites by a Dirichlet draw
===================  ==============================================================================

Rows are split, not persons: a person of the data may end up at several sites. ``together`` moves each
person's rows to one of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.client.site import persons
from cloister.client.site.records import Records
from cloister.privacy.errors import InputError

Rows: TypeAlias = NDArray[np.int64]

_DRAWS: Final = 100
_KNOWN: Final = "iid, natural:COLUMN, dirichlet:ALPHA, pathological:K or quantity:ALPHA"


class Split(Protocol):
    """A way to split."""

    def draw(self, records: Records, sites: int, rng: np.random.Generator) -> list[Rows]:
        """One split: ``sites`` disjoint arrays of row indices that hold every row, sizes unchecked."""
        ...


@dataclass(frozen=True)
class Iid:
    """Rows at random, sites of equal size."""

    def draw(self, records: Records, sites: int, rng: np.random.Generator) -> list[Rows]:
        """See ``Split``."""
        return list(np.array_split(rng.permutation(len(records)), sites))


@dataclass(frozen=True)
class Natural:
    """A site for each value of a column, which the records must have been loaded with as ``site``."""

    column: str

    def draw(self, records: Records, sites: int, rng: np.random.Generator) -> list[Rows]:  # noqa: ARG002
        """See ``Split``; sites in the order of their sorted names."""
        names = site_names(records)
        if len(names) != sites:
            raise InputError(
                "split_invalid",
                f"The column {self.column} has {len(names)} values, but {sites} sites were asked for.",
                f"Ask for {len(names)} sites.",
            )
        column = np.array(records.sites)
        return [np.flatnonzero(column == name) for name in names]


@dataclass(frozen=True)
class Dirichlet:
    """Each class over the sites in shares drawn from a Dirichlet distribution."""

    alpha: float

    def draw(self, records: Records, sites: int, rng: np.random.Generator) -> list[Rows]:
        """See ``Split``."""
        parts = (_cut(rows, rng.dirichlet([self.alpha] * sites)) for rows in _by_class(records, rng))
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Pathological:
    """``classes`` classes at each site; the rows of a class evenly over the sites that have it."""

    classes: int

    def draw(self, records: Records, sites: int, rng: np.random.Generator) -> list[Rows]:
        """See ``Split``."""
        known = len(records.classes())
        if not known <= sites * self.classes or self.classes > known:
            raise InputError(
                "split_invalid",
                f"{sites} sites with {self.classes} classes each cannot share out {known} classes.",
                "Each class needs a site, and no site can have more classes than there are.",
            )
        seats = np.arange(sites * self.classes) % known
        parts: list[list[Rows]] = [[] for _ in range(sites)]
        for place, rows in zip(rng.permutation(known), _by_class(records, rng), strict=True):
            holders = np.flatnonzero(seats == place) // self.classes
            for site, piece in zip(holders, np.array_split(rows, len(holders)), strict=True):
                parts[site].append(piece)
        return [np.concatenate(pieces) for pieces in parts]


@dataclass(frozen=True)
class Quantity:
    """Rows at random, the sizes of the sites drawn from a Dirichlet distribution."""

    alpha: float

    def draw(self, records: Records, sites: int, rng: np.random.Generator) -> list[Rows]:
        """See ``Split``."""
        return _cut(rng.permutation(len(records)), rng.dirichlet([self.alpha] * sites))


def parse(text: str) -> Split:
    """The split that a command names.

    Raises:
        InputError: ``split_invalid``.
    """
    kind, _, value = text.partition(":")
    try:
        if text == "iid":
            return Iid()
        if kind == "natural" and value:
            return Natural(value)
        if kind == "pathological" and int(value) >= 1:
            return Pathological(int(value))
        if kind in ("dirichlet", "quantity") and 0 < float(value) < float("inf"):
            return (Dirichlet if kind == "dirichlet" else Quantity)(float(value))
    except ValueError as error:
        raise _unknown(text) from error
    raise _unknown(text)


def split(records: Records, sites: int, spec: Split, seed: int, minimum: int = 1) -> list[Rows]:
    """Rows of each site: int64 arrays, disjoint, together all rows, each sorted.

    Args:
        records: what is split.
        sites: how many sites.
        spec: how.
        seed: fixes the draw; the same on every machine.
        minimum: the fewest rows that a site may have; a draw with a smaller site is drawn again.

    Raises:
        InputError: ``site_too_small``, no draw of many gave each site its minimum;
            ``split_invalid``, the split cannot be made on these records.
    """
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        parts = spec.draw(records, sites, rng)
        smallest = min(len(rows) for rows in parts)
        if smallest >= minimum:
            return [np.sort(rows) for rows in parts]
    raise InputError(
        "site_too_small",
        f"With this split a site has {smallest} rows, fewer than {minimum}.",
        "Use fewer sites, another split or a larger alpha.",
    )


def together(records: Records, parts: list[Rows]) -> list[Rows]:
    """The same split with all rows of each person at the site that had most of them, the first if tied.

    Args:
        records: with the persons that all rows are about.
        parts: a split of them.

    Raises:
        InputError: ``site_empty``, a site lost all its rows.
    """
    if records.persons is None:
        raise ValueError("records without persons have none to keep together")
    names = [persons.normalised(person) for person in records.persons]
    held: dict[str, Counter[int]] = defaultdict(Counter)
    for site, rows in enumerate(parts):
        for row in rows.tolist():
            held[names[row]][site] += 1
    home = {name: min(at, key=lambda site: (-at[site], site)) for name, at in held.items()}
    sites = np.array([home[name] for name in names], dtype=np.int64)
    moved = [np.flatnonzero(sites == site) for site in range(len(parts))]
    if not all(len(rows) for rows in moved):
        raise InputError(
            "site_empty",
            "With all rows of a person at one site, a site has no rows.",
            "Use fewer sites or another split.",
        )
    return moved


def site_names(records: Records) -> tuple[str, ...]:
    """The values of the site column, sorted: the names of natural sites.

    Raises:
        InputError: ``split_invalid``, the records have no such column.
    """
    if records.sites is None:
        raise InputError(
            "split_invalid", "The records have no column that names sites.", "Name one with --site."
        )
    return tuple(sorted(set(records.sites)))


def _by_class(records: Records, rng: np.random.Generator) -> Iterator[Rows]:
    """The rows of each class, in random order, classes sorted."""
    labels = np.array(records.labels)
    return (rng.permutation(np.flatnonzero(labels == name)) for name in records.classes())


def _cut(rows: Rows, shares: NDArray[np.float64]) -> list[Rows]:
    """Consecutive pieces whose sizes follow the shares, which add up to 1."""
    return list(np.split(rows, np.rint(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)))


def _unknown(text: str) -> InputError:
    return InputError("split_invalid", f"There is no split {text!r}.", f"Use {_KNOWN}.")
