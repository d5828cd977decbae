"""Identities and rosters against known answers, broken ones, and the laws of signatures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.errors import ChannelError, IdentityError, StateError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Roster, Signature
from tests.known import BROKEN_IDENTITIES, IDENTITIES, party

SIGNED = IDENTITIES["signature"]


LEAD, NORTH = party("lead"), party("north")
PUBLIC = NORTH.public.to_json()


def reason(case: dict[str, Any]) -> str:
    return str(case["why"])


def signature(value: dict[str, Any]) -> Signature:
    return Signature(bytes.fromhex(value["ed25519"]), bytes.fromhex(value["mldsa65"]))


@pytest.mark.parametrize("someone", [LEAD, NORTH], ids=["lead", "north"])
def test_known_keys_digests_and_words(someone: PrivateIdentity) -> None:
    known = IDENTITIES["parties"][someone.public.name]
    assert someone.public.to_json() == known["public"]
    assert someone.public.digest() == known["digest"]
    assert list(someone.public.words()) == known["words"]
    assert PublicIdentity.from_json(known["public"]) == someone.public


def test_known_signatures_verify() -> None:
    LEAD.public.verify(bytes.fromhex(SIGNED["message"]), signature(SIGNED), SIGNED["context"])


def test_ed25519_signs_the_known_bytes() -> None:
    made = LEAD.sign(bytes.fromhex(SIGNED["message"]), SIGNED["context"])
    assert made.ed25519.hex() == SIGNED["ed25519"]  # deterministic, which ML-DSA is not
    LEAD.public.verify(bytes.fromhex(SIGNED["message"]), made, SIGNED["context"])


@pytest.mark.parametrize("case", BROKEN_IDENTITIES["signatures"], ids=reason)
def test_broken_signatures_are_refused(case: dict[str, Any]) -> None:
    value = SIGNED | case["set"]
    with pytest.raises(ChannelError) as caught:
        {"lead": LEAD, "north": NORTH}[value["signer"]].public.verify(
            bytes.fromhex(value["message"]), signature(value), value["context"]
        )
    assert caught.value.id == "signature_invalid"


@settings(max_examples=25, deadline=None)
@given(
    message=st.binary(max_size=40),
    other=st.binary(max_size=40),
    contexts=st.lists(st.text("ab/1", min_size=1, max_size=6), min_size=2, max_size=2),
)
def test_a_signature_holds_for_its_message_and_context_only(
    message: bytes, other: bytes, contexts: list[str]
) -> None:
    made = NORTH.sign(message, contexts[0])
    NORTH.public.verify(message, made, contexts[0])
    if (other, contexts[1]) != (message, contexts[0]):
        with pytest.raises(ChannelError):
            NORTH.public.verify(other, made, contexts[1])


@settings(max_examples=25, deadline=None)
@given(ed25519=st.binary(max_size=70), mldsa65=st.binary(max_size=70))
def test_garbage_is_no_signature(ed25519: bytes, mldsa65: bytes) -> None:
    good = signature(SIGNED)
    for made in (Signature(ed25519, good.mldsa65), Signature(good.ed25519, mldsa65)):
        with pytest.raises(ChannelError) as caught:
            LEAD.public.verify(bytes.fromhex(SIGNED["message"]), made, SIGNED["context"])
        assert caught.value.id == "signature_invalid"


@pytest.mark.parametrize("case", BROKEN_IDENTITIES["identities"], ids=reason)
def test_broken_identities_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(IdentityError) as caught:
        PublicIdentity.from_json(PUBLIC | case["set"])
    assert caught.value.id == "identity_malformed"


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"name": "north"}, [PUBLIC]], ids=repr)
def test_what_is_no_identity_is_refused(value: Any) -> None:
    with pytest.raises(IdentityError) as caught:
        PublicIdentity.from_json(value)
    assert caught.value.id == "identity_malformed"


@settings(max_examples=60, deadline=None)
@given(field=st.sampled_from(sorted(PUBLIC)), data=st.data())
def test_no_change_of_a_field_gives_the_same_identity_or_another_error(
    field: str, data: st.DataObject
) -> None:
    text = PUBLIC[field]
    at = data.draw(st.integers(0, len(text) - 1))
    changed = PUBLIC | {field: text[:at] + data.draw(st.sampled_from("0f Z")) + text[at + 1 :]}
    try:
        other = PublicIdentity.from_json(changed)
    except IdentityError:
        return
    assert other.to_json() == changed
    assert (other.digest() == NORTH.public.digest()) == (changed == PUBLIC)


@pytest.mark.parametrize("case", BROKEN_IDENTITIES["sealing_keys"], ids=reason)
def test_broken_sealing_keys_are_refused(case: dict[str, Any]) -> None:
    identity = PublicIdentity.from_json(PUBLIC | {"hpke": case["hpke"]})
    with pytest.raises(IdentityError) as caught:
        identity.sealing_key  # noqa: B018
    assert caught.value.id == "identity_malformed"


def test_new_identities_share_nothing() -> None:
    one, other = (PrivateIdentity.generate("north", "site").public for _ in range(2))
    for field in ("ed25519", "mldsa65", "hpke", "node"):
        assert getattr(one, field) != getattr(other, field)
    assert one.words() != other.words()


# Files


def test_an_identity_survives_its_folder(tmp_path: Path) -> None:
    NORTH.save(tmp_path / "new")
    loaded = PrivateIdentity.load(tmp_path / "new")
    assert loaded.public == NORTH.public
    NORTH.public.verify(b"m", loaded.sign(b"m", "c"), "c")
    assert (tmp_path / "new" / "identity.key").stat().st_mode & 0o777 == 0o600
    assert (
        PublicIdentity.from_json(json.loads((tmp_path / "new" / "identity.json").read_text())) == NORTH.public
    )


def test_the_key_file_is_of_the_known_form(tmp_path: Path) -> None:
    NORTH.save(tmp_path)
    known = IDENTITIES["parties"]["north"]["private"]
    (tmp_path / "identity.key").write_bytes(canonical.encode(known))
    assert PrivateIdentity.load(tmp_path).public == NORTH.public


def test_an_identity_is_never_replaced(tmp_path: Path) -> None:
    NORTH.save(tmp_path)
    with pytest.raises(StateError) as caught:
        LEAD.save(tmp_path)
    assert caught.value.id == "state_unwritable"
    assert PrivateIdentity.load(tmp_path).public == NORTH.public


def test_a_folder_without_identity(tmp_path: Path) -> None:
    with pytest.raises(IdentityError) as caught:
        PrivateIdentity.load(tmp_path)
    assert caught.value.id == "identity_missing"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601], ids=oct)
def test_keys_that_others_can_reach_are_refused(tmp_path: Path, mode: int) -> None:
    NORTH.save(tmp_path)
    (tmp_path / "identity.key").chmod(mode)
    with pytest.raises(StateError) as caught:
        PrivateIdentity.load(tmp_path)
    assert caught.value.id == "permissions"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "North"},
        {"name": 1},
        {"role": "observer"},
        {"ed25519": "00"},
        {"mldsa65": "zz"},
        {"mlkem768": None},
        {"x25519": ""},
        {"node": ""},
        {"node": "3000"},
        {"node": IDENTITIES["parties"]["north"]["public"]["node"]},
    ],
    ids=str,
)
def test_a_damaged_key_file_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    NORTH.save(tmp_path)
    value = IDENTITIES["parties"]["north"]["private"] | change
    (tmp_path / "identity.key").write_bytes(canonical.encode(value))
    with pytest.raises(StateError) as caught:
        PrivateIdentity.load(tmp_path)
    assert caught.value.id == "state_damaged"


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"{ }", b"\xff", b"null"])
def test_a_key_file_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    NORTH.save(tmp_path)
    (tmp_path / "identity.key").write_bytes(data)
    with pytest.raises(StateError) as caught:
        PrivateIdentity.load(tmp_path)
    assert caught.value.id == "state_damaged"


# Rosters

ROSTER = Roster("hospitals", (LEAD.public, NORTH.public))
SOUTH = PrivateIdentity.generate("south", "site").public


def test_a_roster_of_known_digest() -> None:
    assert ROSTER.digest() == IDENTITIES["roster_digest"]
    assert Roster.from_json(ROSTER.to_json()) == ROSTER
    assert ROSTER.lead == LEAD.public
    assert ROSTER.sites == (NORTH.public,)
    assert ROSTER.member("north") == NORTH.public


def test_a_roster_binds_its_name_its_members_and_their_order() -> None:
    others = [
        Roster("banks", ROSTER.members),
        Roster("hospitals", ROSTER.members[::-1]),
        Roster("hospitals", (LEAD.public,)),
        Roster("hospitals", (LEAD.public, dataclasses.replace(NORTH.public, name="west"))),
    ]
    assert len({roster.digest() for roster in (ROSTER, *others)}) == 5


def test_a_stranger_is_unknown() -> None:
    with pytest.raises(IdentityError) as caught:
        ROSTER.member("south")
    assert caught.value.id == "party_unknown"


@pytest.mark.parametrize(
    "shared",
    [
        {"name": NORTH.public.name},
        {"ed25519": NORTH.public.ed25519},
        {"mldsa65": NORTH.public.mldsa65},
        {"hpke": NORTH.public.hpke},
        {"hpke": NORTH.public.hpke[:1184] + SOUTH.hpke[1184:]},
        {"hpke": SOUTH.hpke[:1184] + NORTH.public.hpke[1184:]},
        {"node": NORTH.public.node},
    ],
    ids=["name", "ed25519", "mldsa65", "hpke", "mlkem half", "x25519 half", "node"],
)
def test_no_two_members_share_a_name_or_a_key(shared: dict[str, Any]) -> None:
    Roster("hospitals", (*ROSTER.members, SOUTH))
    with pytest.raises(IdentityError) as caught:
        Roster("hospitals", (*ROSTER.members, dataclasses.replace(SOUTH, **shared)))
    assert caught.value.id == "key_duplicate"


@pytest.mark.parametrize(
    "members", [(), (NORTH.public,), (LEAD.public, dataclasses.replace(SOUTH, role="lead"))], ids=len
)
def test_a_roster_has_exactly_one_lead(members: tuple[PublicIdentity, ...]) -> None:
    with pytest.raises(IdentityError) as caught:
        Roster("hospitals", members)
    assert caught.value.id == "roster_mismatch"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        ROSTER.to_json() | {"more": 1},
        ROSTER.to_json() | {"members": {}},
        ROSTER.to_json() | {"members": [1]},
        ROSTER.to_json() | {"consortium": None},
        ROSTER.to_json() | {"consortium": "Hospitals"},
        {"consortium": "hospitals"},
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_malformed_roster_is_refused(value: Any) -> None:
    with pytest.raises(IdentityError) as caught:
        Roster.from_json(value)
    assert caught.value.id == "identity_malformed"
