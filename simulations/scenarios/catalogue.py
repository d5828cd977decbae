"""The scenarios that come with Cloister: each a story in plain words, and how its sites come about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np

from cloister.client.site import records
from cloister.client.site.records import Records
from cloister.privacy.errors import InputError, UsageError
from cloister.privacy.model import DEFAULT, describe
from cloister.simulations import generator, partition
from cloister.simulations.expectation import Expectation
from cloister.simulations.generator import GeneratorSettings
from cloister.simulations.scenarios import diseases, institutes, tables
from cloister.simulations.scenarios.groups import Groups
from cloister.simulations.scenarios.institutes import Corpus
from cloister.simulations.scenarios.material import (
    OWN_SHARE,
    Material,
    Table,
    of_tables,
    of_tags,
    of_texts,
    read,
)

DATA = Path("../shared/data")
"""Where data sets are looked for if nothing else is said."""

MINIMUM = 40
"""Fewest rows of a site."""


Dial: TypeAlias = Literal["sites", "skew"]


@dataclass(frozen=True)
class Mix:
    """How rows are dealt out, where a sweep wants it another way than the story tells.

    Attributes:
        sites: how many; None for as many as the story has.
        skew: the Dirichlet parameter of the sites' label mixes, small is uneven; None for the story's own.
    """

    sites: int | None = None
    skew: float | None = None

    def named(self, names: Sequence[str]) -> tuple[str, ...]:
        """The story's names of sites, or numbered ones where there are more or fewer."""
        if self.sites in (None, len(names)):
            return tuple(names)
        return tuple(f"site-{place}" for place in range(1, (self.sites or 0) + 1))

    def dirichlet(self, usual: float) -> partition.Dirichlet:
        """Rows by label mixes of this skew."""
        return partition.Dirichlet(usual if self.skew is None else self.skew)


AS_TOLD = Mix()
_BOTH: frozenset[Dial] = frozenset({"sites", "skew"})


class Maker(Protocol):
    """Makes the sites of a scenario."""

    def __call__(self, data: Path, seed: int, mix: Mix = AS_TOLD, /) -> Material | Corpus:
        """The sites, from the folder of data sets, a seed, and how rows are dealt out."""
        ...


@dataclass(frozen=True)
class Scenario:
    """A consortium to be simulated.

    Attributes:
        name: what a command calls it.
        title: one line.
        story: who the sites are and what they want, in plain words.
        epsilon, delta: the target of the private methods.
        material: makes the sites.
        needs: the data set that it needs, by the name of its folder; "" for none.
        dials: what of its mix a sweep may change.
        beside: files of its own, for a scenario from a file.
        meaning: what its figures mean and do not mean, where that needs saying.
        swept: whether a sweep can run it.
        expected: of accuracy, for the planner, from what was public before; None where nothing is.
    """

    name: str
    title: str
    story: str
    epsilon: float
    delta: float
    material: Maker
    needs: str = ""
    dials: frozenset[Dial] = frozenset()
    beside: tuple[Path, ...] = ()
    meaning: str = ""
    swept: bool = True
    expected: Expectation | None = None

    def files(self, data: Path) -> tuple[Path, ...]:
        """Every file that its rows come from."""
        found = [*(data / self.needs).glob("*.csv"), *(data / self.needs).glob("*.jsonl.gz")]
        return self.beside or (tuple(sorted(found)) if self.needs else ())


def _triage(_: Path, seed: int, mix: Mix = AS_TOLD) -> Material:
    sites, alpha = mix.sites or 4, mix.skew or GeneratorSettings.alpha
    settings = GeneratorSettings(seed=seed, sites=sites, notes=240, test=288, tiny=96, alpha=alpha)
    corpus = generator.generate(settings)
    train = {name: generator.records(notes) for name, notes in corpus.train.items()}
    styles = Groups("style", tuple(note.style for note in corpus.test))
    return of_texts(describe(DEFAULT), train, generator.records(corpus.test), styles)


