"""What a demo plays with: the records of each site, the common test set, the classes."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloister.client.site import persons, records
from cloister.client.site.persons import PersonColumn
from cloister.client.site.records import Records
from cloister.privacy.errors import InputError
from cloister.privacy.table import Table
from cloister.simulations import generator, partition

TEST_SHARE = 0.2
_TEST_KEY = b"cloister demo: common test set"
_NOTES, _TEST = 240, 300
PERSON = "person"
"""The column of person ids in the files that a demo writes for its sites."""
SECOND = "second"
"""Likewise that of second texts."""
PATIENT = "patient"
"""What the column of person ids of the synthetic notes is called."""
MINIMUM = 40
"""Fewest rows of a site in a demo: enough for a tenth to be held out."""


@dataclass(frozen=True)
class Stage:
    """The data of a demo.

    Attributes:
        purpose: what the model is for.
        labels: the classes, sorted.
        train: site name -> its records.
        test: the common test set.
        person: how the sites' files say whom their rows are about; None for record-level privacy.
        table: the columns, where rows are those of a table.
    """

    purpose: str
    labels: tuple[str, ...]
    train: Mapping[str, Records]
    test: Records
    person: PersonColumn | None = None
    table: Table | None = None


@dataclass(frozen=True)
class Source:
    """A user's own file.

    Attributes:
        path: CSV, JSON lines or Parquet.
        text, label: columns.
        site: column that names sites, or None.
        split: how rows go to sites (``simulations.partition``).
        person: the column of person ids and what becomes of it, or None.
        pair: the column of second texts, or None.
        table: the columns, in the place of text, label and pair, where rows are those of a table.
    """

    path: Path
    text: str
    label: str
    site: str | None
    split: str
    person: PersonColumn | None = None
    pair: str | None = None
    table: Table | None = None


def triage(sites: int, seed: int, person: PersonColumn | None = None) -> Stage:
    """Synthetic triage notes of hospitals that differ in patients, phrases and style.

    Raises:
        InputError: ``column_missing``, the person column is another than ``PATIENT``.
    """
    if person is not None and person.name != PATIENT:
        raise InputError(
            "column_missing", f"The notes have no column {person.name}.", f"Theirs is called {PATIENT}."
        )
    corpus = generator.generate(generator.GeneratorSettings(seed=seed, sites=sites, notes=_NOTES, test=_TEST))
    train = {name: generator.records(notes) for name, notes in corpus.train.items()}
    test = generator.records(corpus.test)
    return Stage("triage notes to departments", test.classes(), train, test, person)


def from_file(source: Source, sites: int, seed: int) -> Stage:
    """A user's file, a fifth of it kept back as the common test set, the rest split over sites.

    With a person column no person is on both sides, and all rows of a person go to one site, except
    where a column of the data says which site each row is from.

    Raises:
        InputError: the file, a column or the split cannot be used.
    """
    spec = partition.parse(source.split)
    column = spec.column if isinstance(spec, partition.Natural) else source.site
    person = source.person.name if source.person else None
    found = _loaded(source, person, column)
    label = source.table.label if source.table else source.label
    if source.person:
        found = persons.named(found, source.person.missing)
    if len(set(found.labels)) < 2:
        raise InputError("one_class", "All rows have the same label.", "Name another label column.")
    rest, test = records.hold_out(found, fraction=TEST_SHARE, key=_TEST_KEY)
    names = _names(rest, spec, sites)
    parts = partition.split(rest, len(names), spec, seed, minimum=MINIMUM)
    if source.person and not isinstance(spec, partition.Natural):
        parts = partition.together(rest, parts)
    train = {name: rest.take(rows) for name, rows in zip(names, parts, strict=True)}
    classes = source.table.classes if source.table else found.classes()
    purpose = f"{label} of {source.path.stem}"[:200]
    return Stage(purpose, classes, train, test, source.person, source.table)


def _loaded(source: Source, person: str | None, site: str | None) -> Records:
    """The usable rows of a file.

    Raises:
        InputError: as ``records.load``; ``column_twice``, a table has a column of the name that a demo gives
            to that of person ids.
    """
    if source.table and person is not None and PERSON in source.table.names:
        raise InputError(
            "column_twice",
            f"A demo calls the person ids {PERSON}, as a column is called.",
            "Rename that column.",
        )
    text, label, pair, table = source.text, source.label, source.pair, source.table
    return records.load(source.path, text=text, label=label, pair=pair, person=person, site=site, table=table)


def _names(found: Records, spec: partition.Split, sites: int) -> list[str]:
    if not isinstance(spec, partition.Natural):
        return [f"site-{place + 1}" for place in range(sites)]
    names = [slug(value) for value in partition.site_names(found)]
    if len(set(names)) != len(names):
        raise InputError(
            "split_invalid", "Two values of the site column give the same site name.", "Rename one."
        )
    return names


def slug(value: str) -> str:
    """A name of a party made of any text."""
    name = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")
    return (name if name[:1].isalpha() else f"site-{name}")[:40].rstrip("-")


def write(found: Records, path: Path, person: PersonColumn | None = None) -> None:
    """Records as the file of a site: columns ``text`` and ``label``, those of second texts and persons.

    Of a table its own columns.
    """
    columns = {"text": found.texts, "label": found.labels}
    if found.table is not None:
        columns = {**found.cells(), found.table.label: found.labels}
    if found.seconds is not None:
        columns[SECOND] = found.seconds
    if person is not None and found.persons is not None:
        columns[PERSON] = found.persons
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def majority(test: Records) -> float:
    """The accuracy of always answering the most frequent class of the test set."""
    _, counts = np.unique(np.array(test.labels), return_counts=True)
    return float(counts.max() / counts.sum())
