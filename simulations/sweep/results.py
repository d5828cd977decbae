"""What a sweep keeps: what it is of, a file for each finished cell, and one table.

::

    DIR/sweep.json         what it is a sweep of; another one is refused
    DIR/cells/KEY.json     one finished cell, whole or absent
    DIR/results.parquet    all finished cells, made anew from these files
    DIR/sweep.html         the page
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cloister.privacy import canonical, code, durable, folder
from cloister.privacy.errors import InputError, StateError, UsageError
from cloister.simulations.scenarios.catalogue import Scenario
from cloister.simulations.sweep.description import Cell, Order


@dataclass(frozen=True)
class Row:
    """A finished cell: one row of the table.

    Attributes:
        scenario, seed, method: what was run.
        sites: how many there were.
        skew: the Dirichlet parameter; None where the sweep leaves it to the scenario.
        epsilon, delta, unit: the target; None without privacy.
        refused: why it could not be had; "" where it was. Then no figure is there.
        accuracy: on the common test rows.
        low, high: 95 % of Wilson for that many test rows.
        test_rows: how many.
        worst_site, worst_accuracy: the site that is served worst, on its own rows.
        spent: epsilon by the ledger or account.
        noise_factor: noise over that of pooling at the same epsilon.
        bytes_up: what one site sent, before sealing and signing.
        sums: secure sums.
        way: how it was trained, in words.
        seconds: wall time.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    scenario: str
    seed: int
    method: str
    sites: int
    skew: float | None
    epsilon: float | None
    delta: float | None
    unit: str
    refused: str
    test_rows: int
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    worst_site: str | None = None
    worst_accuracy: float | None = None
    spent: float | None = None
    noise_factor: float | None = None
    bytes_up: int | None = None
    sums: int | None = None
    way: str = ""
    seconds: float = 0.0


_ROW = TypeAdapter(Row)
SCHEMA = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("sites", pa.int64(), nullable=False),
        pa.field("skew", pa.float64()),
        pa.field("epsilon", pa.float64()),
        pa.field("delta", pa.float64()),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("refused", pa.string(), nullable=False),
        pa.field("accuracy", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("test_rows", pa.int64(), nullable=False),
        pa.field("worst_site", pa.string()),
        pa.field("worst_accuracy", pa.float64()),
        pa.field("spent", pa.float64()),
        pa.field("noise_factor", pa.float64()),
        pa.field("bytes_up", pa.int64()),
        pa.field("sums", pa.int64()),
        pa.field("way", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Results:
    """The folder of a sweep.

    Attributes:
        path: where it is.
    """

    path: Path

    @contextmanager
    def held(self, order: Order, data: Path) -> Iterator[None]:
        """Holds the folder for one process, new or begun by the very same sweep.

        Raises:
            InputError: ``file_missing``: data is not there; the folder is not touched.
            UsageError: ``folder_in_use``: something else is in it, or another sweep.
            StateError: ``state_locked``, ``state_damaged``, ``state_unwritable``.
        """
        about = _about(order, data)
        mark = self.path / "sweep.json"
        if not mark.exists() and self.path.exists():
            self._unclaimed()
        durable.private_folder(self.path)
        with folder.hold(self.path / ".lock"):
            if mark.exists():
                _same(mark, about)
            else:
                durable.write(mark, canonical.encode(about))
            durable.private_folder(self.path / "cells")
            for partial in (self.path / "cells").glob(".*"):  # of a write that was killed
                partial.unlink()
            yield

    def _unclaimed(self) -> None:
        """Without a mark a folder may hold the lock of a process that was killed at once, and no more."""
        if not self.path.is_dir() or any(each.name[:1] != "." for each in self.path.iterdir()):
            raise UsageError(
                "folder_in_use",
                f"{self.path} holds something that is no sweep.",
                "Name a new folder with --out.",
            )

    def finished(self, cells: Sequence[Cell]) -> dict[Cell, Row]:
        """The cells that need not be run again.

        Raises:
            StateError: ``state_damaged``.
        """
        return {cell: self._read(cell) for cell in cells if self._file(cell).exists()}

    def keep(self, cell: Cell, row: Row) -> None:
        """Keeps a finished cell: from now on it is not run again.

        Raises:
            StateError: ``disk_full``, ``state_unwritable``.
        """
        durable.write(self._file(cell), canonical.encode(asdict(row)))

    def write(self, name: str, content: bytes) -> None:
        """Writes a file for people and programs; raises as ``keep``."""
        durable.write(self.path / name, content, mode=0o644)

    def _file(self, cell: Cell) -> Path:
        return self.path / "cells" / f"{cell.key}.json"

    def _read(self, cell: Cell) -> Row:
        path = self._file(cell)
        damaged = StateError("state_damaged", f"{path} is damaged.", "Delete it: the cell is then run again.")
        try:
            content = path.read_bytes()
            canonical.decode(content, otherwise=damaged)
            row = _ROW.validate_json(content)
        except (OSError, ValidationError) as error:
            raise damaged from error
        if (row.seed, row.method, row.epsilon or 0.0) != (cell.place.seed, cell.method, cell.epsilon):
            raise damaged
        return row


def table(rows: Sequence[Row]) -> pa.Table:
    """Finished cells as a table, in the order given."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


def parquet(found: pa.Table) -> bytes:
    """The bytes of ``results.parquet``."""
    buffer = io.BytesIO()
    pq.write_table(found, buffer)
    return buffer.getvalue()


def _about(order: Order, data: Path) -> dict[str, Any]:
    """Everything that decides what a cell comes to: fields, data and code."""
    return {
        "sweep": order.sweep.model_dump(mode="json"),
        "files": _digests(order.scenario, data),
        "code": code.installed(),
    }


def _digests(scenario: Scenario, data: Path) -> dict[str, str]:
    """Of every file that rows come from: before a folder is claimed, they must be there."""
    files = scenario.files(data)
    if scenario.needs and not files:
        raise InputError(
            "file_missing",
            f"There is no {scenario.needs} in {data}.",
            f"Name the folder that holds {scenario.needs} with --data.",
        )
    try:
        return {path.name: canonical.digest_of_file(path) for path in files}
    except OSError as error:
        raise InputError(
            "file_missing", f"{error.filename} cannot be read.", "See the scenario's file."
        ) from error


_CHANGED = {
    "files": "the data or the scenario's file has changed",
    "code": "Cloister is another version than the one that began it",
}


def _same(mark: Path, about: Mapping[str, Any]) -> None:
    damaged = StateError("state_damaged", f"{mark} is damaged.", "Name another folder with --out.")
    try:
        before = canonical.decode(mark.read_bytes(), otherwise=damaged)
        fields = {name for name, value in about["sweep"].items() if before["sweep"].get(name) != value}
        reasons = [words for name, words in _CHANGED.items() if before[name] != about[name]]
    except (OSError, AttributeError, KeyError, TypeError) as error:
        raise damaged from error
    reasons += [f"the sweep's file has another {' and '.join(sorted(fields))}"] if fields else []
    if reasons:
        raise UsageError(
            "folder_in_use",
            f"The sweep in {mark.parent} cannot go on: {'; '.join(reasons)}.",
            "Take that back, or name another folder with --out.",
        )
