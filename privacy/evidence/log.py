"""The event log of one party: an append-only file of chained events, and its signed heads.

A log is a folder: ``events.jsonl`` (one event a line, see ``events``) and ``heads/`` (see ``heads``).

Writing. Several processes and threads of one party may append: each append locks the file, reads
what the others wrote, writes its line and syncs it to the disk before it returns. Whoever wants to
act appends first: where the line cannot be written, ``LogError`` (``log_unwritable``) says so and
nothing else may happen. What nobody acts on before more is appended may be noted instead, and shares the
sync of what follows. A process that dies in the middle of a line leaves a torn tail; the next one
to lock the file cuts off exactly that tail, which nobody had been told was written, and records it. Whoever
writes next also records that an event was lost because it could not be written (``log.gap``), and that the
clock was set back since the last event (``clock.stepped``).

Reading. ``EventLog`` checks only that it goes on where it should. ``chain.verify_log`` is the full
check, for whoever holds a copy and the party's public keys.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from cloister.privacy import canonical
from cloister.privacy.errors import LogError
from cloister.privacy.evidence import files, merkle
from cloister.privacy.evidence.chain import (
    Verified,
    Walk,
    altered,
    compare,
    events_of,
    refuse_foreign,
    verify_log,
)
from cloister.privacy.evidence.events import GENESIS, LINE_LIMIT, Event, malformed, timestamp
from cloister.privacy.evidence.heads import SignedHead, forked
from cloister.privacy.evidence.merkle import BLOCK, Frontier, Outline
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.timekeeping import span

__all__ = ["Clock", "Entry", "EventLog", "Verified", "events_of", "now", "verify_log"]

Clock: TypeAlias = Callable[[], datetime]

STEP_S = 1.0
"""A clock that goes back by more was set."""
_STEPPED, _GAP = "clock.stepped", "log.gap"
_TS = b'"ts":"'


def now() -> datetime:
    """The clock of this machine."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Entry:
    """Where an event stands: its number, and the hash that the next event carries as ``prev``."""

    seq: int
    hash: str


@dataclass(frozen=True)
class _Tip:
    """The end of a log: its last line, the bytes up to there, and the tree over all lines."""

    last: bytes = b""
    end: int = 0
    tree: Frontier = field(default_factory=Frontier)

    def after(self, line: bytes) -> _Tip:
        return _Tip(line, self.end + len(line) + 1, self.tree.append(merkle.leaf_hash(line)))

    @property
    def hash(self) -> str:
        return canonical.digest(self.last) if self.tree.size else GENESIS

    @property
    def ts(self) -> str:
        """When the last line was written; "" if there is none."""
        start = self.last.rfind(_TS) + len(_TS)
        return self.last[start : self.last.find(b'"', start)].decode() if self.last else ""


