"""Rows of a table: by public constants alone; what does not fit them is refused."""

from __future__ import annotations

import pytest

from cloister.privacy.analytic.tabular import Choice, Columns, Number
from cloister.privacy.errors import InputError, PlanError

COLUMNS = Columns(
    (
        Number("age", 50, 10),
        Number("chol", 200, 50, missing=0.0),
        Choice("sex", ("0", "1")),
        Choice("cp", ("1", "2", "3")),
    )
)
TABLE = {"age": ["60", "500.0"], "chol": ["0", "250"], "sex": ["1.0", "0"], "cp": ["3", " 1.0 "]}


def test_known_answer():
    assert COLUMNS.width == 7
    assert COLUMNS.features(TABLE).tolist() == [
        [1.0, 0.0, 1.0, 1.0, -1.0, -1.0, 1.0],
        [3.0, 1.0, -1.0, -1.0, 1.0, -1.0, -1.0],
    ]


def test_a_row_has_the_same_features_alone_as_among_others():
    alone = {name: values[:1] for name, values in TABLE.items()}
    assert COLUMNS.features(alone)[0].tolist() == COLUMNS.features(TABLE)[0].tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"age": ["60", ""]}, "value_missing"),
        ({"age": ["60", "nan"]}, "value_missing"),
        ({"age": ["60", "inf"]}, "value_missing"),
        ({"cp": ["3", "4"]}, "value_missing"),
    ],
)
def test_values_that_do_not_fit_are_refused_and_not_shown(change, reason):
    with pytest.raises(InputError) as caught:
        COLUMNS.features(TABLE | change)
    assert caught.value.id == reason
    assert "'4'" not in caught.value.what


def test_a_missing_column_is_named():
    with pytest.raises(InputError) as caught:
        COLUMNS.features({name: TABLE[name] for name in ("age", "sex", "cp")})
    assert caught.value.id == "column_missing"
    assert "chol" in caught.value.what


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Number("a", 0, 0),
        lambda: Number("a", float("nan"), 1),
        lambda: Number("a", 0, 1, limit=-1),
        lambda: Choice("a", ("1",)),
        lambda: Choice("a", ("1", "1.0")),
    ],
)
def test_ranges_that_are_none_are_refused(broken):
    with pytest.raises(PlanError) as caught:
        broken()
    assert caught.value.id == "plan_malformed"
