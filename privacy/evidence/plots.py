"""The geometry of a report's plots: values in, places on the paper out. The template draws.

Coordinates are strings with one decimal, so that the same values give the same bytes. All plots are
``WIDTH`` units wide; their texts are meant to be 11 units high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

Points: TypeAlias = Sequence[tuple[int, float]]

WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM, _FLOOR = 36, 254, 14, 190, 224
_LETTERS = 17
"""How many letters of 11 units stand beside a line."""
_LABELS = 8
"""More lines than this are not labelled one by one."""
_LINE_HEIGHT = 13
_BAR_STEP, _BAR_LEFT, _BAR_RIGHT = 31, 1, 320


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and its text."""

    at: str
    label: str


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        path: SVG path data.
        end_x, end_y: where its last point is.
        label: the names that share it, "" where labels would not fit.
        label_y: where its label stands.
        worst: whether it is the one to look at.
        dash: 0 to 3, to tell lines apart without colour.
        early: whether it ends before the others, so that its label needs a leader.
    """

    path: str
    end_x: str
    end_y: str
    label: str
    label_y: str
    worst: bool
    dash: int
    early: bool


@dataclass(frozen=True)
class LinePlot:
    """Curves over rounds. ``limit`` is a level to compare with, such as a budget."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit: Tick | None
    left: int = _LEFT
    right: int = _RIGHT
    top: int = _TOP
    bottom: int = _BOTTOM
    width: int = WIDTH
    height: int = _FLOOR


@dataclass(frozen=True)
class Scale:
    """From a value to a place: ``low`` lies at ``start`` and ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def over_rounds(
    series: Mapping[str, Points],
    *,
    percent: bool,
    worst: str,
    limit: float | None = None,
    together: tuple[str, str] = ("all {count} sites", "{count} sites"),
) -> LinePlot | None:
    """A plot of one line a site; sites with the same values share a line.

    Args:
        series: site -> (round, value) pairs, rounds ascending.
        percent: whether values are shares, to be labelled in per cent.
        worst: ``low`` or ``high``: which end value is the worst.
        limit: a level to draw as well, if it is near enough to be seen with the lines.
        together: how all sites, and some, are called that share a line.

    Returns:
        None where there is no value to plot.
    """
    shared = _shared(series)
    if not shared:
        return None
    values = [value for points in shared for _, value in points]
    shown = limit if limit is not None and limit <= 3 * max(values) else None
    ticks = _ticks(min(values) if percent else 0.0, max(*values, shown or 0.0), 1.0 if percent else None)
    rounds = [number for points in shared for number, _ in points]
    x = Scale(min(rounds), max(*rounds, min(rounds) + 1), _LEFT, _RIGHT)
    y = Scale(ticks[0], ticks[-1], _BOTTOM, _TOP)
    return LinePlot(
        _curves(shared, x, y, 1 if worst == "high" else -1, together),
        tuple(Tick(_place(x.at(n)), str(n)) for n in _round_ticks(min(rounds), max(rounds))),
        tuple(Tick(_place(y.at(t)), _text(t, ticks[1] - ticks[0], percent)) for t in ticks),
        None if shown is None else Tick(_place(y.at(shown)), f"{shown:g}"),
    )


def _shared(series: Mapping[str, Points]) -> dict[tuple[tuple[int, float], ...], list[str]]:
    shared: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name, points in series.items():
        if points:
            shared.setdefault(tuple(points), []).append(name)
    return shared


def _curves(
    shared: Mapping[tuple[tuple[int, float], ...], list[str]],
    x: Scale,
    y: Scale,
    sign: int,
    together: tuple[str, str],
) -> tuple[Curve, ...]:
    ends = {points: y.at(points[-1][1]) for points in shared}
    worst = max(shared, key=lambda points: sign * points[-1][1])
    labelled = list(shared) if len(shared) <= _LABELS else [worst]
    rows = dict(zip(labelled, _apart([ends[points] for points in labelled]), strict=True))
    total = sum(map(len, shared.values()))
    return tuple(
        Curve(
            path="M" + " L".join(f"{_place(x.at(n))} {_place(y.at(v))}" for n, v in points),
            end_x=_place(x.at(points[-1][0])),
            end_y=_place(ends[points]),
            label=_names(names, total, together) if points in rows else "",
            label_y=_place(rows.get(points, ends[points])),
            worst=points == worst and len(shared) > 1,
            dash=number % 4,
            early=points[-1][0] < x.high,
        )
        for number, (points, names) in enumerate(shared.items())
    )


def _names(names: Sequence[str], total: int, together: tuple[str, str]) -> str:
    if len(names) == 1:
        return names[0] if len(names[0]) <= _LETTERS else names[0][: _LETTERS - 1] + "…"
    if len(names) == total:
        return together[0].format(count=total)
    both = ", ".join(names)
    return both if len(both) <= _LETTERS else together[1].format(count=len(names))


def _apart(places: Sequence[float]) -> list[float]:
    """The same places moved so that labels there do not overlap, kept within the plot if they fit."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + _LINE_HEIGHT)
    ceiling = float(_BOTTOM)
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - _LINE_HEIGHT
    return moved


def _ticks(low: float, high: float, ceiling: float | None) -> list[float]:
    """Three to seven round numbers around the values; never beyond the ceiling."""
    span = max(high - low, 0.02 if ceiling else 0.1)
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if ceiling and last * step > ceiling:
        last = math.ceil(ceiling / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _round_ticks(first: int, last: int) -> list[int]:
    """At most ten round numbers, each a multiple of 1, 2 or 5 times a power of ten."""
    steps = (factor * 10**power for power in range(6) for factor in (1, 2, 5))
    step = next(step for step in steps if last - first < 10 * step)
    return [number for number in range(first, last + 1) if number % step == 0]


def _text(value: float, step: float, percent: bool) -> str:
    """A tick's text, with as many decimals as its step needs."""
    step, value = (100 * step, 100 * value) if percent else (step, value)
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


@dataclass(frozen=True)
class Bar:
    """One bar: a text above it, a value at its end; ``look`` is how it is drawn."""

    label: str
    value: str
    y: str
    width: str
    end: str
    look: str


@dataclass(frozen=True)
class BarPlot:
    """Bars from 0 to 100 per cent. ``rule`` is where the first bar ends."""

    bars: tuple[Bar, ...]
    rule: str
    height: int
    left: int = _BAR_LEFT
    width: int = WIDTH


def shares(rows: Sequence[tuple[str, float, str]]) -> BarPlot:
    """Bars of shares. Each row: label, value in [0, 1], look."""
    x = Scale(0, 1, _BAR_LEFT, _BAR_RIGHT)
    bars = tuple(
        Bar(
            label=label,
            value=f"{100 * value:.1f}",
            y=_place(_BAR_STEP * number + 16),
            width=_place(x.at(value) - _BAR_LEFT),
            end=_place(x.at(value)),
            look=look,
        )
        for number, (label, value, look) in enumerate(rows)
    )
    return BarPlot(bars, bars[0].end, _BAR_STEP * len(bars))


def _place(value: float) -> str:
    return f"{value:.1f}"
