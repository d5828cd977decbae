"""How one question to several sites is asked: who has it, who is asked again, and who is given up on.

A carrier moves sealed envelopes to sites and back: Flower's ``Grid`` (``FlowerCarrier``), or the consortium
service (``server.exchange``), which takes milliseconds where a Flower message takes tenths of a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from cloister.server.exchange import Answer
from cloister.server.rounds import WAITING, Round


@dataclass(frozen=True)
class Pace:
    """Waiting times in seconds. They change speed only, so they stand outside the plan.

    Attributes:
        answer: a site that has not answered a task after this time is lost for the round.
        absence: so long may a site be disconnected before it is lost for the round.
        resend: a site that stays connected but is silent gets the same task again after this time.
        join: so long does a run wait at its start for sites that are not connected.
        poll: pause between two looks for answers.
        look: pause between two looks for sites that cannot be reached yet or have left, and for the
            operator's wish to stop.
    """

    answer: float = 1800.0
    absence: float = 10.0
    resend: float = 300.0
    join: float = 600.0
    poll: float = 0.02
    look: float = 0.2


class Carrier(Protocol):
    """Moves envelopes between the lead and its sites."""

    def reachable(self) -> Iterable[str]:
        """Names of the sites that can be asked now."""
        ...

    def awaited(self) -> Iterable[str]:
        """Names of the sites that have a question and may still answer it."""
        ...

    def send(self, site: str, data: bytes, round: int) -> bool:
        """Hands a question over, in the place of any older one; whether the site can be reached."""
        ...

    def receive(self, wait: float) -> Iterable[Answer]:
        """Everything that has arrived; waits up to about ``wait`` seconds for the first."""
        ...


class FlowerCarrier:
    """Flower's way; for one question, which each site is asked.

    Args:
        grid: of the run.
        ttl: seconds for which Flower keeps a message.
    """

    def __init__(self, grid: Grid, ttl: float) -> None:
        self._grid, self._ttl = grid, ttl
        self._nodes: dict[str, int] = {}
        self._sent: dict[str, str] = {}  # site -> message id

    def reachable(self) -> Iterable[str]:
        """See ``Carrier``."""
        self._nodes = {node.name: node.node_id for node in self._grid.get_nodes()}
        return self._nodes

    def awaited(self) -> Iterable[str]:
        """See ``Carrier``; what Flower has given up on is not awaited."""
        lost = getattr(self._grid, "lost", ())
        return [site for site, message in self._sent.items() if message not in lost]

    def send(self, site: str, data: bytes, round: int) -> bool:
        """See ``Carrier``."""
        if site not in self._nodes:
            return False
        message = Message(
            content=RecordDict({"envelope": ConfigRecord({"b": data})}),
            message_type="train",
            dst_node_id=self._nodes[site],
            group_id=str(round),
            ttl=self._ttl,
        )
        (self._sent[site],) = self._grid.push_messages([message])
        return True

    def receive(self, wait: float) -> Iterable[Answer]:
        """See ``Carrier``; each answer is fetched when it is its turn."""
        sites = {message: site for site, message in self._sent.items()}
        heard = False
        for reply in self._grid.pull_messages(list(sites)) if sites else ():
            heard = True
            site = sites[reply.metadata.reply_to_message_id]
            self._sent.pop(site, None)
            yield _answer(site, reply)
            del reply  # before the next one is fetched
        if not heard:
            time.sleep(wait)


def _answer(site: str, reply: Message) -> Answer:
    if reply.has_error():
        return Answer(site, refused=reply.error.reason or "internal")
    record = reply.content.get("envelope")
    data = record.get("b") if isinstance(record, ConfigRecord) else None
    return Answer(site, data) if isinstance(data, bytes) else Answer(site, refused="envelope_malformed")


@dataclass
class Post:
    """One question to the sites of a round.

    Attributes:
        carrier: moves the envelopes.
        current: who is waited for.
        envelopes: the sealed question of each of some sites, as it is made.
        pace: waiting times.
        patience: seconds until a silent site is lost.
        present: names of the connected sites.
        away: site -> since when it is not connected; outlasts a question.
        lose: told of a site that is given up on, with the id of the reason.
    """

    carrier: Carrier
    current: Round
    envelopes: Callable[[Sequence[str]], Iterable[tuple[str, bytes]]]
    pace: Pace
    patience: float
    present: Callable[[], Iterable[str]]
    away: dict[str, float]
    lose: Callable[[str, str], None]
    _sent: dict[str, float] = field(default_factory=dict, init=False)
    _started: float = field(default_factory=time.monotonic, init=False)
    _looked: float = field(default=float("-inf"), init=False)

    def send(self) -> Sequence[tuple[str, int]]:
        """Asks every waiting site that can be reached and has no question, or has been silent too long.

        Returns:
            Whom, and in how many bytes.
        """
        now, awaited = time.monotonic(), set(self.carrier.awaited())
        recent = {s for s, when in self._sent.items() if s in awaited and now - when <= self.pace.resend}
        due = [site for site in self.current.of(WAITING) if site not in recent]
        if not due or now - self._looked < self.pace.look:
            return ()
        self._looked = now
        reachable, sent = set(self.carrier.reachable()), []
        for site, data in self.envelopes([site for site in due if site in reachable]):
            if self.carrier.send(site, data, self.current.number):
                self._sent[site] = now
                sent.append((site, len(data)))
        return sent

    def receive(self) -> Iterable[Answer]:
        """Answers of sites that are waited for."""
        for answer in self.carrier.receive(self.pace.poll):
            if answer.site in self.current.of(WAITING):
                yield answer
            del answer

    def drop_absent(self) -> None:
        """Gives up on sites that are away or silent for too long; they may still work on the question.

        One that comes back is asked again at once: Flower delivers at most once, and a site that died between
        taking a question and writing it down has lost it. A stored answer is sent again, byte for byte.
        """
        now, present = time.monotonic(), set(self.present())
        for site in present:
            if self.away.pop(site, None) is not None:
                self._sent.pop(site, None)
        for site in self.current.of(WAITING):
            if site not in present and now - self.away.setdefault(site, now) > self.pace.absence:
                self.lose(site, "site_lost")
            elif now - self._started > self.patience:
                self.lose(site, "deadline")
