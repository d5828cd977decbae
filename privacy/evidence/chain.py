"""Checking a whole log: chain, signed heads, and whether two histories were signed.

Needs a copy of the log and the party's public keys, nothing of the party itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloister.privacy import canonical
from cloister.privacy.errors import LogError
from cloister.privacy.evidence import files, merkle
from cloister.privacy.evidence.events import GENESIS, Event, malformed
from cloister.privacy.evidence.heads import SignedHead, forked, refuse_forks
from cloister.privacy.evidence.merkle import Frontier
from cloister.privacy.identity import PublicIdentity


@dataclass(frozen=True)
class Verified:
    """What ``verify_log`` has checked.

    Formal guarantees:
        The first ``signed`` events are byte for byte what the party signed: none is missing, added,
        moved or altered, and no head that was given contradicts them. Events from ``signed`` to
        ``size`` are chained but not yet signed. Whether what was logged is true is not covered.

    Attributes:
        size: number of events.
        signed: size of the newest head.
        root: root of the tree over all events.
        heads: all heads that were checked, smallest first.
    """

    size: int
    signed: int
    root: bytes
    heads: tuple[SignedHead, ...]


@dataclass(frozen=True)
class Walk:
    """What one pass over a log found: its size, its root, and its roots at the sizes asked for."""

    size: int
    root: bytes
    roots: dict[int, bytes]


def verify_log(folder: Path, public: PublicIdentity, heads: Iterable[SignedHead] = ()) -> Verified:
    """Check a log against the keys of its party and against heads that others kept.

    Args:
        folder: the log.
        public: the keys of the party.
        heads: heads of this log from elsewhere, such as those that this party countersigned.

    Raises:
        LogError:
            ``head_invalid`` or ``head_missing``: a head does not verify, or there is none;
            ``log_foreign``: the log of another party or other keys;
            ``event_malformed``, ``event_altered``: a line is no event, or not what was chained or signed;
            ``log_truncated``: the log ends before one of its own heads;
            ``log_rolled_back``: it ends before a head that others hold;
            ``log_forked``: two events or two signed histories for the same place.
    """
    own = files.stored_heads(folder)  # first: whatever they sign is in the file by now
    others = tuple(heads)
    if not (own or others):
        raise LogError("head_missing", "No signed head vouches for the log.", "Ask the party for its head.")
    for head in (*own, *others):
        head.verify(public)
    refuse_forks((*own, *others))
    walk = _walk(folder, public, {head.size for head in (*own, *others)})
    compare(walk, own, others)
    known = tuple(sorted((*own, *others), key=lambda head: head.size))
    return Verified(walk.size, known[-1].size, walk.root, known)


def events_of(folder: Path) -> Iterator[Event]:
    """The events of a log of any party, each well formed; ``verify_log`` checks them together.

    Raises:
        LogError: ``event_malformed``.
    """
    return map(Event.decode, _lines(folder))


def _lines(folder: Path) -> Iterator[bytes]:
    if not (folder / files.EVENTS).exists():
        return
    for line in files.lines(folder, 0, files.written(folder)):
        if not line.endswith(b"\n"):
            raise malformed("The log ends in the middle of an event.")
        yield line[:-1]


def _walk(folder: Path, public: PublicIdentity, sizes: set[int]) -> Walk:
    tree, prev, roots = Frontier(), GENESIS, {}
    for line in _lines(folder):
        event = Event.decode(line)
        if event.seq < tree.size:
            raise forked(f"Two events claim place {event.seq} of the log.")
        if event.seq > tree.size or event.prev != prev:
            raise altered(f"The event at place {tree.size} does not follow from the one before it.")
        if event.seq == 0:
            refuse_foreign(event, public)
        if event.writer != public.name:
            raise _foreign(public)
        prev, tree = canonical.digest(line), tree.append(merkle.leaf_hash(line))
        if tree.size in sizes:
            roots[tree.size] = tree.root()
    return Walk(tree.size, tree.root(), roots)


def compare(walk: Walk, own: Sequence[SignedHead], others: Sequence[SignedHead]) -> None:
    """Check a log against heads whose signatures hold.

    Args:
        walk: what the log holds, with its root at the size of every head that is not beyond its end.
        own: heads that are stored with the log.
        others: heads that others kept.

    Raises:
        LogError: ``log_truncated``, ``log_rolled_back``, ``log_forked``, ``event_altered``.
    """
    for heads, reason in ((own, "log_truncated"), (others, "log_rolled_back")):
        for head in heads:
            if head.size > walk.size:
                raise LogError(
                    reason,
                    f"The log has {walk.size} events, but a head was signed for {head.size}.",
                    "Restore the newest copy of the log; write nothing to this one.",
                )
    heads = (*own, *others)
    signed = max((head.size for head in heads if walk.roots[head.size] == head.root), default=0)
    for head in heads:
        if walk.roots[head.size] != head.root:
            if head.size <= signed:  # the party has signed this history, too
                raise forked(f"The party signed two histories: they part before event {head.size}.")
            raise altered(f"The first {head.size} events are not those that were signed.")


def refuse_foreign(first: Event, public: PublicIdentity) -> None:
    """Check that the first event of a log names the keys of its party.

    Raises:
        LogError: ``log_foreign``.
    """
    if first.type != "log.opened" or first.body["identity"] != public.digest():
        raise _foreign(public)


def _foreign(public: PublicIdentity) -> LogError:
    return LogError(
        "log_foreign",
        f"The log was not begun by the keys of {public.name}.",
        "Give each identity a folder of its own.",
    )


def altered(what: str) -> LogError:
    """The error for events that are not those that were chained or signed."""
    return LogError("event_altered", what, "Do not rely on this copy; compare it with another one.")