def _intents(data: Path, seed: int, mix: Mix = AS_TOLD) -> Material:
    train, test = (
        records.load(data_file(data, "banking77", side), text="text", label="label")
        for side in ("train", "test")
    )
    names = mix.named(("high-street", "savings", "online", "cooperative"))
    parts = partition.split(train, len(names), mix.dirichlet(0.5), seed, minimum=MINIMUM)
    sites: dict[str, Records] = {name: train.take(rows) for name, rows in zip(names, parts, strict=True)}
    return of_texts(describe(DEFAULT), sites, test)


def _credit(data: Path, seed: int, mix: Mix = AS_TOLD) -> Material:
    whole, test = (read(data_file(data, "south_german_credit", side)) for side in ("train", "test"))
    names = mix.named(("alpine", "river", "coast", "city"))
    sites = spread(whole, "credit_risk", names, mix.dirichlet(1.0), seed)
    train, own = _kept_back(sites, seed)
    return of_tables(tables.CREDIT, "credit_risk", train, own, test, "personal_status_sex")


def _entities(data: Path, seed: int, _: Mix = AS_TOLD) -> Material:
    whole, test = (diseases.read(data, side) for side in ("train", "test"))
    train = diseases.by_subject(whole, seed)
    return of_tags(describe(DEFAULT), train, diseases.some(test, seed), by_person=False)


def _answers(data: Path, seed: int, _: Mix = AS_TOLD) -> Corpus:
    return institutes.corpus(data, seed)


def heart(data: Path, _: int, __: Mix = AS_TOLD) -> Material:
    """The four real hospitals, and their common test.

    Raises:
        InputError: as ``data_file`` and ``read``.
    """
    whole, test = (read(data_file(data, "heart_disease", side)) for side in ("flamby_train", "flamby_test"))
    train, own = by_column(whole, "site"), by_column(test, "site")
    return of_tables(tables.HEART, "label", train, own, test, "sex")


def by_column(table: Table, column: str) -> dict[str, Table]:
    """A site for each value of a column."""
    rows = Records(table.columns[column], table.columns[column], sites=table.columns[column])
    names = partition.site_names(rows)
    parts = partition.split(rows, len(names), partition.Natural(column), 0)
    return {name: table.take(part) for name, part in zip(names, parts, strict=True)}


def spread(
    table: Table, label: str, names: tuple[str, ...], how: partition.Split, seed: int
) -> dict[str, Table]:
    """A table over sites as the literature does it (``simulations.partition``)."""
    rows = Records(table.columns[label], table.columns[label])
    parts = partition.split(rows, len(names), how, seed, minimum=MINIMUM)
    return {name: table.take(part) for name, part in zip(names, parts, strict=True)}


def _kept_back(sites: dict[str, Table], seed: int) -> tuple[dict[str, Table], dict[str, Table]]:
    """A fifth of each site's rows kept back as its own test."""
    rng, train, own = np.random.default_rng(seed), {}, {}
    for name, table in sites.items():
        rows = rng.permutation(len(table))
        cut = max(1, round(OWN_SHARE * len(table)))
        own[name], train[name] = table.take(np.sort(rows[:cut])), table.take(np.sort(rows[cut:]))
    return train, own


