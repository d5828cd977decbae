"""The envelope: a content sealed for one recipient and signed by one sender, bound to its place in a run.

Layout, all sizes big-endian::

    "CLOISTER" 0x01 | u32 header size | header | wrapped key | Ed25519 | ML-DSA-65 | sealed body

The header is canonical JSON. The wrapped key and both signatures have fixed sizes. Signed, under the
context ``cloister/envelope/1``: SHA-256 of everything before the signatures, then SHA-256 of the body.
The body is a stream whose every chunk is bound to the header and the wrapped key.

Opening checks, in this order: size, format, header against what is expected, both signatures, the
wrapped key, the body. Nothing is decrypted before the signatures hold.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, fields
from functools import lru_cache

from cloister.privacy import canonical
from cloister.privacy.channel import sealing, stream
from cloister.privacy.errors import ChannelError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Signature

CONTEXT = "cloister/envelope/1"
_MAGIC = b"CLOISTER\x01"
_ED25519, _MLDSA65 = 64, 3309
_HEADER_LIMIT = 4096
_PREFIX = len(_MAGIC) + 4


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


@dataclass(frozen=True)
class _Parts:
    header: Header
    encoded: bytes
    before: bytes
    wrapped: bytes
    signature: Signature
    body: memoryview


def seal(
    header: Header, content: bytes | bytearray, sender: PrivateIdentity, recipient: PublicIdentity
) -> bytes:
    """The envelope of a content."""
    encoded = header.to_bytes()
    key = secrets.token_bytes(sealing.KEY)
    wrapped = sealing.wrap(key, recipient, encoded)
    before = b"".join([_MAGIC, len(encoded).to_bytes(4), encoded, wrapped])
    body = stream.encrypt(key, content, hashlib.sha256(before).digest())
    signature = sender.sign(_signed(before, body), CONTEXT)
    return b"".join([before, signature.ed25519, signature.mldsa65, body])


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
    sender.verify(_signed(parts.before, parts.body), parts.signature, CONTEXT)
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


def _malformed(what: str) -> ChannelError:
    return ChannelError("envelope_malformed", f"An envelope is malformed: {what}.")


def _parse(data: bytes, limit: int) -> _Parts:
    if len(data) > limit:
        raise ChannelError(
            "envelope_too_large", f"An envelope has {len(data)} bytes, at most {limit} are agreed."
        )
    if data[: len(_MAGIC)] != _MAGIC:
        raise _malformed("it does not start as one")
    size = int.from_bytes(data[len(_MAGIC) : _PREFIX])
    key_at = _PREFIX + size
    signature_at = key_at + sealing.WRAPPED
    body_at = signature_at + _ED25519 + _MLDSA65
    if size > _HEADER_LIMIT or len(data) < body_at + stream.TAG:
        raise _malformed("it is cut")
    encoded = bytes(data[_PREFIX:key_at])
    return _Parts(
        _header(encoded),
        encoded,
        data[:signature_at],
        data[key_at:signature_at],
        Signature(data[signature_at : signature_at + _ED25519], data[signature_at + _ED25519 : body_at]),
        memoryview(data)[body_at:],
    )


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
