"""A party's part of a bundle: its events of one job with proofs, its heads, its policies, under its keys.

::

    events/<writer>.jsonl                  {"event": {…}, "proof": base64} a line, the proof of RFC 6962
    heads/<writer>/<size>.head             the newest head, and the newest that each witness countersigned
    heads/<writer>/growth.json             every other size that was signed, also lightly: its root, and that
                                           the log only grew
    policies/<writer>@<64 hex>.json        policies, and requests decided under them, that the events name
    rulings/<writer>.json                  what each rule of them said (``rulings``)
    openings/<writer>.json                 its canaries, if it opened them (``opening``)
    attestations/<writer>.part.dsse.json   the digests of the files above, signed
    attestations/<writer>.approval.dsse.json, attestations/<writer>.model.dsse.json

A party that changed its keys during the job shows the log under its later keys, too (``lineage``).

A party makes its part alone, from its own folder, and hands it over as one file. Of its policies it hands
over as much as it wants to, and its statement about the part says how much.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.errors import ChannelError, EvidenceError, LogError
from cloister.privacy.evidence import files, merkle
from cloister.privacy.evidence.dsse import Envelope, Statement
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.happenings import Names
from cloister.privacy.evidence.heads import SignedHead
from cloister.privacy.evidence.lineage import Retired, identities, label, order, succession_place
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.opening import opening_place
from cloister.privacy.evidence.rulings import Shows, encoded, ruling_place, rulings
from cloister.privacy.evidence.selection import chosen
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.plan import Plan

PART, APPROVAL, MODEL = (f"urn:cloister:evidence:{what}:1" for what in ("part", "approval", "model"))
PART_LIMIT = 256 << 20
"""Largest part in bytes that is read."""
POLICIES = "policies"
"""Where a statement about a part says how much of its policies the party hands over."""

_VERSION = 1
_LINE = re.compile(rb'\{"event":(\{.*\}),"proof":"([A-Za-z0-9+/]*={0,2})"\}')
_HASH = 32


@dataclass(frozen=True)
class Shown:
    """An event of a bundle, the bytes that it is hashed as, and the proof of its place.

    Attributes:
        event: the event.
        line: its bytes.
        proof: of its place in its log.
        log: the label of its log, "" for the one under the plan's keys (``lineage``).
        offset: events in the logs before.
    """

    event: Event
    line: bytes
    proof: tuple[bytes, ...]
    log: str = ""
    offset: int = 0

    @property
    def id(self) -> str:
        """How findings and reports name the event: ``writer/seq``, in a later log ``writer@<16 hex>/seq``."""
        return f"{self.event.writer}{self.log}/{self.event.seq}"

    @property
    def place(self) -> int:
        """Its place among all events of its writer, over all logs."""
        return self.offset + self.event.seq

    def encode(self) -> bytes:
        """The line of ``events/<writer>.jsonl``, without its newline."""
        proof = base64.b64encode(b"".join(self.proof))
        return b'{"event":' + self.line + b',"proof":"' + proof + b'"}'

    @classmethod
    def decode(cls, line: bytes, log: str = "", offset: int = 0) -> Shown:
        """Exactly what ``encode`` gives.

        Raises:
            LogError: ``event_malformed``.
        """
        match = _LINE.fullmatch(line)
        refusal = LogError("event_malformed", "A line of a bundle is not an event with its proof.")
        if match is None:
            raise refusal
        raw = base64.b64decode(match[2])
        proof = tuple(raw[n : n + _HASH] for n in range(0, len(raw), _HASH))
        found = cls(Event.decode(match[1]), match[1], proof, log, offset)
        if found.encode() != line or len(raw) % _HASH:
            raise refusal
        return found


@dataclass(frozen=True)
class Part:
    """Everything of one party, as the files of a bundle.

    Attributes:
        writer: name of the party.
        files: name in the bundle -> bytes.
    """

    writer: str
    files: Mapping[str, bytes]

    @classmethod
    def make(
        cls,
        log: EventLog,
        party: PrivateIdentity,
        plan: Plan,
        policies: Mapping[str, bytes] | None = None,
        retired: Sequence[Retired] = (),
        shows: Shows = "whole",
    ) -> Part:
        """The part of a party about a job.

        Args:
            log: the party's log; a new head is signed.
            party: its keys.
            plan: of the job.
            policies: digest -> canonical bytes, of policies, of requests that were decided, and of opened
                canaries; those that events name are shown.
            retired: logs under keys that the party had before, those of the plan first.
            shows: how much of its policies the party hands over.

        Raises:
            LogError: the log is damaged or cannot be written.
            PolicyError: a policy or a request is malformed.
            EvidenceError: ``job_unfinished``, the log says nothing of the job.
        """
        newest, name = log.head(), party.public.name
        logs = [_Kept.of(one.folder, one.public) for one in retired]
        logs.append(_Kept.of(log.folder, party.public, newest.size))
        events = [event for one in logs for event in map(Event.decode, one.lines)]
        places = set(chosen(events, plan))
        shown = [event for place, event in enumerate(events) if place in places]
        if not any(event.job == plan.digest for event in shown):
            raise EvidenceError("job_unfinished", f"The log of {name} says nothing of the job.")
        made = _policies(name, shown, policies or {}, shows) | _opening(name, shown, policies or {})
        offset = 0
        for number, one in enumerate(logs):
            own = [place - offset for place in sorted(places) if 0 <= place - offset < len(one.lines)]
            made |= one.files(name + (label(one.public.digest()) if number else ""), own)
            offset += len(one.lines)
        for before in retired:
            new = PublicIdentity.from_json(before.handover.said.identity)
            made[succession_place(name, new.digest())] = before.handover.to_bytes()
        return cls(name, {**made, **_attested(party, plan, shown, [one.newest for one in logs], made, shows)})

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that it shows, over all logs of the party.

        Raises:
            LogError: ``event_malformed``.
            EvidenceError: ``bundle_altered``.
        """
        logs = order(self.files, self.writer)
        lines = (self.files.get(f"events/{self.writer}{log}.jsonl", b"").splitlines() for log in logs)
        return tuple(Shown.decode(line).event for some in lines for line in some)

    @property
    def newest(self) -> SignedHead:
        """The newest head of the newest log that it shows; not verified.

        Raises:
            LogError: ``head_invalid``, ``head_missing``.
            EvidenceError: ``bundle_altered``.
        """
        start = f"heads/{self.writer}{order(self.files, self.writer)[-1]}/"
        notes = [d for name, d in self.files.items() if name.startswith(start) and name.endswith(".head")]
        if not notes:
            raise LogError("head_missing", f"The part of {self.writer} holds no signed head.")
        return max(map(SignedHead.parse, notes), key=lambda head: head.size)

    @property
    def digest(self) -> str:
        """The digest of the party's statement about the files of its part, which names the part."""
        return canonical.digest(self.files.get(statement_place(self.writer), b""))

    def check(self, public: PublicIdentity, plan: Plan) -> None:
        """Whether a party has signed exactly this part, of this job; whether it holds, ``checks`` says.

        Args:
            public: the party's keys that the plan names.
            plan: of the job.

        Raises:
            EvidenceError: ``bundle_altered``, ``key_untrusted``, ``bundle_incomplete``.
            ChannelError: ``wrong_context``, it is of another job.
            LogError: a head or an event is malformed, or a head is not of the party.
        """
        data = self.files.get(statement_place(self.writer))
        if data is None:
            raise EvidenceError("bundle_incomplete", f"The part of {self.writer} is not signed.")
        envelope, public = Envelope.from_bytes(data), identities(self.files, plan, public)[-1]
        if envelope.verify([public]) != (self.writer,):
            raise EvidenceError("bundle_altered", f"The part of {self.writer} is not signed by it.")
        said = envelope.statement()
        if said.predicate.get("job") != plan.digest:
            raise ChannelError("wrong_context", f"The part of {self.writer} is of another job.")
        if said.kind != PART or said.subjects != _digests(self.files):
            raise EvidenceError("bundle_altered", f"{self.writer} has signed other files than these.")
        self.newest.verify(public)
        if not self.events:
            raise EvidenceError("bundle_incomplete", f"The part of {self.writer} shows no event.")

    def to_bytes(self) -> bytes:
        """One file to hand over."""
        texts: dict[str, Json] = {name: data.decode() for name, data in self.files.items()}
        return canonical.encode({"version": _VERSION, "writer": self.writer, "files": texts})

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        """What ``to_bytes`` gives; signatures and proofs are checked where the bundle is.

        Raises:
            EvidenceError: ``bundle_altered``.
        """
        refusal = EvidenceError(
            "bundle_altered", "This is not a party's part of a bundle.", "Ask the party for it again."
        )
        value = canonical.decode(data, otherwise=refusal)
        if not isinstance(value, dict) or value.keys() != {"version", "writer", "files"}:
            raise refusal
        writer, named = value["writer"], value["files"]
        texts = isinstance(named, dict) and all(isinstance(text, str) for text in named.values())
        if value["version"] != _VERSION or not isinstance(writer, str) or not texts:
            raise refusal
        if not all(owned(name, writer) for name in named):
            raise refusal
        return cls(writer, {name: text.encode() for name, text in named.items()})


