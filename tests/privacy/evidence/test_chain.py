"""Every attack on a log is made on a real one, and found under the right name."""

import shutil
from dataclasses import replace

import pytest

from cloister.privacy import canonical
from cloister.privacy.errors import LogError
from cloister.privacy.evidence import merkle
from cloister.privacy.evidence.chain import events_of, verify_log
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.heads import SignedHead
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity

D = "sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def clinic():
    return PrivateIdentity.generate("north-clinic", "site")


@pytest.fixture(scope="module")
def made(tmp_path_factory, clinic):
    """Eight events; heads of 3 and 6 of them."""
    log = EventLog.open(tmp_path_factory.mktemp("made") / "log", clinic)
    with log.batch():
        log.append("job.accepted", job=D)
        log.append("budget.refused", job=D, dataset="intents", unit="record", epsilon=9, delta=1e-5,
                   reason="budget_exceeded", limit=8)  # fmt: skip
        log.head()
        log.append("round.opened", job=D, round=1, model=D, attempt=1)
        log.append("incident.raised", job=D, round=1, reason="replay", severity="high")
        log.append("round.aborted", job=D, round=1, reason="deadline")
        log.head()
        log.append("log.heartbeat")
        log.append("log.heartbeat")
    return log.folder


@pytest.fixture
def folder(tmp_path, made):
    return shutil.copytree(made, tmp_path / "log")


@pytest.fixture(scope="module")
def heads(made):
    """What others keep: the heads of 3 and of 6 events."""
    notes = sorted((made / "heads").iterdir())
    return [SignedHead.parse(note.read_bytes()) for note in notes]


def refused(reason, folder, identity, heads=()):
    with pytest.raises(LogError) as error:
        verify_log(folder, identity.public, heads)
    assert error.value.id == reason
    assert error.value.do


def read(folder):
    return (folder / "events.jsonl").read_bytes().split(b"\n")[:-1]


