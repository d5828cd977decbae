"""The datasets that a site has registered: where they are, how they are read, and what may be told of them.

The records stay in their file. Registering reads them once, to find faults before any job does, sets the
budget, and fixes the public bands of the numbers of training rows and persons. A held-out tenth is kept
back for scoring at the site; which rows these are follows from a secret key and their person or, where no
column names persons, their text, so it never changes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError, model_validator

from cloister.client.site import persons, records
from cloister.client.site.folder import SiteFolder
from cloister.client.site.identifiers import gate
from cloister.client.site.identifiers.findings import Counts
from cloister.client.site.identifiers.screening import Action
from cloister.client.site.ledger import Ledger
from cloister.client.site.persons import Missing, PersonColumn
from cloister.client.site.records import Records
from cloister.privacy import canonical, code, durable, folder
from cloister.privacy.consent import Offer
from cloister.privacy.errors import InputError, StateError
from cloister.privacy.plan import Name, Persons, Rows, Sized

HELD_OUT = 0.1
SMALLEST = 16
"""A site with fewer training units cannot take part: its band would tell too much, and it learns nothing."""


class Dataset(Sized):
    """A registered dataset.

    Attributes:
        name: what plans call it.
        path: the file, on this machine only.
        text, label: its columns.
        rows: the band of the number of training rows.
        persons: that of persons, and how many rows of each count; None at record level.
        person: the column of person ids; None at record level.
        missing: what becomes of rows without an id.
        identifiers: what becomes of identifiers in its texts, whenever it is opened.
    """

    name: Name
    path: str
    text: str
    label: str
    person: str | None = None
    missing: Missing = "refuse"
    identifiers: Action = "off"

    @property
    def column(self) -> PersonColumn | None:
        """How rows say whom they are about; None at record level."""
        if self.person is None or self.persons is None:
            return None
        return PersonColumn(self.person, self.persons.most_rows, self.missing)

    @model_validator(mode="after")
    def _person_named(self) -> Self:
        if (self.person is None) != (self.persons is None):
            raise ValueError("a person column and a band of persons go together")
        return self


@dataclass(frozen=True)
class Datasets:
    """The datasets of one site's folder."""

    site: SiteFolder

    @property
    def ledger(self) -> Ledger:
        """The site's ledger, over all its datasets and jobs."""
        return Ledger(self.site.path / "ledger.sqlite", self.site.log)

    def register(
        self,
        path: Path,
        name: str,
        columns: tuple[str, str],
        budget: tuple[float, float],
        person: PersonColumn | None = None,
        identifiers: Action = "off",
        tell: Callable[[Counts], None] | None = None,
    ) -> Dataset:
        """Reads a file, sets its budget and keeps how to read it again.

        Args:
            path: CSV, JSON lines or Parquet.
            name: what plans will call it.
            columns: names of the text and the label column.
            budget: epsilon and delta of everything that will ever be learnt from it, per unit.
            person: how rows say whom they are about: the unit is then the person, else the record.
            identifiers: what becomes of identifiers in its texts, now and whenever it is opened.
            tell: is given the counts of what was found.

        Raises:
            InputError: the file or its columns cannot be used, or it has fewer units than ``SMALLEST``;
                ``identifiers_found``.
            BudgetError: ``budget_conflict``, another budget was set before.
        """
        text, label = columns
        train, held = self._split(path, columns, person)
        units = _units(train)
        if units < SMALLEST:
            raise InputError(
                "site_too_small",
                f"{path.name} has {units} {'rows' if person is None else 'persons'} to train on; "
                f"at least {SMALLEST} are needed.",
                "Add rows, or join with another site that has the same task.",
            )
        _, counts = gate.passed(self.site, name, identifiers, (train, held))
        if counts is not None and tell is not None:
            tell(counts)
        found = Dataset(
            name=name,
            path=str(path.resolve()),
            text=text,
            label=label,
            rows=_band(len(train)),
            persons=Persons(**_band(units).model_dump(), most_rows=person.most_rows) if person else None,
            person=person.name if person else None,
            missing=person.missing if person else "refuse",
            identifiers=identifiers,
        )
        self.ledger.open_budget(name, found.unit, *budget)
        durable.private_folder(self._folder)
        durable.write(self._folder / f"{name}.json", canonical.encode(found.model_dump(mode="json")))
        return found

    def __getitem__(self, name: str) -> Dataset:
        path = self._folder / f"{name}.json"
        if not path.exists():
            raise InputError(
                "file_missing", f"No dataset is registered as {name}.", "Run `cloister site data`."
            )
        try:
            return Dataset.model_validate(folder.read_json(path))
        except ValidationError as error:
            raise StateError("state_damaged", f"{path} is damaged.", "Register the dataset again.") from error

    def all(self) -> tuple[Dataset, ...]:
        """Every registered dataset, by name."""
        return tuple(self[path.stem] for path in sorted(self._folder.glob("*.json")))

    def open(self, name: str) -> tuple[Records, Records]:
        """The training and the held-out records of a dataset, with identifiers dealt with as it says.

        Raises:
            InputError: as ``read``; ``identifiers_found``, where the site refuses such texts.
        """
        parts, _ = gate.passed(self.site, name, self[name].identifiers, self.read(name))
        return parts[0], parts[1]

    def read(self, name: str) -> tuple[Records, Records]:
        """The training and the held-out records of a dataset, as they are.

        Raises:
            InputError: the file is gone or unreadable, or ``rows_changed``: a size left its band.
        """
        dataset = self[name]
        train, held = self._split(Path(dataset.path), (dataset.text, dataset.label), dataset.column)
        _check_band(name, "rows", dataset.rows, len(train))
        if dataset.persons is not None:
            _check_band(name, "persons", dataset.persons, _units(train))
        return train, held

    def offer(self, name: str) -> Offer:
        """What the lead is told of a dataset."""
        found = self[name]
        return Offer(
            site=self.site.name, dataset=name, rows=found.rows, persons=found.persons, code=code.installed()
        )

    @property
    def _folder(self) -> Path:
        return self.site.path / "datasets"

    def _split(
        self, path: Path, columns: tuple[str, str], person: PersonColumn | None
    ) -> tuple[Records, Records]:
        """Training and held-out rows; ids of persons are hashed before anything else is done."""
        text, label = columns
        found = records.load(path, text=text, label=label, person=person.name if person else None)
        held_out = self._key("held-out.key")
        if person is None:
            return records.hold_out(found, fraction=HELD_OUT, key=held_out)
        key = self._key("persons.key")
        named = persons.keyed(found, key, person.missing)
        train, held = records.hold_out(named, fraction=HELD_OUT, key=held_out)
        return persons.capped(train, person.most_rows, key), held

    def _key(self, name: str) -> bytes:
        """A secret of this site, made once and kept for its owner only."""
        path = self._folder / name
        if not path.exists():
            durable.private_folder(self._folder)
            self.site.vault.write(path, secrets.token_bytes(32))
        return self.site.vault.read(path)


def _units(train: Records) -> int:
    return len(train) if train.persons is None else len(set(train.persons))


def _band(number: int) -> Rows:
    low, high = records.rows_band(number)
    return Rows(low=low, high=high)


def _check_band(name: str, what: str, band: Rows, number: int) -> None:
    if not band.low <= number <= band.high:
        raise InputError(
            "rows_changed",
            f"{name} no longer has {band.low} to {band.high} {what} to train on.",
            "Register it again with `cloister site data`; plans made before do not hold.",
        )
