from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.errors import InputError, PlanError
from cloister.privacy.plan import Plan
from cloister.privacy.table import Choice, Number, Table, normal, parsed
from cloister.privacy.task import Task
from tests.plans import plan_json
from tests.tables import COLUMNS, TABLE

AGE = Number(name="age", low=20.0, high=90.0)
FLAGGED = Number(name="chol", low=100.0, high=400.0, missing="flag", empty=("0", "NA"))
TWO = Choice(name="sex", values=("f", "m"))
FOUR = Choice(name="pain", values=("1", "2", "3", "4"), missing="flag")


def test_known_features() -> None:
    np.testing.assert_allclose(
        AGE.features(["20", " 55.0", "90", "9e1", "-1", "1000"])[:, 0], [-1, 0, 1, 1, -1, 1]
    )
    np.testing.assert_allclose(
        FLAGGED.features(["250", "", "0.0", "NA", "400"]), [[0, -1], [0, 1], [0, 1], [0, 1], [1, -1]]
    )
    np.testing.assert_allclose(TWO.features(["f", "m", " m "])[:, 0], [-1, 1, 1])
    np.testing.assert_allclose(FOUR.features(["2.0", ""]), [[-1, 1, -1, -1, -1], [-1, -1, -1, -1, 1]])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from(["f", "m"]))
def test_no_row_is_longer_than_1_and_none_depends_on_another(numbers: list[float], sex: str) -> None:
    cells = {
        "age": [repr(number) for number in numbers],
        "chol": ["" if number < 0 else repr(number) for number in numbers],
        "sex": [sex] * len(numbers),
        "pain": [str(1 + place % 4) for place in range(len(numbers))],
    }
    rows = TABLE.features(cells)
    assert rows.shape == (len(numbers), TABLE.width)
    assert (np.linalg.norm(rows, axis=1) <= 1 + 1e-12).all()
    alone = [
        TABLE.features({name: [column[place]] for name, column in cells.items()})
        for place in range(len(numbers))
    ]
    np.testing.assert_array_equal(rows, np.concatenate(alone))


def test_a_range_as_wide_as_numbers_go_stays_finite() -> None:
    wide = Number(name="x", low=-1e308, high=1e307)
    assert np.isfinite(wide.features(["1e308", "-1e308", "0"])).all()


WRONG: list[tuple[Number | Choice, list[str], str]] = [
    (AGE, ["50", ""], "value_missing"),
    (AGE, ["50", "old"], "column_type"),
    (AGE, ["nan"], "column_type"),
    (AGE, ["inf"], "column_type"),
    (AGE, ["1_000"], "column_type"),
    (AGE, ["٥"], "column_type"),
    (AGE, ["0x10"], "column_type"),
    (AGE, ["1e9999"], "column_type"),
    (TWO, ["x"], "category_unknown"),
    (TWO, [""], "value_missing"),
    (FOUR, ["5"], "category_unknown"),
]


@pytest.mark.parametrize(("column", "cells", "reason"), WRONG)
def test_cells_that_are_refused_are_not_shown(column: Number | Choice, cells: list[str], reason: str) -> None:
    with pytest.raises(InputError) as caught:
        column.features([*cells, "secret"] if reason == "column_type" else cells)
    assert caught.value.id == reason
    assert "secret" not in caught.value.line()
    assert column.name in caught.value.what


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(InputError, match="sex, pain"):
        TABLE.features({"age": ["1"], "chol": ["1"]})


def test_the_file_and_its_canonical_bytes() -> None:
    assert TABLE.names == ("age", "chol", "sex", "pain")
    assert TABLE.width == 1 + 2 + 1 + 5
    assert Table.model_validate_json(TABLE.to_bytes()) == TABLE
    assert parsed(COLUMNS.replace(b"low = 20,", b"low = 20.0, missing = 'refuse',")) == TABLE
    assert TABLE.digest == canonical.digest(TABLE.to_bytes())


