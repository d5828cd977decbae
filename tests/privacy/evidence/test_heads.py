"""Signed heads: the form of the note, who signed, what contradicts, and what a witness refuses."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.privacy.errors import LogError
from cloister.privacy.evidence import merkle
from cloister.privacy.evidence.heads import Growth, SignedHead, origin_of, refuse_forks
from cloister.privacy.identity import PrivateIdentity
from tests.known import party

VECTORS = Path(__file__).parents[2] / "vectors" / "evidence"
KNOWN = json.loads((VECTORS / "heads.json").read_text())
BROKEN = json.loads((VECTORS / "heads_broken.json").read_text())
LEAVES = [merkle.leaf_hash(bytes([n])) for n in range(9)]


@pytest.fixture(scope="module")
def clinic():
    return PrivateIdentity.generate("north-clinic", "site")


@pytest.fixture(scope="module")
def lead():
    return PrivateIdentity.generate("lead", "lead")


@pytest.fixture(scope="module")
def bank():
    return PrivateIdentity.generate("bank", "site")


def head_of(writer, size, leaves=LEAVES):
    return SignedHead.make(size, merkle.root(leaves[:size]), writer)


@pytest.fixture(scope="module")
def head(clinic):
    return head_of(clinic, 5)


def refusal(reason, call, *arguments):
    with pytest.raises(LogError) as error:
        call(*arguments)
    assert error.value.id == reason
    return error.value


def test_the_note_is_a_checkpoint(clinic, head):
    origin, size, root, empty, mark, end = head.serialise().decode().split("\n")
    assert origin == origin_of(clinic.public)
    assert origin.startswith("cloister/north-clinic/")
    assert clinic.public.digest().startswith("sha256:" + origin.rpartition("/")[2])
    assert (size, empty, end) == ("5", "", "")
    assert base64.b64decode(root) == merkle.root(LEAVES[:5])
    assert mark.startswith(f"— {origin} ")


def test_parsing_undoes_serialising_and_the_signature_holds(clinic, head):
    parsed = SignedHead.parse(head.serialise())
    assert parsed == head
    assert parsed.verify(clinic.public) == ()


def altered(note, old, new):
    changed = note.replace(old, new, 1)
    assert changed != note
    return changed


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("empty", lambda _: b""),
        ("not UTF-8", lambda note: note + b"\xff"),
        ("no last newline", lambda note: note[:-1]),
        ("one newline more", lambda note: note + b"\n"),
        ("carriage return", lambda note: altered(note, b"\n", b"\r\n")),
        ("no signature", lambda note: note.split(b"\n\n")[0] + b"\n\n"),
        ("no empty line", lambda note: altered(note, b"\n\n", b"\n")),
        ("an extension line", lambda note: altered(note, b"\n\n", b"\nmore\n\n")),
        ("size 0", lambda note: altered(note, b"\n5\n", b"\n0\n")),
        ("leading zero", lambda note: altered(note, b"\n5\n", b"\n05\n")),
        ("plus sign", lambda note: altered(note, b"\n5\n", b"\n+5\n")),
        ("hexadecimal", lambda note: altered(note, b"\n5\n", b"\n0x5\n")),
        ("another project", lambda note: altered(note, b"cloister/", b"other/")),
        ("upper-case name", lambda note: altered(note, b"north", b"North")),
        ("hyphen for the dash", lambda note: altered(note, "—".encode(), b"-")),
        ("two blanks", lambda note: altered(note, "— ".encode(), "—  ".encode())),
        ("root not Base64", lambda note: note.replace(b"=\n\n", b"!\n\n")),
        ("root too short", lambda note: altered(note, note.split(b"\n")[2], b"AAAA")),
        ("spare bits of Base64", lambda note: note.replace(b"=\n\n", b"\n\n")),
        ("signature cut", lambda note: note[:-5] + b"\n"),
        ("the same signature twice", lambda note: note + note.split(b"\n\n")[1]),
    ],
)
def test_malformed_notes_are_refused(head, why, change):
    refusal("head_invalid", SignedHead.parse, change(head.serialise()))


def test_a_note_beyond_the_limit_is_refused(head, monkeypatch):
    monkeypatch.setattr("cloister.privacy.evidence.heads.NOTE_LIMIT", 100)
    refusal("head_invalid", SignedHead.parse, head.serialise())


@pytest.mark.parametrize("changes", [{"size": 6}, {"root": bytes(32)}])
def test_a_changed_statement_is_refused(clinic, head, changes):
    refusal("head_invalid", replace(head, **changes).verify, clinic.public)


@pytest.mark.parametrize("half", ["ed25519", "mldsa65"])
def test_both_signatures_must_hold(clinic, head, half):
    mark = head.signatures[0]
    broken = bytearray(getattr(mark.signature, half))
    broken[10] ^= 1
    forged = replace(mark, signature=replace(mark.signature, **{half: bytes(broken)}))
    refusal("head_invalid", replace(head, signatures=(forged,)).verify, clinic.public)


def test_a_head_of_another_log_is_refused(bank, head):
    refusal("head_invalid", head.verify, bank.public)


def test_the_same_name_with_other_keys_is_refused(head):
    refusal("head_invalid", head.verify, PrivateIdentity.generate("north-clinic", "site").public)


def test_a_countersignature_names_its_witness(clinic, lead, bank, head):
    signed = Growth(Growth(head).countersign(clinic.public, lead)).countersign(clinic.public, bank)
    read = SignedHead.parse(signed.serialise())
    assert read.verify(clinic.public, [lead.public, bank.public]) == ("lead", "bank")
    assert read.verify(clinic.public, [bank.public]) == ("bank",)
    assert head.verify(clinic.public, [lead.public]) == ()


def test_a_countersignature_is_not_the_signature_of_the_log(clinic, lead, head):
    """A witness's line cannot stand for the log's, nor the log's for a witness's."""
    signed = Growth(head).countersign(clinic.public, lead)
    only_witness = replace(signed, signatures=signed.signatures[1:])
    refusal("head_invalid", only_witness.verify, clinic.public)
    assert head.verify(clinic.public, [clinic.public]) == ()


def test_a_countersignature_of_another_head_is_refused(clinic, lead, head):
    other = Growth(head_of(clinic, 6)).countersign(clinic.public, lead)
    pasted = replace(head, signatures=(*head.signatures, other.signatures[1]))
    refusal("head_invalid", lambda: pasted.verify(clinic.public, [lead.public]))


def test_heads_of_one_size_and_two_roots_are_a_fork(clinic, bank, head):
    twin = SignedHead.make(5, merkle.root(LEAVES[4:9]), clinic)
    refusal("log_forked", refuse_forks, [head, head_of(clinic, 6), twin])
    refusal("log_forked", head.merged, twin)
    refuse_forks([head, head, head_of(clinic, 6), SignedHead.make(5, twin.root, bank)])


def test_only_the_same_head_can_be_merged(clinic, head):
    refusal("head_invalid", head.merged, head_of(clinic, 6))


def test_a_witness_signs_growth(clinic, lead, head):
    proof = merkle.consistency_proof(LEAVES, 5)
    signed = Growth(head_of(clinic, 9), head, proof).countersign(clinic.public, lead)
    assert signed.verify(clinic.public, [lead.public]) == ("lead",)


def test_a_witness_signs_the_same_head_again(clinic, lead, head):
    assert Growth(head, head).countersign(clinic.public, lead).verify(clinic.public, [lead.public]) == (
        "lead",
    )


def test_a_witness_refuses_what_did_not_only_grow(clinic, lead, bank, head):
    proof = merkle.consistency_proof(LEAVES, 5)
    rewritten = [LEAVES[1], *LEAVES[1:]]
    twin = SignedHead.make(5, bytes(32), clinic)
    cases = [
        ("log_rolled_back", Growth(head, head_of(clinic, 9), proof)),
        ("log_forked", Growth(twin, head)),
        (
            "proof_invalid",
            Growth(head_of(clinic, 9, rewritten), head, merkle.consistency_proof(rewritten, 5)),
        ),
        ("proof_invalid", Growth(head_of(clinic, 9), head)),
        ("head_invalid", Growth(head_of(bank, 9), head, proof)),
        ("head_invalid", Growth(head_of(clinic, 9), head_of(bank, 5), proof)),
    ]
    for reason, growth in cases:
        refusal(reason, growth.countersign, clinic.public, lead)


@pytest.mark.parametrize("light", [False, True])
def test_known_notes_hold(light):
    log, witness = party(KNOWN["log"]).public, party(KNOWN["witness"]).public
    head = SignedHead.parse(KNOWN["light" if light else "whole"].encode())
    assert (head.origin, head.size, head.root.hex()) == (origin_of(log), KNOWN["size"], KNOWN["root"])
    kinds = ("light-log", "light-witness") if light else ("log", "witness")
    assert [mark.key.hex() for mark in head.signatures] == [KNOWN["keys"][kind] for kind in kinds]
    assert head.light is light
    assert head.verify(log, [witness], light=light) == (witness.name,)


def test_a_light_head_is_made_and_countersigned_to_the_known_bytes():
    log, witness = party(KNOWN["log"]), party(KNOWN["witness"])
    head = SignedHead.make(KNOWN["size"], bytes.fromhex(KNOWN["root"]), log, light=True)
    assert Growth(head).countersign(log.public, witness).serialise() == KNOWN["light"].encode()
    assert len(head.serialise()) < 300


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["why"])
def test_broken_notes_are_refused(case):
    log, witness = party(KNOWN["log"]).public, party(KNOWN["witness"]).public
    refusal(
        "head_invalid",
        lambda: SignedHead.parse(case["note"].encode()).verify(log, [witness], light=case["light"]),
    )


def test_light_and_whole_signatures_are_not_put_under_one_head(clinic, lead, head):
    light = SignedHead.make(head.size, head.root, clinic, light=True)
    refusal("head_invalid", head.merged, light)
    refusal("head_invalid", light.merged, Growth(head).countersign(clinic.public, lead))


@pytest.mark.parametrize("light", [False, True])
def test_a_witness_holds_a_head_of_either_weight_to_the_last_one_of_the_other(clinic, lead, light):
    """Otherwise there could be one history for each weight."""
    before = SignedHead.make(5, merkle.root(LEAVES[:5]), clinic, light=not light)
    after = SignedHead.make(9, merkle.root(LEAVES), clinic, light=light)
    signed = Growth(after, before, merkle.consistency_proof(LEAVES, 5)).countersign(clinic.public, lead)
    assert signed.verify(clinic.public, [lead.public], light=light) == ("lead",)
    twin = SignedHead.make(5, bytes(32), clinic, light=light)
    refusal("log_forked", Growth(twin, before).countersign, clinic.public, lead)
    refusal("log_rolled_back", Growth(before, after).countersign, clinic.public, lead)
    refusal("proof_invalid", Growth(after, before).countersign, clinic.public, lead)
