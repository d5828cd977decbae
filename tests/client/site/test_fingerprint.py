"""The fingerprint of a dataset: the same in any order, another for any other cell."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from cloister.client.site.fingerprint import fingerprint
from cloister.client.site.records import Records
from cloister.privacy import canonical

KEY, NAMES = b"k" * 32, {"text": "t", "label": "l"}
CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
TABLES = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4)


def records(rows: list[tuple[str, str]]) -> Records:
    return Records(tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def of(rows: list[tuple[str, str]]) -> str:
    return fingerprint(records(rows), NAMES, KEY)


@given(st.data(), TABLES)
def test_the_order_of_rows_does_not_matter(data: st.DataObject, rows: list[tuple[str, str]]) -> None:
    assert of(data.draw(st.permutations(rows))) == of(rows)


@given(TABLES, st.integers(0, 3), st.booleans(), CELLS)
def test_any_other_cell_makes_another(rows: list[tuple[str, str]], place: int, text: bool, cell: str) -> None:
    changed = list(rows)
    old = changed[place % len(rows)]
    changed[place % len(rows)] = (cell, old[1]) if text else (old[0], cell)
    assert (of(changed) == of(rows)) == (changed == rows)


@given(TABLES)
def test_a_row_more_makes_another_even_if_it_was_there_before(rows: list[tuple[str, str]]) -> None:
    assert of([*rows, rows[0]]) != of(rows)


def test_cells_cannot_flow_into_each_other() -> None:
    assert of([("ab", "c")]) != of([("a", "bc")])
    assert of([("a", "b"), ("c", "d")]) != of([("a", "d"), ("c", "b")])


def test_key_names_and_persons_count() -> None:
    found = records([("a", "b")])
    assert fingerprint(found, NAMES, b"other") != of([("a", "b")])
    assert fingerprint(found, NAMES | {"label": "m"}, KEY) != of([("a", "b")])
    assert fingerprint(Records(("a",), ("b",), ("",)), NAMES, KEY) != of([("a", "b")])


def test_a_known_answer() -> None:
    """The form that the module's text states, computed here on its own."""

    def sized(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(8) + part for part in parts)

    rows = sorted(
        hmac.digest(KEY, b"cloister dataset row\0" + sized(*cells), hashlib.sha256)
        for cells in ((b"a", b"x"), (b"b", b"y"))
    )
    whole = b"cloister dataset\0" + sized(canonical.encode(NAMES), *rows)
    assert of([("b", "y"), ("a", "x")]) == f"sha256:{hmac.digest(KEY, whole, hashlib.sha256).hex()}"
