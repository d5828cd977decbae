"""The datasets that a site has registered: where they are, how they are read, and what may be told of them.

The records stay where they are. Registering reads them once, to find faults before any job does, sets the
budget, and fixes the public bands of the numbers of training rows and persons and the dataset's fingerprint.
A held-out tenth is kept back for scoring at the site; which rows these are follows from a secret key and
their person or, where no column names persons, their text, so it never changes. Folders of one site that
share a ledger share these keys (``client.site.sharing``): what is held out in one consortium is held out in
all.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from cloister.client.site import persons, records, sharing
from cloister.client.site.fingerprint import fingerprint
from cloister.client.site.folder import SiteFolder
from cloister.client.site.identifiers import gate
from cloister.client.site.identifiers.findings import Counts
from cloister.client.site.identifiers.screening import Action
from cloister.client.site.ledger import Ledger
from cloister.client.site.persons import PersonColumn
from cloister.client.site.records import Missing, Records
from cloister.client.site.selection import Selection, check_identifiers, selected
from cloister.client.site.sources.place import Place
from cloister.client.site.trial import Trial, trial
from cloister.privacy import canonical, code, durable, folder
from cloister.privacy.clauses import Digest, Name, Persons, Rows, Sized
from cloister.privacy.consent import Offer
from cloister.privacy.errors import InputError, PlanError, StateError
from cloister.privacy.table import Table
from cloister.privacy.task import Task, TaskKind

HELD_OUT = 0.1
SMALLEST = 16
"""A site with fewer training units cannot take part: its band would tell too much, and it learns nothing."""


@dataclass(frozen=True)
class Split:
    """A dataset in its two parts.

    Attributes:
        train: the training rows that count.
        held: the rows held out for scoring.
        before: the training rows before those of one person were capped.
    """

    train: Records
    held: Records
    before: Records

    @property
    def units(self) -> int:
        """The number of training persons, or of rows where no column names persons."""
        return len(self.train) if self.train.persons is None else len(set(self.train.persons))


class Dataset(Sized):
    """A registered dataset.

    Attributes:
        name: what plans call it.
        place: where it is, for this machine only.
        text, label: its columns; no text where rows are those of a table.
        rows: the band of the number of training rows.
        persons: that of persons, and how many rows of each count; None at record level.
        person: the column of person ids; None at record level.
        missing: what becomes of rows without an id.
        missing_values: what becomes of rows without a text or label.
        fingerprint: of the data when they were registered.
        pinned: whether other data than those are refused.
        identifiers: what becomes of identifiers in its texts, whenever it is opened.
        task: the kind of task that its rows are for.
        pair: its column of second texts; None where rows have one.
        table: the columns that were agreed on, where rows are those of a table.
    """

    name: Name
    place: Place
    text: str
    label: str
    task: TaskKind = "sequence-classification"
    pair: str | None = None
    table: Table | None = None
    person: str | None = None
    missing: Missing = "refuse"
    missing_values: Missing = "refuse"
    fingerprint: Digest
    pinned: bool = False
    identifiers: Action = "off"

    @property
    def selection(self) -> Selection:
        """Which rows and columns of its source are used."""
        column = None
        if self.person is not None and self.persons is not None:
            column = PersonColumn(self.person, self.persons.most_rows, self.missing)
        missing = self.missing_values
        return Selection(self.place, self.text, self.label, column, missing, self.task, self.pair, self.table)

    def require(self, task: Task) -> None:
        """Refuses a task that its rows are not for, before any is read.

        Raises:
            PlanError: ``plan_conflict``.
        """
        if (self.task, self.pair is not None) != (task.kind, bool(task.pair)):
            own = f"{self.task}{' of pairs' if self.pair else ''}"
            raise PlanError(
                "plan_conflict",
                f"The plan's task is {task.kind}{' of pairs' if task.pair else ''}, the rows of {self.name} "
                f"are for {own}.",
                "Register the dataset for this task, or ask for another plan.",
            )
        if task.table and self.table and (differs := self.table.differs(task.table)):
            raise PlanError(
                "plan_conflict",
                f"The plan reads {self.name} by other columns than were registered: {differs} differs.",
                "Lead and sites take the same file of columns; register the dataset again with the lead's.",
            )

    @model_validator(mode="after")
    def _person_named(self) -> Self:
        if (self.person is None) != (self.persons is None):
            raise ValueError("a person column and a band of persons go together")
        if (self.table is None) != (self.task != "tabular-classification"):
            raise ValueError("columns belong to rows of a table")
        return self


@dataclass(frozen=True)
class Datasets:
    """The datasets of one site's folder."""

    site: SiteFolder

    @property
    def ledger(self) -> Ledger:
        """The site's ledger, over all its datasets and jobs.

        Raises:
            StateError: as ``sharing.opened``.
        """
        return sharing.opened(self.site)

    def register(
        self,
        source: Path | Place,
        name: str,
        columns: tuple[str, str] | Table,
        budget: tuple[float, float],
        person: PersonColumn | None = None,
        *,
        task: TaskKind = "sequence-classification",
        pair: str | None = None,
        missing: Missing = "refuse",
        pinned: bool = False,
        identifiers: Action = "off",
        tell: Callable[[Counts], None] | None = None,
    ) -> Dataset:
        """Reads a source, sets its budget and keeps how to read it again.

        Args:
            source: a file, a folder, or a table or query of a database.
            name: what plans will call it.
            columns: names of the text and the label column, or those of a table.
            budget: epsilon and delta of everything that will ever be learnt from it, per unit.
            person: how rows say whom they are about: the unit is then the person, else the record.
            task: the kind of task that its rows are for.
            pair: the column of second texts, where each row is a pair.
            missing: what becomes of rows without a text or label.
            pinned: whether to refuse the data once they are no longer the same.
            identifiers: what becomes of identifiers in its texts, now and whenever it is opened.
            tell: is given the counts of what was found.

        Raises:
            InputError: the source or its columns cannot be used, or it has fewer units than ``SMALLEST``;
                ``identifiers_found``.
            UsageError: ``option_invalid``, pairs are not for this task.
            BudgetError: ``budget_conflict``, another budget was set before; ``data_twice``, for the same data
                under another name.
        """
        place = source if isinstance(source, Place) else Place.of(source)
        selection = selected(place, columns, Selection(place, "", "", person, missing, task, pair))
        check_identifiers(selection, identifiers)
        raw = selection.raw()
        split = self.split(selection, raw)
        check_size(selection, split.units)
        _, counts = gate.passed(self.site, name, identifiers, (split.train, split.held))
        if counts is not None and tell is not None:
            tell(counts)
        found = Dataset(
            name=name,
            place=place,
            text=selection.text,
            label=selection.label,
            task=selection.kind,
            pair=pair,
            table=selection.table,
            rows=band(len(split.train)),
            persons=Persons(**band(split.units).model_dump(), most_rows=person.most_rows) if person else None,
            person=person.name if person else None,
            missing=person.missing if person else "refuse",
            missing_values=missing,
            fingerprint=self.fingerprint(selection, raw),
            pinned=pinned,
            identifiers=identifiers,
        )
        self._set_budget(found, budget)
        durable.private_folder(self._folder)
        self._seen(name).unlink(missing_ok=True)
        durable.write(self._folder / f"{name}.json", canonical.encode(found.model_dump(mode="json")))
        self.site.log.append("dataset.registered", **_event(found, found.fingerprint), pinned=pinned)
        return found

    def _set_budget(self, found: Dataset, terms: tuple[float, float]) -> None:
        """Sets the budget, and has it in this folder's log: it may have been set from another one."""
        budget = self.ledger.open_budget(found.name, found.unit, *terms, fingerprint=found.fingerprint)
        opened = (e.body["dataset"] for e in self.site.log.entries() if e.type == "budget.opened")
        if found.name not in opened:
            self.site.log.append("budget.opened", **vars(budget))

    def __getitem__(self, name: str) -> Dataset:
        path = self._folder / f"{name}.json"
        if not path.exists():
            raise InputError(
                "file_missing", f"No dataset is registered as {name}.", "Run `cloister site data add`."
            )
        try:
            return Dataset.model_validate_json(canonical.encode(folder.read_json(path)))
        except ValidationError as error:
            raise StateError("state_damaged", f"{path} is damaged.", "Register the dataset again.") from error

    def all(self) -> tuple[Dataset, ...]:
        """Every registered dataset, by name."""
        return tuple(self[path.stem] for path in sorted(self._folder.glob("*.json")))

    def open(self, name: str, job: str | None = None) -> tuple[Records, Records]:
        """The training and the held-out records of a dataset, with identifiers dealt with as it says.

        Args:
            name: of the dataset.
            job: the digest of the plan that opens it; the event log then says so.

        Raises:
            InputError: as ``read``; ``identifiers_found``, where the site refuses such texts.
        """
        parts, _ = gate.passed(self.site, name, self[name].identifiers, self.read(name, job), job)
        return parts[0], parts[1]

    def read(self, name: str, job: str | None = None) -> tuple[Records, Records]:
        """The training and the held-out records of a dataset, as they are.

        Raises:
            InputError: the source is gone or unreadable; ``rows_changed``, a size left its band;
                ``data_changed``, the dataset is pinned and its data are others.
        """
        dataset = self[name]
        raw = dataset.selection.raw()
        commitment = self.fingerprint(dataset.selection, raw)
        self._compare(dataset, commitment, job)
        split = self.split(dataset.selection, raw)
        _check_band(name, "rows", dataset.rows, len(split.train))
        if dataset.persons is not None:
            _check_band(name, "persons", dataset.persons, split.units)
        if job is not None:
            self.site.log.append("dataset.opened", job=job, **_event(dataset, commitment))
        return split.train, split.held

    def trial(self, name: str, job: str) -> Trial | None:
        """The units of a dataset that the finished model of a job can be tested on; None if too few.

        Raises:
            InputError: as ``open``; ``data_changed``, they are not those that the job was trained on.
        """
        train, held = self.open(name, job)
        opened = [e for e in self.site.log.entries() if (e.type, e.job) == ("dataset.opened", job)]
        if len({event.body["commitment"] for event in opened}) != 1:
            raise InputError(
                "data_changed",
                f"The data of {name} are not those that the job was trained on.",
                "Nothing can be said of members any more; put the data back.",
            )
        column = self[name].selection.person
        if column is not None:
            held = persons.capped(held, column.most_rows, self._key("persons.key"))
        return trial(train, held, fraction=HELD_OUT, key=self._key("held-out.key"), job=job)

    def changed(self, name: str) -> str:
        """A line that says so if the data were last seen to be others than were registered; else ""."""
        if not self._seen(name).exists():
            return ""
        return f"The data of {name} are not those that were registered: rows were added, removed or altered."

    def split(self, selection: Selection, raw: Records) -> Split:
        """Training and held-out rows; ids of persons are hashed as soon as rows without one are dealt with.

        Raises:
            InputError: as ``records.usable``, ``records.hold_out`` and ``persons.named``.
        """
        found = records.usable(raw, selection.place.title, selection.names, selection.missing)
        held_out = self._key("held-out.key")
        if selection.person is None:
            train, held = records.hold_out(found, fraction=HELD_OUT, key=held_out)
            return Split(train, held, train)
        key = self._key("persons.key")
        named = persons.keyed(found, key, selection.person.missing)
        train, held = records.hold_out(named, fraction=HELD_OUT, key=held_out)
        return Split(persons.capped(train, selection.person.most_rows, key), held, train)

    def fingerprint(self, selection: Selection, raw: Records) -> str:
        """The keyed fingerprint of all rows of the used columns."""
        return fingerprint(raw, selection.names, self._key("fingerprint.key"))

    def offer(self, name: str) -> Offer:
        """What the lead is told of a dataset."""
        found = self[name]
        return Offer(
            site=self.site.name, dataset=name, rows=found.rows, persons=found.persons, code=code.installed()
        )

    @property
    def _folder(self) -> Path:
        return self.site.path / "datasets"

    def _seen(self, name: str) -> Path:
        """Where the fingerprint of data is kept that are no longer the registered ones."""
        return self._folder / f"{name}.changed"

    def _compare(self, dataset: Dataset, commitment: str, job: str | None) -> None:
        """Notes once in the log that data changed or changed back, and refuses pinned ones."""
        seen = self._seen(dataset.name)
        last = seen.read_text() if seen.exists() else dataset.fingerprint
        same, outcome = commitment == dataset.fingerprint, "allowed"
        if not same and dataset.pinned:
            outcome = "refused"
        if commitment != last:
            self.site.log.append(
                "dataset.changed",
                job=job,
                dataset=dataset.name,
                previous=last,
                commitment=commitment,
                outcome=outcome,
            )
            if same:
                seen.unlink(missing_ok=True)
            else:
                durable.write(seen, commitment.encode())
        if outcome == "refused":
            raise InputError(
                "data_changed",
                f"{dataset.name} is pinned, and its data are not those that were registered.",
                "Put the data back, or register it again with `cloister site data add`.",
            )

    @cached_property
    def _home(self) -> SiteFolder:
        """Where the keys are: with the ledger."""
        return sharing.home(self.site)

    def _key(self, name: str) -> bytes:
        """A secret of this site, made once and kept for its owner only."""
        place, vault = self._home.path / "datasets", self._home.vault
        path = place / name
        if not path.exists():
            durable.private_folder(place)
            with folder.edit(place / "keys.lock"):  # two folders may ask for it at once
                if not path.exists():
                    vault.write(path, secrets.token_bytes(32))
        return vault.read(path)


