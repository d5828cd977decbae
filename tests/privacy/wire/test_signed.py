from __future__ import annotations

from typing import Any

import pytest

from cloister.privacy.errors import ChannelError
from cloister.privacy.identity import PrivateIdentity, Signature
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.signed import Signed

NORTH = PrivateIdentity.generate("north", "site")
SIGNED = Signed.make(b'{"a":"\xc3\xa9"}', NORTH, "cloister/test/1")


def test_what_was_signed_comes_back_on_both_ways() -> None:
    for again in (
        Signed.from_json(SIGNED.to_json()),
        Signed.of(pb.Signed.FromString(pb.Signed(**SIGNED.fields()).SerializeToString())),
    ):
        assert again == SIGNED
        assert again.open(NORTH.public, "cloister/test/1") == SIGNED.content


@pytest.mark.parametrize(
    "forged",
    [
        Signed(SIGNED.content + b" ", SIGNED.signature),
        Signed(SIGNED.content, Signature(SIGNED.signature.ed25519, b"")),
        Signed(SIGNED.content, Signature(bytes(64), SIGNED.signature.mldsa65)),
    ],
    ids=["content", "one signature", "other signature"],
)
def test_anything_altered_is_refused(forged: Signed) -> None:
    with pytest.raises(ChannelError) as caught:
        forged.open(NORTH.public, "cloister/test/1")
    assert caught.value.id == "signature_invalid"


def test_contexts_do_not_mix() -> None:
    with pytest.raises(ChannelError):
        SIGNED.open(NORTH.public, "cloister/test/2")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        SIGNED.to_json() | {"x": ""},
        SIGNED.to_json() | {"ed25519": "zz"},
        SIGNED.to_json() | {"content": 1},
    ],
)
def test_other_json_is_refused(value: Any) -> None:
    with pytest.raises(ChannelError) as caught:
        Signed.from_json(value)
    assert caught.value.id == "signature_invalid"
