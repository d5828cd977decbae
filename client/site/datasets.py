"""The datasets that a site has registered: where they are, how they are read, and what may be told of them.

The records stay in their file. Registering reads them once, to find faults before any job does, sets the
budget, and fixes the public band of the number of training rows. A held-out tenth is kept back for scoring
at the site; which rows these are follows from a secret key and their text, so it never changes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cloister.client.site import records
from cloister.client.site.folder import SiteFolder
from cloister.client.site.ledger import Ledger
from cloister.client.site.records import Records
from cloister.privacy import canonical, code, durable, folder
from cloister.privacy.consent import Offer
from cloister.privacy.errors import InputError, StateError
from cloister.privacy.plan import Name, Part, Rows

HELD_OUT = 0.1
SMALLEST = 16
"""A site with fewer training rows cannot take part: its band would tell too much, and it learns nothing."""


class Dataset(Part):
    """A registered dataset.

    Attributes:
        name: what plans call it.
        path: the file, on this machine only.
        text, label: its columns.
        rows: the band of the number of training rows.
    """

    name: Name
    path: str
    text: str
    label: str
    rows: Rows


@dataclass(frozen=True)
class Datasets:
    """The datasets of one site's folder."""

    site: SiteFolder

    @property
    def ledger(self) -> Ledger:
        """The site's ledger, over all its datasets and jobs."""
        return Ledger(self.site.path / "ledger.sqlite", self.site.log)

    def register(
        self, path: Path, name: str, columns: tuple[str, str], budget: tuple[float, float]
    ) -> Dataset:
        """Reads a file, sets its budget and keeps how to read it again.

        Args:
            path: CSV, JSON lines or Parquet.
            name: what plans will call it.
            columns: names of the text and the label column.
            budget: epsilon and delta of everything that will ever be learnt from it, per record.

        Raises:
            InputError: the file or its columns cannot be used, or it is smaller than ``SMALLEST``.
            BudgetError: ``budget_conflict``, another budget was set before.
        """
        text, label = columns
        train, _ = self._split(records.load(path, text=text, label=label))
        if len(train) < SMALLEST:
            raise InputError(
                "site_too_small",
                f"{path.name} has {len(train)} rows to train on; at least {SMALLEST} are needed.",
                "Add rows, or join with another site that has the same task.",
            )
        low, high = records.rows_band(len(train))
        found = Dataset(
            name=name, path=str(path.resolve()), text=text, label=label, rows=Rows(low=low, high=high)
        )
        self.ledger.open_budget(name, "record", *budget)
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
        """The training and the held-out records of a dataset.

        Raises:
            InputError: the file is gone or unreadable, or ``rows_changed``: its size left the band.
        """
        dataset = self[name]
        train, held = self._split(records.load(Path(dataset.path), text=dataset.text, label=dataset.label))
        if not dataset.rows.low <= len(train) <= dataset.rows.high:
            raise InputError(
                "rows_changed",
                f"{name} no longer has {dataset.rows.low} to {dataset.rows.high} rows to train on.",
                "Register it again with `cloister site data`; plans made before do not hold.",
            )
        return train, held

    def offer(self, name: str) -> Offer:
        """What the lead is told of a dataset."""
        return Offer(site=self.site.name, dataset=name, rows=self[name].rows, code=code.installed())

    @property
    def _folder(self) -> Path:
        return self.site.path / "datasets"

    def _split(self, found: Records) -> tuple[Records, Records]:
        path = self._folder / "held-out.key"
        if not path.exists():
            durable.private_folder(self._folder)
            durable.write(path, secrets.token_bytes(32))
        return records.hold_out(found, fraction=HELD_OUT, key=folder.read(path))
