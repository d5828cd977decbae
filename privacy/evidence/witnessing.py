"""What a party keeps of the logs of others: the newest head of each that it has countersigned.

Heads are of two weights (``heads``). A *whole* one is shown when an agent comes, after a job's last round and
at its end, and every ten minutes of what is between; after every other round a *light* one. Both are of one
chain: each is checked against the last one that was seen, of either weight, kept, and countersigned with its
own weight. A witness that has seen no whole head for half an hour countersigns no light one.

Sites and lead show each other their newest signed heads over the consortium service, the lead passing them
on. Whoever sees a head of another party's log checks that the log only grew since the last one it saw,
countersigns the head, keeps it, and gives the countersignature back. Then nobody can rewrite or cut a log,
or show two of them, without contradicting a head that another party holds.

On disk, in the folder of a lead or a site (all notes are of the form that ``heads`` describes):

===================================  =========================================================
``log/heads/<size>.head``            own heads, each with the countersignatures that came back; light ones
                                     end in ``.light``, here and below
``witnessed/<name>-<16 hex>.head``   the newest head of another party's log that was countersigned
                                     here, signed by its log and by this party
``witnessed/<name>-<16 hex>.conflict``  a head of that log that contradicts it, as it was shown
===================================  =========================================================

``<name>-<16 hex>`` is the log's origin (``heads.origin_of``): new keys begin a new log. Older heads need not
be kept: that the newest one contains them was shown when it was countersigned.

On the wire (``Heads`` of the consortium service), both ways canonical JSON, compressed:

- a site says ``head`` (its newest head; "" to be told only what others hold of its log), ``proofs`` (size ->
  consistency proof from there to the head, in hexadecimal), ``held`` (origin -> size of what it holds) and
  ``marks`` (countersignatures, each a note with that one signature);
- the lead answers ``held`` (sizes at which others hold the site's log), ``own`` (the newest head of it, for
  a site that showed none), ``heads`` (new heads of others, each a note and a proof from what the site
  holds) and ``marks`` (countersignatures of the site's heads).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationError

from cloister.privacy import canonical, durable
from cloister.privacy.errors import LogError, TransportError
from cloister.privacy.evidence import files
from cloister.privacy.evidence.heads import Growth, SignedHead, origin_of
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.frozen import Part
from cloister.privacy.identity import PrivateIdentity, PublicIdentity

FOLDER = "witnessed"
MOST_MARKS = 32
"""Countersignatures in one message; what is left goes with the next one."""
MOST_PROOFS = 32
WHOLE_S = 600.0
"""A party that shows heads shows a whole one at least so often."""
OVERDUE_S = 3 * WHOLE_S
"""No light head is countersigned by a witness that has seen no whole one for so long."""
_WHOLE, _LIGHT = "head", "light"
_CONTRADICTIONS = ("log_rolled_back", "log_forked", "proof_invalid")
_P = TypeVar("_P", bound=Part)

Size = Annotated[int, Field(ge=1, le=10**15)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Proof = Annotated[tuple[Hash, ...], Field(max_length=128)]
Digits = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,14}$")]
Note = Annotated[str, Field(max_length=1 << 20)]
Origin = Annotated[str, Field(pattern=r"^cloister/[a-z][a-z0-9-]{0,39}/[0-9a-f]{16}$")]


class Shown(Part):
    """A head of another party's log, and what leads to it from the head that is held."""

    note: Note
    proof: Proof = ()


class Said(Part):
    """What a site says; see the head of this module."""

    version: Literal[1] = 1
    head: Note = ""
    proofs: dict[Digits, Proof] = Field(default_factory=dict)
    held: dict[Origin, Size] = Field(default_factory=dict)
    marks: Annotated[tuple[Note, ...], Field(max_length=MOST_MARKS)] = ()

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ``TransportError`` ``protocol`` for anything else."""
        return _parsed(cls, data)


class Answered(Part):
    """What the lead answers; see the head of this module."""

    version: Literal[1] = 1
    held: tuple[Size, ...] = ()
    own: Note = ""
    heads: tuple[Shown, ...] = ()
    marks: tuple[Note, ...] = ()

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ``TransportError`` ``protocol`` for anything else."""
        return _parsed(cls, data)


