"""The rows of a site's privacy ledger: their values, their tables, and every line of SQL about them.

Rows are only ever added; triggers refuse everything else.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.dp.events import RELATION, GaussianSteps
from cloister.privacy.errors import StateError

VERSION = 1

_SCHEMA = (
    """CREATE TABLE budgets (
    dataset TEXT PRIMARY KEY NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('person', 'record')),
    relation TEXT NOT NULL,
    epsilon REAL NOT NULL CHECK (epsilon > 0),
    delta REAL NOT NULL CHECK (delta > 0 AND delta < 1),
    event TEXT
)""",
    """CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('reserved', 'spent', 'released')),
    dataset TEXT NOT NULL REFERENCES budgets (dataset),
    job TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    mechanism TEXT NOT NULL,
    total REAL NOT NULL,
    result TEXT CHECK ((result IS NOT NULL) = (kind = 'released')),
    event TEXT,
    UNIQUE (dataset, job, round, attempt, kind)
)""",
    *(
        f"CREATE TRIGGER {table}_{change} BEFORE {change} ON {table}"
        " BEGIN SELECT RAISE(ABORT, 'rows of the ledger are never changed'); END"
        for table in ("budgets", "entries")
        for change in ("UPDATE", "DELETE")
    ),
    f"PRAGMA user_version = {VERSION}",
)
_BUDGETS = "SELECT dataset, unit, epsilon, delta FROM budgets"
_ROWS = "SELECT kind, dataset, job, round, attempt, mechanism, total, result, event, seq FROM entries"


@dataclass(frozen=True)
class Budget:
    """What a dataset may cost, over all jobs.

    Attributes:
        dataset: its name at this site.
        unit: ``person`` or ``record``: whom the epsilon protects.
        epsilon: the limit, at ``delta``, for one unit added or removed.
        delta: in (0, 1).
    """

    dataset: str
    unit: str
    epsilon: float
    delta: float


@dataclass(frozen=True)
class Reservation:
    """One attempt at one round of a job, charged to a dataset."""

    dataset: str
    job: str
    round: int
    attempt: int
    mechanism: GaussianSteps

    @property
    def digest(self) -> str:
        """The name under which the log ties together what was reserved, spent and released."""
        return canonical.digest_of({**vars(self), "mechanism": self.mechanism.to_json()})


@dataclass(frozen=True)
class Row:
    """One row of the ledger.

    Attributes:
        kind: ``reserved``, ``spent`` or ``released``.
        reservation: the attempt, and its mechanism; where ``spent``, what it came to.
        total: the ruling epsilon of the dataset after this row.
        result: digest of what left the site, for ``released``; else None.
        event: hash of the event in the site's log, None if there was no log.
        seq: place in the ledger, from 1; 0 before it is written.
    """

    kind: str
    reservation: Reservation
    total: float
    result: str | None = None
    event: str | None = None
    seq: int = 0


class Entries:
    """The tables of a ledger, behind an open connection. It decides nothing."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def prepare(self) -> None:
        """Make the tables in an empty file.

        Raises:
            StateError: ``state_damaged``, the file was written by another version.
        """
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise StateError("state_damaged", f"The ledger is of version {version}, not {VERSION}.")
        for statement in _SCHEMA if version == 0 else ():
            self._database.execute(statement)

    def budget(self, dataset: str) -> Budget | None:
        """The budget of a dataset."""
        found = self._database.execute(f"{_BUDGETS} WHERE dataset = ?", (dataset,)).fetchone()
        return found and Budget(*found)

    def budgets(self) -> tuple[Budget, ...]:
        """All budgets, by name of the dataset."""
        return tuple(Budget(*found) for found in self._database.execute(f"{_BUDGETS} ORDER BY dataset"))

    def rows(self, dataset: str | None = None) -> tuple[Row, ...]:
        """The rows of one dataset, or of all, in the order in which they were written."""
        where = "WHERE dataset = ? OR ? IS NULL ORDER BY seq"
        return tuple(_row(found) for found in self._database.execute(f"{_ROWS} {where}", (dataset, dataset)))

    def newest(self, dataset: str, job: str) -> Row | None:
        """The last row of a job on a dataset."""
        where = "WHERE dataset = ? AND job = ? ORDER BY seq DESC LIMIT 1"
        found = self._database.execute(f"{_ROWS} {where}", (dataset, job)).fetchone()
        return found and _row(found)

    def charged(self, dataset: str) -> tuple[GaussianSteps, ...]:
        """All that was reserved on a dataset, equal mechanisms as one block of all their steps."""
        found = self._database.execute(
            "SELECT mechanism, COUNT(*) FROM entries WHERE dataset = ? AND kind = 'reserved'"
            " GROUP BY mechanism",
            (dataset,),
        )
        blocks = ((_mechanism(text), count) for text, count in found)
        return tuple(replace(block, steps=block.steps * count) for block, count in blocks)

    def find(self, kind: str, attempt: Reservation) -> Row | None:
        """The row of a kind for an attempt, whatever mechanism it names."""
        where = "WHERE kind = ? AND dataset = ? AND job = ? AND round = ? AND attempt = ?"
        key = (kind, attempt.dataset, attempt.job, attempt.round, attempt.attempt)
        found = self._database.execute(f"{_ROWS} {where}", key).fetchone()
        return found and _row(found)

    def add_budget(self, budget: Budget, event: str | None) -> None:
        """Write a budget."""
        terms = (budget.dataset, budget.unit, RELATION, budget.epsilon, budget.delta, event)
        self._database.execute("INSERT INTO budgets VALUES (?, ?, ?, ?, ?, ?)", terms)

    def add(self, row: Row, event: str | None) -> None:
        """Write a row."""
        charged = row.reservation
        mechanism = canonical.encode(charged.mechanism.to_json()).decode()
        self._database.execute(
            "INSERT INTO entries (kind, dataset, job, round, attempt, mechanism, total, result, event)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.kind, charged.dataset, charged.job, charged.round, charged.attempt),
                *(mechanism, row.total, row.result, event),
            ),
        )


def _row(found: tuple[Any, ...]) -> Row:
    kind, dataset, job, round_, attempt, mechanism, *rest = found
    return Row(kind, Reservation(dataset, job, round_, attempt, _mechanism(mechanism)), *rest)


def _mechanism(text: str) -> GaussianSteps:
    damaged = StateError("state_damaged", "A row of the ledger holds no mechanism.")
    return GaussianSteps.from_json(canonical.decode(text.encode(), otherwise=damaged))
