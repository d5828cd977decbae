"""Envelopes against known answers, broken files, an independent reader, and arbitrary bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.channel import sealing, stream
from cloister.privacy.errors import ChannelError
from cloister.privacy.evidence import merkle
from cloister.privacy.wire import envelope
from cloister.privacy.wire.envelope import Header, Letter, Opened, open_envelope, peek, seal, seal_together
from tests.known import party

VECTORS = Path(__file__).parents[2] / "vectors" / "envelope"
KNOWN = json.loads((VECTORS / "envelope.json").read_text())
GOOD = (VECTORS / "good.envelope").read_bytes()
TOGETHER = (VECTORS / "together.envelope").read_bytes()
"""The second of three that left together."""
HEADER = Header(**KNOWN["header"])
CONTENT = bytes.fromhex(KNOWN["content"])
LEAD, NORTH = party("lead"), party("north")
LIMIT = 1 << 20


def opened(data: bytes, expected: Header = HEADER, limit: int = LIMIT) -> Opened:
    return open_envelope(data, expected=expected, recipient=NORTH, sender=LEAD.public, limit=limit)


def refusal(data: bytes, expected: Header = HEADER, limit: int = LIMIT) -> ChannelError:
    with pytest.raises(ChannelError) as caught:
        opened(data, expected, limit)
    return caught.value


def test_the_known_envelope_opens() -> None:
    found = opened(GOOD)
    assert found.header == HEADER
    assert found.content == CONTENT
    assert b"".join(found.pieces) == CONTENT
    assert found.digest == KNOWN["digest"]
    assert peek(GOOD, LIMIT) == HEADER


@pytest.mark.parametrize(("name", "reason"), KNOWN["broken"].items())
def test_broken_envelopes_are_refused(name: str, reason: str) -> None:
    assert refusal((VECTORS / f"{name}.envelope").read_bytes()).id == reason


def test_every_broken_file_has_its_reason() -> None:
    assert {path.stem for path in VECTORS.glob("*.envelope")} == {"good", "together", *KNOWN["broken"]}


def test_the_known_envelope_that_left_with_others_opens() -> None:
    found = opened(TOGETHER)
    assert (found.header, found.content) == (HEADER, CONTENT)
    assert found.digest == KNOWN["together"]
    assert peek(TOGETHER, LIMIT) == HEADER


def read_apart(data: bytes) -> bytes:
    """The content, by nothing but the layout in the module's docstring and the primitives."""
    alone = data[:9] == b"CLOISTER\x01"
    assert alone or data[:9] == b"CLOISTER\x02"
    size = int.from_bytes(data[9:13], "big")
    header, rest = data[13 : 13 + size], data[13 + size :]
    wrapped, first, second, body = rest[:1168], rest[1168:1232], rest[1232:4541], rest[4541:]
    assert json.loads(header) == {"v": 1, **asdict(HEADER)}
    before = data[: 13 + size + 1168]
    context = b"cloister/envelope/1" if alone else b"cloister/envelopes/1"
    if alone:
        signed = hashlib.sha256(before).digest() + hashlib.sha256(body).digest()
    else:
        index, many = int.from_bytes(body[:4], "big"), body[4:8]
        proof, body = body[9 : 9 + 32 * body[8]], body[9 + 32 * body[8] :]
        whole = hashlib.sha256(before).digest() + hashlib.sha256(body).digest()
        assert (index, int.from_bytes(many, "big"), len(proof)) == (1, 3, 64)
        node = hashlib.sha256(b"\x00" + whole).digest()
        node = hashlib.sha256(b"\x01" + proof[:32] + node).digest()
        signed = many + hashlib.sha256(b"\x01" + node + proof[32:]).digest()
    ed25519.Ed25519PublicKey.from_public_bytes(LEAD.public.ed25519).verify(
        first, bytes([len(context)]) + context + signed
    )
    mldsa.MLDSA65PublicKey.from_public_bytes(LEAD.public.mldsa65).verify(second, signed, context)
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    cipher = AESGCM(suite.decrypt(wrapped, NORTH.hpke_private, header))
    bound = hashlib.sha256(before).digest()
    chunks = [body[at : at + (1 << 18) + 16] for at in range(0, len(body), (1 << 18) + 16)]
    return b"".join(
        cipher.decrypt(bytes(7) + i.to_bytes(4, "big") + bytes([i == len(chunks) - 1]), chunk, bound)
        for i, chunk in enumerate(chunks)
    )