def show(
    log: EventLog, sizes: Iterable[int], *, light: bool = False
) -> tuple[SignedHead, dict[int, tuple[bytes, ...]]]:
    """The newest head of a log of one's own, and proofs that it grew from the sizes that others hold.

    The head has its own signature alone: others know theirs.

    Raises:
        LogError: as ``EventLog.head``.
    """
    head = log.head(light=light)
    head = replace(head, signatures=head.signatures[:1])
    older = sorted({size for size in sizes if size < head.size})[-MOST_PROOFS:]
    return head, {size: log.consistency(size, head.size) for size in older}


def hexed(proof: Iterable[bytes]) -> tuple[str, ...]:
    """A proof as it travels."""
    return tuple(step.hex() for step in proof)


def unhexed(proof: Iterable[str]) -> tuple[bytes, ...]:
    """A proof as ``merkle`` takes it."""
    return tuple(map(bytes.fromhex, proof))


def parse(note: str) -> SignedHead:
    """The head of a note; raises ``LogError`` ``head_invalid``."""
    return SignedHead.parse(note.encode())


@dataclass(frozen=True)
class Witness:
    """The heads of others that one party holds.

    Attributes:
        path: the party's folder.
        identity: its keys; None for whoever only reads.
        log: its event log; None likewise.
    """

    path: Path
    identity: PrivateIdentity | None = None
    log: EventLog | None = None

    def newest(self, party: PublicIdentity) -> SignedHead | None:
        """The newest head of a party's log that is kept here, of either weight; of one size the whole one."""
        paths = (self._path(origin_of(party), kind) for kind in (_WHOLE, _LIGHT))
        kept = [files.read_head(path) for path in paths if path.exists()]
        return max(kept, key=lambda head: head.size, default=None)

    def held(self) -> dict[str, int]:
        """Origin of a log -> size of the newest head that is kept here."""
        found = (path for kind in (_WHOLE, _LIGHT) for path in (self.path / FOLDER).glob(f"*.{kind}"))
        heads = sorted(map(files.read_head, found), key=lambda head: head.size)
        return {head.origin: head.size for head in heads}

    def conflicts(self) -> frozenset[str]:
        """Origins of the logs of which a contradiction was seen."""
        found = (path.stem.rpartition("-") for path in (self.path / FOLDER).glob("*.conflict"))
        return frozenset(f"cloister/{name}/{key}" for name, _, key in found)

    def refuse_conflicts(self, parties: Iterable[PublicIdentity]) -> None:
        """Raises ``LogError`` ``log_forked`` if one of the parties has contradicted itself."""
        known = self.conflicts()
        names = sorted(party.name for party in parties if origin_of(party) in known) if known else []
        if names:
            raise LogError(
                "log_forked",
                f"The log of {', '.join(names)}, as it was shown, contradicts a head that is kept here.",
                f"Both heads are in {self.path / FOLDER}; nothing goes on with that party under these keys.",
            )

    def take(self, party: PublicIdentity, head: SignedHead, proof: Sequence[bytes]) -> SignedHead | None:
        """Checks, countersigns and keeps a new head of a party's log; a light one lightly.

        Args:
            party: whose log it is.
            head: as it was shown.
            proof: that the log only grew since the head that is kept here.

        Returns:
            The head with this party's countersignature alone, to be given away after the log's next sync;
            None if nothing is new.

        Raises:
            LogError: ``head_invalid``, also of a light head where a whole one is overdue; or a
                contradiction, which is kept and written down as an incident: ``log_rolled_back``,
                ``log_forked``, ``proof_invalid``.
        """
        if self.identity is None or self.log is None:
            raise ValueError("a witness countersigns with its own keys")
        previous = self.newest(party)
        if previous is not None and previous.text() == head.text() and (head.light or not previous.light):
            return None
        try:
            countersigned = Growth(head, previous, proof).countersign(party, self.identity)
        except LogError as error:
            if error.id in _CONTRADICTIONS:
                self._keep_conflict(head, party.name, error.id)
            raise
        if head.light and self._overdue(head.origin):
            raise LogError(
                "head_invalid",
                f"No whole head of the log of {party.name} came for {OVERDUE_S / 60:.0f} minutes.",
                "No light one is countersigned until it comes; ask the party if it does not.",
            )
        durable.private_folder(self.path / FOLDER)
        durable.write(self._path(head.origin, _LIGHT if head.light else _WHOLE), countersigned.serialise())
        self.log.note("log.witnessed", party=party.name, size=head.size, root=f"sha256:{head.root.hex()}")
        mine = origin_of(self.identity.public)
        return replace(
            countersigned, signatures=tuple(mark for mark in countersigned.signatures if mark.name == mine)
        )

    def _overdue(self, origin: str) -> bool:
        """Whether no whole head of a log was kept here for too long, by this machine's clock."""
        path = self._path(origin, _WHOLE)
        return not path.exists() or time.time() - path.stat().st_mtime > OVERDUE_S

    def _keep_conflict(self, head: SignedHead, name: str, reason: str) -> None:
        path = self._path(head.origin, "conflict")
        if not path.exists() and self.log is not None:
            durable.private_folder(self.path / FOLDER)
            durable.write(path, head.serialise())
            self.log.append("incident.raised", reason=reason, severity="high", party=name)

    def _path(self, origin: str, kind: str) -> Path:
        return self.path / FOLDER / f"{origin.removeprefix('cloister/').replace('/', '-')}.{kind}"


