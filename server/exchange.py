"""Questions to sites and their answers: one open ``Exchange`` call for each site.

What travels is opaque here, a sealed and signed envelope each way, in pieces. The rules of a call:

1. A site is asked one thing at a time. A newer question takes the place of the older one.
2. Questions are numbered from 1 upwards, and an answer has the number of its question. The answer to a
   question that was replaced or withdrawn is read and dropped; one that nobody asked for ends the call.
3. An answer comes whole, once, in order, and is no larger than ``Exchange.limit``; anything else ends
   the call.

Formal guarantees:
    For each site at most ``Exchange.limit`` bytes of answers are held, and as many again for the moment
    in which a whole answer is taken out of its buffer. Of a refusal only an id that is declared in this
    release gets through; any other becomes ``internal``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from cloister.privacy.errors import TransportError
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire import messages
from cloister.privacy.wire.pieces import PIECE, cut


@dataclass(frozen=True)
class Answer:
    """What a site answered.

    Attributes:
        site: its name.
        data: the envelope; empty if it refused.
        refused: the error id with which it refused, "" if it answered.
    """

    site: str
    data: bytes = b""
    refused: str = ""


class Incoming:
    """The answers of one call, put together from their pieces. Nothing of a wrong piece is kept."""

    def __init__(self) -> None:
        self._number = 0
        self._whole = True
        self._size = 0
        self._buffer = bytearray()

    def drop(self) -> None:
        """Forgets what has arrived of an answer; the rest of it must still come in order."""
        self._buffer = bytearray()

    def take(self, piece: pb.Piece, wanted: int, newest: int, limit: int) -> bytes | str | None:
        """Adds a piece.

        Args:
            piece: the next one of the call.
            wanted: number of the question whose answer is kept; 0 keeps none.
            newest: number of the newest question.
            limit: bytes of the largest answer.

        Returns:
            The answer if it is whole now, or the id it was refused with; None if there is more to come,
            or if the answer is of a question that was replaced.

        Raises:
            TransportError: ``protocol`` or ``too_large``.
        """
        self._check(piece, newest)
        self._size += len(piece.data)
        if self._size > limit:
            raise TransportError("too_large", f"A site's answer is larger than {limit} bytes.")
        self._whole = piece.last
        if piece.number != wanted:
            return None
        if piece.refused:
            return piece.refused if messages.known(piece.refused) else "internal"
        self._buffer += piece.data
        if not piece.last:
            return None
        whole = bytes(self._buffer)
        self.drop()
        return whole

    def _check(self, piece: pb.Piece, newest: int) -> None:
        """Refuses a piece that is malformed, unasked or out of order; begins the answer that it begins."""
        begins = self._whole and self._number < piece.number <= newest
        goes_on = not self._whole and self._number == piece.number and not piece.refused
        alone = piece.last and not piece.data
        filled = len(piece.data) <= PIECE and (piece.data or piece.last)
        if not (begins or goes_on) or not (alone if piece.refused else filled):
            raise TransportError("protocol", "A site sent a piece that was not asked for or is malformed.")
        if begins:
            self._number, self._size = piece.number, 0
            self.drop()


class Line:
    """The open call of one site. Iterating gives the pieces of questions, and waits for the next one.

    Raises:
        TransportError: while iterating, the fault of the site for which the call ends.
    """

    def __init__(self, site: str, mutex: threading.Lock) -> None:
        self.site = site
        self.incoming = Incoming()
        self.newest = 0
        self.wanted = 0
        self.limit = 0
        self._question: Iterator[pb.Piece] | None = None
        self._changed = threading.Condition(mutex)
        self._over = False
        self._fault: TransportError | None = None

    # Of these the exchange calls all, under its lock.

    def ask(self, data: bytes, limit: int) -> None:
        """Hands a question over in the place of any older one."""
        self.newest += 1
        self.wanted, self.limit = self.newest, max(self.limit, limit)
        self.incoming.drop()
        number = self.newest
        self._question = takewhile(lambda _: self.wanted == number, cut(data, number))
        self._changed.notify_all()

    def withdraw(self) -> None:
        """Nobody waits for an answer any more."""
        self.wanted, self._question = 0, None
        self.incoming.drop()

    def end(self, fault: TransportError | None = None) -> None:
        """Ends the call; what is left of a question is not sent."""
        if not self._over:
            self._over, self._fault = True, fault
            self.withdraw()
            self._changed.notify_all()

    # Of these the call itself.

    def __iter__(self) -> Iterator[pb.Piece]:
        while question := self._next():
            yield from question
            del question  # it holds the whole envelope

    def _next(self) -> Iterator[pb.Piece] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._question is not None)
            if self._fault is not None:
                raise self._fault
            question, self._question = self._question, None
            return question


class Exchange:
    """Asks sites and collects what they answer. All methods may be called from any thread.

    A site's newest call counts; an older one is ended. A question lives as long as the call over which
    it went, and an answer until it is received: ``awaited`` says which sites have either, and the others must
    be asked again.

    Attributes:
        limit: bytes of the largest answer that is taken now; 0 while no job runs.
    """

    def __init__(self) -> None:
        self.limit = 0
        self._mutex = threading.Lock()
        self._arrived = threading.Condition(self._mutex)
        self._lines: dict[str, Line] = {}
        self._answers: dict[str, Answer] = {}
        self._closed = False

    # The lead's part

    def admit(self, limit: int) -> None:
        """Sets the largest answer that is taken from now on.

        0 ends the asking: open questions are withdrawn, and what was not received is forgotten. A site
        that still answers one does no wrong; its answer is dropped.
        """
        with self._mutex:
            self.limit = limit
            if not limit:
                self._answers.clear()
                for line in self._lines.values():
                    line.withdraw()

    def reachable(self) -> frozenset[str]:
        """Names of the sites that can be asked now."""
        with self._mutex:
            return frozenset(self._lines)

    def awaited(self) -> frozenset[str]:
        """Names of the sites that have a question over an open call, or whose answer was not received yet."""
        with self._mutex:
            return frozenset(site for site, line in self._lines.items() if line.wanted) | self._answers.keys()

    def send(self, site: str, data: bytes, round: int) -> bool:  # noqa: ARG002  # other transports need it
        """Hands a question over to a site, in the place of any older one.

        An answer of the site to an older question that was not received yet is forgotten. ``admit``
        comes first.

        Returns:
            Whether the site has an open call.
        """
        with self._mutex:
            line = self._lines.get(site)
            if line is not None:
                self._answers.pop(site, None)
                line.ask(data, self.limit)
            return line is not None

    def receive(self, wait: float) -> list[Answer]:
        """Everything that has arrived, in order of arrival; waits up to ``wait`` seconds for the first."""
        with self._mutex:
            self._arrived.wait_for(lambda: self._answers or self._closed, wait)
            answers = list(self._answers.values())
            self._answers.clear()
            return answers

    def close(self) -> None:
        """Ends all calls, for good."""
        with self._mutex:
            self._closed = True
            for line in self._lines.values():
                line.end()
            self._lines.clear()
            self._arrived.notify_all()

    # The calls' part

    def enter(self, site: str) -> Line:
        """A site has connected."""
        line = Line(site, self._mutex)
        with self._mutex:
            if older := self._lines.pop(site, None):
                older.end()
            if self._closed:
                line.end()
            else:
                self._lines[site] = line
        return line

    def take(self, line: Line, piece: pb.Piece) -> bool:
        """Takes a piece that came over a call; a wrong one ends the call.

        Returns:
            Whether the call goes on.
        """
        with self._mutex:
            if self._lines.get(line.site) is not line:
                return False
            # A late answer was within what was admitted when it was asked for.
            limit = self.limit if piece.number == line.wanted else line.limit
            try:
                whole = line.incoming.take(piece, line.wanted, line.newest, limit)
            except TransportError as fault:
                self._drop(line, fault)
                return False
            if whole is not None:
                line.wanted = 0
                told = (b"", whole) if isinstance(whole, str) else (whole, "")
                self._answers[line.site] = Answer(line.site, *told)
                self._arrived.notify_all()
            return True

    def leave(self, line: Line) -> None:
        """A call has ended, by the site's wish or because its connection is gone."""
        with self._mutex:
            self._drop(line)

    def cut(self, site: str) -> None:
        """Ends the call of a site."""
        with self._mutex:
            if line := self._lines.get(site):
                self._drop(line)

    def _drop(self, line: Line, fault: TransportError | None = None) -> None:
        line.end(fault)
        if self._lines.get(line.site) is line:
            del self._lines[line.site]
