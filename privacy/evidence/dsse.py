"""Statements about files under the keys of parties: in-toto Statement v1 in a DSSE envelope.

Both formats are public, so that other programs read them. An envelope is the canonical JSON of::

    {"payload": base64, "payloadType": "application/vnd.in-toto+json",
     "signatures": [{"keyid": "cloister/north/0f3a1b2c4d5e6f70#ed25519", "sig": base64}, …]}

What is signed is the pre-authentication encoding ``DSSEv1 <length> <type> <length> <payload>``. Every party
signs twice, with Ed25519 and with ML-DSA-65 (an entry each); both must verify.

Sources: https://github.com/secure-systems-lab/dsse (v1.0.2), https://in-toto.io/Statement/v1.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.errors import ChannelError, EvidenceError
from cloister.privacy.evidence.heads import origin_of
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Signature

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_ALGORITHMS = ("ed25519", "ml-dsa-65")
_HEX = re.compile(r"[0-9a-f]{64}")


def encoding(payload: bytes) -> bytes:
    """The bytes that are signed for a payload (DSSE's PAE)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True)
class Statement:
    """What somebody says about things named by their digests.

    Attributes:
        subjects: name -> SHA-256 in 64 hexadecimal digits.
        kind: the URI that says what ``predicate`` means.
        predicate: JSON.
    """

    subjects: Mapping[str, str]
    kind: str
    predicate: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Canonical JSON, subjects by name."""
        subjects: list[Json] = [
            {"name": n, "digest": {"sha256": h}} for n, h in sorted(self.subjects.items())
        ]
        return canonical.encode(
            {
                "_type": STATEMENT_TYPE,
                "subject": subjects,
                "predicateType": self.kind,
                "predicate": self.predicate,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Statement:
        """Exactly what ``to_bytes`` gives.

        Raises:
            EvidenceError: ``bundle_altered``.
        """
        value = canonical.decode(data, otherwise=_malformed("a statement is not canonical JSON"))
        try:
            subjects = {entry["name"]: entry["digest"]["sha256"] for entry in value["subject"]}
            found = cls(subjects, value["predicateType"], dict(value["predicate"]))
            texts = all(isinstance(text, str) for text in (found.kind, *subjects))
            hexes = all(isinstance(h, str) and _HEX.fullmatch(h) for h in subjects.values())
            if not texts or not hexes or found.to_bytes() != data:
                raise _malformed("a statement is not of the form that exists")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _malformed("a statement lacks a field") from error
        return found


@dataclass(frozen=True)
class Mark:
    """One signature: the name of the key, and its bytes."""

    key: str
    signature: bytes


@dataclass(frozen=True)
class Envelope:
    """A statement and the signatures on it; parsed is not verified."""

    payload: bytes
    marks: tuple[Mark, ...] = ()

    @classmethod
    def make(cls, statement: Statement, *parties: PrivateIdentity) -> Envelope:
        """A statement signed by parties."""
        envelope = cls(statement.to_bytes())
        for party in parties:
            envelope = envelope.signed(party)
        return envelope

    def signed(self, party: PrivateIdentity) -> Envelope:
        """The same with the signatures of one more party; in the place of its own, if they were there."""
        return self._marked(party.public, party.sign_bare(encoding(self.payload)))

    def marked(self, party: PublicIdentity, signature: Signature) -> Envelope:
        """The same with signatures of a party that came from elsewhere.

        Raises:
            ChannelError: ``signature_invalid``.
        """
        party.verify_bare(encoding(self.payload), signature)
        return self._marked(party, signature)

    def _marked(self, party: PublicIdentity, made: Signature) -> Envelope:
        names = _keys(party)
        kept = tuple(mark for mark in self.marks if mark.key not in names)
        new = (Mark(names[0], made.ed25519), Mark(names[1], made.mldsa65))
        return replace(self, marks=tuple(sorted((*kept, *new), key=lambda mark: mark.key)))

    def statement(self) -> Statement:
        """What is signed.

        Raises:
            EvidenceError: ``bundle_altered``.
        """
        return Statement.from_bytes(self.payload)

    def verify(self, parties: Iterable[PublicIdentity]) -> tuple[str, ...]:
        """Checks every signature that is there.

        Returns:
            Names of those who signed.

        Raises:
            EvidenceError: ``key_untrusted``, a signature of nobody in ``parties``; ``bundle_altered``,
                a signature that does not verify, or one of a party's two is missing.
        """
        left = {mark.key: mark.signature for mark in self.marks}
        if len(left) != len(self.marks):
            raise _malformed("a key signed twice")
        signers, pae = [], encoding(self.payload)
        for party in parties:
            first, second = (left.pop(key, None) for key in _keys(party))
            if first is None and second is None:
                continue
            try:
                party.verify_bare(pae, Signature(first or b"", second or b""))
            except ChannelError as error:
                raise _malformed(f"a signature of {party.name} does not verify") from error
            signers.append(party.name)
        if left:
            raise EvidenceError("key_untrusted", "It is signed with a key of nobody in the plan.")
        return tuple(signers)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        marks: list[Json] = [{"keyid": mark.key, "sig": _text(mark.signature)} for mark in self.marks]
        return canonical.encode(
            {"payload": _text(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": marks}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Exactly what ``to_bytes`` gives.

        Raises:
            EvidenceError: ``bundle_altered``.
        """
        value = canonical.decode(data, otherwise=_malformed("an envelope is not canonical JSON"))
        try:
            marks = tuple(Mark(str(m["keyid"]), _raw(m["sig"])) for m in value["signatures"])
            envelope = cls(_raw(value["payload"]), marks)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _malformed("an envelope lacks a field, or one is not Base64") from error
        if envelope.to_bytes() != data:
            raise _malformed("an envelope is not of the form that exists")
        return envelope


def _keys(party: PublicIdentity) -> tuple[str, str]:
    first, second = (f"{origin_of(party)}#{algorithm}" for algorithm in _ALGORITHMS)
    return first, second


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _malformed(why: str) -> EvidenceError:
    return EvidenceError("bundle_altered", f"Something signed does not hold: {why}.", "Ask for a whole copy.")
