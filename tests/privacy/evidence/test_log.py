"""Writing a log: chain, sync, torn tails, full disks, several writers, heads and proofs."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloister.privacy import canonical
from cloister.privacy.errors import LogError
from cloister.privacy.evidence import files, merkle
from cloister.privacy.evidence.events import GENESIS
from cloister.privacy.evidence.heads import Growth, SignedHead
from cloister.privacy.evidence.log import EventLog, events_of, verify_log
from cloister.privacy.identity import PrivateIdentity

D = "sha256:" + "ab" * 32
LINKS = Path(__file__).parents[3] / ".links"


@pytest.fixture(scope="module")
def clinic():
    return PrivateIdentity.generate("north-clinic", "site")


@pytest.fixture
def log(tmp_path, clinic):
    return EventLog.open(tmp_path / "log", clinic)


def lines_of(log):
    return (log.folder / "events.jsonl").read_bytes().split(b"\n")[:-1]


def types_of(log):
    return [event.type for event in log.entries()]


def refusal(reason, call, *arguments, **fields):
    with pytest.raises(LogError) as error:
        call(*arguments, **fields)
    assert error.value.id == reason
    return error.value


def test_a_log_begins_with_the_keys_of_its_writer(log, clinic):
    (first,) = log.entries()
    assert (first.seq, first.type, first.prev, first.writer) == (0, "log.opened", GENESIS, "north-clinic")
    assert first.body == {"identity": clinic.public.digest()}


def test_opening_again_adds_nothing(log, clinic):
    log.append("log.heartbeat")
    again = EventLog.open(log.folder, clinic)
    assert types_of(again) == ["log.opened", "log.heartbeat"]


def test_appending_chains_and_returns_the_place(log):
    one = log.append("round.opened", job=D, round=1, model=D, attempt=1)
    two = log.append("round.closed", job=D, round=1, model=D, accepted=("b", "a"), lost={"c"})
    lines = lines_of(log)
    assert (one.seq, two.seq) == (1, 2)
    assert [one.hash, two.hash] == [canonical.digest(line) for line in lines[1:]]
    events = list(log.entries())
    assert [event.prev for event in events] == [GENESIS, canonical.digest(lines[0]), one.hash]
    assert events[2].body == {"model": D, "accepted": ["a", "b"], "lost": ["c"]}
    assert list(events_of(log.folder)) == events


def test_the_clock_is_the_one_that_was_passed(tmp_path, clinic):
    moments = iter(datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC) + timedelta(seconds=n) for n in range(5))
    log = EventLog.open(tmp_path, clinic, clock=lambda: next(moments))
    log.append("log.heartbeat")
    assert [event.ts for event in log.entries()] == ["2026-01-31T23:59:59.000Z", "2026-02-01T00:00:00.000Z"]


def test_only_the_owner_can_read(log):
    assert (log.folder / "events.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("record.read", {}),
        ("log.recovered", {"bytes": "few"}),
        ("log.gap", {}),
        ("log.heartbeat", {"note": D}),
    ],
)
def test_what_is_not_allowed_is_not_written(log, kind, fields):
    refusal("event_malformed", log.append, kind, **fields)
    assert types_of(log) == ["log.opened"]


def test_an_event_beyond_the_line_limit_is_not_written(log):
    names = [f"site-{n:06d}" for n in range(90_000)]
    refusal("event_malformed", log.append, "roster.changed", roster=D, members=names)
    assert types_of(log) == ["log.opened"]


@pytest.fixture
def syncs(monkeypatch):
    """The descriptors that are synced, in order."""
    calls = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(file), real(file))[1])
    return calls


def test_every_append_is_synced_and_a_batch_once(log, syncs):
    log.append("log.heartbeat")
    log.append("log.heartbeat")
    assert len(syncs) == 2
    with log.batch():
        entries = [log.append("log.heartbeat") for _ in range(5)]
    assert len(syncs) == 3
    assert [entry.seq for entry in entries] == [3, 4, 5, 6, 7]


def test_what_is_noted_shares_the_sync_of_what_is_appended_next(log, syncs):
    noted = [log.note("log.heartbeat").seq for _ in range(3)]
    assert (noted, syncs) == ([1, 2, 3], [])
    assert len(lines_of(log)) == 4  # in the file, which the end of the process leaves as it is
    log.append("log.heartbeat")
    assert len(syncs) == 1
    log.note("log.heartbeat")
    log.sync()
    log.sync()
    assert len(syncs) == 2


@pytest.mark.parametrize("reader", ["head", "entries", "since", "last", "another opener"])
def test_nobody_reads_what_was_noted_before_it_is_on_the_disk(log, clinic, syncs, reader):
    log.note("log.heartbeat")
    match reader:
        case "head":
            log.head()
        case "entries":
            list(log.entries())
        case "since":
            log.since(0)
        case "last":
            assert log.last
        case _:
            assert EventLog.open(log.folder, clinic).append("log.heartbeat").seq == 2
    assert syncs
    log.append("log.heartbeat")
    log.head()
    verify_log(log.folder, clinic.public)


def test_what_was_noted_goes_with_an_event_that_cannot_be_synced(log, clinic, monkeypatch):
    before = (log.folder / "events.jsonl").read_bytes()
    log.note("log.heartbeat")

    def fail(file):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        refusal("log_unwritable", log.append, "log.heartbeat")
        refusal("log_unwritable", log.note, "log.heartbeat")
    assert (log.folder / "events.jsonl").read_bytes() == before
    assert log.append("log.heartbeat").seq == 2
    assert types_of(log) == ["log.opened", "log.gap", "log.heartbeat"]
    log.head()
    verify_log(log.folder, clinic.public)


def test_an_error_inside_a_batch_does_not_take_back_what_happened(log, syncs):
    with pytest.raises(ZeroDivisionError), log.batch():
        log.append("log.heartbeat")
        _ = 1 / 0
    assert types_of(log) == ["log.opened", "log.heartbeat"]
    assert len(syncs) == 1


def test_two_openers_of_one_process_interleave(log, clinic):
    other = EventLog.open(log.folder, clinic)
    seqs = [writer.append("log.heartbeat").seq for writer in (log, other, other, log, other, log)]
    assert seqs == [1, 2, 3, 4, 5, 6]
    log.head()
    assert verify_log(log.folder, clinic.public).size == 7


def test_threads_share_a_log(log, clinic):
    def work():
        for _ in range(5):
            with log.batch():
                log.append("job.accepted", job=D)
                log.append("job.started", job=D, model=D, code=D)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert types_of(log)[1:] == ["job.accepted", "job.started"] * 20
    log.head()
    verify_log(log.folder, clinic.public)


def test_a_batch_keeps_other_threads_out(log):
    other = threading.Thread(target=log.append, args=["log.recovered"], kwargs={"bytes": 1})
    with log.batch():
        log.append("log.heartbeat")
        other.start()
        other.join(timeout=0.05)
        log.append("log.heartbeat")
    other.join()
    assert types_of(log) == ["log.opened", "log.heartbeat", "log.heartbeat", "log.recovered"]


@pytest.mark.parametrize("left", [1, 2, 40, 200, -1])
def test_a_torn_tail_is_cut_off_exactly_and_recorded(log, clinic, left):
    log.append("log.heartbeat")
    whole = (log.folder / "events.jsonl").read_bytes()
    log.append("job.started", job=D, model=D, code=D)
    path = log.folder / "events.jsonl"
    last = path.read_bytes()[len(whole) :]
    torn = last[:left]
    path.write_bytes(whole + torn)

    again = EventLog.open(log.folder, clinic)
    assert path.read_bytes().startswith(whole)
    assert types_of(again) == ["log.opened", "log.heartbeat", "log.recovered"]
    assert list(again.entries())[-1].body == {"bytes": len(torn)}
    again.head()
    verify_log(log.folder, clinic.public)


def test_a_torn_tail_of_another_process_is_repaired_by_the_next_append(log):
    with (log.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"body":{')
    assert log.append("log.heartbeat").seq == 2
    assert types_of(log) == ["log.opened", "log.recovered", "log.heartbeat"]


def test_a_torn_first_line_is_repaired(tmp_path, clinic):
    (tmp_path / "events.jsonl").write_bytes(b'{"body":{"iden')
    assert types_of(EventLog.open(tmp_path, clinic)) == ["log.opened", "log.recovered"]


def test_a_whole_line_that_is_no_event_stops_everything(log, clinic):
    with (log.folder / "events.jsonl").open("ab") as file:
        file.write(b"{}\n")
    refusal("event_malformed", log.append, "log.heartbeat")
    refusal("event_malformed", EventLog.open, log.folder, clinic)


@contextmanager
def full_disk(path, room):
    """Files cannot grow beyond the present size of ``path`` and ``room`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_is_refused_and_leaves_no_part_of_a_line(log, clinic, room):
    path = log.folder / "events.jsonl"
    before = path.read_bytes()
    with full_disk(path, room):
        error = refusal("log_unwritable", log.append, "log.heartbeat")
    assert "Free disk space" in error.line()
    assert path.read_bytes() == before
    assert log.append("log.heartbeat").seq == 2
    lost = list(log.entries())[1]
    assert (lost.type, lost.body) == ("log.gap", {"lasted": "seconds", "reason": "unwritable"})
    log.append("log.heartbeat")
    assert types_of(log)[2:] == ["log.heartbeat"] * 2  # told once
    log.head()
    verify_log(log.folder, clinic.public)


def test_a_full_disk_in_a_batch_keeps_what_fitted(log, clinic):
    path = log.folder / "events.jsonl"
    with full_disk(path, 400), log.batch():
        log.append("log.heartbeat")
        refusal("log_unwritable", log.append, "job.started", job=D, model=D, code=D)
    assert types_of(log) == ["log.opened", "log.heartbeat"]
    log.head()
    verify_log(log.folder, clinic.public)


def test_a_disk_that_does_not_sync_is_refused_and_nothing_stands(log, clinic, monkeypatch):
    before = (log.folder / "events.jsonl").read_bytes()

    def fail(file):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        refusal("log_unwritable", log.append, "log.heartbeat")
    assert (log.folder / "events.jsonl").read_bytes() == before
    assert log.append("log.heartbeat").seq == 2
    log.head()
    verify_log(log.folder, clinic.public)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "The disk is full: the event log was not written."),
        (errno.EDQUOT, "The disk is full: the event log was not written."),
        (errno.EIO, "The event log cannot be written: Input/output error."),
    ],
)
def test_a_full_disk_is_called_so_whichever_file_meets_it_first(log, monkeypatch, number, words):
    def fail(file):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken, pytest.raises(LogError) as caught:
        broken.setattr(os, "fsync", fail)
        log.append("log.heartbeat")
    assert (caught.value.id, caught.value.what) == ("log_unwritable", words)


def test_a_head_that_does_not_fit_on_the_disk_is_refused(log, clinic):
    size = (log.folder / "events.jsonl").stat().st_size
    with full_disk(log.folder / "events.jsonl", 0):
        refusal("log_unwritable", log.head)
    assert (log.folder / "events.jsonl").stat().st_size == size
    assert list((log.folder / "heads").iterdir()) == []
    log.head().verify(clinic.public)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, clinic):
    (tmp_path / "file").write_bytes(b"")
    refusal("log_unwritable", EventLog.open, tmp_path / "file" / "log", clinic)


def test_a_log_that_vanished_is_not_begun_anew(log):
    (log.folder / "events.jsonl").unlink()
    refusal("log_unwritable", log.append, "log.heartbeat")
    assert not (log.folder / "events.jsonl").exists()


@pytest.mark.parametrize("keep", [0, 1])
def test_a_log_that_was_cut_while_in_use_is_not_written(log, keep):
    log.append("log.heartbeat")
    path = log.folder / "events.jsonl"
    shorter = b"".join(line + b"\n" for line in lines_of(log)[:keep])
    path.write_bytes(shorter)
    refusal("event_altered", log.append, "log.heartbeat")
    assert path.read_bytes() == shorter


def test_the_log_of_another_identity_is_not_opened(log):
    for name in ("south-clinic", "north-clinic"):
        refusal("log_foreign", EventLog.open, log.folder, PrivateIdentity.generate(name, "site"))


def test_a_log_behind_its_own_head_is_not_opened(log, clinic):
    copy = (log.folder / "events.jsonl").read_bytes()
    log.append("log.heartbeat")
    log.head()
    (log.folder / "events.jsonl").write_bytes(copy)
    refusal("log_truncated", EventLog.open, log.folder, clinic)


def test_a_log_that_was_rewritten_before_its_head_is_not_opened(tmp_path, log, clinic):
    log.append("log.heartbeat")
    log.head()
    other = EventLog.open(tmp_path / "other", clinic)
    other.append("log.recovered", bytes=3)
    shutil.copy(other.folder / "events.jsonl", log.folder / "events.jsonl")
    refusal("event_altered", EventLog.open, log.folder, clinic)


def test_a_head_states_what_is_written_and_is_signed_once(log, clinic):
    log.append("log.heartbeat")
    head = log.head()
    head.verify(clinic.public)
    assert head.size == 2
    assert head.root == merkle.root([merkle.leaf_hash(line) for line in lines_of(log)])
    assert log.head() == head
    assert EventLog.open(log.folder, clinic).head() == head
    log.append("log.heartbeat")
    assert log.head().size == 3
    assert len(list((log.folder / "heads").iterdir())) == 2


def test_a_light_head_stands_beside_the_whole_one_of_its_size(log, clinic):
    light, whole = log.head(light=True), log.head()
    assert (light.text(), light.light, whole.light) == (whole.text(), True, False)
    assert (log.head(light=True), log.head()) == (light, whole)
    light.verify(clinic.public, light=True)
    refusal("head_invalid", light.verify, clinic.public)
    assert len(list((log.folder / "heads").iterdir())) == 2


@pytest.mark.parametrize("light", [False, True])
def test_no_second_root_is_signed_under_the_other_weight(log, clinic, light):
    head = SignedHead.make(1, bytes(32), clinic, light=not light)
    files.write_head(log.folder, head)
    refusal("log_forked", lambda: log.head(light=light))


def test_a_log_behind_its_own_light_head_is_not_opened(log, clinic):
    log.head()
    log.append("log.heartbeat")
    log.head(light=True)
    lines = lines_of(log)
    (log.folder / "events.jsonl").write_bytes(lines[0] + b"\n")
    refusal("log_truncated", EventLog.open, log.folder, clinic)


def test_a_head_in_a_batch_is_signed_after_the_sync(log, syncs, monkeypatch):
    order = []
    real = SignedHead.make
    monkeypatch.setattr(SignedHead, "make", lambda *a, **k: (order.append(len(syncs)), real(*a, **k))[1])
    with log.batch():
        log.append("log.heartbeat")
        log.head()
    assert order == [1]


def test_no_second_root_is_signed_for_a_size(tmp_path, log, clinic):
    other = EventLog.open(tmp_path / "other", clinic, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    head = other.head()
    (log.folder / "heads" / f"{head.size:015d}.head").write_bytes(head.serialise())
    refusal("log_forked", log.head)


def test_countersignatures_are_kept(log, clinic):
    lead, bank = (PrivateIdentity.generate(name, role) for name, role in (("lead", "lead"), ("bank", "site")))
    head = log.head()
    for witness in (lead, bank):
        log.keep(Growth(head).countersign(clinic.public, witness))
    kept = log.head()
    assert kept.verify(clinic.public, [lead.public, bank.public]) == ("lead", "bank")


def test_only_heads_of_this_log_are_kept(tmp_path, log, clinic):
    bank = PrivateIdentity.generate("bank", "site")
    foreign = EventLog.open(tmp_path / "bank", bank).head()
    refusal("head_invalid", log.keep, foreign)
    refusal("head_invalid", log.keep, SignedHead.make(9, bytes(32), clinic))


def test_an_event_is_proven_to_be_in_a_head(log):
    for _ in range(6):
        log.append("log.heartbeat")
    head = log.head()
    log.append("log.heartbeat")
    for event in list(log.entries())[: head.size]:
        proof = log.inclusion(event.seq, head.size)
        merkle.verify_inclusion(merkle.leaf_hash(event.encode()), event.seq, head.size, proof, head.root)
    with pytest.raises(ValueError, match="no such leaf"):
        log.inclusion(0, 9)


def test_a_proof_reads_only_what_was_written_since_the_last_one(log, monkeypatch):
    read: list[int] = []
    lines = files.lines

    def noting(folder, start, end):
        for line in lines(folder, start, end):
            read.append(len(line))
            yield line

    for _ in range(20):
        log.append("log.heartbeat")
    log.consistency(1, 21)
    log.append("log.heartbeat")
    monkeypatch.setattr(files, "lines", noting)
    log.consistency(21, 22)
    assert len(read) == 2  # the last event, which is compared with the file at each turn, and the new one


def test_a_long_log_is_kept_in_outline_and_proves_what_is_old_from_the_disk(log, clinic):
    with log.batch():
        for _ in range(3 * merkle.BLOCK):
            log.append("log.heartbeat")
    lines = lines_of(log)
    leaves, size = [merkle.leaf_hash(line) for line in lines], len(lines)
    for old in (1, 2, 255, 256, 257, 700, size):
        assert log.consistency(old, size) == merkle.consistency_proof(leaves, old)
        assert log.inclusion(old - 1, size) == merkle.inclusion_proof(leaves, old - 1)
    path = log.folder / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"seq":300,', b'"seq":301,', 1))
    log.consistency(256, size)  # leads into other blocks only
    refusal("event_altered", log.consistency, 257, size)


def test_events_that_were_not_synced_yet_have_no_proof(log):
    with log.batch():
        log.append("log.heartbeat")
        with pytest.raises(ValueError, match="no such leaf"):
            log.inclusion(1, 2)
    assert log.inclusion(1, 2)


def test_heads_are_proven_to_be_consistent(log, clinic):
    lead = PrivateIdentity.generate("lead", "lead")
    last = None
    for _ in range(3):
        log.append("log.heartbeat")
        log.append("log.heartbeat")
        head = log.head()
        proof = log.consistency(last.size, head.size) if last else ()
        last = log.keep(Growth(head, last, proof).countersign(clinic.public, lead))
    assert last.size == 7


WRITER = """
import sys
from pathlib import Path
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity
log = EventLog.open(Path(sys.argv[1]), PrivateIdentity.load(Path(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    with log.batch():
        log.append("log.recovered", bytes=n)
        entry = log.append("log.recovered", bytes=n)
    print(entry.seq, flush=True)
"""


@pytest.fixture
def start(tmp_path, clinic):
    """Start processes of one party that append to one log."""
    clinic.save(tmp_path / "keys")
    started = []

    def run(pairs):
        command = [sys.executable, "-c", WRITER, tmp_path / "log", tmp_path / "keys", str(pairs)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(LINKS)}, **pipes)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_processes_interleave(tmp_path, clinic, start):
    writers = [start(40), start(40)]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    seqs = [[int(line) for line in writer.communicate()[0].split()] for writer in writers]

    log = EventLog.open(tmp_path / "log", clinic)
    log.head()
    assert verify_log(log.folder, clinic.public).size == 1 + 2 * 80
    events = [event.body["bytes"] for event in log.entries() if event.type == "log.recovered"]
    assert events[::2] == events[1::2]  # a batch is never parted
    assert sorted(seqs[0] + seqs[1]) == list(range(2, 162, 2))
    for own in seqs:
        assert [events[seq - 1] for seq in own] == list(range(40))


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_it_was_told_was_written(tmp_path, clinic, start):
    told = set()
    for _ in range(3):
        writer = start(10_000)
        writer.stdin.write("\n")
        writer.stdin.flush()
        for _ in range(5):
            told.add(int(writer.stdout.readline()))
        writer.kill()
        told |= {int(line) for line in writer.communicate()[0].split("\n")[:-1]}
    log = EventLog.open(tmp_path / "log", clinic)
    log.head()
    assert verify_log(log.folder, clinic.public).size > max(told)
    assert {event.seq for event in log.entries() if event.type == "log.recovered"} >= told


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-0.5, None), (-1.5, "seconds"), (-90, "minutes"), (-7200, "hours"), (-200_000, "days"), (5, None)],
)
def test_a_clock_that_was_set_back_is_written_down_by_whoever_writes_next(tmp_path, clinic, seconds, said):
    start = datetime(2026, 1, 31, 12, tzinfo=UTC)
    moments = iter([start, start + timedelta(seconds=seconds), start + timedelta(days=3)])
    log = EventLog.open(tmp_path / "log", clinic, clock=lambda: next(moments))
    log.append("log.heartbeat")
    noticed = [(e.body["way"], e.body["by"], e.ts) for e in log.entries() if e.type == "clock.stepped"]
    last = list(log.entries())[-1]
    assert noticed == ([("back", said, last.ts)] if said else [])
    assert last.type == "log.heartbeat"
    log.append("log.heartbeat")  # only where the clock goes back
    assert types_of(log)[-1] == "log.heartbeat"


def test_the_newest_of_some_types(log):
    assert log.newest("log.stopped", "clock.status") is None
    log.append("log.stopped")
    log.append("log.heartbeat")
    assert log.newest("log.stopped", "clock.status").seq == 1
    assert log.newest("log.heartbeat").seq == 2