def statement_place(writer: str) -> str:
    """Where a bundle has a party's statement about the files of its part."""
    return f"attestations/{writer}.part.dsse.json"


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Name -> SHA-256 of the files that a statement about a part names."""
    return {
        name: canonical.digest(data).removeprefix("sha256:")
        for name, data in files.items()
        if not name.startswith("attestations/")
    }


def owned(name: str, writer: str) -> bool:
    """Whether a file of a bundle is of a party's part."""
    own = re.escape(writer)
    forms = (
        rf"events/{own}(@[0-9a-f]{{16}})?\.jsonl",
        rf"heads/{own}(@[0-9a-f]{{16}})?/(growth\.json|\d{{15}}\.head)",
        rf"successions/{own}@[0-9a-f]{{16}}\.json",
        rf"policies/{own}@[0-9a-f]{{64}}\.json",
        rf"rulings/{own}\.json",
        rf"openings/{own}\.json",
        rf"attestations/{own}\.(part|approval|model)\.dsse\.json",
    )
    return re.fullmatch("|".join(forms), name) is not None


@dataclass(frozen=True)
class _Kept:
    """One log of a party, as its folder has it.

    Attributes:
        public: the keys that it is kept under.
        lines: its events up to the newest head.
        heads: its signed heads.
        sizes: all sizes that it signed heads of, light ones too, up to the newest head.
    """

    public: PublicIdentity
    lines: tuple[bytes, ...]
    heads: tuple[SignedHead, ...]
    sizes: frozenset[int]

    @classmethod
    def of(cls, folder: Path, public: PublicIdentity, until: int | None = None) -> _Kept:
        """Reads it up to a size; raises ``LogError`` ``head_missing``, no head vouches for it."""
        whole, light = (files.stored_heads(folder, light=weight) for weight in (False, True))
        heads = tuple(head for head in whole if until is None or head.size <= until)
        if not heads:
            raise LogError("head_missing", f"A log of {public.name} has no signed head.")
        newest = max(head.size for head in heads)
        lines = (line[:-1] for line in files.lines(folder, 0, files.written(folder)))
        sizes = frozenset(head.size for head in (*heads, *light) if head.size <= newest)
        return cls(public, tuple(lines)[:newest], heads, sizes)

    @property
    def newest(self) -> SignedHead:
        """The head that all proofs lead to."""
        return max(self.heads, key=lambda head: head.size)

    def files(self, name: str, places: Iterable[int]) -> dict[str, bytes]:
        """Events and heads as a bundle has them, under a name."""
        tree, size = merkle.Tree([merkle.leaf_hash(line) for line in self.lines]), self.newest.size
        shown = (Shown(Event.decode(self.lines[n]), self.lines[n], tree.inclusion(n, size)) for n in places)
        return {
            f"events/{name}.jsonl": b"".join(one.encode() + b"\n" for one in shown),
            f"heads/{name}/growth.json": _growth(self.sizes, tree, self.newest),
            **{f"heads/{name}/{h.size:015d}.head": h.serialise() for h in _kept(self.heads, self.newest)},
        }


