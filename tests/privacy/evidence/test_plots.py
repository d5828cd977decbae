"""The geometry of plots: values lie where they should, and nothing runs out of the paper."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.evidence import plots


def lines(series: dict[str, list[tuple[int, float]]], **options: object) -> plots.LinePlot:
    found = plots.over_rounds(series, **({"percent": True, "worst": "low"} | options))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_nothing_to_plot() -> None:
    assert plots.over_rounds({}, percent=True, worst="low") is None
    assert plots.over_rounds({"hill": []}, percent=True, worst="low") is None


def test_ends_of_the_axes() -> None:
    plot = lines({"hill": [(0, 0.2), (4, 0.8)]})
    assert plot.curves[0].path == f"M{plot.left}.0 {plot.bottom}.0 L{plot.right}.0 {plot.top}.0"
    assert [tick.label for tick in plot.y_ticks] == ["20", "40", "60", "80"]
    assert [tick.label for tick in plot.x_ticks] == ["0", "1", "2", "3", "4"]


def test_sites_with_equal_values_share_a_line() -> None:
    same = [(1, 2.0), (2, 3.0)]
    plot = lines({"a": same, "b": same, "c": [(1, 1.0)]}, percent=False, worst="high")
    assert [(curve.label, curve.worst, curve.early) for curve in plot.curves] == [
        ("a, b", True, False),
        ("c", False, True),
    ]
    (only,) = lines({"a": same, "b": same}, percent=False, worst="high").curves
    assert (only.label, only.worst) == ("all 2 sites", False)


def test_the_worst_is_the_lowest_or_the_highest_end() -> None:
    series = {"a": [(1, 0.9), (2, 0.5)], "b": [(1, 0.1), (2, 0.6)]}
    assert [curve.worst for curve in lines(series).curves] == [True, False]
    assert [curve.worst for curve in lines(series, worst="high").curves] == [False, True]


def test_labels_do_not_overlap() -> None:
    plot = lines({name: [(1, 0.5 + n / 1000), (2, 0.7 + n / 1000)] for n, name in enumerate("abcdef")})
    places = sorted(float(curve.label_y) for curve in plot.curves)
    assert all(b - a >= 12.9 for a, b in pairwise(places))
    assert places[-1] <= plot.bottom


def test_many_lines_label_only_the_worst() -> None:
    plot = lines({f"site-{n}": [(1, n / 100), (2, n / 50)] for n in range(1, 30)})
    assert [curve.label for curve in plot.curves if curve.label] == ["site-1"]


def test_a_limit_is_drawn_where_it_can_be_seen() -> None:
    series = {"a": [(1, 2.0), (2, 4.0)]}
    near = lines(series, percent=False, worst="high", limit=10.0)
    assert near.limit is not None
    assert near.limit.label == "10"
    assert lines(series, percent=False, worst="high", limit=1000.0).limit is None


def test_a_long_name_is_cut() -> None:
    (curve,) = lines({"a" * 40: [(1, 0.5)]}).curves
    assert curve.label == "a" * 16 + "…"


@given(
    st.dictionaries(
        st.sampled_from("abcdefghijkl"),
        st.lists(st.floats(0, 1), min_size=1, max_size=30),
        min_size=1,
    ),
    st.integers(0, 3),
)
def test_every_point_lies_within_the_frame(values: dict[str, list[float]], start: int) -> None:
    plot = lines({name: list(enumerate(found, start)) for name, found in values.items()})
    for curve in plot.curves:
        places = [float(number) for number in re.findall(r"-?[\d.]+", curve.path)]
        assert all(plot.left <= x <= plot.right for x in places[::2])
        assert all(plot.top <= y <= plot.bottom for y in places[1::2])
    assert 2 <= len(plot.y_ticks) <= 8
    assert len({tick.label for tick in plot.y_ticks}) == len(plot.y_ticks)
    assert len(plot.x_ticks) <= 10


@pytest.mark.parametrize("last", [0, 1, 9, 10, 99, 100, 10_000])
def test_a_few_round_numbers_on_the_axis(last: int) -> None:
    plot = lines({"a": [(0, 0.1), (last, 0.9)] if last else [(0, 0.1)]})
    assert 1 <= len(plot.x_ticks) <= 10


def test_bars_start_at_zero_and_are_to_scale() -> None:
    plot = plots.shares([("federated", 0.5, "ours"), ("alone", 0.25, "plain")])
    first, second = plot.bars
    assert float(first.width) == pytest.approx(2 * float(second.width), abs=0.1)
    assert (first.value, first.end) == ("50.0", plot.rule)
    assert float(second.y) > float(first.y)
