"""The cases of ``bench planner``: ten to test it, ten more, and those it was tuned on.

``CASES`` were written down before any was run, and no rule of the planner was set beside them. ``UNSEEN``
were written down before the rules were, and run once, after that: eight of them are of data sets that no
other case is of, two of tables dealt out in another way. ``TUNING`` is what the rules of thumb were set
beside, ``GRID`` the constant of ``simulations.expectation``: other data sets or other deals of the same,
other targets, samples, seeds and numbers of sites.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cloister.client.site import records
from cloister.client.site.records import Records
from cloister.privacy.analytic.tabular import Columns
from cloister.privacy.errors import InputError
from cloister.privacy.model import DEFAULT, describe
from cloister.simulations import partition
from cloister.simulations.expectation import Expectation
from cloister.simulations.scenarios import tables
from cloister.simulations.scenarios.catalogue import (
    AS_TOLD,
    MINIMUM,
    Mix,
    data_file,
    find,
    spread,
)
from cloister.simulations.scenarios.material import Material, Table, of_tables, of_texts, read

_FEWEST = 12
"""Rows of a class in a sample; smaller classes are left out, for a site keeps some of them back."""
_TEST = 400
"""Most test rows of a sample."""
_OTHER = "none"


class Case(Protocol):
    """One question to the planner."""

    @property
    def name(self) -> str:
        """What its figures are called."""
        ...

    @property
    def needs(self) -> str:
        """The folder of its data set; "" for none."""
        ...

    @property
    def epsilon(self) -> float:
        """The target."""
        ...

    @property
    def delta(self) -> float:
        """Its delta."""
        ...

    @property
    def expected(self) -> Expectation | None:
        """Of accuracy, from public sources, never from the case's own rows; None where none is at hand."""
        ...

    def material(self, data: Path) -> Material:
        """Sites and test rows, from the folder of data sets.

        Raises:
            InputError: they cannot be used.
        """
        ...


@dataclass(frozen=True)
class Story:
    """A scenario at a target of its own.

    Attributes:
        scenario: whose data set and delta.
        epsilon: the target.
        mix: how rows are dealt out.
        seed: of the notes that are made up, and of how rows are dealt out.
    """

    scenario: str
    epsilon: float
    mix: Mix = AS_TOLD
    seed: int = 0

    @property
    def name(self) -> str:
        """See ``Case``."""
        sites = f"_{self.mix.sites}_sites" if self.mix.sites else ""
        seed = f"_seed{self.seed}" if self.seed else ""
        return f"{self.scenario.replace('-', '_')}{sites}{seed}_eps{self.epsilon:g}"

    @property
    def needs(self) -> str:
        """See ``Case``."""
        return find(self.scenario).needs

    @property
    def delta(self) -> float:
        """See ``Case``."""
        return find(self.scenario).delta

    @property
    def expected(self) -> Expectation | None:
        """See ``Case``."""
        return find(self.scenario).expected

    def material(self, data: Path) -> Material:
        """See ``Case``."""
        found = find(self.scenario).material(data, self.seed, self.mix)
        if not isinstance(found, Material):
            raise TypeError("the planner knows scenarios of classes only")
        return found


@dataclass(frozen=True)
class Sample:
    """Rows of a data set, some of them, dealt out by a Dirichlet draw of 0.5.

    Attributes:
        corpus: which (``CORPORA``).
        epsilon: the target.
        sites: how many.
        rows: of training, at most; of all sites, before each keeps a fifth back.
        classes: how many, drawn by the seed; None for all.
        seed: of all draws.
    """

    corpus: str
    epsilon: float
    sites: int
    rows: int
    classes: int | None = None
    seed: int = 0
    delta: float = 1e-5

    @property
    def name(self) -> str:
        """See ``Case``."""
        few = f"_{self.classes}_classes" if self.classes else ""
        seed = f"_seed{self.seed}" if self.seed else ""
        return f"{self.corpus}_{self.rows}{few}_{self.sites}_sites{seed}_eps{self.epsilon:g}"

    @property
    def needs(self) -> str:
        """See ``Case``."""
        return CORPORA[self.corpus][0]

    @property
    def expected(self) -> Expectation | None:
        """See ``Case``."""
        return _EXPECTED.get(self.corpus)

    def material(self, data: Path) -> Material:
        """See ``Case``."""
        folder, reader = CORPORA[self.corpus]
        rng = np.random.default_rng(self.seed)
        train, test = reader(data / folder)
        known = sorted(train.classes())
        if self.classes is not None:
            known = sorted(rng.choice(known, self.classes, replace=False).tolist())
        train = _some(_of(train, known), self.rows, rng)
        counts = Counter(train.labels)
        train = _of(train, [name for name in known if counts[name] >= _FEWEST])
        parts = partition.split(train, self.sites, partition.Dirichlet(0.5), self.seed, minimum=MINIMUM)
        sites = {f"site-{place}": train.take(rows) for place, rows in enumerate(parts, start=1)}
        return of_texts(describe(DEFAULT), sites, _some(_of(test, train.classes()), _TEST, rng))


