"""Signed heads: a party states, for everybody to keep, what its log holds up to a size.

A head is a checkpoint of a transparency log (C2SP tlog-checkpoint) in a signed note (C2SP signed-note)::

    cloister/north-clinic/0f3a1b2c4d5e6f70          origin: name and start of the digest of the keys
    42                                              size
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=    root hash (RFC 6962)

    — cloister/north-clinic/0f3a1b2c4d5e6f70 base64(key id, Ed25519 signature, ML-DSA-65 signature)
    — cloister/lead/77aa… base64(…)                 countersignature of a witness

Both signatures of a line are over the text above the empty line; both must verify. The key id is
SHA-256(key name, newline, 0xff, signature type, public keys), first four bytes. A log and a witness
sign under different types and contexts, so that neither signature can stand for the other.

A *light* head has the same text, and lines with an Ed25519 signature alone (100 bytes for 4.5 kB), under
types and contexts of its own. It is shown between two whole ones (``witnessing``) and stands for none: a
note has lines of one weight, and whoever does not ask for light signatures finds none in it.

A party that has signed two heads of which neither log can be the beginning of the other has forked:
the two heads are the proof, whoever holds them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from cloister.privacy.errors import ChannelError, LogError
from cloister.privacy.evidence import merkle
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Signature

NOTE_LIMIT = 8 << 20
"""Longest note in bytes: a countersignature is about 4.6 kB, so over a thousand witnesses."""

_ED25519, _MLDSA65 = 64, 3309
_ORIGIN = re.compile(r"cloister/[a-z][a-z0-9-]{0,39}/[0-9a-f]{16}")
_SIZE = re.compile(r"[1-9]\d{0,14}")
_SIGNATURE = re.compile(r"— (\S+) (\S+)")


def origin_of(party: PublicIdentity) -> str:
    """The name of a party's log, and of its key in a note: ``cloister/<name>/<16 hex of its digest>``."""
    return f"cloister/{party.name}/{party.digest().removeprefix('sha256:')[:16]}"


class _Kind(NamedTuple):
    """A kind of signature line: what it is signed for, and whether with Ed25519 alone."""

    context: str
    light: bool = False

    def key(self, party: PublicIdentity) -> bytes:
        """The id of a party's key, 4 bytes."""
        keys = party.ed25519 if self.light else party.ed25519 + party.mldsa65
        named = b", Ed25519:" if self.light else b", Ed25519 and ML-DSA-65:"
        kind = b"\xff" + self.context.encode() + named
        return hashlib.sha256(origin_of(party).encode() + b"\n" + kind + keys).digest()[:4]

    def sign(self, text: bytes, party: PrivateIdentity) -> Signature:
        """The signatures over a text."""
        if self.light:
            return Signature(party.sign_classic(text, context=self.context), b"")
        return party.sign(text, context=self.context)

    def verify(self, text: bytes, signature: Signature, party: PublicIdentity) -> None:
        """Raises ``ChannelError`` ``signature_invalid``."""
        if self.light:
            party.verify_classic(text, signature.ed25519, context=self.context)
        else:
            party.verify(text, signature, context=self.context)


