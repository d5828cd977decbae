"""Countersignatures that come back: those of one head are kept together, and no false one is."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.privacy.errors import LogError
from cloister.privacy.evidence import files
from cloister.privacy.evidence.heads import Growth, SignedHead
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.witnessing import OVERDUE_S, Witness, countersigned, show
from cloister.privacy.identity import PrivateIdentity

PEERS = {name: PrivateIdentity.generate(name, "site") for name in ("bank", "harbour")}
KNOWN = tuple(peer.public for peer in PEERS.values())


@pytest.fixture(scope="module")
def clinic() -> PrivateIdentity:
    return PrivateIdentity.generate("clinic", "site")


@pytest.fixture
def log(tmp_path: Path, clinic: PrivateIdentity) -> EventLog:
    return EventLog.open(tmp_path / "log", clinic)


def mark(head: SignedHead, clinic: PrivateIdentity, peer: PrivateIdentity) -> str:
    """A head with the countersignature of a peer alone."""
    both = Growth(head).countersign(clinic.public, peer)
    return replace(both, signatures=both.signatures[-1:]).serialise().decode()


def stored(log: EventLog, head: SignedHead, clinic: PrivateIdentity) -> tuple[str, ...]:
    return files.read_head(files.head_path(log.folder, head.size)).verify(clinic.public, KNOWN)


def test_countersignatures_of_one_head_are_kept_together_and_once(log, clinic, monkeypatch):
    writes = []
    write = files.write_head
    monkeypatch.setattr(files, "write_head", lambda *args: (writes.append(args), write(*args))[1])
    head = log.head()
    notes = [mark(head, clinic, peer) for peer in PEERS.values()]
    writes.clear()
    assert countersigned(log, clinic.public, notes, KNOWN)
    assert len(writes) == 1
    assert stored(log, head, clinic) == ("bank", "harbour")
    assert not countersigned(log, clinic.public, notes, KNOWN)
    told = [event.body["witness"] for event in log.entries() if event.type == "log.countersigned"]
    assert told == ["bank", "harbour"]


def test_those_of_two_heads_come_in_any_order(log, clinic):
    first = log.head()
    log.append("log.heartbeat")
    second = log.head()
    notes = [mark(head, clinic, peer) for peer in PEERS.values() for head in (second, first)]
    assert countersigned(log, clinic.public, notes, KNOWN)
    assert stored(log, first, clinic) == stored(log, second, clinic) == ("bank", "harbour")


def test_one_that_does_not_verify_leaves_the_head_as_it_was(log, clinic):
    head = log.head()
    good, other = mark(head, clinic, PEERS["bank"]), mark(head, clinic, PEERS["harbour"])
    forged = SignedHead.parse(other.encode())
    wrong = replace(forged.signatures[0], signature=SignedHead.parse(good.encode()).signatures[0].signature)
    notes = [good, replace(forged, signatures=(wrong,)).serialise().decode()]
    with pytest.raises(LogError) as caught:
        countersigned(log, clinic.public, notes, KNOWN)
    assert caught.value.id == "head_invalid"
    assert stored(log, head, clinic) == ()


def test_a_head_that_was_never_signed_here_has_none(log, clinic):
    head = log.head()
    later = SignedHead.make(head.size + 5, head.root, clinic)
    assert not countersigned(log, clinic.public, [mark(later, clinic, PEERS["bank"])], KNOWN)
    altered = SignedHead.make(head.size, bytes(32), clinic)
    with pytest.raises(LogError) as caught:
        countersigned(log, clinic.public, [mark(altered, clinic, PEERS["bank"])], KNOWN)
    assert caught.value.id == "log_forked"


def test_what_a_witness_takes_is_written_down_before_it_says_more(log, clinic, tmp_path):
    bank = PEERS["bank"]
    own = EventLog.open(tmp_path / "bank" / "log", bank)
    witness = Witness(tmp_path / "bank", bank, own)
    assert witness.take(clinic.public, log.head(), ()) is not None
    assert own.head().size == 2  # the event, synced with the head that is shown next
    assert witness.held() == {log.head().origin: 1}


@pytest.fixture
def bank(tmp_path: Path) -> Witness:
    return witness_in(tmp_path, "bank")


def witness_in(folder: Path, name: str) -> Witness:
    return Witness(folder / name, PEERS[name], EventLog.open(folder / name / "log", PEERS[name]))


def shown(witness: Witness, log: EventLog, clinic: PrivateIdentity, *, light: bool) -> SignedHead | None:
    """The countersignature of the newest head, which is shown as it travels."""
    held = witness.newest(clinic.public)
    head, proofs = show(log, (held.size,) if held else (), light=light)
    return witness.take(clinic.public, head, proofs.get(held.size, ()) if held else ())


def refused(reason: str, witness: Witness, clinic: PrivateIdentity, head: SignedHead, proof=()) -> LogError:
    with pytest.raises(LogError) as caught:
        witness.take(clinic.public, head, proof)
    assert caught.value.id == reason
    return caught.value


def test_a_light_head_is_kept_and_countersigned_lightly_and_the_whole_one_stays(log, clinic, bank):
    whole = shown(bank, log, clinic, light=False)
    log.append("log.heartbeat")
    mark = shown(bank, log, clinic, light=True)
    assert mark is not None
    assert [one.light for one in mark.signatures] == [True]
    held = bank.newest(clinic.public)
    assert held.verify(clinic.public, [PEERS["bank"].public], light=True) == ("bank",)
    assert bank.held() == {held.origin: held.size}
    assert sorted(path.suffix for path in (bank.path / "witnessed").iterdir()) == [".head", ".light"]
    told = [event.body["size"] for event in bank.log.entries() if event.type == "log.witnessed"]
    assert told == [whole.size, held.size]  # its own whole heads cover what it saw lightly


def test_a_whole_head_of_a_size_that_was_seen_lightly_is_countersigned(log, clinic, bank):
    shown(bank, log, clinic, light=False)
    log.append("log.heartbeat")
    shown(bank, log, clinic, light=True)
    assert shown(bank, log, clinic, light=True) is None
    mark = shown(bank, log, clinic, light=False)
    assert mark is not None
    assert not mark.light
    assert bank.newest(clinic.public).verify(clinic.public, [PEERS["bank"].public]) == ("bank",)
    assert shown(bank, log, clinic, light=True) is None  # it is no news beside the whole one


def test_a_light_head_alone_is_not_countersigned(log, clinic, bank):
    error = refused("head_invalid", bank, clinic, show(log, (), light=True)[0])
    assert "clinic" in error.what
    assert bank.held() == {}
    assert "log.witnessed" not in [event.type for event in bank.log.entries()]


def test_a_party_that_goes_on_with_light_heads_is_not_countersigned_until_a_whole_one_comes(
    log, clinic, bank, tmp_path
):
    shown(bank, log, clinic, light=False)
    (kept,) = (bank.path / "witnessed").glob("*.head")
    for age, overdue in ((OVERDUE_S - 30, False), (OVERDUE_S + 30, True)):
        os.utime(kept, (time.time() - age,) * 2)
        log.append("log.heartbeat")
        before = bank.newest(clinic.public)
        if overdue:
            head, proofs = show(log, (before.size,), light=True)
            refused("head_invalid", bank, clinic, head, proofs[before.size])
            assert bank.newest(clinic.public) == before
            assert not bank.conflicts()
        else:
            assert shown(bank, log, clinic, light=True) is not None
    assert shown(bank, log, clinic, light=False) is not None
    log.append("log.heartbeat")
    assert shown(bank, log, clinic, light=True) is not None


@pytest.mark.parametrize("overdue", [False, True])
def test_a_light_head_that_rolls_back_forks_or_does_not_follow_is_kept_as_evidence(
    log, clinic, bank, tmp_path, overdue
):
    log.append("log.heartbeat")
    shown(bank, log, clinic, light=False)
    log.append("log.heartbeat")
    shown(bank, log, clinic, light=True)
    held = bank.newest(clinic.public)
    (kept,) = (bank.path / "witnessed").glob("*.head")
    os.utime(kept, (time.time() - 2 * OVERDUE_S * overdue,) * 2)  # a contradiction is told either way
    other = EventLog.open(tmp_path / "other", clinic)
    while other.head(light=True).size < held.size + 2:
        other.append("log.heartbeat")
    later, proof = other.head(light=True), other.consistency(held.size, held.size + 2)
    cases = {
        "log_rolled_back": (SignedHead.make(held.size - 1, bytes(32), clinic, light=True), ()),
        "log_forked": (SignedHead.make(held.size, bytes(32), clinic, light=True), ()),
        "proof_invalid": (later, proof),
    }
    for reason, (head, steps) in cases.items():
        refused(reason, bank, clinic, head, steps)
        (conflict,) = (bank.path / "witnessed").glob("*.conflict")
        found = files.read_head(conflict)
        found.verify(clinic.public, light=True)  # with the head that is held, it is the proof
        assert found.text() == head.text()
        conflict.unlink()
        assert bank.newest(clinic.public) == held
    told = [event.body["reason"] for event in bank.log.entries() if event.type == "incident.raised"]
    assert told == list(cases)


def test_a_split_view_between_two_whole_heads_is_found_with_the_next(log, clinic, tmp_path):
    """Bank and harbour are shown two histories lightly; one whole head cannot follow both."""
    witnesses = [witness_in(tmp_path, name) for name in PEERS]
    for witness in witnesses:
        shown(witness, log, clinic, light=False)
    (base,) = {witness.newest(clinic.public).size for witness in witnesses}
    twin = EventLog.open(shutil.copytree(log.folder, tmp_path / "twin"), clinic)
    log.append("log.heartbeat")
    twin.append("log.stopped")
    heads = [one.head(light=True) for one in (log, twin)]
    assert heads[0].size == heads[1].size
    assert heads[0].root != heads[1].root
    for witness, one, head in zip(witnesses, (log, twin), heads, strict=True):
        assert witness.take(clinic.public, head, one.consistency(base, head.size)) is not None
    log.append("log.heartbeat")
    found = []
    for witness in witnesses:
        try:
            shown(witness, log, clinic, light=False)
        except LogError as error:
            found.append((witness.path.name, error.id))
    assert found == [("harbour", "proof_invalid")]
    with pytest.raises(LogError):
        witnesses[1].refuse_conflicts([clinic.public])


def test_a_light_countersignature_stays_with_its_head(log, clinic, bank):
    """Nor does it count among those of a whole head of the same size."""
    whole, light = log.head(), log.head(light=True)
    good = mark(light, clinic, PEERS["bank"])
    log.append("log.heartbeat")
    later = log.head(light=True)
    replayed = replace(later, signatures=SignedHead.parse(good.encode()).signatures)
    with pytest.raises(LogError) as caught:
        countersigned(log, clinic.public, [replayed.serialise().decode()], KNOWN)
    assert caught.value.id == "head_invalid"
    assert countersigned(log, clinic.public, [good], KNOWN)
    assert stored(log, whole, clinic) == ()
    kept = files.read_head(files.head_path(log.folder, light.size, light=True))
    assert kept.verify(clinic.public, KNOWN, light=True) == ("bank",)
    assert files.stored_heads(log.folder) == (whole,)


def test_a_light_head_under_other_keys_is_refused(log, clinic, bank):
    shown(bank, log, clinic, light=False)
    log.append("log.heartbeat")
    head = log.head()
    thief = PrivateIdentity.generate("clinic", "site")
    forged = SignedHead.make(head.size, head.root, thief, light=True)
    refused("head_invalid", bank, clinic, forged, log.consistency(1, head.size))
    renamed = replace(forged, origin=head.origin)
    refused("head_invalid", bank, clinic, renamed, log.consistency(1, head.size))
    assert not bank.conflicts()