def data_file(data: Path, folder: str, side: str) -> Path:
    """A file of a data set, compressed or not.

    Raises:
        InputError: ``file_missing``.
    """
    path = data / folder / f"{side}.csv"
    packed = path.with_name(f"{path.name}.gz")
    if not path.is_file() and not packed.is_file():
        raise InputError(
            "file_missing", f"There is no {path}.", f"Name the folder that holds {folder} with --data."
        )
    return path if path.is_file() else packed


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "hospital-triage",
            "Four hospitals route triage notes to departments",
            "Four hospitals want a model that reads a short triage note and names the department. "
            "Each sees another mix of patients, its staff write in a style of their own, and one of "
            "them is small. No note may leave a hospital, and the promise is made to each patient, "
            "with all of the patient's notes. The notes are synthetic; no patient exists.",
            8.0,
            1e-5,
            _triage,
            dials=_BOTH,
            # `cloister demo`, all records in one place: other notes of the same generator
            expected=Expectation(0.69),
        ),
        Scenario(
            "clinical-entities",
            "Four clinics find diseases in what they write",
            "A cancer centre, a clinic for nerves and muscles, one for metabolism and a small one for "
            "genetics want a model that marks every disease in a sentence, from its first word to its last. "
            "Each writes about other diseases: what one of them has names for, the others hardly ever name. "
            "The sentences are from abstracts of the NCBI disease corpus, sorted by what they speak of; "
            "no patient is in them. Expected: a site alone misses what it has never seen, and a federation "
            "without privacy finds about what pooling finds; the promise to each sentence costs part of it, "
            "since a thousand sentences are few.",
            8.0,
            1e-5,
            _entities,
            "ncbi_disease",
            meaning="What is trained is a linear head over the words of a frozen model that was made for "
            "whole sentences: it finds far less than a fine-tuned model does (an F1 of 0.88 is published for "
            "this corpus). The figures compare ways to federate; for use, a plan would train LoRA.",
        ),
        Scenario(
            "medical-qa",
            "Nine institutes teach a model to answer questions on health",
            "Nine institutes of the US National Institutes of Health and the CDC want one model that answers "
            "what people ask them. Two of them have two thirds of all rows, the smallest one in sixty; each "
            "has its own diseases and its own way to write. No answer leaves an institute while the model "
            "learns. Expected: every plan comes to its end, all sums are opened, every ledger says what was "
            "promised, and the loss on unseen answers falls below that of the base model as it was.",
            8.0,
            1e-5,
            _answers,
            "medquad",
            meaning="The base model is tiny and its weights are random. This is a test of the machinery – "
            "LoRA on a causal language model by real plans, sums and ledgers – and no accuracy is claimed: "
            "figures are of the next letter, and no answer that this model writes is of any use. What a real "
            "base model would gain from a federation is not to be seen here.",
            swept=False,
        ),
        Scenario(
            "bank-intents",
            "Four banks recognise what customers ask for",
            "Four banks want to route customer messages by intent, 77 of them. Each bank has its own "
            "products, so each sees some intents often and others hardly ever. Messages stay at the "
            "bank.",
            3.0,
            1e-5,
            _intents,
            "banking77",
            _BOTH,
            expected=Expectation(0.93),  # Casanueva et al., 2020
        ),
        Scenario(
            "credit-risk",
            "Four regional banks judge credit applications",
            "Four regional banks want to predict whether a loan is paid back, from the columns of an "
            "application less sex, marital status and origin, which are left out. The banks differ in "
            "size and in their share of defaults.",
            8.0,
            1e-4,
            _credit,
            "south_german_credit",
            _BOTH,
            expected=Expectation(0.76, 0.70),  # 0.74 to 0.77 is usual; 700 of 1,000 are good
        ),
        Scenario(
            "heart",
            "Four real hospitals predict heart disease",
            "Cleveland, Hungary, Switzerland and VA Long Beach: the four hospitals of the UCI heart "
            "disease data, as FLamby splits them. Their patients differ so much that a model of one "
            "fails at another: in Switzerland 19 of 20 are ill, in Hungary one in three.",
            1.0,
            1e-4,
            heart,
            "heart_disease",
            expected=Expectation(0.795, 0.54),  # FLamby, all rows pooled; UCI: Cleveland's share
        ),
    )
}


def find(name: str) -> Scenario:
    """A scenario by name.

    Raises:
        UsageError: ``option_invalid``.
    """
    if name not in SCENARIOS:
        raise UsageError(
            "option_invalid",
            f"There is no scenario {name}.",
            f"There is: {', '.join(SCENARIOS)}. Or name a .toml file.",
        )
    return SCENARIOS[name]
