"""Countersignatures that come back: those of one head are kept together, and no false one is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloister.privacy.errors import LogError
from cloister.privacy.evidence import files
from cloister.privacy.evidence.heads import Growth, SignedHead
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.witnessing import Witness, countersigned
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