def check_size(selection: Selection, units: int) -> None:
    """Refuses a dataset with fewer training units than ``SMALLEST``: ``site_too_small``."""
    if units < SMALLEST:
        raise InputError(
            "site_too_small",
            f"{selection.place.title} has {units} {'persons' if selection.person else 'rows'} to train on; "
            f"at least {SMALLEST} are needed.",
            "Add rows, or join with another site that has the same task.",
        )


def band(number: int) -> Rows:
    """The band that is told of a number of rows or persons."""
    low, high = records.rows_band(number)
    return Rows(low=low, high=high)


def _event(dataset: Dataset, commitment: str) -> dict[str, Any]:
    """What the log says of a dataset: bands, digest and number of its columns, the keyed fingerprint."""
    found: dict[str, Any] = {
        "dataset": dataset.name,
        "rows": f"{dataset.rows.low}-{dataset.rows.high}",
        "unit": dataset.unit,
        "columns": canonical.digest_of(dataset.selection.names),
        "read": len({*dataset.selection.names.values()}),
        "commitment": commitment,
    }
    if dataset.persons is not None:
        found |= {
            "persons": f"{dataset.persons.low}-{dataset.persons.high}",
            "cap": dataset.persons.most_rows,
        }
    return found


def _check_band(name: str, what: str, band: Rows, number: int) -> None:
    if not band.low <= number <= band.high:
        raise InputError(
            "rows_changed",
            f"{name} no longer has {band.low} to {band.high} {what} to train on.",
            "Register it again with `cloister site data add`; plans made before do not hold.",
        )