class EventLog:
    """The log of a party, open for writing. Safe to share between threads; each process opens its own.

    Attributes:
        folder: where the log lives.
    """

    def __init__(
        self, folder: Path, writer: PrivateIdentity, clock: Clock, previous: str | None = None
    ) -> None:
        self.folder = folder
        self._previous = {} if previous is None else {"previous": previous}
        self._writer = writer
        self._clock = clock
        self._mutex = threading.RLock()
        self._file: int | None = None  # descriptor while the lock is held
        self._tip = self._durable = _Tip()
        self._tree = Outline(self._leaves)  # over what proofs were asked of
        self._in_tree, self._blocks = 0, array("Q")  # its bytes, and where each of its blocks begins

    @classmethod
    def open(
        cls, folder: Path, writer: PrivateIdentity, *, clock: Clock = now, previous: str | None = None
    ) -> EventLog:
        """Open the log in ``folder``; begin it if there is none; repair a torn tail.

        Args:
            folder: where the log lives; made if it does not exist.
            writer: the keys of the party.
            clock: gives the time that events record, with a time zone.
            previous: where the log is begun, the hash of the last event of the log that it goes on from.

        Raises:
            LogError: ``log_unwritable``; ``log_foreign``; ``event_malformed`` or ``head_invalid``; or
                the log no longer holds what its newest head signed (``log_truncated``,
                ``event_altered``).
        """
        files.begin(folder)
        log = cls(folder, writer, clock, previous)
        with log.batch():
            refuse_foreign(next(log._events()), writer.public)
            for newest in files.newest_head(folder):
                log.check(newest, own=True)
        return log

    def check(self, head: SignedHead, *, own: bool = False) -> None:
        """Compares this log with a head of it.

        Args:
            head: signed by the keys of this log; it may be light.
            own: it was stored with the log; else others held it.

        Raises:
            LogError: ``head_invalid``; ``log_truncated`` (own) or ``log_rolled_back``: the log is shorter;
                ``log_forked`` or ``event_altered``: it does not begin with what the head signed.
        """
        head.verify(self._writer.public, light=head.light)
        with self.batch():
            size = self._tip.tree.size
            roots = {head.size: self._root(head.size)} if head.size <= size else {}
            compare(Walk(size, b"", roots), (head,) if own else (), () if own else (head,))

    def append(
        self,
        type: str,
        *,
        job: str | None = None,
        round: int | None = None,
        **fields: Any,
    ) -> Entry:
        """Write one event; it is on the disk when this returns (in a batch: when the batch ends).

        Args:
            type: a key of ``vocabulary.FAMILIES``.
            job: digest of the plan.
            round: number of the round.
            fields: the fields of the type; sets may come as any list, tuple or set.

        Raises:
            LogError: ``event_malformed``; ``log_unwritable``, and then nothing may happen.
        """
        with self._held() as file:
            return self._put(file, type, job, round, fields)

    def note(
        self,
        type: str,
        *,
        job: str | None = None,
        round: int | None = None,
        **fields: Any,
    ) -> Entry:
        """Write one event that goes to the disk with whatever is appended, read or signed next.

        For what is followed by an event of its own before anybody acts: the end of the process does not take
        it away, but until then the end of the machine may. Arguments and errors are those of ``append``.
        """
        with self._held(sync=False) as file:
            return self._put(file, type, job, round, fields)

    def gap(self, reason: str, since: datetime | None = None) -> Entry:
        """Writes down that nothing was written for a while, and why; errors are those of ``append``.

        Args:
            reason: of ``log.gap``.
            since: from when; None for the last event.
        """
        with self._held() as file:
            return self._gap(file, reason, since)

    def _gap(self, file: int, reason: str, since: datetime | None = None) -> Entry:
        moment = self._clock()
        lasted = (moment - (since or datetime.fromisoformat(self._tip.ts))).total_seconds()
        body = {"lasted": span(lasted), "reason": reason}
        return self._put(file, _GAP, None, None, body, moment)

    @property
    def last_time(self) -> datetime:
        """When the last event was written, by the clock of the log."""
        with self._held(sync=False):
            return datetime.fromisoformat(self._tip.ts)

    def silence(self) -> float:
        """Seconds since the last event, by the clock of the log."""
        return (self._clock() - self.last_time).total_seconds()

    def newest(self, *types: str) -> Event | None:
        """The last event of one of these types; None if there is none."""
        marks = tuple(f'"type":"{type_}"'.encode() for type_ in types)
        with self.batch():
            found = b""
            for line in files.lines(self.folder, 0, self._tip.end):
                if any(mark in line for mark in marks):
                    found = line
        return Event.decode(found[:-1]) if found else None

    def sync(self) -> None:
        """Brings what was noted to the disk; raises ``LogError`` ``log_unwritable``."""
        with self._held():
            pass

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Events that stand together and share one sync to the disk.

        They are written for certain only when the batch has ended without an error: act after it.
        Other writers wait meanwhile, so keep it short. An exception from the inside does not take
        back what was appended before it.
        """
        with self._held():
            yield

    @contextmanager
    def _held(self, *, sync: bool = True) -> Iterator[int]:
        """The locked file, up to date; synced and released by the outermost caller of the thread."""
        with self._mutex:
            if self._file is not None:
                yield self._file
                return
            self._file = files.lock(self.folder)
            try:
                self._catch_up(self._file)
                try:
                    yield self._file
                finally:
                    if sync:
                        self._sync(self._file)
            finally:
                files.unlock(self._file)
                self._file = None

    def head(self, *, light: bool = False) -> SignedHead:
        """The signed head of all that is written, stored under ``heads/``.

        Args:
            light: signed with Ed25519 alone.

        Raises:
            LogError: ``log_unwritable``; ``log_forked`` rather than sign a second root for a size.
        """
        with self._held() as file:
            self._sync(file)  # a head must never promise what a power cut can take away
            size, root = self._tip.tree.size, self._tip.tree.root()
            known = {weight: self._stored(size, light=weight) for weight in (False, True)}
            if any(one is not None and one.root != root for one in known.values()):
                raise forked("Another head of this size was signed for this log.")
            stored = known[light]
            if stored is None:
                stored = SignedHead.make(size, root, self._writer, light=light)
                files.write_head(self.folder, stored)
            return stored

    def keep(self, head: SignedHead) -> SignedHead:
        """Store the countersignatures of a head that ``head()`` gave out earlier; returns all of them.

        The caller has verified the countersignatures; this checks that it is a head of this log.

        Raises:
            LogError: ``head_invalid``, ``log_forked``, ``log_unwritable``.
        """
        head.verify(self._writer.public, light=head.light)
        with self.batch():
            stored = self._stored(head.size, light=head.light)
            if stored is None:
                raise LogError("head_invalid", "A head came back that is not among those signed here.")
            merged = stored.merged(head)
            files.write_head(self.folder, merged)
            return merged

    def entries(self) -> Iterator[Event]:
        """All events written so far, in order."""
        with self.batch():
            return self._events()

    def since(self, place: int) -> tuple[list[Event], int]:
        """What was written behind a position, and the position behind that.

        Args:
            place: bytes, as an earlier call gave it; 0 for the start.
        """
        with self.batch():
            end = self._tip.end
            return [Event.decode(line[:-1]) for line in files.lines(self.folder, place, end)], end

    @property
    def last(self) -> str:
        """The hash of the last event."""
        with self.batch():
            return self._tip.hash

    def inclusion(self, seq: int, size: int) -> tuple[bytes, ...]:
        """Proof that event ``seq`` is in the tree of the first ``size`` events.

        ``merkle.verify_inclusion(merkle.leaf_hash(event.encode()), seq, size, proof, root)`` checks it.

        Raises:
            ValueError: there are fewer events on the disk.
            LogError: ``event_altered``.
        """
        with self.batch():
            return self._grown().inclusion(seq, size)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Proof that the tree of ``new`` events begins with that of ``old`` events, 0 < old <= new.

        Raises:
            ValueError: there are fewer events on the disk.
            LogError: ``event_altered``.
        """
        with self.batch():
            return self._grown().consistency(old, new)

    def _grown(self) -> Outline:
        """The tree over all that is on the disk. Heads are shown every round: what is new is read once."""
        for line in files.lines(self.folder, self._in_tree, self._durable.end):
            if not self._tree.size % BLOCK:
                self._blocks.append(self._in_tree)
            self._tree.append(merkle.leaf_hash(line[:-1]))
            self._in_tree += len(line)
        return self._tree

    def _leaves(self, block: int) -> list[bytes]:
        """The leaf hashes of a whole block, from the disk."""
        lines = islice(files.lines(self.folder, self._blocks[block], self._durable.end), BLOCK)
        return [merkle.leaf_hash(line[:-1]) for line in lines]

    def _root(self, size: int) -> bytes:
        """The root over the first events as the file has them now."""
        lines = islice(files.lines(self.folder, 0, self._tip.end), size)
        return merkle.root(merkle.leaf_hash(line[:-1]) for line in lines)

    def _events(self) -> Iterator[Event]:
        return (Event.decode(line[:-1]) for line in files.lines(self.folder, 0, self._tip.end))

    def _stored(self, size: int, *, light: bool) -> SignedHead | None:
        path = files.head_path(self.folder, size, light=light)
        return files.read_head(path) if path.exists() else None

    def _catch_up(self, file: int) -> None:
        """Take in what other processes wrote; begin an empty log; cut off and record a torn tail."""
        tip, torn = self._tip, b""
        with files.refusing_unwritable():
            start = tip.end - len(tip.last) - 1 if tip.end else 0
            lines = files.lines(self.folder, start, os.fstat(file).st_size)
            if tip.end and next(lines, b"") != tip.last + b"\n":
                raise altered("The log was cut or changed while it was in use.")
            for line in lines:
                if line.endswith(b"\n"):
                    tip = tip.after(line[:-1])
                else:
                    torn = line
            if tip is not self._tip and Event.decode(tip.last).seq != tip.tree.size - 1:
                raise altered("The last event of the log does not stand at its place.")
            if torn:
                os.ftruncate(file, tip.end)
            if tip is not self._tip:
                os.fsync(file)  # whoever wrote it may have died before its own sync
                self._tip = self._durable = tip
        if tip.tree.size == 0:
            opened = {"identity": self._writer.public.digest(), **self._previous}
            self._put(file, "log.opened", None, None, opened)
        if torn:
            self._put(file, "log.recovered", None, None, {"bytes": len(torn)})

    def _put(
        self,
        file: int,
        kind: str,
        job: str | None,
        round_: int | None,
        body: dict[str, Any],
        moment: datetime | None = None,
    ) -> Entry:
        if kind != _GAP and files.lost(self.folder):
            self._gap(file, "unwritable")
            self._sync(file)
            files.found(self.folder)
        moment = moment or self._clock()
        if kind != _STEPPED and timestamp(moment) < self._tip.ts:
            self._notice(file, moment)
        event = Event(
            writer=self._writer.public.name,
            seq=self._tip.tree.size,
            ts=timestamp(moment),
            type=kind,
            job=job,
            round=round_,
            body={name: _listed(value) for name, value in body.items()},
            prev=self._tip.hash,
        )
        line = event.encode()
        if len(line) >= LINE_LIMIT:
            raise malformed("An event is too long.")
        with self._undoing(file, self._tip):
            files.write(file, line + b"\n")
        self._tip = self._tip.after(line)
        return Entry(event.seq, self._tip.hash)

    def _notice(self, file: int, moment: datetime) -> None:
        """Writes down that the clock was set back since the last event, where it was by enough."""
        back = (datetime.fromisoformat(self._tip.ts) - moment).total_seconds()
        if back > STEP_S:
            self._put(file, _STEPPED, None, None, {"way": "back", "by": span(back)}, moment)

    def _sync(self, file: int) -> None:
        if self._tip is not self._durable:
            with self._undoing(file, self._durable):
                os.fsync(file)
            self._durable = self._tip

    @contextmanager
    def _undoing(self, file: int, good: _Tip) -> Iterator[None]:
        """On failure cut the file back to ``good``, so that no event stands that was not confirmed."""
        with files.refusing_unwritable():
            try:
                yield
            except OSError:
                self._tip = good
                with suppress(OSError):  # where even this fails, the tail is torn and repaired later
                    os.ftruncate(file, good.end)
                files.lose(self.folder)
                raise


def _listed(value: Any) -> Any:
    """A set as the list that is written: in one order, whatever order it came in."""
    return sorted(value, key=str) if isinstance(value, list | tuple | set | frozenset) else value
