"""Bulk encryption in chunks: the STREAM construction over AES-256-GCM.

Hoang, Reyhanitabar, Rogaway and Vizar, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance", 2015. The nonce of a chunk is 7 zero bytes, a 4-byte counter and a byte that is 1 in
the last chunk, so chunks cannot be cut, swapped or repeated. A fixed prefix is safe because every key is
used for one stream only. The additional data binds each chunk to the message's header.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.privacy.errors import ChannelError

CHUNK = 1 << 18
TAG = 16


def sealed_size(size: int) -> int:
    """The size of a stream over ``size`` bytes of content; an empty content is one empty chunk."""
    return size + TAG * max(1, -(-size // CHUNK))


def encrypt(key: bytes, content: bytes | bytearray | memoryview, bound: bytes) -> bytearray:
    """The chunks of a stream, one after the other.

    Args:
        key: 32 bytes, used for nothing else.
        content: what is sealed.
        bound: additional data that every chunk is bound to.
    """
    cipher, view = AESGCM(key), memoryview(content)
    out = bytearray(sealed_size(len(view)))
    place = 0
    for counter, start in enumerate(range(0, max(1, len(view)), CHUNK)):
        chunk = view[start : start + CHUNK]
        nonce = _nonce(counter, last=start + CHUNK >= len(view))
        with memoryview(out)[place : place + len(chunk) + TAG] as target:
            cipher.encrypt_into(nonce, chunk, bound, target)
        place += len(chunk) + TAG
    return out


def decrypt(key: bytes, stream: bytes | bytearray | memoryview, bound: bytes) -> bytearray:
    """The content of a whole stream.

    Raises:
        ChannelError: ``stream_invalid``; nothing of the content is handed on then.
    """
    cipher, view = AESGCM(key), memoryview(stream)
    chunks = max(1, -(-len(view) // (CHUNK + TAG)))
    if len(view) < TAG * chunks:
        raise ChannelError("stream_invalid", "A sealed body is cut.")
    out = bytearray(len(view) - TAG * chunks)
    place = 0
    try:
        for counter in range(chunks):
            start = counter * (CHUNK + TAG)
            chunk = view[start : start + CHUNK + TAG]
            with memoryview(out)[place : place + len(chunk) - TAG] as target:
                cipher.decrypt_into(_nonce(counter, last=counter == chunks - 1), chunk, bound, target)
            place += len(chunk) - TAG
    except (InvalidTag, ValueError) as error:
        raise ChannelError("stream_invalid", "A sealed body was cut, swapped or altered.") from error
    return out


def _nonce(counter: int, *, last: bool) -> bytes:
    return bytes(7) + counter.to_bytes(4) + bytes([last])