def _kept(heads: Iterable[SignedHead], newest: SignedHead) -> list[SignedHead]:
    """The newest head, and the newest that each witness countersigned."""
    by_witness = {
        mark.name: head
        for head in sorted(heads, key=lambda head: head.size)
        for mark in head.signatures
        if mark.name != newest.origin
    }
    found = {head.size: head for head in (*by_witness.values(), newest)}
    return [found[size] for size in sorted(found)]


def _growth(sizes: Iterable[int], tree: merkle.Tree, newest: SignedHead) -> bytes:
    """Roots of all signed sizes below the newest, with their consistency proofs."""
    grown: list[Json] = [
        {
            "size": size,
            "root": tree.root(size).hex(),
            "proof": base64.b64encode(b"".join(tree.consistency(size, newest.size))).decode(),
        }
        for size in sorted(size for size in sizes if size < newest.size)
    ]
    return canonical.encode({"size": newest.size, "earlier": grown})


def _policies(
    name: str, events: Sequence[Event], policies: Mapping[str, bytes], shows: Shows
) -> dict[str, bytes]:
    if shows == "digest":
        return {}
    ruled = tuple(rulings(events, map(Names({name: events}), events), policies))
    made = {ruling_place(name): encoded(ruled)} if ruled else {}
    if shows == "rules":
        return made
    fields = ("policy", "request", "shared")
    named = {str(event.body[field]) for event in events for field in fields if field in event.body}
    shown = {digest: policies[digest] for digest in named & policies.keys()}
    return made | {f"policies/{name}@{d.removeprefix('sha256:')}.json": data for d, data in shown.items()}


