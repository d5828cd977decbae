"""What a demo plays with: the records of each site, the common test set, the classes."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloister.client.site import records
from cloister.client.site.records import Records
from cloister.privacy.errors import InputError
from cloister.simulations import generator, partition

TEST_SHARE = 0.2
_TEST_KEY = b"cloister demo: common test set"
_NOTES, _TEST = 240, 300
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
    """

    purpose: str
    labels: tuple[str, ...]
    train: Mapping[str, Records]
    test: Records


@dataclass(frozen=True)
class Source:
    """A user's own file.

    Attributes:
        path: CSV, JSON lines or Parquet.
        text, label: columns.
        site: column that names sites, or None.
        split: how rows go to sites (``simulations.partition``).
    """

    path: Path
    text: str
    label: str
    site: str | None
    split: str


def triage(sites: int, seed: int) -> Stage:
    """Synthetic triage notes of hospitals that differ in patients, phrases and style."""
    corpus = generator.generate(generator.GeneratorSettings(seed=seed, sites=sites, notes=_NOTES, test=_TEST))
    train = {name: generator.records(notes) for name, notes in corpus.train.items()}
    test = generator.records(corpus.test)
    return Stage("triage notes to departments", test.classes(), train, test)


def from_file(source: Source, sites: int, seed: int) -> Stage:
    """A user's file, a fifth of it kept back as the common test set, the rest split over sites.

    Raises:
        InputError: the file, a column or the split cannot be used.
    """
    spec = partition.parse(source.split)
    column = spec.column if isinstance(spec, partition.Natural) else source.site
    found = records.load(source.path, text=source.text, label=source.label, site=column)
    if len(set(found.labels)) < 2:
        raise InputError("one_class", "All rows have the same label.", "Name another label column.")
    rest, test = records.hold_out(found, fraction=TEST_SHARE, key=_TEST_KEY)
    names = _names(rest, spec, sites)
    parts = partition.split(rest, len(names), spec, seed, minimum=MINIMUM)
    train = {name: rest.take(rows) for name, rows in zip(names, parts, strict=True)}
    return Stage(f"{source.label} of {source.path.stem}"[:200], found.classes(), train, test)


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


def write(found: Records, path: Path) -> None:
    """Records as the file that a site would have, with the columns ``text`` and ``label``."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(zip(found.texts, found.labels, strict=True))


def majority(test: Records) -> float:
    """The accuracy of always answering the most frequent class of the test set."""
    _, counts = np.unique(np.array(test.labels), return_counts=True)
    return float(counts.max() / counts.sum())
