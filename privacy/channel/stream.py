"""Bulk encryption in chunks: the STREAM construction over AES-256-GCM.

Hoang, Reyhanitabar, Rogaway and Vizar, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance", 2015. The nonce of a chunk is 7 zero bytes, a 4-byte counter and a byte that is 1 in
the last chunk, so chunks cannot be cut, swapped or repeated. A fixed prefix is safe because every key is
used for one stream only. The additional data binds each chunk to the message's header.
"""

from __future__ import annotations

from collections.abc import Iterator

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


class Content:
    """The content of a whole stream, in pieces of ``CHUNK`` bytes, the last one shorter.

    A piece is decrypted whenever it is its turn, so the content need never be in memory as a whole, and
    may be gone through more than once. Every chunk is checked first: nothing is handed on of a stream
    of which a part does not hold.

    Args:
        key: of the stream.
        stream: all of its chunks; kept, not copied.
        bound: the additional data that it was made with.

    Raises:
        ChannelError: ``stream_invalid``.
    """

    def __init__(self, key: bytes, stream: bytes | bytearray | memoryview, bound: bytes) -> None:
        self._cipher, self._stream, self._bound = AESGCM(key), memoryview(stream), bound
        self._chunks = max(1, -(-len(self._stream) // (CHUNK + TAG)))
        self.size = len(self._stream) - TAG * self._chunks
        if self.size < 0 or sealed_size(self.size) != len(self._stream):  # no content has such a stream
            raise ChannelError("stream_invalid", "A sealed body is cut.")
        for _ in self:
            pass

    def __len__(self) -> int:
        """The number of pieces."""
        return self._chunks

    def __iter__(self) -> Iterator[bytes]:
        for counter in range(self._chunks):
            start = counter * (CHUNK + TAG)
            chunk = self._stream[start : start + CHUNK + TAG]
            nonce = _nonce(counter, last=counter == self._chunks - 1)
            try:
                piece = self._cipher.decrypt(nonce, chunk, self._bound)
            except (InvalidTag, ValueError) as error:
                raise ChannelError("stream_invalid", "A sealed body was cut, swapped or altered.") from error
            yield piece

    def whole(self) -> bytearray:
        """All pieces in one."""
        out = bytearray(self.size)
        place = 0
        for piece in self:
            out[place : place + len(piece)] = piece
            place += len(piece)
        return out


def decrypt(key: bytes, stream: bytes | bytearray | memoryview, bound: bytes) -> bytearray:
    """The content of a whole stream, as a whole.

    Raises:
        ChannelError: ``stream_invalid``; nothing of the content is handed on then.
    """
    return Content(key, stream, bound).whole()


def _nonce(counter: int, *, last: bool) -> bytes:
    return bytes(7) + counter.to_bytes(4) + bytes([last])
