"""Answering the lead over the consortium service: one thread that keeps ``Exchange`` open.

The lead asks one thing at a time and the site answers it; what travels is a sealed and signed envelope
each way, in pieces. Nothing but an answer, or the id of an error, ever goes out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from cloister.client.connection import Connection
from cloister.client.consortium import Consortium
from cloister.privacy.errors import UNWRITABLE, CloisterError, TransportError
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.pieces import PIECE, cut

logger = logging.getLogger(__name__)
_UNREAD = 4
"""Answers that wait behind the one that is being sent; an honest lead has one question at a time."""


class Correspondence(Connection):
    """Answers the lead's questions until ``stop``.

    A question that was being answered when the connection was lost is asked again by the lead. After ``stop``
    an answer that is still being computed does not leave the site any more.

    Args:
        member: the site's connection.
        answer: the sealed answer to an envelope; called on this thread, one question at a time. What it
            raises goes to the lead as an id, unless this machine cannot write.
        largest: bytes of the largest question that may come now.
    """

    def __init__(
        self, member: Consortium, answer: Callable[[bytes], bytes], largest: Callable[[], int]
    ) -> None:
        super().__init__(member, "consortium-exchange")
        self._answer, self._largest = answer, largest

    def hold(self) -> None:
        """Answers every question of one call."""
        answers = _Outgoing()
        call = self.call("Exchange", iter(answers))
        try:
            call.initial_metadata()  # waits for the lead to let this site in, or for the end of the call
            if call.is_active():
                self.up()
            self._work(call, answers)
        finally:
            call.cancel()
            answers.end()

    def _work(self, pieces: Iterator[pb.Piece], answers: _Outgoing) -> None:
        incoming = Incoming()
        for piece in pieces:
            if incoming.take(piece, self._largest()):
                answers.put(self._answered(incoming.number, incoming.question()))

    def _answered(self, number: int, question: bytes) -> Iterator[pb.Piece]:
        """The pieces of an answer, or of the id of what went wrong. Texts stay in the site's own log."""
        try:
            return cut(self._answer(question), number)
        except CloisterError as error:
            if error.id in UNWRITABLE:
                raise
            logger.warning("A question could not be answered: %s", error.line())
            reason = error.id
        except Exception:
            logger.exception("A question could not be answered.")
            reason = "internal"
        return iter((pb.Piece(number=number, refused=reason, last=True),))


class Incoming:
    """The questions of one call, put together from their pieces.

    Attributes:
        number: of the newest question.
    """

    def __init__(self) -> None:
        self.number = 0
        self._whole = True
        self._buffer = bytearray()

    def take(self, piece: pb.Piece, limit: int) -> bool:
        """Adds a piece; a newer question takes the place of one that came in part.

        Args:
            piece: the next one of the call.
            limit: bytes of the largest question.

        Returns:
            Whether the question is whole now.

        Raises:
            TransportError: ``protocol`` or ``too_large``.
        """
        begins = piece.number > self.number
        goes_on = piece.number == self.number and not self._whole
        filled = len(piece.data) <= PIECE and (piece.data or piece.last) and not piece.refused
        if not (begins or goes_on) or not filled:
            raise TransportError("protocol", "The lead sent a piece that is malformed or out of order.")
        if begins:
            self.number, self._buffer = piece.number, bytearray()
        if len(self._buffer) + len(piece.data) > limit:
            raise TransportError("too_large", f"A question of the lead is larger than {limit} bytes.")
        self._buffer += piece.data
        self._whole = piece.last
        return self._whole

    def question(self) -> bytes:
        """The whole question; it is kept here no longer."""
        whole = bytes(self._buffer)
        self._buffer = bytearray()
        return whole


class _Outgoing:
    """Answers on their way: gRPC iterates over the pieces, on a thread of its own, until ``end``."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Iterator[pb.Piece] | None] = SimpleQueue()

    def put(self, answer: Iterator[pb.Piece]) -> None:
        """Adds the pieces of an answer.

        Raises:
            TransportError: ``protocol``, the lead asks and does not read what it is answered.
        """
        if self._waiting.qsize() >= _UNREAD:
            raise TransportError("protocol", "The lead asks without reading the answers.")
        self._waiting.put(answer)

    def end(self) -> None:
        """There are no more."""
        self._waiting.put(None)

    def __iter__(self) -> Iterator[pb.Piece]:
        while answer := self._waiting.get():
            yield from answer
            del answer  # it holds the whole envelope
