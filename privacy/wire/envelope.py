"""The envelope: a content sealed for one recipient and signed by one sender, bound to its place in a run.

Layout, all sizes big-endian::

    "CLOISTER" 0x01 | u32 header size | header | wrapped key | Ed25519 | ML-DSA-65 | sealed body

The header is canonical JSON. The wrapped key and both signatures have fixed sizes. Signed, under the
context ``cloister/envelope/1``: SHA-256 of everything before the signatures, then SHA-256 of the body.
The body is a stream whose every chunk is bound to the header and the wrapped key.

Envelopes that leave together may share their signatures, for an ML-DSA one takes longer than all else about a
small envelope. Each then tells its place among them, after the signatures::

    … 0x02 … Ed25519 | ML-DSA-65 | u32 index | u32 size | u8 hashes | hashes of 32 bytes | sealed body

Signed, under the context ``cloister/envelopes/1``: the size, then the root of the RFC 6962 tree over what
would have been signed of each alone; the hashes are its inclusion proof. So a signature of many is none of
one, and nobody learns more of another's envelope than a hash.

Opening checks, in this order: size, format, header against what is expected, both signatures, the
wrapped key, the body. Nothing is decrypted before the signatures hold.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

from cloister.privacy import canonical
from cloister.privacy.channel import sealing, stream
from cloister.privacy.errors import ChannelError, LogError
from cloister.privacy.evidence import merkle
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Signature

CONTEXT, SHARED = "cloister/envelope/1", "cloister/envelopes/1"
_MAGIC, _TOGETHER = b"CLOISTER\x01", b"CLOISTER\x02"
_ED25519, _MLDSA65 = 64, 3309
_HEADER_LIMIT = 4096
_PREFIX = len(_MAGIC) + 4
_PLACE = struct.Struct(">IIB")
_HASH = 32


@dataclass(frozen=True)
class Header:
    """Where in a run an envelope belongs.

    Attributes:
        kind: what it holds (``privacy.wire.messages``).
        consortium: the consortium's name.
        plan: the plan's digest.
        round, step, attempt: counted from 1, 0 and 1.
        sender, recipient: names of parties.
        model: digest of the global model that the round starts from.
    """

    kind: str
    consortium: str
    plan: str
    round: int
    step: int
    attempt: int
    sender: str
    recipient: str
    model: str

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return canonical.encode({"v": 1, **vars(self)})


_TYPES = {"v": "int"} | {field.name: str(field.type) for field in fields(Header)}


@dataclass(frozen=True, eq=False)
class Opened:
    """An envelope whose signatures, context and seal held.

    Attributes:
        header: as expected.
        pieces: the bytes that were sealed, one piece after the other.
        digest: of the whole envelope, for acknowledgements and the log.
    """

    header: Header
    pieces: stream.Content
    digest: str

    @property
    def content(self) -> bytearray:
        """The bytes that were sealed, as a whole."""
        return self.pieces.whole()


@dataclass(frozen=True, eq=False)
class Letter:
    """What goes into an envelope.

    Attributes:
        header: where in a run it belongs.
        content: what is sealed.
        recipient: for whom.
    """

    header: Header
    content: bytes | bytearray
    recipient: PublicIdentity


@dataclass(frozen=True)
class _Place:
    """Of an envelope among those that share its signatures."""

    index: int
    size: int
    proof: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        return b"".join([_PLACE.pack(self.index, self.size, len(self.proof)), *self.proof])


@dataclass(frozen=True)
class _Parts:
    header: Header
    encoded: bytes
    before: bytes
    wrapped: bytes
    signature: Signature
    place: _Place | None
    body: memoryview


def seal(
    header: Header, content: bytes | bytearray, sender: PrivateIdentity, recipient: PublicIdentity
) -> bytes:
    """The envelope of a content."""
    before, body = _sealed(_MAGIC, Letter(header, content, recipient))
    signature = sender.sign(_signed(before, body), CONTEXT)
    return b"".join([before, signature.ed25519, signature.mldsa65, body])


def seal_together(letters: Sequence[Letter], sender: PrivateIdentity) -> list[bytes]:
    """The envelopes of letters that leave together, in their order, under one pair of signatures."""
    if len(letters) == 1:
        (one,) = letters
        return [seal(one.header, one.content, sender, one.recipient)]
    parts = [_sealed(_TOGETHER, letter) for letter in letters]
    leaves = [merkle.leaf_hash(_signed(before, body)) for before, body in parts]
    signature = sender.sign(_shared(len(leaves), merkle.root(leaves)), SHARED)
    both = signature.ed25519 + signature.mldsa65
    places = [_Place(at, len(leaves), merkle.inclusion_proof(leaves, at)) for at in range(len(leaves))]
    return [
        b"".join([before, both, place.to_bytes(), body])
        for (before, body), place in zip(parts, places, strict=True)
    ]


def _sealed(magic: bytes, letter: Letter) -> tuple[bytes, bytearray]:
    """What stands before the signatures, and the body."""
    encoded = letter.header.to_bytes()
    key = secrets.token_bytes(sealing.KEY)
    wrapped = sealing.wrap(key, letter.recipient, encoded)
    before = b"".join([magic, len(encoded).to_bytes(4), encoded, wrapped])
    return before, stream.encrypt(key, letter.content, hashlib.sha256(before).digest())


def open_envelope(
    data: bytes,
    *,
    expected: Header,
    recipient: PrivateIdentity,
    sender: PublicIdentity,
    limit: int,
) -> Opened:
    """The content of an envelope that is exactly what is expected.

    Args:
        data: the envelope.
        expected: every field that the header must have.
        recipient: whose seal it is.
        sender: whose signatures must hold.
        limit: largest size in bytes.

    Raises:
        ChannelError: ``envelope_too_large``, ``envelope_malformed``, ``wrong_context`` (naming the
            field), ``signature_invalid``, ``seal_invalid`` or ``stream_invalid``.
    """
    parts = _parse(data, limit)
    for field in fields(Header):
        if getattr(parts.header, field.name) != getattr(expected, field.name):
            raise ChannelError("wrong_context", f"An envelope is for another {field.name}.")
    _verify(parts, sender)
    key = sealing.unwrap(parts.wrapped, recipient, parts.encoded)
    pieces = stream.Content(key, parts.body, hashlib.sha256(parts.before).digest())
    return Opened(parts.header, pieces, canonical.digest(data))


def peek(data: bytes, limit: int) -> Header:
    """The header as it claims to be, unverified: to look up whose key it must be opened with.

    Raises:
        ChannelError: ``envelope_too_large`` or ``envelope_malformed``.
    """
    return _parse(data, limit).header


def _signed(before: bytes, body: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(before).digest() + hashlib.sha256(body).digest()


def _shared(size: int, root: bytes) -> bytes:
    return size.to_bytes(4) + root


def _verify(parts: _Parts, sender: PublicIdentity) -> None:
    """Checks both signatures, of the envelope alone or of those that left together.

    Raises:
        ChannelError: ``signature_invalid``.
    """
    signed, place = _signed(parts.before, parts.body), parts.place
    if place is None:
        sender.verify(signed, parts.signature, CONTEXT)
        return
    try:
        root = merkle.root_by(merkle.leaf_hash(signed), place.index, place.size, place.proof)
    except LogError as error:
        raise ChannelError(
            "signature_invalid", "An envelope is not at its place among those that were signed together."
        ) from error
    sender.verify(_shared(place.size, root), parts.signature, SHARED)


def _malformed(what: str) -> ChannelError:
    return ChannelError("envelope_malformed", f"An envelope is malformed: {what}.")


def _parse(data: bytes, limit: int) -> _Parts:
    if len(data) > limit:
        raise ChannelError(
            "envelope_too_large", f"An envelope has {len(data)} bytes, at most {limit} are agreed."
        )
    if data[: len(_MAGIC)] not in (_MAGIC, _TOGETHER):
        raise _malformed("it does not start as one")
    size = int.from_bytes(data[len(_MAGIC) : _PREFIX])
    key_at = _PREFIX + size
    signature_at = key_at + sealing.WRAPPED
    place_at = signature_at + _ED25519 + _MLDSA65
    place = _place(data, place_at) if data[: len(_MAGIC)] == _TOGETHER else None
    body_at = place_at + (len(place.to_bytes()) if place else 0)
    if size > _HEADER_LIMIT or len(data) < body_at + stream.TAG:
        raise _malformed("it is cut")
    encoded = bytes(data[_PREFIX:key_at])
    return _Parts(
        _header(encoded),
        encoded,
        data[:signature_at],
        data[key_at:signature_at],
        Signature(data[signature_at : signature_at + _ED25519], data[signature_at + _ED25519 : place_at]),
        place,
        memoryview(data)[body_at:],
    )


def _place(data: bytes, at: int) -> _Place:
    hashes_at = at + _PLACE.size
    if len(data) < hashes_at:
        raise _malformed("it is cut")
    index, size, hashes = _PLACE.unpack_from(data, at)
    end = hashes_at + hashes * _HASH
    if len(data) < end:
        raise _malformed("it is cut")
    return _Place(index, size, tuple(data[one : one + _HASH] for one in range(hashes_at, end, _HASH)))


@lru_cache(maxsize=64)
def _header(encoded: bytes) -> Header:
    """The header of its canonical bytes; most are looked at twice, before and after their sender is known."""
    value = canonical.decode(encoded, otherwise=_malformed("its header is not canonical JSON"))
    if not isinstance(value, dict) or set(value) != set(_TYPES):
        raise _malformed("its header has other fields than agreed")
    for name, type_ in _TYPES.items():
        if type(value[name]).__name__ != type_:
            raise _malformed(f"{name} is of another type")
    if value.pop("v") != 1:
        raise _malformed("its header is of another version")
    return Header(**value)
