"""Answering the lead over the consortium service: one thread that keeps ``Exchange`` open.

The lead asks one thing at a time and the site answers it; what travels is a sealed and signed envelope
each way, in pieces. Nothing but an answer, or the id of an error, ever goes out.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc

from cloister.client.consortium import Consortium
from cloister.client.watch import FIRST_PAUSE_S, LONGEST_PAUSE_S
from cloister.privacy.errors import UNWRITABLE, CloisterError, TransportError
from cloister.privacy.wire import consortium_pb2 as pb

logger = logging.getLogger(__name__)
PIECE = 64 << 10
"""Bytes of the largest piece."""
LAST_ANSWER_S = 10.0
_UNREAD = 4
"""Answers that wait behind the one that is being sent; an honest lead has one question at a time."""


class Correspondence(threading.Thread):
    """Answers the lead's questions until ``stop``.

    After a failure it connects again, with the pauses of ``Watch``. A question that was being answered
    when the connection was lost is asked again by the lead.

    Args:
        member: the site's connection.
        answer: the sealed answer to an envelope; called on this thread, one question at a time. What it
            raises goes to the lead as an id.
        largest: bytes of the largest question that may come now.

    Attributes:
        connected: set while the lead may ask this site.
        trouble: why it is not connected, None while all is well.
        failure: this machine cannot write; the thread has ended, and the question is asked again once
            the site is back. Look at it now and then.
    """

    def __init__(
        self, member: Consortium, answer: Callable[[bytes], bytes], largest: Callable[[], int]
    ) -> None:
        super().__init__(name="consortium-exchange", daemon=True)
        self.connected = threading.Event()
        self.trouble: CloisterError | None = None
        self.failure: CloisterError | None = None
        self._member, self._answer, self._largest = member, answer, largest
        self._stopping = threading.Event()
        self._pause = FIRST_PAUSE_S
        self._call: Any = None

    def run(self) -> None:
        """Connects, answers and connects again."""
        while not self._stopping.is_set():
            try:
                self._correspond()
            except CloisterError as error:
                self.trouble = error
                if error is self.failure:
                    return
            finally:
                self.connected.clear()
            self._stopping.wait(self._pause * (0.5 + secrets.randbelow(1000) / 1000))
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)

    def stop(self, wait: float = LAST_ANSWER_S) -> None:
        """Ends the call and the thread.

        An answer that is being computed is waited for up to ``wait`` seconds; ``is_alive`` says whether
        it goes on. It does not leave the site any more.
        """
        self._stopping.set()
        if self._call is not None:
            self._call.cancel()
        if self.is_alive():
            self.join(wait)

    def _correspond(self) -> None:
        self._member.open()
        line, answers = self._member.line, _Outgoing()
        self._call = call = line.stream("Exchange", iter(answers))
        if self._stopping.is_set():
            call.cancel()
        try:
            call.initial_metadata()  # waits for the lead to let this site in, or for the end of the call
            if call.is_active():
                self.connected.set()
                self.trouble, self._pause = None, FIRST_PAUSE_S
            self._work(call, answers)
        except grpc.RpcError as error:
            if not self._stopping.is_set():
                raise line.refusal(error) from error
        finally:
            call.cancel()
            answers.end()

    def _work(self, pieces: Iterator[pb.Piece], answers: _Outgoing) -> None:
        """Answers every question of one call."""
        incoming = Incoming()
        for piece in pieces:
            if incoming.take(piece, self._largest()):
                answers.put(self._answered(incoming.number, incoming.question()))

    def _answered(self, number: int, question: bytes) -> Iterator[pb.Piece]:
        """The pieces of an answer, or of the id of what went wrong. Texts stay in the site's own log."""
        try:
            return pieces(self._answer(question), number)
        except CloisterError as error:
            if error.id in UNWRITABLE:
                self.failure = error
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


def pieces(data: bytes, number: int) -> Iterator[pb.Piece]:
    """The pieces of the answer to question ``number``, cut as they are sent."""
    view = memoryview(data)
    for start in range(0, max(1, len(data)), PIECE):
        end = start + PIECE
        yield pb.Piece(number=number, data=bytes(view[start:end]), last=end >= len(data))


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
