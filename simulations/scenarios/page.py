"""The page of a simulation: one HTML file with its own drawings, marked on every screen of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cloister.simulations.scenarios.figures import OPEN, WORDS, Figures, Measure
from cloister.simulations.scenarios.plot import Chart, Level, Point, Series

if TYPE_CHECKING:
    from cloister.simulations.scenarios.simulation import Simulation

_TEMPLATES = Path(__file__).parent / "templates"
_LEFT, _RIGHT, _STEP = 260, 640, 30
WIDTH = 700
_SHOWN = ("local_only", "local_only_private", "federated_joint")
"""The methods that the bars of single sites compare."""


@dataclass(frozen=True)
class Bar:
    """One bar; coordinates are strings with one decimal.

    Attributes:
        label, value: its texts.
        y: its upper edge.
        width: its length.
        low, high: the ends of its interval; "" for none.
        look: how it is drawn.
    """

    label: str
    value: str
    y: str
    width: str
    low: str
    high: str
    look: str


def method_bars(simulation: Simulation) -> list[Bar]:
    """Accuracy on the common test by method, the simple model and the most frequent class below them."""
    found = simulation.comparison
    rows: list[tuple[str, float, tuple[float, float] | None, str]] = [
        (WORDS[name], each.accuracy, each.interval, _look(name)) for name, each in found.methods.items()
    ]
    simple, what = found.simple
    rows += [
        (what, simple, None, "plain"),
        (simulation.measure.least, found.majority, None, "plain"),
    ]
    return [_bar(number, *row) for number, row in enumerate(rows)]


def site_bars(simulation: Simulation) -> list[tuple[str, list[Bar]]]:
    """For every site: alone, alone with privacy, federated; on the common test."""
    methods = simulation.comparison.methods
    return [
        (
            site,
            [
                _bar(number, WORDS[name], methods[name].common[site], None, _look(name))
                for number, name in enumerate(_SHOWN)
            ],
        )
        for site in methods["local_only"].common
    ]


_FEDERATED = ("federated_local", "federated_joint", *OPEN)
_LEVELS = (("pooled", 1), ("local_only", 2), ("local_only_private", 2))


def charts(simulation: Simulation) -> list[Chart]:
    """Accuracy of the federated methods against sums, bytes and epsilon, with pooled and local-only lines."""
    methods = simulation.comparison.methods
    levels = [Level(WORDS[name], methods[name].accuracy, dash) for name, dash in _LEVELS]
    paths = {name: methods[name].path for name in _FEDERATED if name in methods}
    sums, sent = (
        [
            Series(WORDS[name], [Point(float(halt[place]), halt[2]) for halt in path], number)
            for number, (name, path) in enumerate(paths.items())
        ]
        for place in (0, 1)
    )
    curves = simulation.comparison.curves
    targets = [
        Series(WORDS[name], [Point(*point) for point in points], number)
        for number, (name, points) in enumerate(curves.items())
    ]
    steps = any(len(path) > 1 for path in paths.values())  # where each is one sum, it would be one dot
    return [
        *(
            [Chart("Against rounds: secure sums so far", "secure sums", sums, levels, logarithmic=True)]
            * steps
        ),
        Chart("Against bytes that a site has sent", "kB", _kilo(sent), levels, logarithmic=True),
        *([Chart("Against epsilon", "epsilon", targets, levels, logarithmic=True)] * bool(curves)),
    ]


def _kilo(series: list[Series]) -> list[Series]:
    return [
        replace(each, points=[replace(point, x=point.x / 1000) for point in each.points]) for each in series
    ]


def environment() -> Environment:
    """Where pages of simulations are made of their templates."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters["percent"] = lambda value: f"{100 * value:.1f}"
    return made


def render(simulation: Simulation) -> str:
    """The page; the same simulation gives the same text."""
    return (
        environment()
        .get_template("simulation-1.html")
        .render(
            s=simulation,
            methods=WORDS,
            bars=method_bars(simulation),
            sites=site_bars(simulation),
            charts=charts(simulation),
            calibrated=[
                (WORDS[name], each.calibration)
                for name, each in simulation.comparison.methods.items()
                if each.calibration
            ],
            grouped=[
                (WORDS[name], each.groups)
                for name, each in simulation.comparison.methods.items()
                if each.groups
            ],
            width=WIDTH,
            left=_LEFT,
            right=_RIGHT,
            step=_STEP,
            grid=[(f"{_at(tick / 100):.1f}", str(tick)) for tick in range(0, 101, 20)],
        )
    )


def _bar(number: int, label: str, value: float, interval: tuple[float, float] | None, look: str) -> Bar:
    low, high = (f"{_at(end):.1f}" for end in interval) if interval else ("", "")
    return Bar(
        label, f"{100 * value:.1f}", f"{_STEP * number + 8:.1f}", f"{_at(value) - _LEFT:.1f}", low, high, look
    )


def _at(share: float) -> float:
    return _LEFT + share * (_RIGHT - _LEFT)


def _look(name: str) -> str:
    if name.startswith("federated"):
        return "together"
    return "pooled" if name.startswith("pooled") else "alone"


def table_row(name: str, figures: Figures) -> tuple[str, ...]:
    """A method as the cells of a table, for the page and for the terminal."""
    low, high = figures.interval
    return (
        WORDS[name],
        f"{100 * figures.accuracy:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        f"{100 * figures.sites[figures.worst_site]:.1f} ({figures.worst_site})",
        "–" if figures.epsilon is None else f"{figures.epsilon:.3g}",
        "–" if not figures.noise_factor else f"{figures.noise_factor:.2f}",
        f"{figures.bytes_up / 1000:,.0f}" if figures.bytes_up else "–",
        *(() if figures.loss is None else (f"{figures.loss:.3f}", f"{math.exp(figures.loss):.1f}")),
    )


def heads(measure: Measure, *, losses: bool) -> tuple[str, ...]:
    """The heads of that table.

    Args:
        measure: what figures of accuracy are.
        losses: whether methods have a loss.
    """
    return (
        "method",
        f"{measure.name} %",
        f"95 % by test {measure.records}",
        f"worst site, own {measure.records}",
        "epsilon",
        "noise over pooled",
        "kB up a site",
        *(("loss of a letter", "perplexity") if losses else ()),
    )