@dataclass(frozen=True)
class Dealt:
    """Rows of a table, dealt out by a Dirichlet draw of 1.

    Attributes:
        table: which (``TABLES``).
        epsilon: the target.
        sites: how many.
        seed: of the draw.
    """

    table: str
    epsilon: float
    sites: int
    seed: int
    delta: float = 1e-4

    @property
    def name(self) -> str:
        """See ``Case``."""
        return f"{self.table}_{self.sites}_sites_seed{self.seed}_eps{self.epsilon:g}"

    @property
    def needs(self) -> str:
        """See ``Case``."""
        return TABLES[self.table].folder

    @property
    def expected(self) -> Expectation | None:
        """See ``Case``."""
        return find(TABLES[self.table].scenario).expected

    def material(self, data: Path) -> Material:
        """See ``Case``."""
        how = TABLES[self.table]
        whole, test = (read(data_file(data, how.folder, side)) for side in how.sides)
        names = tuple(f"site-{place}" for place in range(1, self.sites + 1))
        sites = spread(whole, how.label, names, partition.Dirichlet(1.0), self.seed)
        return of_tables(how.columns, how.label, sites, dict.fromkeys(names, _first(test)), test)


@dataclass(frozen=True)
class _Kept:
    """A table in the folder of data sets, and the scenario that is of it, too."""

    scenario: str
    folder: str
    sides: tuple[str, str]
    label: str
    columns: Columns


TABLES: Mapping[str, _Kept] = {
    "credit": _Kept("credit-risk", "south_german_credit", ("train", "test"), "credit_risk", tables.CREDIT),
    "hearts": _Kept("heart", "heart_disease", ("flamby_train", "flamby_test"), "label", tables.HEART),
}


def _first(table: Table) -> Table:
    """A row for the sites' own tests, which no case looks at."""
    return table.take(np.arange(1))


def _some(rows: Records, most: int, rng: np.random.Generator) -> Records:
    return rows.take(np.sort(rng.permutation(len(rows))[:most]))


def _of(rows: Records, classes: Sequence[str]) -> Records:
    """The rows of some classes."""
    known = set(classes)
    return rows.take([place for place, label in enumerate(rows.labels) if label in known])


# Data sets as texts with a class

Sides = tuple[Records, Records]


def _sentiment(folder: Path) -> Sides:
    """Positive or negative (SST-2)."""
    return _csv(folder / "train.csv.gz"), _csv(folder / "test.csv")


def _intents(folder: Path) -> Sides:
    """What a customer asks for (banking77)."""
    return _csv(folder / "train.csv"), _csv(folder / "test.csv")


def _answers(folder: Path) -> Sides:
    """What kind of question an answer is to (MedQuAD)."""
    return _both(folder, "jsonl.gz", lambda row: (row["answer"], row["qtype"]))


def _mentions(folder: Path) -> Sides:
    """Whether a sentence names a disease (NCBI disease)."""

    def told(row: Mapping[str, Any]) -> tuple[str, str]:
        named = any(tag != "O" for tag in row["tags"])
        return " ".join(row["tokens"]), "disease" if named else _OTHER

    return _both(folder, "jsonl.gz", told)


def _identifiers(folder: Path) -> Sides:
    """Which kind of identifier stands first in a sentence (Presidio)."""

    def told(row: Mapping[str, Any]) -> tuple[str, str]:
        spans = sorted(row["spans"], key=lambda span: span["start"])
        return row["text"], spans[0]["type"] if spans else _OTHER

    return _both(folder, "jsonl", told)


