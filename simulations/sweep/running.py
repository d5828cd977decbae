"""Runs what is missing of a sweep, cell by cell.

from cloister.simulations.sweep.running import sweep

found = sweep("sweep.toml", Path("sweep"))
found.table.to_pandas().groupby(["method", "epsilon"]).accuracy.mean()
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import pyarrow as pa

from cloister.privacy.errors import BudgetError, InputError, PlanError
from cloister.simulations.scenarios.catalogue import DATA
from cloister.simulations.scenarios.comparison import Contest
from cloister.simulations.scenarios.figures import METHODS, Figures
from cloister.simulations.scenarios.institutes import Corpus
from cloister.simulations.scenarios.material import Material
from cloister.simulations.scenarios.progress import duration
from cloister.simulations.sweep import page
from cloister.simulations.sweep.description import Cell, Order, Place, Sweep, ordered, read
from cloister.simulations.sweep.results import Results, Row, parquet, table

Say = Callable[[str], None]
_SEEDS = 1  # of noise in one cell: the sweep's seeds are the repetitions


@dataclass(frozen=True, eq=False)
class Swept:
    """What a sweep found.

    Attributes:
        order: what was asked.
        rows: every cell, in the order of the product.
        ran: how many of them were run by this call.
    """

    order: Order
    rows: tuple[Row, ...]
    ran: int

    @property
    def table(self) -> pa.Table:
        """The same as in ``results.parquet``."""
        return table(self.rows)


def sweep(what: str | Path | Sweep, out: Path, *, data: Path = DATA, say: Say = lambda _: None) -> Swept:
    """Runs every cell of a sweep that is not finished yet.

    Args:
        what: a ``.toml`` file (``sweep.description``), or the value.
        out: a new folder, or that of the same sweep, which then goes on.
        data: the folder with the data sets that some scenarios need.
        say: told of each cell, with the time left.

    Raises:
        UsageError: ``option_invalid``, ``folder_in_use``.
        InputError: the file or the data cannot be used.
        StateError: ``state_locked``, ``state_damaged``, ``disk_full``, ``state_unwritable``.
    """
    order = ordered(what) if isinstance(what, Sweep) else read(Path(what))
    cells, results = order.sweep.cells(), Results(out)
    with results.held(order, data):
        done = results.finished(cells)
        missing = [cell for cell in cells if cell not in done]
        if done:
            say(f"{len(done)} of {len(cells)} cells are finished; going on with the others.")
        for place, group in itertools.groupby(missing, key=lambda cell: cell.place):
            _run(order, data, place, list(group), _Progress(cells, done, results, say))
            _publish(results, order, [done[cell] for cell in cells if cell in done])
        rows = tuple(done[cell] for cell in cells)
        if not missing:  # what was killed between the last cell and its table
            _publish(results, order, rows)
    return Swept(order, rows, len(missing))


def _publish(results: Results, order: Order, rows: Sequence[Row]) -> None:
    results.write("results.parquet", parquet(table(rows)))
    results.write("sweep.html", page.render(order, rows).encode())


@dataclass(frozen=True, eq=False)
class _Progress:
    """Keeps finished cells and says how far the sweep is."""

    cells: Sequence[Cell]
    done: dict[Cell, Row]
    results: Results
    say: Say

    def keep(self, cell: Cell, row: Row) -> None:
        self.results.keep(cell, row)
        self.done[cell] = row
        told = row.refused or f"accuracy {100 * (row.accuracy or 0):.1f} %"
        aim = f" at epsilon {cell.epsilon:g}" if cell.epsilon else ""
        dealt = f"{row.sites} sites" + (f", skew {row.skew:g}" if row.skew is not None else "")
        self.say(f"{METHODS[cell.method]}{aim}, {dealt}, seed {row.seed}: {told}")
        self.say(f"  {len(self.done)} of {len(self.cells)} cells, {left(self.cells, self.done)}")


def left(cells: Sequence[Cell], done: Mapping[Cell, Row]) -> str:
    """The time left, in words: what cells of the same method have taken so far, on average."""
    missing = [cell for cell in cells if cell not in done]
    if not missing:
        return "all done"
    taken: dict[str, list[float]] = {}
    for cell, row in done.items():
        taken.setdefault(cell.method, []).append(row.seconds)
    usual = fmean(row.seconds for row in done.values())
    seconds = sum(fmean(taken[cell.method]) if cell.method in taken else usual for cell in missing)
    return f"about {duration(seconds)} left"


def _run(order: Order, data: Path, place: Place, cells: Sequence[Cell], progress: _Progress) -> None:
    """The missing cells of one place: its sites are made once, and their making counts to the first cell."""
    started = time.monotonic()
    try:
        material = order.scenario.material(data, place.seed, place.mix)
    except InputError as error:
        raise _told(error, place) from error
    if isinstance(material, Corpus):
        raise TypeError("a sweep of answers is refused when it is ordered")
    for cell in cells:
        row = _row(order, cell, material)
        progress.keep(cell, replace(row, seconds=round(time.monotonic() - started, 3)))
        started = time.monotonic()


def _told(error: InputError, place: Place) -> InputError:
    """The same fault, with the place that it happened at where that is one of several."""
    dealt = [f"{place.sites} sites"] if place.sites else []
    dealt += [f"skew {place.skew:g}"] if place.skew else []
    if not dealt:
        return error
    return InputError(error.id, f"With {' and '.join(dealt)}, seed {place.seed}: {error.what}", error.do)


def _row(order: Order, cell: Cell, material: Material) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        target, seed = cell.epsilon or order.scenario.epsilon, cell.place.seed
        contest = Contest(material, target, order.delta, seed, Path(scratch), seeds=_SEEDS)
        try:
            figures, refused = contest.figures(cell.method), ""
        except (PlanError, BudgetError) as error:  # this cell cannot be had; the others may
            figures, refused = None, error.what
    bare = Row(
        scenario=order.scenario.name,
        seed=seed,
        method=cell.method,
        sites=len(material.train),
        skew=cell.place.skew or None,
        epsilon=cell.epsilon or None,
        delta=order.delta if cell.epsilon else None,
        unit="person" if material.by_person else "record",
        refused=refused,
        test_rows=material.test.records,
    )
    return _measured(bare, figures) if figures else bare


def _measured(row: Row, figures: Figures) -> Row:
    """A row with what its cell came to."""
    low, high = figures.interval
    return replace(
        row,
        accuracy=figures.accuracy,
        low=low,
        high=high,
        worst_site=figures.worst_site,
        worst_accuracy=figures.sites[figures.worst_site],
        spent=figures.epsilon,
        noise_factor=figures.noise_factor,
        bytes_up=figures.bytes_up,
        sums=figures.sums,
        way=figures.way,
    )