def write(folder, lines):
    (folder / "events.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def chained(events):
    """Lines of events, numbered and chained anew, as the writer itself would."""
    lines = []
    for seq, event in enumerate(events):
        prev = canonical.digest(lines[-1]) if lines else event.prev
        lines.append(replace(event, seq=seq, prev=prev).encode())
    return lines


def signed_anew(folder, writer, size):
    """Replace the stored heads by one over what the file says now."""
    for note in (folder / "heads").iterdir():
        note.unlink()
    leaves = [merkle.leaf_hash(line) for line in read(folder)[:size]]
    head = SignedHead.make(size, merkle.root(leaves), writer)
    (folder / "heads" / f"{size:015d}.head").write_bytes(head.serialise())
    return head


def without_the_refusal(folder):
    return [event for event in events_of(folder) if event.type != "budget.refused"]


def test_an_honest_log_verifies(folder, clinic, heads):
    verified = verify_log(folder, clinic.public, heads[:1])
    assert (verified.size, verified.signed) == (8, 6)
    assert [head.size for head in verified.heads] == [3, 3, 6]
    assert verified.root == merkle.root([merkle.leaf_hash(line) for line in read(folder)])


def test_heads_of_others_alone_can_vouch(folder, clinic, heads):
    shutil.rmtree(folder / "heads")
    assert verify_log(folder, clinic.public, heads).signed == 6


def test_a_log_without_any_head_is_refused(folder, clinic):
    shutil.rmtree(folder / "heads")
    refused("head_missing", folder, clinic)


@pytest.mark.parametrize("place", range(8))
def test_an_edited_event_is_found(folder, clinic, place):
    """Any event but the very last, which no head signs and no event follows."""
    lines = read(folder)
    event = Event.decode(lines[place])
    lines[place] = replace(event, ts=event.ts.replace("20", "19", 1)).encode()
    write(folder, lines)
    if place < 7:
        refused("event_altered", folder, clinic)
    else:
        assert verify_log(folder, clinic.public).signed < 8


def test_an_edited_event_with_the_chain_made_anew_is_found(folder, clinic):
    events = list(events_of(folder))
    events[2] = replace(events[2], body=events[2].body | {"epsilon": 1})
    write(folder, chained(events))
    refused("event_altered", folder, clinic)


def test_a_deleted_event_is_found(folder, clinic):
    lines = read(folder)
    write(folder, lines[:2] + lines[3:])
    refused("event_altered", folder, clinic)


def test_a_deleted_event_with_the_chain_made_anew_is_found(folder, clinic):
    write(folder, chained(without_the_refusal(folder)))
    refused("event_altered", folder, clinic)


def test_a_moved_event_is_found(folder, clinic):
    lines = read(folder)
    lines[3], lines[4] = lines[4], lines[3]
    write(folder, lines)
    refused("event_altered", folder, clinic)


def test_an_event_that_stands_twice_is_a_fork(folder, clinic):
    lines = read(folder)
    write(folder, [*lines[:4], lines[3], *lines[4:]])
    refused("log_forked", folder, clinic)


def test_an_added_event_is_found(folder, clinic):
    events = list(events_of(folder))
    write(folder, chained([*events[:2], events[7], *events[2:]]))
    refused("event_altered", folder, clinic)


def test_a_truncated_log_is_found(folder, clinic):
    write(folder, read(folder)[:5])
    refused("log_truncated", folder, clinic)


def test_a_log_whose_events_are_gone_is_truncated(folder, clinic):
    (folder / "events.jsonl").unlink()
    refused("log_truncated", folder, clinic)


def test_a_log_restored_with_its_heads_is_rolled_back(folder, clinic, heads):
    """Whoever restores an old copy of everything is betrayed by a head that another party kept."""
    write(folder, read(folder)[:4])
    (folder / "heads" / "000000000000006.head").unlink()
    assert verify_log(folder, clinic.public).signed == 3
    refused("log_rolled_back", folder, clinic, heads)


def test_a_log_that_went_on_after_a_rollback_is_forked(folder, clinic, heads):
    write(folder, read(folder)[:4])
    (folder / "heads" / "000000000000006.head").unlink()
    log = EventLog.open(folder, clinic)
    for _ in range(4):
        log.append("log.heartbeat")
    log.head()
    assert verify_log(folder, clinic.public).size == 8
    refused("log_forked", folder, clinic, heads)


def test_two_heads_of_one_size_are_a_fork(folder, clinic, heads):
    refused("log_forked", folder, clinic, [heads[0], SignedHead.make(6, bytes(32), clinic)])
    beyond = [SignedHead.make(9, root, clinic) for root in (bytes(32), bytes(31) + b"1")]
    refused("log_forked", folder, clinic, beyond)


def test_a_history_that_its_writer_rewrote_and_signed_is_a_fork(folder, clinic, heads):
    """The party itself drops a refusal and signs again: alone it looks right, beside a kept head not."""
    write(folder, chained(without_the_refusal(folder)))
    signed_anew(folder, clinic, 7)
    assert verify_log(folder, clinic.public).signed == 7
    refused("log_forked", folder, clinic, heads)


def test_a_history_rewritten_by_somebody_else_does_not_verify(folder, clinic):
    forger = PrivateIdentity.generate("north-clinic", "site")
    write(folder, chained(without_the_refusal(folder)))
    signed_anew(folder, forger, 7)
    refused("head_invalid", folder, clinic)
    refused("log_foreign", folder, forger)


def test_the_log_of_another_party_is_refused(tmp_path, folder, clinic):
    """The heads of the clinic beside the events of a bank."""
    bank = EventLog.open(tmp_path / "bank", PrivateIdentity.generate("bank", "site"))
    for _ in range(8):
        bank.append("log.heartbeat")
    shutil.copy(bank.folder / "events.jsonl", folder / "events.jsonl")
    refused("log_foreign", folder, clinic)


def test_an_event_under_another_name_is_refused(folder, clinic):
    events = list(events_of(folder))
    events[7] = replace(events[7], writer="bank")
    write(folder, chained(events))
    refused("log_foreign", folder, clinic)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-10],
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b'"seq":3', b'"seq": 3'),
        lambda data: data.replace(b'"replay"', b'"row 17"'),
        lambda data: data + b"x" * (1 << 20) + b"\n",
        lambda data: b"\xef\xbb\xbf" + data,
    ],
)
def test_what_is_not_a_line_is_refused(folder, clinic, change):
    path = folder / "events.jsonl"
    path.write_bytes(change(path.read_bytes()))
    refused("event_malformed", folder, clinic)


def test_a_damaged_head_is_refused(folder, clinic):
    note = folder / "heads" / "000000000000003.head"
    data = bytearray(note.read_bytes())
    data[-40] ^= 1
    note.write_bytes(data)
    refused("head_invalid", folder, clinic)
