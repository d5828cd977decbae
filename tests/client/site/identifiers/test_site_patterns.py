"""A site's own patterns: what is taken, and every refusal."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.site.identifiers import site_patterns
from cloister.client.site.identifiers.detection import Scanner
from cloister.privacy.errors import InputError


def test_no_file_means_no_patterns(tmp_path):
    assert site_patterns.load(tmp_path / "identifiers.json") == {}


def test_patterns_are_read_and_find(tmp_path):
    path = tmp_path / "identifiers.json"
    path.write_text(json.dumps({"hospital-number": r"\bH[0-9]{7}\b", "study-id": "(?i)abc-[0-9]{4}"}))
    scanner = Scanner(site_patterns.load(path))
    assert scanner.mask("H1234567 in Abc‐٠١٢٣, H12345678") == "[HOSPITAL-NUMBER] in [STUDY-ID], H12345678"


BROKEN = {
    "not JSON": "{",
    "not UTF-8": b"\xff{}",
    "a list": "[]",
    "twice": '{"a": "x", "a": "y"}',
    "deep": "[" * 100_000,
    "too many": json.dumps({f"a{n}": "x" for n in range(51)}),
    "a shipped kind": '{"mrn": "x"}',
    "capitals": '{"Hospital": "x"}',
    "no text": '{"a": 1}',
    "empty": '{"a": ""}',
    "too long": json.dumps({"a": "x" * 501}),
    "unbalanced": '{"a": "("}',
    "look-ahead": '{"a": "x(?=y)"}',
    "back-reference": r'{"a": "(x)\\1"}',
    "too large": '{"a": "((x{1000}){1000}){1000}"}',
    "matches nothing": '{"a": "x*"}',
    "half a character": r'{"a": "\ud800"}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_is_refused(tmp_path, text):
    path = tmp_path / "identifiers.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as refusal:
        site_patterns.load(path)
    assert refusal.value.id == "patterns_malformed"
    assert "\n" not in refusal.value.line()


def test_a_folder_in_its_place_is_refused(tmp_path):
    path = tmp_path / "identifiers.json"
    path.mkdir()
    with pytest.raises(InputError) as refusal:
        site_patterns.load(path)
    assert refusal.value.id == "file_missing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = tmp_path / "identifiers.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(InputError) as refusal:
        site_patterns.load(path)
    assert refusal.value.id == "file_missing"


@given(st.binary(max_size=60))
def test_any_file_is_patterns_or_a_typed_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any-identifiers.json"
    path.write_bytes(data)
    ids = []
    try:
        Scanner(site_patterns.load(path))
    except InputError as refusal:
        ids.append(refusal.id)
    assert ids in ([], ["patterns_malformed"])