CORPORA: Mapping[str, tuple[str, Callable[[Path], Sides]]] = {
    "sentiment": ("sst2", _sentiment),
    "intents": ("banking77", _intents),
    "answers": ("medquad", _answers),
    "mentions": ("ncbi_disease", _mentions),
    "identifiers": ("presidio_pii", _identifiers),
}


_EXPECTED: Mapping[str, Expectation] = {
    "sentiment": Expectation(0.82, 0.56),  # a head on frozen features; the shares of SST-2's training rows
    "intents": Expectation(0.93),  # Casanueva et al., 2020
}


def _csv(path: Path) -> Records:
    return records.load(path, text="text", label="label")


def _both(folder: Path, ending: str, told: Callable[[Mapping[str, Any]], tuple[str, str]]) -> Sides:
    train, test = (_records(map(told, _lines(folder / f"{side}.{ending}"))) for side in ("train", "test"))
    return train, test


def _records(rows: Iterable[tuple[str, str]]) -> Records:
    texts, labels = zip(*rows, strict=True)
    return Records(texts, labels)


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a file of JSON lines."""
    if not path.is_file():
        raise InputError("file_missing", f"There is no {path}.", "Name the folder of data sets with --data.")
    packed = path.suffix == ".gz"
    with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


CASES: tuple[Story, ...] = (
    Story("heart", 0.1),
    Story("heart", 0.3),
    Story("heart", 2.0),
    Story("credit-risk", 0.3),
    Story("credit-risk", 8.0),
    Story("credit-risk", 1.0, Mix(sites=8)),
    Story("hospital-triage", 1.0),
    Story("hospital-triage", 8.0),
    Story("bank-intents", 1.0),
    Story("bank-intents", 8.0),
)

UNSEEN: tuple[Case, ...] = (
    Sample("answers", 1.0, 4, 1200),
    Sample("answers", 6.0, 6, 1200),
    Sample("answers", 3.0, 3, 600),
    Sample("mentions", 0.4, 4, 1200),
    Sample("mentions", 4.0, 6, 1200),
    Sample("mentions", 1.5, 3, 600),
    Sample("identifiers", 2.0, 3, 1128),
    Sample("identifiers", 10.0, 4, 1128),
    Dealt("credit", 1.5, 3, 11),
    Dealt("hearts", 0.6, 4, 12),
)

TUNING: tuple[Case, ...] = (
    Dealt("credit", 0.5, 5, 1),
    Dealt("credit", 3.0, 4, 2),
    Dealt("credit", 8.0, 3, 3),
    Dealt("credit", 4.0, 6, 4),
    Dealt("hearts", 0.2, 5, 1),
    Dealt("hearts", 1.0, 3, 2),
    Dealt("hearts", 5.0, 6, 3),
    Story("hospital-triage", 3.0, seed=1),
    Story("hospital-triage", 16.0, seed=1),
    Sample("sentiment", 1.0, 3, 600),
    Sample("sentiment", 8.0, 3, 600),
    Sample("sentiment", 0.3, 4, 2000),
    Sample("sentiment", 2.0, 4, 2000),
    Sample("intents", 2.0, 4, 1300, classes=10),
    Sample("intents", 8.0, 4, 1300, classes=10),
)

_OF_TABLES = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0)
_OF_TEXTS = (0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 16.0)

GRID: tuple[Case, ...] = (
    *(Dealt("hearts", epsilon, sites, 20 + sites) for sites in (3, 4, 6, 8) for epsilon in _OF_TABLES),
    *(Dealt("credit", epsilon, sites, 30 + sites) for sites in (3, 4, 5, 8) for epsilon in _OF_TABLES),
    *(Story("hospital-triage", epsilon, seed=seed) for seed in (1, 2) for epsilon in _OF_TEXTS),
    *(Story("hospital-triage", epsilon, Mix(sites), seed=3) for sites in (4, 8) for epsilon in _OF_TEXTS),
    *(Sample("sentiment", epsilon, 6, 600, seed=6) for epsilon in _OF_TEXTS),
    *(Sample("sentiment", epsilon, 4, 2000, seed=4) for epsilon in _OF_TEXTS),
)
