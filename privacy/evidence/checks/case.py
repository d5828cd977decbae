"""A bundle taken apart: plan, keys, everybody's events and heads. Parsed here, checked elsewhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cloister.privacy import canonical
from cloister.privacy.errors import CloisterError, EvidenceError
from cloister.privacy.evidence.bundle import Bundle, withheld_from
from cloister.privacy.evidence.checks.findings import Finding, incomplete
from cloister.privacy.evidence.dsse import Statement
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.heads import SignedHead
from cloister.privacy.evidence.part import Shown
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.plan import Plan

_T = TypeVar("_T")
_HASH = 32


@dataclass(frozen=True)
class Grown:
    """An earlier size of a log: its root, and the proof that the newest head only added to it."""

    size: int
    root: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True)
class Writer:
    """What a bundle shows of one party's log.

    Attributes:
        identity: the party's keys.
        shown: its events, in order.
        heads: its signed heads, smallest first; at least one.
        grown: other sizes that it signed.
    """

    identity: PublicIdentity
    shown: tuple[Shown, ...]
    heads: tuple[SignedHead, ...]
    grown: tuple[Grown, ...]

    @property
    def newest(self) -> SignedHead:
        """The head that all proofs lead to."""
        return self.heads[-1]

    @property
    def events(self) -> tuple[Event, ...]:
        """The events without their proofs."""
        return tuple(one.event for one in self.shown)


@dataclass(frozen=True)
class Case:
    """A bundle that could be read.

    Attributes:
        bundle: its files.
        plan: of the job.
        keys: the public keys of the plan's parties.
        manifest: what the manifest states.
        writers: name of a party -> its log; those whose part is there and can be read.
        evidence: the value of ``evidence.json``; empty if it cannot be read.
        withheld: files that the manifest lists and that are not shown to the party that checks.
    """

    bundle: Bundle
    plan: Plan
    keys: Mapping[str, PublicIdentity]
    manifest: Statement
    writers: Mapping[str, Writer]
    evidence: Mapping[str, Any]
    withheld: frozenset[str] = frozenset()

    @property
    def parties(self) -> tuple[str, ...]:
        """Names of all parties, the lead first."""
        return (self.plan.lead.name, *self.sites)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the plan's order."""
        return tuple(site.name for site in self.plan.sites)

    @property
    def whole(self) -> bool:
        """Whether every party's part is here: only then the parts can be held against each other."""
        return set(self.writers) == set(self.parties)

    def of_job(self, name: str) -> tuple[Shown, ...]:
        """A party's events of the job itself."""
        return tuple(one for one in self.writers[name].shown if one.event.job == self.plan.digest)

    @property
    def lead(self) -> tuple[Shown, ...]:
        """The lead's events of the job."""
        return self.of_job(self.plan.lead.name)


@dataclass
class Opening:
    """Reads the files of a bundle one after another and keeps what does not hold.

    Attributes:
        bundle: its files.
        reader: the party of the plan that checks it, if policies of others are not shown to it; else "".
        findings: what does not hold.
    """

    bundle: Bundle
    reader: str = ""
    findings: list[Finding] = field(default_factory=list)

    def case(self) -> Case | None:
        """The bundle taken apart; None where not even plan, keys and manifest can be read."""
        plan = self._read("form", "plan.json", Plan.from_bytes)
        keys = self._read("form", "keys.json", _keys)
        manifest = self._try("form", "MANIFEST.json", lambda: self.bundle.manifest.statement())
        if plan is None or keys is None or manifest is None:
            return None
        evidence = self._read("form", "evidence.json", _object) or {}
        parties = (plan.lead.name, *(site.name for site in plan.sites))
        found = {name: self._writer(name, keys[name]) for name in parties if name in keys}
        writers = {name: writer for name, writer in found.items() if writer}
        lacking = manifest.subjects.keys() - self.bundle.files.keys() if self.reader else set[str]()
        withheld = frozenset(file for file in lacking if withheld_from(self.reader, file))
        return Case(self.bundle, plan, keys, manifest, writers, evidence, withheld)

    def _writer(self, name: str, identity: PublicIdentity) -> Writer | None:
        shown = self._read("form", f"events/{name}.jsonl", _shown)
        grown = self._read("form", f"heads/{name}/growth.json", _grown)
        notes = sorted(n for n in self.bundle.files if re.fullmatch(rf"heads/{name}/\d{{15}}\.head", n))
        heads = [self._read("form", note, SignedHead.parse) for note in notes]
        if not notes:
            self.findings.append(incomplete("heads", f"heads/{name}", f"no signed head of {name} is here"))
        if shown is None or grown is None or not heads or None in heads:
            return None
        signed = sorted((head for head in heads if head), key=lambda head: head.size)
        return Writer(identity, shown, tuple(signed), grown)

    def _read(self, check: str, name: str, parse: Callable[[bytes], _T]) -> _T | None:
        data = self.bundle.files.get(name)
        if data is None:
            self.findings.append(incomplete("files", name, "it is missing"))
            return None
        return self._try(check, name, lambda: parse(data))

    def _try(self, check: str, place: str, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except CloisterError as error:
            self.findings.append(Finding.of(check, place, error))
            return None


def _keys(data: bytes) -> dict[str, PublicIdentity]:
    members = [PublicIdentity.from_json(value) for value in _decoded(data, list)]
    found = {member.name: member for member in members}
    if len(found) != len(members):
        raise _form("a name stands twice")
    return found


def _object(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = _decoded(data, dict)
    return found


def _decoded(data: bytes, kind: type) -> Any:
    value = canonical.decode(data, otherwise=_form("it is not canonical JSON"))
    if not isinstance(value, kind):
        raise _form("it is JSON of another kind")
    return value


def _shown(data: bytes) -> tuple[Shown, ...]:
    if not data.endswith(b"\n"):
        raise _form("it ends in the middle of an event")
    return tuple(map(Shown.decode, data[:-1].split(b"\n")))


def _grown(data: bytes) -> tuple[Grown, ...]:
    value = _decoded(data, dict)
    try:
        return tuple(_earlier(entry) for entry in value["earlier"])
    except (KeyError, TypeError, ValueError) as error:
        raise _form("a field is missing or of another kind") from error


def _earlier(entry: Mapping[str, Any]) -> Grown:
    size, root, raw = entry["size"], entry["root"], base64.b64decode(entry["proof"], validate=True)
    if type(size) is not int or len(raw) % _HASH or entry.keys() != {"size", "root", "proof"}:
        raise ValueError("not a size with its root and proof")
    proof = tuple(raw[n : n + _HASH] for n in range(0, len(raw), _HASH))
    return Grown(size, bytes.fromhex(root), proof)


def _form(why: str) -> EvidenceError:
    return EvidenceError("bundle_altered", f"it cannot be read: {why}.")
