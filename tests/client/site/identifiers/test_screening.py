"""What becomes of records, and that nothing of a text gets out."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.site.identifiers.detection import Scanner, digest
from cloister.client.site.identifiers.findings import KINDS, Counts
from cloister.client.site.identifiers.screening import ACTIONS, band, bands, screen
from cloister.client.site.records import Records
from cloister.privacy.errors import InputError
from cloister.privacy.evidence import vocabulary

SCANNER = Scanner({"hospital-number": "H[0-9]{7}"})
RECORDS = Records(
    ("Mail ada@example.org or bo@example.org", "fine", "H1234567 and 192.0.2.1"),
    ("ada@example.org", "b", "b"),
    ("p", "q", "r"),
)
FOUND = {"email": 2, "hospital-number": 1, "ip": 1}


def test_off_looks_at_nothing():
    screened = screen(RECORDS, SCANNER, "off")
    assert screened.records is RECORDS
    assert screened.counts is None


def test_warn_counts_and_changes_nothing():
    screened = screen(RECORDS, SCANNER, "warn")
    assert screened.records is RECORDS
    assert screened.counts == Counts(3, 2, FOUND, {"email": 1, "hospital-number": 1, "ip": 1})


def test_mask_changes_texts_only():
    screened = screen(RECORDS, SCANNER, "mask")
    assert screened.records.texts == ("Mail [EMAIL] or [EMAIL]", "fine", "[HOSPITAL-NUMBER] and [IP]")
    assert screened.records.labels == RECORDS.labels
    assert screened.records.persons == RECORDS.persons
    assert screened.counts is not None
    assert screened.counts.found == FOUND
    assert screen(screened.records, SCANNER, "refuse").counts == Counts(3)


def test_refuse_says_counts_and_nothing_of_the_texts(caplog):
    with caplog.at_level(logging.DEBUG), pytest.raises(InputError) as refusal:
        screen(RECORDS, SCANNER, "refuse")
    assert refusal.value.id == "identifiers_found"
    assert refusal.value.what == (
        "2 of 3 texts hold what looks like identifiers: email 2, hospital-number 1, ip 1."
    )
    assert not caplog.records
    for part in ("ada", "example", "H1234567", "192.0"):
        assert part not in refusal.value.line()
    assert refusal.value.__cause__ is None


def test_refuse_lets_pass_what_holds_nothing():
    records = Records(("fine", "well"), ("a", "b"))
    assert screen(records, SCANNER, "refuse").records is records


@pytest.mark.parametrize("action", ACTIONS)
def test_values_do_not_show_texts(action):
    if action != "refuse":
        assert "example" not in repr(screen(RECORDS, SCANNER, action))


def test_bands_are_an_event_of_the_vocabulary_and_none_is_left_out():
    counts = screen(RECORDS, SCANNER, "warn").counts
    assert counts is not None
    body = {"dataset": "notes", "action": "warn", "detector": digest(), **bands(counts)}
    fields = vocabulary.FAMILIES["deid.scan"].fields
    assert set(body) == set(fields)
    assert all(fields[name].holds(value) for name, value in body.items())
    assert set(bands(counts).values()) == {"0-15"}
    assert {*KINDS, "own"} == set(vocabulary.IDENTIFIERS)


def test_a_few_and_none_look_the_same():
    assert bands(Counts(100)) == bands(Counts(70, 15, {"card": 15, "hospital-number": 15}))


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0-15"), (15, "0-15"), (16, "16-31"), (31, "16-31"), (1000, "512-1023")]
)
def test_known_bands(number, expected):
    assert band(number) == expected


@given(st.integers(0, 10**11))
def test_every_band_is_wide_and_holds_its_number(number):
    low, high = map(int, band(number).split("-"))
    assert low <= number <= high
    assert vocabulary.BAND.holds(band(number))
