"""Envelopes and statements: the public forms, two signatures a party, and nothing unnoticed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from cloister.privacy.errors import EvidenceError
from cloister.privacy.evidence.dsse import PAYLOAD_TYPE, Envelope, Mark, Statement, encoding
from cloister.privacy.identity import PrivateIdentity

NORTH = PrivateIdentity.generate("north", "site")
LEAD = PrivateIdentity.generate("lead", "lead")
STATEMENT = Statement({"a.txt": "0" * 64}, "urn:test", {"n": 1})


def test_the_encoding_is_that_of_the_specification() -> None:
    """The example of DSSE v1.0.2, protocol.md, with this type in the place of its own."""
    kind = PAYLOAD_TYPE.encode()
    assert encoding(b"hello world") == b"DSSEv1 28 " + kind + b" 11 hello world"
    assert len(kind) == 28


def test_a_statement_has_the_form_of_in_toto() -> None:
    value = json.loads(STATEMENT.to_bytes())
    assert value == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "a.txt", "digest": {"sha256": "0" * 64}}],
        "predicateType": "urn:test",
        "predicate": {"n": 1},
    }
    assert Statement.from_bytes(STATEMENT.to_bytes()) == STATEMENT


def test_everybody_signs_twice_and_again_in_the_place_of_the_first_time() -> None:
    envelope = Envelope.make(STATEMENT, LEAD, NORTH).signed(NORTH)
    value = json.loads(envelope.to_bytes())
    assert [entry["keyid"].partition("#")[2] for entry in value["signatures"]] == ["ed25519", "ml-dsa-65"] * 2
    assert base64.b64decode(value["payload"]) == STATEMENT.to_bytes()
    again = Envelope.from_bytes(envelope.to_bytes())
    assert again.verify([LEAD.public, NORTH.public]) == ("lead", "north")
    assert again.statement() == STATEMENT


def refusal(reason: str, envelope: Envelope, *parties: PrivateIdentity) -> None:
    with pytest.raises(EvidenceError) as error:
        envelope.verify([party.public for party in parties])
    assert error.value.id == reason


def test_a_stranger_a_flip_or_half_a_signature_is_refused() -> None:
    envelope = Envelope.make(STATEMENT, NORTH)
    first, second = envelope.marks
    refusal("key_untrusted", envelope, LEAD)
    refusal("bundle_altered", replace(envelope, marks=(first,)), NORTH)
    refusal("bundle_altered", replace(envelope, marks=(second,)), NORTH)
    refusal("bundle_altered", replace(envelope, payload=envelope.payload + b" "), NORTH)
    flipped = Mark(first.key, bytes([first.signature[0] ^ 1]) + first.signature[1:])
    refusal("bundle_altered", replace(envelope, marks=(flipped, second)), NORTH)
    refusal("bundle_altered", replace(envelope, marks=(first, first, second)), NORTH)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"payload":"AA==","payloadType":"other","signatures":[]}',
        b'{"payload":"AA==","signatures":[]}',
        b'{"payload":"A","payloadType":"application/vnd.in-toto+json","signatures":[]}',
        b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":1,"sig":""}]}',
        b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":{}}',
        b'{ "payload":"","payloadType":"application/vnd.in-toto+json","signatures":[]}',
    ],
)
def test_anything_else_is_no_envelope(data: bytes) -> None:
    with pytest.raises(EvidenceError) as error:
        Envelope.from_bytes(data)
    assert error.value.id == "bundle_altered"


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"subject": [{"name": "a.txt", "digest": {"sha256": "0"}}]},
        {"subject": [{"name": "a.txt", "digest": {}}]},
        {"subject": 3},
        {"predicate": 3},
        {"more": 1},
    ],
)
def test_anything_else_is_no_statement(change: dict[str, object]) -> None:
    value = json.loads(STATEMENT.to_bytes()) | change
    with pytest.raises(EvidenceError):
        Statement.from_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def test_only_what_brings_its_own_context_is_signed_without_one() -> None:
    with pytest.raises(ValueError, match="context"):
        NORTH.sign_bare(b"\x10cloister/plan/1")
