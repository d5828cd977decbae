"""The rows of a site's privacy ledger: their values, their tables, and every line of SQL about them.

Rows are only ever added; triggers refuse everything else. A file of an earlier version gets the tables that
it lacks when it is opened; what is in it stays.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.dp.events import RELATION, GaussianSteps
from cloister.privacy.errors import StateError

VERSION = 2


def _fixed(*tables: str) -> tuple[str, ...]:
    """What keeps the rows of tables as they are."""
    return tuple(
        f"CREATE TRIGGER {table}_{change} BEFORE {change} ON {table}"
        " BEGIN SELECT RAISE(ABORT, 'rows of the ledger are never changed'); END"
        for table in tables
        for change in ("UPDATE", "DELETE")
    )


_FIRST = (
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
    *_fixed("budgets", "entries"),
)
_SECOND = (
    """CREATE TABLE prints (
    fingerprint TEXT PRIMARY KEY NOT NULL,
    dataset TEXT NOT NULL
)""",
    """CREATE TABLE sharing (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('shared', 'doubted', 'settled')),
    sharer TEXT NOT NULL,
    path TEXT NOT NULL
)""",
    *_fixed("prints", "sharing"),
)
_VERSIONS = (_FIRST, _SECOND)
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


@dataclass(frozen=True)
class Sharer:
    """A folder that charges the ledger, where several do (``client.site.sharing``).

    Attributes:
        id: what the ledger calls it.
        path: where it was when it last said so.
        settled: whether its log was compared with the ledger since the ledger was last doubted.
    """

    id: str
    path: str
    settled: bool


class Entries:
    """The tables of a ledger, behind an open connection. It decides nothing."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def prepare(self) -> None:
        """Make the tables that an empty or an older file lacks.

        Raises:
            StateError: ``state_damaged``, the file was written by a later version.
        """
        version = self.version
        if not 0 <= version <= VERSION:
            raise StateError("state_damaged", f"The ledger is of version {version}, not {VERSION}.")
        for statements in _VERSIONS[version:]:
            for statement in statements:
                self._database.execute(statement)
        if version < VERSION:
            self._database.execute(f"PRAGMA user_version = {VERSION}")

    @property
    def version(self) -> int:
        """Of the tables; 0 for a file that is empty."""
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])

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

    def dataset_of(self, fingerprint: str) -> str | None:
        """The dataset whose data had a fingerprint."""
        where = "SELECT dataset FROM prints WHERE fingerprint = ?"
        found = self._database.execute(where, (fingerprint,)).fetchone()
        return found and str(found[0])

    def add_print(self, fingerprint: str, dataset: str) -> None:
        """Write whose data have a fingerprint; again has no effect."""
        self._database.execute("INSERT OR IGNORE INTO prints VALUES (?, ?)", (fingerprint, dataset))

    def sharers(self) -> tuple[Sharer, ...]:
        """Who shares the ledger, in the order in which they came; nobody where one folder has it."""
        found, doubted = dict[str, tuple[str, int]](), 0
        rows = self._database.execute("SELECT seq, kind, sharer, path FROM sharing ORDER BY seq")
        for seq, kind, sharer, path in rows:
            if kind == "doubted":
                doubted = seq
            else:
                found[sharer] = path, seq
        return tuple(Sharer(id_, path, seq > doubted) for id_, (path, seq) in found.items())

    def add_sharing(self, kind: str, sharer: str, path: str) -> None:
        """Write that a folder shares the ledger, doubts it, or has compared its log with it."""
        row = (kind, sharer, path)
        self._database.execute("INSERT INTO sharing (kind, sharer, path) VALUES (?, ?, ?)", row)

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