LABEL = "[label]\ncolumn = 'y'\nclasses = [0, 1]\n[columns]\n"
FILES: list[tuple[str, str]] = [
    ("", "needs [label] and [columns]"),
    ("label = 1\ncolumns = {}", "needs [label] and [columns]"),
    ("[label]\ncolumn = 'y'\nclasses = [0, 1]\n[columns]", "columns: Tuple should have at least 1 item"),
    ("[label]\ncolumn = 'y'\n[columns]\na = {low = 0, high = 1}", "needs column and classes"),
    ("[label]\ncolumn = 'y'\nclasses = [0, 0]\n[columns]\na = {low = 0, high = 1}", "a class stands twice"),
    ("[label]\ncolumn = 'y'\nclasses = [0, 0.0]\n[columns]\na = {low = 0, high = 1}", "a class stands twice"),
    ("[label]\ncolumn = 'a'\nclasses = [0, 1]\n[columns]\na = {low = 0, high = 1}", "is the label as well"),
    (LABEL + "a = {low = 1, high = 1}", "low below its high"),
    (
        LABEL + "a = {low = 1}",
        "the column a: high: Field required",
    ),
    (LABEL + "a = {low = nan, high = 1}", "the column a: low"),
    (LABEL + "a = {low = '0', high = 1}", "the column a: low"),
    (
        LABEL + "a = {low = 0, high = 1, values = [1, 2]}",
        "low and high, or",
    ),
    (
        LABEL + "a = {low = 0, high = 1, mean = 1}",
        "mean: Extra inputs",
    ),
    (
        LABEL + "a = {low = 0, high = 1, kind = 'number'}",
        "low and high",
    ),
    (LABEL + "a = {values = [1, '1']}", "a value twice"),
    (
        LABEL + "a = {values = [1, 2], empty = [2]}",
        "a value twice",
    ),
    (LABEL + "a = {values = [1]}", "the column a: values"),
    (
        LABEL + "a = {low = 0, high = 1, missing = 'mean'}",
        "missing",
    ),
    (LABEL + "a = 7", "low and high, or values"),
    ("not toml", "is not TOML"),
]


@pytest.mark.parametrize(("text", "words"), FILES)
def test_files_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        parsed(text.encode())
    assert caught.value.id == "table_malformed"
    assert words in caught.value.what


def test_too_large_or_not_text() -> None:
    for data in (b"#" * ((1 << 20) + 1), b"\xff"):
        with pytest.raises(PlanError, match="is not TOML"):
            parsed(data)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_compared_as_numbers(number: float) -> None:
    assert normal(repr(number)) == normal(f" {number!r} ") == normal(repr(number + 0.0))
    assert normal("-0") == normal("0.0")
    assert normal("01x") == "01x"


def table_plan(**changes: Any) -> dict[str, Any]:
    """A plan for rows of a table, as JSON."""
    task = {"kind": "tabular-classification", "labels": ["no", "yes"], "table": json.loads(TABLE.to_bytes())}
    dense = {"kind": "dense", "seed": "sha256:" + "1" * 64, "parameters": 20, "layout": "sha256:" + "2" * 64}
    base = {"name": "columns of a table", "digest": TABLE.digest}
    return plan_json(**{"task": task, "adapter": dense, "base": base, **changes})


def test_a_plan_has_its_columns_in_its_bytes_and_others_have_nothing_of_them() -> None:
    plan = Plan.model_validate_json(json.dumps(table_plan()))
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert plan.task.table == TABLE
    text = Plan.model_validate_json(json.dumps(plan_json()))
    assert not any(word in text.to_bytes() for word in (b'"table"', b'"dense"', b'"hidden"'))


CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"base": plan_json()["base"]}, "a length of texts belongs to texts"),
    ({"base": {"name": "columns of a table", "digest": "sha256:" + "3" * 64}}, "not those of the digest"),
    ({"base": {**table_plan()["base"], "licence": "mit"}}, "a licence is that of a base model"),
    ({"adapter": plan_json()["adapter"]}, "a model without a base model learns rows of a table"),
    ({"task": plan_json()["task"]}, "a length of texts belongs to texts"),
    (
        {"task": {"kind": "tabular-classification", "labels": ["no", "yes"]}},
        "columns belong to rows of a table",
    ),
    ({"canaries": 20}, "canaries are texts"),
]


@pytest.mark.parametrize(("changes", "words"), CONFLICTS)
def test_plans_that_contradict_themselves(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        Plan.from_bytes(canonical.encode(table_plan(**changes)))


def test_labels_are_the_classes() -> None:
    with pytest.raises(ValueError, match="not the classes of the table"):
        Task(kind="tabular-classification", labels=("yes", "no"), table=TABLE)


def test_what_differs_is_named() -> None:
    assert TABLE.differs(TABLE) == ""
    for old, new, words in (
        (b"ill", b"well", "the label"),
        (b'"no"', b'"none"', "the classes"),
        (b"age", b"years", "the names or the order"),
        (b"low = 20", b"low = 18", "the column age"),
    ):
        assert TABLE.differs(parsed(COLUMNS.replace(old, new))).startswith(words)


def test_length_of_a_full_row() -> None:
    row = TABLE.features({"age": ["90"], "chol": ["400"], "sex": ["m"], "pain": ["4"]})
    assert math.isclose(float(np.linalg.norm(row)), 1.0)
