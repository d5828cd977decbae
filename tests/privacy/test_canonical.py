"""One text for each value: RFC 8785's own vectors, texts that only look right, and digests."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.errors import ChannelError, PlanError

VECTORS = Path(__file__).parents[1] / "vectors" / "canonical"
KNOWN = json.loads((VECTORS / "values.json").read_text())
BROKEN = json.loads((VECTORS / "values_broken.json").read_text())
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ABC = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda x: not x.is_integer() or abs(x) < 2**53
)
INTEGERS = st.integers(1 - 2**53, 2**53 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("bits", KNOWN["numbers"])
def test_numbers_of_the_rfc(bits: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical.encode(number) == KNOWN["numbers"][bits].encode()


@pytest.mark.parametrize("case", KNOWN["values"], ids=lambda case: str(case["why"]))
def test_values_of_the_rfc(case: dict[str, str]) -> None:
    value = json.loads(case["text"])
    assert canonical.encode(value).hex() == case["hex"]
    assert canonical.decode(bytes.fromhex(case["hex"])) == value


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: str(case["why"]))
def test_any_other_text_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(PlanError) as caught:
        canonical.decode(bytes.fromhex(case["hex"]))
    assert caught.value.id == "plan_malformed"
    own = ChannelError("envelope_malformed", "none")
    with pytest.raises(ChannelError) as refused:
        canonical.decode(bytes.fromhex(case["hex"]), otherwise=own)
    assert refused.value is own


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


@given(VALUES)
def test_it_is_what_the_reference_writes(value: Any) -> None:
    """Most values are written by the standard library, which is faster; each as the package writes it."""
    assert canonical.encode(value) == rfc8785.dumps(value)


def test_every_character_of_ascii_is_what_the_reference_writes() -> None:
    value = {chr(code): [f"a{chr(code)}z", code] for code in range(128)}
    assert canonical.encode(value) == rfc8785.dumps(value)


@given(st.dictionaries(TEXTS, INTEGERS, min_size=2))
def test_the_order_of_insertion_leaves_no_trace(value: dict[str, int]) -> None:
    assert canonical.encode(dict(reversed(value.items()))) == canonical.encode(value)


@given(st.binary(max_size=30) | st.text('[]{}",:0123456789.eE+-\\u tfn', max_size=12).map(str.encode))
def test_arbitrary_bytes_are_canonical_or_refused(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except PlanError:
        return
    assert canonical.encode(value) == data


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        2**53,
        -(2**53),
        {1: 2},
        {None: 1},
        b"x",
        {1, 2},
        "\ud800",
        pytest.param(object(), id="an object"),
    ],
    ids=repr,
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    for nested in (value, [value], {"a": value}):
        with pytest.raises(ValueError):
            canonical.encode(nested)


def test_digests_of_the_standard() -> None:
    assert canonical.digest(b"") == EMPTY
    assert canonical.digest(b"abc") == ABC
    assert canonical.digest_of({"b": 1, "a": []}) == canonical.digest(b'{"a":[],"b":1}')
    assert canonical.raw(ABC) == hashlib.sha256(b"abc").digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        ABC[7:],
        ABC.upper(),
        ABC.replace("sha256", "sha512"),
        ABC[:-1],
        ABC + "0",
        ABC + "\n",
        " " + ABC,
        "sha256:" + "٣" * 64,
        None,
        7,
        ABC.encode(),
    ],
    ids=repr,
)
def test_anything_else_is_no_digest(text: Any) -> None:
    assert not canonical.is_digest(text)
    with pytest.raises(ValueError):
        canonical.raw(text)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    assert canonical.digest_of_file(tmp_path / "file") == canonical.digest(b"x" * size)


def test_a_manifest_names_each_file_below_its_root(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    files = [tmp_path / "b", tmp_path / "a" / "c"]
    for file in files:
        file.write_bytes(file.name.encode())
    expected = {"a/c": canonical.digest(b"c"), "b": canonical.digest(b"b")}
    assert canonical.manifest(tmp_path, files) == expected
    assert list(canonical.manifest(tmp_path, files)) == ["a/c", "b"]
    with pytest.raises(ValueError):
        canonical.manifest(tmp_path / "a", files)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"b":[true,null,"x"]}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a": 1}',
        b'{"a":1.0}',
        b'{"a":1e-05}',
        b'{"a":0.00001}',
        b'{"a":-0}',
        b'{"a":"\\u00e9"}',
        '{"a":"é"}'.encode(),
        b'{"a":"\\ud800"}',
        b'{"a":"\\u001f"}',
        b'{"a":"\\u001F"}',
        b'{"a":"\\/"}',
        b'{"a":"\x7f"}',
        b'{"a":9007199254740991}',
        b'{"a":9007199254740993}',
        b'{"a":12345678901234567890123}',
        b'{"a":NaN}',
        b"\xff\xfe{\x00}\x00",
        b"1",
        b"",
        b" 1",
        '{"\U0001f600":1,"\ufb33":2}'.encode(),
    ],
)
def test_reading_accepts_exactly_what_writing_gives(data: bytes) -> None:
    """Whether or not the quick way was taken."""
    try:
        value = json.loads(data)
        expected = canonical.encode(value) == data
    except ValueError:
        expected = False
    try:
        assert canonical.decode(data) == value
        accepted = True
    except PlanError:
        accepted = False
    assert accepted is expected


FRAGMENTS = st.sampled_from(
    [
        "1.0",
        "0.00001",
        "1e-05",
        "1e-7",
        "-0.0",
        "0.1",
        "0.10",
        "1e+30",
        "1e30",
        "1e400",
        "12345678901234567.5",
        "1234567890123456789",
        "9007199254740993",
        "0.12345678901234567",
        '"\\u00001.5"',
        '"1.5"',
        "333333333.33333329",
    ]
)


@given(st.lists(FRAGMENTS, min_size=1, max_size=4))
def test_numbers_are_canonical_or_refused_as_the_slow_way_says(parts: list[str]) -> None:
    """The quick way of reading takes exactly the texts that are written."""
    data = ("[" + ",".join(parts) + "]").encode()
    try:
        wanted = canonical.encode(json.loads(data)) == data
    except ValueError:
        wanted = False
    try:
        canonical.decode(data)
        found = True
    except PlanError:
        found = False
    assert found == wanted
