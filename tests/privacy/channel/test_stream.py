"""The chunked stream against known answers, broken streams and its laws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.privacy.channel import stream
from cloister.privacy.errors import ChannelError

VECTORS = Path(__file__).parents[2] / "vectors" / "channel"
KNOWN = json.loads((VECTORS / "stream.json").read_text())
BROKEN = json.loads((VECTORS / "stream_broken.json").read_text())
KEY, BOUND = bytes.fromhex(KNOWN["key"]), bytes.fromhex(KNOWN["bound"])


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def refusal(data: bytes, key: bytes = KEY, bound: bytes = BOUND) -> str:
    with pytest.raises(ChannelError) as caught:
        stream.decrypt(key, data, bound)
    return caught.value.id


@pytest.mark.parametrize("case", KNOWN["streams"], ids=lambda case: case["size"])
def test_known_streams(case: dict[str, Any]) -> None:
    made = stream.encrypt(KEY, content(case["size"]), BOUND)
    assert hashlib.sha256(made).hexdigest() == case["sha256"]
    assert len(made) == stream.sealed_size(case["size"]) == case["stream_size"]
    assert made.hex() == case.get("stream", made.hex())
    assert stream.decrypt(KEY, made, BOUND) == content(case["size"])


@pytest.mark.parametrize("case", BROKEN["bytes"], ids=lambda case: case["why"])
def test_broken_streams_are_refused(case: dict[str, Any]) -> None:
    assert refusal(bytes.fromhex(case["stream"])) == "stream_invalid"


@pytest.mark.parametrize("case", BROKEN["pieces"], ids=lambda case: case["why"])
def test_streams_of_genuine_chunks_in_a_wrong_order_are_refused(case: dict[str, Any]) -> None:
    cipher = AESGCM(KEY)
    data = b"".join(
        cipher.encrypt(bytes(7) + counter.to_bytes(4) + bytes([last]), content(size), BOUND)
        for counter, last, size in case["pieces"]
    )
    assert refusal(data) == "stream_invalid"


@pytest.mark.parametrize("cut", [1, stream.TAG, stream.TAG + 1, stream.CHUNK, stream.CHUNK + stream.TAG])
def test_no_cut_is_taken_for_a_shorter_content(cut: int) -> None:
    made = stream.encrypt(KEY, content(2 * stream.CHUNK), BOUND)
    assert refusal(bytes(made[:-cut])) == "stream_invalid"
    assert refusal(bytes(made[cut:])) == "stream_invalid"


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=100), key=st.binary(min_size=32, max_size=32), bound=st.binary(max_size=40))
def test_what_goes_in_comes_out_and_a_flipped_bit_does_not(data: bytes, key: bytes, bound: bytes) -> None:
    made = stream.encrypt(key, data, bound)
    assert stream.decrypt(key, made, bound) == data
    for at in (0, len(made) // 2, len(made) - 1):
        altered = bytearray(made)
        altered[at] ^= 1
        assert refusal(bytes(altered), key, bound) == "stream_invalid"
    assert refusal(bytes(made), key, bound + b"\0") == "stream_invalid"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    assert refusal(data) == "stream_invalid"


def test_every_kind_of_bytes_is_taken() -> None:
    data = content(1000)
    made = [stream.encrypt(KEY, kind(data), BOUND) for kind in (bytes, bytearray, memoryview)]
    assert made[0] == made[1] == made[2]
    for kind in (bytes, bytearray, memoryview):
        assert stream.decrypt(KEY, kind(bytes(made[0])), BOUND) == data


# Piece by piece


def test_pieces_are_the_content_more_than_once() -> None:
    data = content(2 * stream.CHUNK + 7)
    pieces = stream.Content(KEY, stream.encrypt(KEY, data, BOUND), BOUND)
    assert pieces.size == len(data)
    assert len(pieces) == 3
    for _ in range(2):
        assert [len(piece) for piece in pieces] == [stream.CHUNK, stream.CHUNK, 7]
        assert b"".join(pieces) == data == pieces.whole()


def test_no_piece_is_handed_on_when_the_last_does_not_hold() -> None:
    made = stream.encrypt(KEY, content(2 * stream.CHUNK + 7), BOUND)
    made[-1] ^= 1
    with pytest.raises(ChannelError) as caught:
        stream.Content(KEY, made, BOUND)
    assert caught.value.id == "stream_invalid"