_LOG = {False: _Kind("cloister/log-head/1"), True: _Kind("cloister/light-log-head/1", light=True)}
_WITNESS = {
    False: _Kind("cloister/head-countersignature/1"),
    True: _Kind("cloister/light-head-countersignature/1", light=True),
}


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: name and id of the key, and the signatures; ``mldsa65`` is empty in a light one."""

    name: str
    key: bytes
    signature: Signature

    @classmethod
    def make(cls, text: bytes, party: PrivateIdentity, kind: _Kind) -> NoteSignature:
        """Sign a text."""
        return cls(origin_of(party.public), kind.key(party.public), kind.sign(text, party))

    @property
    def light(self) -> bool:
        """Whether there is an Ed25519 signature alone."""
        return not self.signature.mldsa65

    def line(self) -> str:
        """The line, without its newline."""
        raw = self.key + self.signature.ed25519 + self.signature.mldsa65
        return f"— {self.name} {base64.b64encode(raw).decode()}"

    @classmethod
    def parse(cls, line: str) -> NoteSignature:
        """The signature of a line.

        Raises:
            LogError: ``head_invalid``.
        """
        match = _SIGNATURE.fullmatch(line)
        if match is None or _ORIGIN.fullmatch(match[1]) is None:
            raise _invalid("A signed head holds a line that is not a signature.")
        raw = _base64(match[2], 4 + _ED25519, 4 + _ED25519 + _MLDSA65)
        return cls(match[1], raw[:4], Signature(raw[4 : 4 + _ED25519], raw[4 + _ED25519 :]))


@dataclass(frozen=True)
class SignedHead:
    """A head and its signatures; parsed is not verified.

    Attributes:
        origin: name of the log, see ``origin_of``.
        size: number of events, at least 1.
        root: 32 bytes, root of the Merkle tree over these events.
        signatures: the log's own and those of witnesses, one per key, all of one weight.
    """

    origin: str
    size: int
    root: bytes
    signatures: tuple[NoteSignature, ...] = ()

    @classmethod
    def make(cls, size: int, root: bytes, writer: PrivateIdentity, *, light: bool = False) -> SignedHead:
        """A head signed by the party that keeps the log."""
        head = cls(origin_of(writer.public), size, root)
        return replace(head, signatures=(NoteSignature.make(head.text(), writer, _LOG[light]),))

    @property
    def light(self) -> bool:
        """Whether its signatures are of Ed25519 alone."""
        return any(mark.light for mark in self.signatures)

    def text(self) -> bytes:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    def serialise(self) -> bytes:
        """The note: text, empty line, signature lines."""
        return self.text() + b"\n" + "".join(f"{mark.line()}\n" for mark in self.signatures).encode()

    @classmethod
    def parse(cls, note: bytes) -> SignedHead:
        """The head of a note; exactly the bytes that ``serialise`` gives, at most ``NOTE_LIMIT``.

        Raises:
            LogError: ``head_invalid``.
        """
        if len(note) > NOTE_LIMIT:
            raise _invalid("A signed head is too large.")
        try:
            text, _, marks = note.decode().partition("\n\n")
        except UnicodeDecodeError as error:
            raise _invalid("A signed head is not UTF-8.") from error
        lines = text.split("\n")
        if len(lines) != 3 or not _ORIGIN.fullmatch(lines[0]) or not _SIZE.fullmatch(lines[1]):
            raise _invalid("A signed head does not state origin, size and root.")
        signatures = tuple(map(NoteSignature.parse, marks.removesuffix("\n").split("\n")))
        head = cls(lines[0], int(lines[1]), _base64(lines[2], len(merkle.EMPTY)), signatures)
        if head.serialise() != note:
            raise _invalid("A signed head is not written in the form that exists.")
        if len({(mark.name, mark.key) for mark in signatures}) != len(signatures):
            raise _invalid("A signed head holds two signatures of one key.")
        _refuse_mixed(signatures)
        return head

    def verify(
        self, log: PublicIdentity, witnesses: Iterable[PublicIdentity] = (), *, light: bool = False
    ) -> tuple[str, ...]:
        """Check the log's own signature and those of the witnesses that are known.

        Signatures of other keys and of the other weight are ignored, as the format asks.

        Args:
            log: whose log it is.
            witnesses: whose countersignatures count.
            light: look for light signatures, and for no others.

        Returns:
            Names of the witnesses that countersigned.

        Raises:
            LogError: ``head_invalid``: another log, no signature of the log, or a signature of a
                known key that does not verify.
        """
        if self.origin != origin_of(log):
            raise _invalid(f"A signed head is not of the log of {log.name}.")
        if not self._signed_by(log, _LOG[light]):
            raise _invalid(f"A head of the log of {log.name} is not signed by {log.name}.")
        return tuple(witness.name for witness in witnesses if self._signed_by(witness, _WITNESS[light]))

    def _signed_by(self, party: PublicIdentity, kind: _Kind) -> bool:
        name, key = origin_of(party), kind.key(party)
        for mark in self.signatures:
            if (mark.name, mark.key) == (name, key):
                if mark.light is not kind.light:
                    raise _invalid(f"A signature of {party.name} on a head is not of the weight of its key.")
                try:
                    kind.verify(self.text(), mark.signature, party)
                except ChannelError as error:
                    raise _invalid(f"A signature of {party.name} on a head does not verify.") from error
                return True
        return False

    def merged(self, other: SignedHead) -> SignedHead:
        """The same head with the signatures of both.

        Raises:
            LogError: ``log_forked`` or ``head_invalid`` if they are not the same head.
        """
        refuse_forks((self, other))
        if self.text() != other.text():
            raise _invalid("Signatures of one head cannot be put on another.")
        known = {(mark.name, mark.key) for mark in self.signatures}
        new = tuple(mark for mark in other.signatures if (mark.name, mark.key) not in known)
        _refuse_mixed((*self.signatures, *new))
        return replace(self, signatures=self.signatures + new)


@dataclass(frozen=True)
class Growth:
    """A new head of another party's log, and what shows that the log only grew since the last one.

    Attributes:
        head: the new head; a light one is countersigned lightly.
        previous: the last head of that log that this witness countersigned, of either weight; None for the
            first.
        proof: consistency proof from ``previous.size`` to ``head.size``; empty for the first.
    """

    head: SignedHead
    previous: SignedHead | None = None
    proof: Sequence[bytes] = ()

    def verify(self, log: PublicIdentity) -> None:
        """Check signature and growth.

        Raises:
            LogError: ``head_invalid``, ``log_rolled_back``, ``log_forked`` or ``proof_invalid``.
        """
        self.head.verify(log, light=self.head.light)
        if self.previous is None:
            return
        self.previous.verify(log, light=self.previous.light)
        if self.head.size < self.previous.size:
            raise LogError(
                "log_rolled_back",
                f"The log of {log.name} is shorter than the head that was countersigned here.",
                "Keep both heads and ask the party; countersign nothing.",
            )
        refuse_forks((self.previous, self.head))
        merkle.verify_consistency(
            self.previous.size, self.head.size, self.previous.root, self.head.root, self.proof
        )

    def countersign(self, log: PublicIdentity, witness: PrivateIdentity) -> SignedHead:
        """The new head with the countersignature of ``witness``, after ``verify``.

        A witness keeps what it returns, durably, before it gives it away: it is the ``previous`` of
        the next time.
        """
        self.verify(log)
        mark = NoteSignature.make(self.head.text(), witness, _WITNESS[self.head.light])
        return self.head.merged(replace(self.head, signatures=(mark,)))


def refuse_forks(heads: Iterable[SignedHead]) -> None:
    """Refuse heads of one log that have the same size and different roots.

    Raises:
        LogError: ``log_forked``.
    """
    roots: dict[tuple[str, int], bytes] = {}
    for head in heads:
        if roots.setdefault((head.origin, head.size), head.root) != head.root:
            raise forked(f"Two heads of {head.origin} have size {head.size} and different roots.")


def forked(what: str) -> LogError:
    """The error for two histories under one key."""
    return LogError("log_forked", what, "Keep both heads: they prove that the party keeps two histories.")


def _refuse_mixed(marks: Iterable[NoteSignature]) -> None:
    if len({mark.light for mark in marks}) > 1:
        raise _invalid("A signed head holds light signatures beside whole ones.")


def _base64(text: str, *lengths: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _invalid("A signed head holds something that is not Base64.") from error
    if len(raw) not in lengths:
        raise _invalid("A signed head holds a root or a signature of another length.")
    return raw


def _invalid(what: str) -> LogError:
    return LogError("head_invalid", what, "Ask the party for its head again, and compare its fingerprint.")
