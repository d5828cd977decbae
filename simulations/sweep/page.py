"""The page of a sweep: accuracy against epsilon by method, with intervals, for each way to deal out rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cloister.simulations.scenarios.figures import METHODS, PRIVATE
from cloister.simulations.scenarios.page import environment
from cloister.simulations.scenarios.plot import Chart, Level, Point, Series
from cloister.simulations.sweep.description import Order
from cloister.simulations.sweep.results import Row

# Student's t at 95 % by degrees of freedom, from 1 on; the last serves for more, a little too wide.
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
_T_MORE = 2.131


@dataclass(frozen=True)
class Mean:
    """Cells that differ in nothing but their seed.

    Attributes:
        method, sites, skew, epsilon: what they share.
        accuracy: the mean.
        interval: 95 % of Student over seeds; of Wilson over test rows where there is one seed.
        worst: the mean accuracy at the site that is served worst.
        seeds: how many.
        bytes_up: what one site sent, at its highest.
        refused: why none of them could be had; "" where one was.
    """

    method: str
    sites: int
    skew: float | None
    epsilon: float | None
    accuracy: float
    interval: tuple[float, float]
    worst: float
    seeds: int
    bytes_up: int
    refused: str


def means(rows: Sequence[Row]) -> list[Mean]:
    """Over seeds, in the order in which they first appear."""
    groups: dict[tuple[str, int, float | None, float | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.sites, row.skew, row.epsilon), []).append(row)
    return [_mean(key, group) for key, group in groups.items()]


def _mean(key: tuple[str, int, float | None, float | None], rows: Sequence[Row]) -> Mean:
    had = [row for row in rows if row.accuracy is not None]
    values = [row.accuracy for row in had if row.accuracy is not None]
    if not values:
        return Mean(*key, math.nan, (math.nan, math.nan), math.nan, 0, 0, rows[0].refused)
    worst = statistics.fmean(row.worst_accuracy or 0.0 for row in had)
    sent = max(row.bytes_up or 0 for row in had)
    middle = statistics.fmean(values)
    return Mean(*key, middle, _interval(had, values, middle), worst, len(values), sent, "")


def _interval(rows: Sequence[Row], values: Sequence[float], middle: float) -> tuple[float, float]:
    if len(values) == 1:
        return rows[0].low or 0.0, rows[0].high or 0.0
    freedom = len(values) - 1
    factor = _T[freedom - 1] if freedom <= len(_T) else _T_MORE
    half = factor * statistics.stdev(values) / math.sqrt(len(values))
    return max(0.0, middle - half), min(1.0, middle + half)


def charts(found: Sequence[Mean]) -> Iterator[Chart]:
    """One chart for each way to deal out rows; methods without privacy are lines across."""
    places = dict.fromkeys((each.sites, each.skew) for each in found if each.seeds)
    for sites, skew in places:
        here = [each for each in found if (each.sites, each.skew) == (sites, skew) and each.seeds]
        yield Chart(
            f"{sites} sites" + ("" if skew is None else f", skew {skew:g}"),
            "epsilon",
            [series for number, name in enumerate(METHODS) if (series := _line(here, name, number)).points],
            [Level(METHODS[each.method], each.accuracy) for each in here if each.method not in PRIVATE],
            logarithmic=True,
        )


def _line(here: Sequence[Mean], name: str, number: int) -> Series:
    points = [
        Point(each.epsilon, each.accuracy, each.interval)
        for each in here
        if each.method == name and each.epsilon is not None
    ]
    return Series(METHODS[name], sorted(points, key=lambda point: point.x), number % 6)


def render(order: Order, rows: Sequence[Row]) -> str:
    """The page; the same rows give the same text."""
    found = means(rows)
    return (
        environment()
        .get_template("sweep-1.html")
        .render(
            scenario=order.scenario,
            delta=order.delta,
            cells=len(order.sweep.cells()),
            rows=rows,
            means=found,
            charts=list(charts(found)),
            methods=METHODS,
            seeds=max((each.seeds for each in found), default=0),
        )
    )
