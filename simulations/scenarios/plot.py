"""Line charts as SVG: what a page draws by itself, without a script and without loading anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

WIDTH, HEIGHT = 700, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 500, 12, 258
_APART = 15  # of two names beside each other
COLOURS = ("#0b5a63", "#c0612b", "#5b4b9a", "#3f7d3a", "#8a6d1d", "#a03a5c", "#6f7d88")
"""Of lines, which have their names at their ends, too, for who sees no colours; the last is of levels."""
DASHES = ("none", "6 3", "2 3")


@dataclass(frozen=True)
class Point:
    """A place on a line.

    Attributes:
        x, y: where it is.
        interval: (low, high) of y; None for none.
    """

    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: what it is.
        points: ascending in x.
        colour: its number in ``COLOURS``.
    """

    name: str
    points: Sequence[Point]
    colour: int


@dataclass(frozen=True)
class Level:
    """A line across: something that has no x.

    Attributes:
        name, y: what it is.
        dash: its number in ``DASHES``.
    """

    name: str
    y: float
    dash: int = 1


@dataclass(frozen=True)
class Drawn:
    """A line as it is drawn; coordinates are strings with one decimal.

    Attributes:
        name, colour, dash: see ``Series`` and ``Level``.
        path: "x,y x,y …" of its points.
        dots: (x, y, words) of each point; empty for a level.
        bars: (x, low, high) of each interval.
        label: y of its name.
        last: y of its end.
    """

    name: str
    colour: str
    dash: str
    path: str
    dots: tuple[tuple[str, str, str], ...]
    bars: tuple[tuple[str, str, str], ...]
    label: str
    last: str


@dataclass(frozen=True)
class Chart:
    """Accuracy against something.

    Attributes:
        title: what it shows.
        axis: what x is.
        series, levels: its lines.
        logarithmic: whether x is.
    """

    title: str
    axis: str
    series: Sequence[Series]
    levels: Sequence[Level] = field(default=())
    logarithmic: bool = False

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = _LEFT, _RIGHT, _TOP, _BOTTOM

    @property
    def lines(self) -> list[Drawn]:
        """Everything that is drawn, with names that do not lie on each other."""
        drawn = [self._series(each) for each in self.series if each.points]
        drawn += [self._level(each) for each in self.levels]
        return _spread(drawn)

    @property
    def ticks(self) -> list[tuple[str, str]]:
        """(x, words) below."""
        low, high = self._span
        if self.logarithmic:
            found = sorted({point.x for each in self.series for point in each.points})
        else:
            step = _step(high - low)
            found = [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        shown: list[tuple[str, str]] = []
        for x in found:
            at = self._x(x)
            if not shown or at - float(shown[-1][0]) >= 34:
                shown.append((f"{at:.1f}", f"{x:,.6g}"))
        return shown

    @property
    def grid(self) -> list[tuple[str, str]]:
        """(y, words) at the left."""
        low, high = self._range
        step = _step(100 * (high - low))
        first = math.ceil(100 * low / step - 1e-9)
        return [
            (f"{self._y(step * k / 100):.1f}", f"{step * k:g}")
            for k in range(first, math.floor(100 * high / step + 1e-9) + 1)
        ]

    @property
    def _span(self) -> tuple[float, float]:
        places = [point.x for each in self.series for point in each.points] or [0.0, 1.0]
        low, high = min(places), max(places)
        if self.logarithmic:
            return (low, high) if high > low else (low / 2, high * 2)
        return (0.0, high or 1.0)

    @property
    def _range(self) -> tuple[float, float]:
        """Of y: what is there and a little more, in steps of five points."""
        values = [each.y for each in self.levels]
        for point in (point for each in self.series for point in each.points):
            values += [point.y, *(point.interval or ())]
        low, high = min(values, default=0.0), max(values, default=1.0)
        return max(0.0, math.floor(20 * low - 0.2) / 20), min(1.0, max(math.ceil(20 * high + 0.2) / 20, 0.05))

    def _x(self, x: float) -> float:
        low, high = self._span
        share = math.log(x / low) / math.log(high / low) if self.logarithmic else (x - low) / (high - low)
        return _LEFT + share * (_RIGHT - _LEFT)

    def _y(self, y: float) -> float:
        low, high = self._range
        return _BOTTOM - (y - low) / (high - low) * (_BOTTOM - _TOP)

    def _series(self, series: Series) -> Drawn:
        at = [(f"{self._x(point.x):.1f}", f"{self._y(point.y):.1f}", point) for point in series.points]
        return Drawn(
            series.name,
            COLOURS[series.colour % len(COLOURS)],
            DASHES[0],
            " ".join(f"{x},{y}" for x, y, _ in at),
            tuple((x, y, f"{point.x:,.6g}: {100 * point.y:.1f} %") for x, y, point in at),
            tuple(
                (x, f"{self._y(point.interval[0]):.1f}", f"{self._y(point.interval[1]):.1f}")
                for x, _, point in at
                if point.interval
            ),
            at[-1][1],
            at[-1][1],
        )

    def _level(self, level: Level) -> Drawn:
        y = f"{self._y(level.y):.1f}"
        ends = f"{_LEFT},{y} {_RIGHT},{y}"
        return Drawn(level.name, COLOURS[-1], DASHES[level.dash], ends, (), (), y, y)


def _step(span: float) -> float:
    """A round step, four to ten of which make a span."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span))
    return next(power * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if span / (power * part) <= 8)


def _spread(drawn: Sequence[Drawn]) -> list[Drawn]:
    """The same lines, their names moved apart, from the top down and then back into the picture."""
    order = sorted(drawn, key=lambda each: float(each.last))
    places: list[float] = []
    for each in order:
        least = places[-1] + _APART if places else float(_TOP)
        places.append(max(float(each.last), least))
    most = float(_BOTTOM)
    for number in reversed(range(len(places))):
        places[number] = min(places[number], most)
        most = places[number] - _APART
    return [replace(each, label=f"{place:.1f}") for each, place in zip(order, places, strict=True)]
