"""Wrapped keys against known answers and broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.privacy.channel import sealing
from cloister.privacy.errors import ChannelError, IdentityError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from tests.known import BROKEN_IDENTITIES, party

VECTORS = Path(__file__).parents[2] / "vectors" / "channel"
KNOWN = json.loads((VECTORS / "sealing.json").read_text())
BROKEN = json.loads((VECTORS / "sealing_broken.json").read_text())
LEAD, NORTH = party("lead"), party("north")
KEY, INFO = bytes.fromhex(KNOWN["key"]), bytes.fromhex(KNOWN["info"])


def refusal(wrapped: bytes, recipient: PrivateIdentity = LEAD, info: bytes = INFO) -> str:
    with pytest.raises(ChannelError) as caught:
        sealing.unwrap(wrapped, recipient, info)
    return caught.value.id


def test_the_known_key_opens() -> None:
    wrapped = bytes.fromhex(KNOWN["wrapped"])
    assert len(wrapped) == sealing.WRAPPED
    assert sealing.unwrap(wrapped, LEAD, INFO) == KEY


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["why"])
def test_broken_keys_are_refused(case: dict[str, Any]) -> None:
    assert refusal(bytes.fromhex(case["wrapped"]), LEAD, bytes.fromhex(case["info"])) == "seal_invalid"


def test_a_key_opens_for_its_recipient_and_context_only() -> None:
    wrapped = sealing.wrap(KEY, NORTH.public, INFO)
    assert len(wrapped) == sealing.WRAPPED
    assert sealing.unwrap(wrapped, NORTH, INFO) == KEY
    assert refusal(wrapped, LEAD) == "seal_invalid"
    assert refusal(wrapped, NORTH, INFO + b" ") == "seal_invalid"


def test_a_key_is_never_wrapped_twice_in_the_same_way() -> None:
    assert sealing.wrap(KEY, NORTH.public, INFO) != sealing.wrap(KEY, NORTH.public, INFO)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=1300))
def test_garbage_is_refused(data: bytes) -> None:
    assert refusal(data) == "seal_invalid"
    assert refusal(data.ljust(sealing.WRAPPED, b"\0")) == "seal_invalid"


@pytest.mark.parametrize("case", BROKEN_IDENTITIES["sealing_keys"], ids=lambda case: case["why"])
def test_nothing_is_sealed_for_a_broken_key(case: dict[str, Any]) -> None:
    recipient = PublicIdentity.from_json(NORTH.public.to_json() | {"hpke": case["hpke"]})
    with pytest.raises(IdentityError) as caught:
        sealing.wrap(KEY, recipient, INFO)
    assert caught.value.id == "identity_malformed"
