"""Charts: everything lies within the picture, names never on each other, ticks where values are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.simulations.scenarios.plot import Chart, Level, Point, Series

shares = st.floats(0, 1)
places = st.floats(1e-3, 1e6)
points = st.lists(
    st.builds(Point, places, shares, st.none() | st.tuples(shares, shares)), min_size=1, max_size=8
)


@given(lines=st.lists(points, max_size=4), levels=st.lists(shares, max_size=4), logarithmic=st.booleans())
def test_everything_lies_within_the_picture(lines, levels, logarithmic):
    series = [Series(f"s{n}", sorted(each, key=lambda p: p.x), n) for n, each in enumerate(lines)]
    chart = Chart("t", "x", series, [Level("l", y) for y in levels], logarithmic)
    found = chart.lines
    assert len(found) == len(lines) + len(levels)
    for line in found:
        for x, y in (pair.split(",") for pair in line.path.split()):
            assert chart.left - 0.1 <= float(x) <= chart.right + 0.1
            assert chart.top - 0.1 <= float(y) <= chart.bottom + 0.1
    for x, _ in chart.ticks:
        assert chart.left - 0.1 <= float(x) <= chart.right + 0.1
    for y, _ in chart.grid:
        assert chart.top - 0.1 <= float(y) <= chart.bottom + 0.1
    for one, other in pairwise(sorted(float(line.label) for line in found)):
        assert other - one >= 14.9


@pytest.mark.parametrize(
    ("low", "high", "grid"), [(0.62, 0.93, ["60", "65"]), (0.0, 1.0, ["0", "20"]), (0.5, 0.5, ["46", "48"])]
)
def test_ticks_are_round_numbers(low, high, grid):
    chart = Chart("t", "x", [Series("s", [Point(1, low), Point(2, high)], 0)])
    assert [words for _, words in chart.grid][:2] == grid


def test_a_logarithmic_axis_names_the_values_that_were_run():
    chart = Chart("t", "x", [Series("s", [Point(x, 0.5) for x in (0.5, 1, 8)], 0)], logarithmic=True)
    assert [words for _, words in chart.ticks] == ["0.5", "1", "8"]