@pytest.mark.parametrize("size", [0, 1, 1000, stream.CHUNK, 2 * stream.CHUNK + 1])
def test_what_is_sealed_here_is_read_by_another_reader(size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    assert read_apart(seal(HEADER, content[:size], LEAD, NORTH.public)) == content[:size]


def test_another_writers_envelope_is_the_known_one() -> None:
    assert read_apart(GOOD) == CONTENT
    assert read_apart(TOGETHER) == CONTENT


def test_what_leaves_together_is_read_by_another_reader() -> None:
    letters = [Letter(HEADER, CONTENT[:at], NORTH.public) for at in (3, 5, 7)]
    assert read_apart(seal_together(letters, LEAD)[1]) == CONTENT[:5]


# Context


@pytest.mark.parametrize("field", [field.name for field in fields(Header)])
def test_every_field_must_be_as_expected_and_only_its_name_is_told(field: str) -> None:
    wanted = getattr(HEADER, field)
    other = wanted + 1 if isinstance(wanted, int) else "other"
    error = refusal(GOOD, replace(HEADER, **{field: other}))
    assert error.id == "wrong_context"
    assert error.what == f"An envelope is for another {field}."


def test_the_sender_and_the_recipient_are_those_of_the_keys() -> None:
    for recipient, sender, reason in (
        (LEAD, LEAD.public, "seal_invalid"),
        (NORTH, NORTH.public, "signature_invalid"),
    ):
        with pytest.raises(ChannelError) as caught:
            open_envelope(GOOD, expected=HEADER, recipient=recipient, sender=sender, limit=LIMIT)
        assert caught.value.id == reason


# Order of the checks


def test_the_size_is_checked_before_anything_is_read() -> None:
    assert refusal(GOOD, limit=len(GOOD) - 1).id == "envelope_too_large"
    assert refusal(b"\0" * 100, limit=99).id == "envelope_too_large"
    assert refusal(b"\0" * 100, limit=100).id == "envelope_malformed"
    with pytest.raises(ChannelError) as caught:
        peek(GOOD, len(GOOD) - 1)
    assert caught.value.id == "envelope_too_large"
    assert opened(GOOD, limit=len(GOOD)).content == CONTENT


@pytest.mark.parametrize(
    "part", ["ed25519_altered", "mldsa65_altered", "wrapped_key_altered", "body_altered"]
)
def test_nothing_is_decrypted_before_both_signatures_hold(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("decrypted")

    monkeypatch.setattr(sealing, "unwrap", forbidden)
    monkeypatch.setattr(stream, "Content", forbidden)
    assert refusal((VECTORS / f"{part}.envelope").read_bytes()).id == "signature_invalid"
    with pytest.raises(AssertionError, match="decrypted"):
        opened(GOOD)


# Laws


@settings(max_examples=25, deadline=None)
@given(
    content=st.binary(max_size=300),
    numbers=st.tuples(*[st.integers(0, 2**53 - 1)] * 3),
    words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=4, max_size=4),
)
def test_what_is_sealed_opens(content: bytes, numbers: tuple[int, int, int], words: list[str]) -> None:
    header = Header(words[0], words[1], words[2], *numbers, "lead", "north", words[3])
    data = seal(header, content, LEAD, NORTH.public)
    found = opened(data, header)
    assert (found.header, bytes(found.content)) == (header, content)
    assert found.digest == canonical.digest(data)


@settings(max_examples=20, deadline=None)
@given(contents=st.lists(st.binary(max_size=40), min_size=1, max_size=9), shift=st.integers(1, 8))
def test_what_leaves_together_opens_one_by_one_and_only_at_its_place(
    contents: list[bytes], shift: int
) -> None:
    made = seal_together([Letter(HEADER, one, NORTH.public) for one in contents], LEAD)
    assert [bytes(opened(one).content) for one in made] == contents
    if len(made) == 1:
        assert made[0][:9] == b"CLOISTER\x01"  # nothing is shared: it is signed as ever
        return
    at = len(GOOD) - len(CONTENT) - stream.TAG
    for index, one in enumerate(made):
        other = (index + shift) % (len(made) + 2)
        if other != index:
            moved = one[:at] + other.to_bytes(4, "big") + one[at + 4 :]
            assert refusal(moved).id == "signature_invalid"
        with_other = made[index - 1][:at] + one[at:]
        assert refusal(with_other).id == "signature_invalid"


def test_they_share_one_pair_of_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    signed, sign = [], LEAD.sign

    def counted(message: bytes, context: str) -> Any:
        signed.append((len(message), context))
        return sign(message, context)

    monkeypatch.setattr(LEAD, "sign", counted)
    made = seal_together([Letter(HEADER, CONTENT, NORTH.public)] * 64, LEAD)
    assert signed == [(36, "cloister/envelopes/1")]
    assert {len(one) - len(GOOD) for one in made} == {9 + 6 * 32}


def test_a_root_of_our_own_needs_the_senders_signature() -> None:
    """Whoever holds an envelope can make a tree of it and others, but no signature of its root."""
    parts = envelope._parse(TOGETHER, LIMIT)
    leaf = merkle.leaf_hash(envelope._signed(parts.before, parts.body))
    proof = merkle.inclusion_proof([bytes(32), leaf], 1)
    at = len(GOOD) - len(CONTENT) - stream.TAG
    forged = TOGETHER[:at] + envelope._Place(1, 2, proof).to_bytes() + bytes(parts.body)
    assert refusal(forged).id == "signature_invalid"


def test_the_same_content_is_never_sealed_in_the_same_bytes() -> None:
    one, other = (seal(HEADER, CONTENT, LEAD, NORTH.public) for _ in range(2))
    at = len(GOOD) - len(CONTENT) - stream.TAG
    assert one[:100] == other[:100]
    assert one[at:] != other[at:]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
@example(b"CLOISTER\x01")
@example(b"CLOISTER\x01\xff\xff\xff\xff")
@example(b"CLOISTER\x02\0\0\0\2{}" + bytes(6000))
@example(b"CLOISTER\x02\0\0\0\2{}" + bytes(4541))
@example(b"CLOISTER\x01" + bytes(6000))
@example(b"CLOISTER\x01\0\0\0\2{}" + bytes(6000))
def test_arbitrary_bytes_are_malformed(data: bytes) -> None:
    assert refusal(data).id == "envelope_malformed"
    assert refusal(GOOD[:13] + data).id == "envelope_malformed"


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, len(GOOD) - 1), flip=st.integers(1, 255))
def test_no_altered_byte_is_accepted(at: int, flip: int) -> None:
    for known in (GOOD, TOGETHER):
        altered = bytearray(known)
        altered[at + len(known) - len(GOOD)] ^= flip
        assert refusal(bytes(altered)).id in {"envelope_malformed", "wrong_context", "signature_invalid"}


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, len(GOOD) - 1), more=st.binary(min_size=1, max_size=20))
def test_no_cut_and_no_trailing_byte_is_accepted(cut: int, more: bytes) -> None:
    for known in (GOOD, TOGETHER):
        assert refusal(known[:cut]).id in {"envelope_malformed", "signature_invalid"}
        assert refusal(known + more).id == "signature_invalid"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(value=json_values, field=st.sampled_from(["v", *(f.name for f in fields(Header))]), data=st.binary())
def test_a_header_of_another_form_is_malformed(value: Any, field: str, data: bytes) -> None:
    """The header is read before any signature, so whoever can reach the port may choose it."""
    whole = {"v": 1, **asdict(HEADER)}
    for encoded in (canonical.encode(value), canonical.encode(whole | {field: value}), data):
        try:
            made = envelope._header(encoded)
        except ChannelError as error:
            reason = error.id
        else:
            reason = "envelope_malformed" if made.to_bytes() == encoded else "read in another form"
        assert reason == "envelope_malformed"
