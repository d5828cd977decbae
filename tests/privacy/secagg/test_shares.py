"""Shares against known answers, what opens a secret, what a share must not tell, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
import pytest
from Crypto.Protocol import SecretSharing
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import AggregationError
from cloister.privacy.secagg import shares

SECRET = bytes(range(32))
# Of SECRET for 3 of 5 holders, computed by hand in GF(2^128) modulo x^128 + x^7 + x^2 + x + 1 with the
# coefficients sha256("coefficient 1") and sha256("coefficient 2").
KNOWN = {
    0: "010185f5b9be6f1fdc4baf2185976e896e4485bfb93fee55dc146a0b3a1b2010f488",
    1: "0102e923638e272e194ce4dadd74c308aee2faa6d6a4a41170a40f4e0d53f230e7b2",
    2: "01036cd7d8334c34c30043f252e8a18ccea96f087d885e51baa77d5c2d53ce3d0d25",
    3: "010459699ac6962997da5ba585e8ba33cd2bc2d4d0c5660a11a6fb7a69a8989e5c5b",
    4: "0105dc9d217bfd334d96fc8d0a74d8b7ad60577a7be99c4adba5896849a8a493b6cc",
}
HELD = {holder: bytes.fromhex(share) for holder, share in KNOWN.items()}
LEVEL = 1e-4


def draw_from(monkeypatch: pytest.MonkeyPatch, source: Callable[[int], bytes]) -> None:
    """Draws the polynomials' coefficients from a known source instead of the operating system."""
    monkeypatch.setattr(SecretSharing, "rng", source)


def refused(given: Mapping[int, bytes], threshold: int, reason: str) -> None:
    with pytest.raises(AggregationError, check=lambda error: error.id == reason):
        shares.combine(given, threshold)


# Known answers


def test_known_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (hashlib.sha256(b"coefficient %d" % degree).digest() for degree in (1, 2))
    drawn = iter([second[:16], first[:16], second[16:], first[16:]])
    draw_from(monkeypatch, lambda n: next(drawn))
    assert {holder: share.hex() for holder, share in enumerate(shares.split(SECRET, 3, 5))} == KNOWN


@pytest.mark.parametrize("holders", [*combinations(KNOWN, 3)], ids=str)
def test_any_three_known_shares_open_the_secret(holders: tuple[int, ...]) -> None:
    assert shares.combine({holder: HELD[holder] for holder in holders}, 3) == SECRET


# What opens a secret


@given(st.binary(min_size=32, max_size=32), st.integers(2, 7), st.data())
def test_any_threshold_of_shares_in_any_order_open_the_secret(
    secret: bytes, holders: int, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(2, holders))
    chosen = data.draw(st.permutations(range(holders)))[: data.draw(st.integers(threshold, holders))]
    parts = shares.split(secret, threshold, holders)
    assert [len(part) for part in parts] == [shares.SHARE_BYTES] * holders
    assert shares.combine({holder: parts[holder] for holder in chosen}, threshold) == secret


def test_the_most_holders_that_a_byte_can_count() -> None:
    parts = shares.split(SECRET, 3, 255)
    assert shares.combine({0: parts[0], 127: parts[127], 254: parts[254]}, 3) == SECRET


def test_of_more_shares_than_needed_the_first_holders_count() -> None:
    forged = HELD[4][:-1] + bytes([HELD[4][-1] ^ 1])
    assert shares.combine(HELD | {4: forged}, 3) == SECRET


@pytest.mark.parametrize("place", [2, 17, 18, 33])
def test_a_forged_share_gives_another_secret_and_no_error(place: int) -> None:
    forged = bytearray(HELD[1])
    forged[place] ^= 1
    opened = shares.combine(HELD | {1: bytes(forged)}, 3)
    half = slice(0, 16) if place < 18 else slice(16, 32)
    assert opened[half] != SECRET[half]


def test_shares_of_two_splits_do_not_mix() -> None:
    one, other = shares.split(SECRET, 2, 3), shares.split(SECRET, 2, 3)
    assert not set(one) & set(other)
    assert shares.combine({0: one[0], 1: other[1]}, 2) != SECRET


# What fewer shares must not tell

SPLITS = 2_000


