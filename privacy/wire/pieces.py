"""Envelopes in pieces, as they travel over the consortium service's ``Exchange``."""

from __future__ import annotations

from collections.abc import Iterator

from cloister.privacy.wire import consortium_pb2 as pb

PIECE = 64 << 10
"""Bytes of the largest piece."""


def cut(data: bytes, number: int) -> Iterator[pb.Piece]:
    """The pieces of question or answer ``number``, each cut when it is its turn; the last one is marked."""
    view = memoryview(data)
    for start in range(0, max(1, len(data)), PIECE):
        end = start + PIECE
        yield pb.Piece(number=number, data=bytes(view[start:end]), last=end >= len(data))