def countersigned(
    log: EventLog, own: PublicIdentity, notes: Iterable[str], witnesses: Iterable[PublicIdentity]
) -> bool:
    """Keeps countersignatures of heads of one's own log; whether there was one to keep.

    Args:
        log: the log.
        own: whose log it is.
        notes: heads, each with a countersignature alone; those of one head are kept or refused together.
        witnesses: whose countersignatures count.

    Raises:
        LogError: ``head_invalid``, or ``log_forked`` for a head that was never signed here.
    """
    known, marks = tuple(witnesses), dict[tuple[int, bool], SignedHead]()
    for mark in map(parse, notes):
        key = (mark.size, mark.light)
        marks[key] = marks[key].merged(mark) if key in marks else mark
    kept = [_kept(log, own, mark, known) for mark in marks.values()]
    return any(kept)


def _kept(log: EventLog, own: PublicIdentity, mark: SignedHead, known: tuple[PublicIdentity, ...]) -> bool:
    """Adds countersignatures to the head that is stored; whether one of them is new."""
    path = files.head_path(log.folder, mark.size, light=mark.light)
    if not path.exists():
        return False
    stored = files.read_head(path)
    merged = stored.merged(mark)
    before, after = (set(head.verify(own, known, light=mark.light)) for head in (stored, merged))
    new = after - before
    if not new:
        return False
    log.keep(merged)
    for name in sorted(new):
        log.note("log.countersigned", witness=name, size=mark.size, root=f"sha256:{mark.root.hex()}")
    return True


def parties_by_origin(parties: Iterable[PublicIdentity]) -> Mapping[str, PublicIdentity]:
    """Origin of a log -> whose it is."""
    return {origin_of(party): party for party in parties}


def _parsed(kind: type[_P], data: bytes) -> _P:
    refusal = TransportError("protocol", "A message about heads is not of the protocol.")
    canonical.decode(data, otherwise=refusal)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise refusal from error
