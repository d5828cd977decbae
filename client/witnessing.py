"""The site's end of showing heads: beside the rounds, on a thread of its own.

The participant marks that a round was answered or a job has ended; the thread then shows the site's newest
head, takes those of the others, and gives its countersignatures back with the next call. One call a round
at most, and of joint steps one in ten seconds. None of it holds up a round. The head is light
(``privacy.evidence.heads``) but at the ends and every ten minutes: with four parties a call with whole heads
and countersignatures takes some 40 KB, one with light ones 4.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from cloister.client.consortium import Consortium
from cloister.client.site.folder import SiteFolder
from cloister.privacy.errors import UNWRITABLE, CloisterError, LogError, TransportError
from cloister.privacy.evidence.heads import SignedHead, origin_of
from cloister.privacy.evidence.witnessing import (
    MOST_MARKS,
    WHOLE_S,
    Answered,
    Said,
    Witness,
    countersigned,
    hexed,
    parse,
    parties_by_origin,
    show,
    unhexed,
)
from cloister.privacy.identity import PublicIdentity

PAUSE_S = 1.0
"""Between two calls at least."""
SHORT_S = 10.0
"""Between the calls of two joint steps at least; nothing else waits for it."""
_ROUND, _END = 1, 3
_NEVER = float("-inf")


class Heads:
    """What a site shows and takes; safe to share between threads.

    Args:
        site: the folder of a site that has joined.
        member: its connection.
        clock: seconds that only grow.
    """

    def __init__(
        self, site: SiteFolder, member: Consortium, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._site, self._member, self._clock = site, member, clock
        self._whole = _NEVER  # when the lead last took a whole head
        self.witness = Witness(site.path, site.identity, site.log)
        self._mutex = threading.Lock()
        self._marks: list[str] = []
        self._others: set[int] = set()

    def check(self) -> None:
        """Asks what others hold of this site's log, before anything else is done in this folder.

        Raises:
            LogError: ``log_rolled_back``: the folder is an old copy; ``log_forked`` or ``event_altered``.
            TransportError: the lead cannot be reached, or answers something that is not of the protocol.
        """
        with self._mutex:
            answer = self._ask(Said(held=self.witness.held()))
            self._others = set(answer.held)
            if answer.own:
                self._compare(parse(answer.own))

    def newest(self) -> int:
        """Events of the newest head of this site's log that others hold, under its own signature; 0 for none.

        Raises:
            LogError: ``head_invalid``.
            TransportError: as ``check``.
        """
        answer = self._ask(Said(held=self.witness.held()))
        if not answer.own:
            return 0
        head = parse(answer.own)
        head.verify(self._site.identity.public, light=head.light)
        return head.size

    def _compare(self, head: SignedHead) -> None:
        try:
            self._site.log.check(head)
        except LogError as error:
            if error.id != "log_rolled_back":
                raise
            raise LogError(
                "log_rolled_back",
                f"This folder is an old copy: others hold a later head of its log. {error.what}",
                f"Run: cloister site restore --here --dir {self._site.path}",
            ) from error

    def exchange(self, *, whole: bool = False) -> None:
        """Shows the newest head, takes those of the others, gives and takes countersignatures.

        Args:
            whole: the head is to be whole, however new the last whole one is.

        Raises:
            LogError: a head contradicts an older one (it is kept, and written down as an incident), or does
                not verify.
            TransportError: as ``check``.
        """
        with self._mutex:
            now = self._clock()
            light = not whole and now - self._whole < WHOLE_S
            head, proofs = show(self._site.log, self._others, light=light)
            given = tuple(self._marks[:MOST_MARKS])
            said = Said(
                head=head.serialise().decode(),
                proofs={str(size): hexed(proof) for size, proof in proofs.items()},
                held=self.witness.held(),
                marks=given,
            )
            since, self._whole = self._whole, _NEVER  # what is not taken is followed by a whole one
            answer = self._ask(said)
            if head.size in answer.held:
                self._whole = since if light else now
            del self._marks[: len(given)]
            self._others = {*answer.held, head.size}
            self._take(answer)

    def _ask(self, said: Said) -> Answered:
        return Answered.from_bytes(self._member.heads(said.to_bytes()))

    def _take(self, answer: Answered) -> None:
        """Countersigns what is new; every head is looked at, and the first fault is raised afterwards."""
        own, faults = self._site.identity.public, list[LogError]()
        members = self._site.roster.members
        known = parties_by_origin(members)
        for shown in answer.heads:
            try:
                self._countersign(known, parse(shown.note), unhexed(shown.proof))
            except LogError as error:
                if error.id in UNWRITABLE:
                    raise
                faults.append(error)
        countersigned(self._site.log, own, answer.marks, members)
        if faults:
            raise faults[0]

    def _countersign(
        self, known: Mapping[str, PublicIdentity], head: SignedHead, proof: tuple[bytes, ...]
    ) -> None:
        party = known.get(head.origin)
        if party is None or head.origin == origin_of(self._site.identity.public):
            return  # not in the roster of this site yet
        before = self.witness.newest(party)
        if before is not None and head.size < before.size:
            return  # the lead passed on an old head; nobody signed it anew
        mark = self.witness.take(party, head, proof)
        if mark is not None:
            self._marks.append(mark.serialise().decode())


class Telling(threading.Thread):
    """Calls ``Heads.exchange`` whenever there is news, until ``stop``.

    Args:
        heads: what to call.
        say: gets one line for the person at this machine when a head does not hold.

    Attributes:
        failure: this machine cannot write; the thread has ended.
    """

    def __init__(self, heads: Heads, say: Callable[[str], None]) -> None:
        super().__init__(name="heads", daemon=True)
        self.failure: CloisterError | None = None
        self._heads, self._say = heads, say
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._hurry = threading.Event()
        self._mutex = threading.Lock()
        self._calls = 0

    def mark(self, *, end: bool = False, step: bool = False) -> None:
        """There is news: a round was answered, or (``end``) a job begins or is over.

        At an end the call is made several times, so that what one party says reaches the next; the head of
        the first is whole.

        Args:
            end: of a job, or its beginning.
            step: it was a round of one joint step, which others follow within a second.
        """
        with self._mutex:
            self._calls = max(self._calls, _END if end else _ROUND)
        if not step:
            self._hurry.set()
        self._wake.set()

    def run(self) -> None:
        """Waits for news and tells it."""
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            with self._mutex:
                calls, self._calls = self._calls, 0
            for call in range(calls):
                if self._stopping.is_set() or not self._told(whole=calls == _END and call == 0):
                    return
                self._stopping.wait(PAUSE_S)
            self._hurry.wait(SHORT_S - PAUSE_S)
            self._hurry.clear()

    def _told(self, *, whole: bool) -> bool:
        """One call; False where this machine cannot write."""
        try:
            self._heads.exchange(whole=whole)
        except CloisterError as error:
            if error.id in UNWRITABLE:
                self.failure = error
                return False
            if not isinstance(error, TransportError):
                self._say(error.line())
        return True

    def stop(self, wait: float) -> None:
        """Ends the thread; waits so many seconds for the call that it is in."""
        self._stopping.set()
        self._hurry.set()
        self._wake.set()
        if self.is_alive():
            self.join(wait)