def uniform(values: np.ndarray) -> bool:
    """Whether bytes of shape (splits, places) look uniform at each place, and all together."""
    together = stats.chisquare(np.bincount(values.ravel(), minlength=256)).pvalue
    each = [stats.chisquare(np.bincount(place >> 4, minlength=16)).pvalue for place in values.T]
    return bool(together > LEVEL and min(each) > LEVEL)


def seen(secret: bytes) -> np.ndarray:
    """The values of the first two of five shares with threshold 3, and their sum: (splits, 96)."""
    rows = []
    for _ in range(SPLITS):
        one, other = (np.frombuffer(part, np.uint8)[2:] for part in shares.split(secret, 3, 3)[:2])
        rows.append(np.concatenate([one, other, one ^ other]))
    return np.array(rows)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, SECRET], ids=["zeros", "ones", "known"])
def test_fewer_shares_than_the_threshold_are_uniform_whatever_the_secret(
    secret: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_from(monkeypatch, KeyStream(hashlib.sha256(secret).digest()).bytes)
    assert uniform(seen(secret))


def test_the_check_fails_polynomials_that_are_drawn_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = KeyStream(bytes(32))
    with monkeypatch.context() as patch:
        draw_from(patch, bytes)  # zeros: each share is the secret
        assert not uniform(seen(SECRET))
    with monkeypatch.context() as patch:
        draw_from(patch, lambda n: bytes([stream.bytes(1)[0] & 0x7F]) + stream.bytes(n - 1))
        assert not uniform(seen(SECRET))


@pytest.mark.parametrize("kept", [1, 2])
def test_two_of_three_shares_go_with_every_secret(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one byte of the missing share is, another secret comes out: none is ruled out."""
    opened = set()
    for value in range(256):
        missing = HELD[kept][:2] + bytes([value]) + HELD[kept][3:]
        opened.add(shares.combine({0: HELD[0], kept: missing, 3: HELD[3]}, 3))
    assert len(opened) == 256


# What is refused


@pytest.mark.parametrize(
    "share",
    [
        b"",
        HELD[1][:-1],
        HELD[1] + b"\0",
        b"\0" + HELD[1][1:],
        b"\2" + HELD[1][1:],
        HELD[2],
        HELD[1][:1] + b"\0" + HELD[1][2:],
        HELD[1][:1] + b"\1" + HELD[1][2:],
    ],
    ids=[
        "empty",
        "short",
        "long",
        "version 0",
        "version 2",
        "of another",
        "the secret's place",
        "counted from 0",
    ],
)
def test_a_share_of_another_form_or_holder_is_refused(share: bytes) -> None:
    with pytest.raises(AggregationError, check=lambda error: error.id == "share_malformed"):
        shares.check(share, 1)
    refused({0: HELD[0], 1: share, 2: HELD[2]}, 3, "share_malformed")
    refused(HELD | {1: share}, 2, "share_malformed")


@pytest.mark.parametrize(("holder", "place"), [(-1, 0), (255, 0), (256, 1), (-256, 1)])
def test_a_holder_that_no_split_serves_is_refused(holder: int, place: int) -> None:
    refused(HELD | {holder: bytes([1, place]) + bytes(32)}, 3, "share_malformed")


def test_one_share_under_two_names_is_refused() -> None:
    refused({0: HELD[0], 1: HELD[0], 2: HELD[2]}, 3, "share_malformed")


@pytest.mark.parametrize("holders", [(), (0,), (1, 4)])
def test_fewer_shares_than_the_threshold_are_refused(holders: tuple[int, ...]) -> None:
    refused({holder: HELD[holder] for holder in holders}, 3, "too_few_shares")


@pytest.mark.parametrize(
    ("length", "threshold", "holders"),
    [(31, 2, 3), (33, 2, 3), (0, 2, 3), (32, 1, 3), (32, 0, 3), (32, 4, 3), (32, 2, 256), (32, -1, 3)],
)
def test_what_no_plan_asks_for_cannot_be_split(length: int, threshold: int, holders: int) -> None:
    with pytest.raises(ValueError, match="secret"):
        shares.split(bytes(length), threshold, holders)


@pytest.mark.parametrize("threshold", [1, 0, -3])
def test_what_no_plan_asks_for_cannot_be_combined(threshold: int) -> None:
    with pytest.raises(ValueError, match="no secret"):
        shares.combine(HELD, threshold)