def _opening(name: str, events: Iterable[Event], known: Mapping[str, bytes]) -> dict[str, bytes]:
    named = [str(event.body["opening"]) for event in events if event.type == "audit.opened"]
    return {opening_place(name): known[digest] for digest in named[:1] if digest in known}


def _attested(
    party: PrivateIdentity,
    plan: Plan,
    events: Iterable[Event],
    newest: Sequence[SignedHead],
    made: Mapping[str, bytes],
    shows: Shows,
) -> dict[str, bytes]:
    """The statements of a party about its part, the plan and the final model."""
    name = party.public.name
    said = {"part": Statement(_digests(made), PART, predicate(plan, newest, shows))}
    said |= statements(name, plan, events)
    return {
        f"attestations/{name}.{what}.dsse.json": Envelope.make(statement, party).to_bytes()
        for what, statement in said.items()
    }


def predicate(plan: Plan, newest: Sequence[SignedHead], shows: Shows = "whole") -> dict[str, Any]:
    """What a party states of its part, besides the files.

    Args:
        plan: of the job.
        newest: the newest head of each of its logs, that under the plan's keys first.
        shows: how much of its policies it hands over; all of them is not said.
    """
    heads: list[Json] = [{"origin": h.origin, "size": h.size, "root": h.root.hex()} for h in newest]
    less = {POLICIES: shows} if shows != "whole" else {}
    return {"job": plan.digest, "head": heads[0], **({"later": heads[1:]} if heads[1:] else {}), **less}


def statements(name: str, plan: Plan, events: Iterable[Event]) -> dict[str, Statement]:
    """What a party states of the plan and of the final model, as its events of the job have it."""
    approving, ending = ("job.started", "job.finished") if name == plan.lead.name else _SITE
    said: dict[str, Statement] = {}
    for event in events:
        about: dict[str, Any] = {"job": plan.digest, "party": name, "event": event.seq}
        if event.job == plan.digest and event.type == approving:
            said["approval"] = Statement({"plan.json": plan.digest.removeprefix("sha256:")}, APPROVAL, about)
        if event.job == plan.digest and event.type == ending and event.round is None:
            digest = str(event.body["model"]).removeprefix("sha256:")
            said["model"] = Statement({"model": digest}, MODEL, about)
    return said


_SITE = ("approval.granted", "model.received")
