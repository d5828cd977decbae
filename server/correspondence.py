"""What the lead asks the sites of a job and what they answer, whichever way it goes, and who is there to.

A fault of one site is recorded with its reason; what arrives is opened under that site's key, as what is
expected there, and handed on one by one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flwr.serverapp import Grid

from cloister.privacy.errors import CloisterError, RoundError
from cloister.privacy.plan import Plan
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.envelope import Opened
from cloister.server.exchange import Answer, Exchange
from cloister.server.post import Carrier, FlowerCarrier, Pace, Post
from cloister.server.questions import Questions
from cloister.server.rounds import WAITING, Round, Standing
from cloister.server.sums import Ask

BULKY = 16 << 20
"""Bytes. Where envelopes may be larger, all go in pieces over the consortium service: Flower holds several
copies of a message on its way, and takes none above 64 MiB."""


class Log(Protocol):
    """Where the aggregator's events go (``privacy.evidence.log.EventLog``)."""

    def append(
        self, type: str, *, job: str | None = None, round: int | None = None, **fields: object
    ) -> object:
        """Appends one event, synced."""

    def note(
        self, type: str, *, job: str | None = None, round: int | None = None, **fields: object
    ) -> object:
        """Appends one event that the next one syncs."""


@dataclass(frozen=True)
class Progress:
    """What an operator may see of a run: who answered and how much was moved, never how well it learns."""

    round: int
    rounds: int
    standings: Mapping[str, Standing]
    up: Mapping[str, int]
    down: Mapping[str, int]


@dataclass
class Correspondence:
    """The envelopes of one run of a plan.

    Attributes:
        questions: of the plan, sealed, and its answers, opened.
        log: the lead's event log.
        present: the names of the sites that are connected now.
        stopping: whether the operator asked to stop.
        report: called with the progress whenever a site's standing changes.
        exchange: the consortium service's way to the sites; None where everything goes by Flower.
        left: sites that have left the job, or that are asked no more, each with the id of the reason.
        pace: waiting times.
        up, down: bytes of envelopes by site, in this process.
        away: site -> since when it is not connected, by the monotonic clock.
    """

    questions: Questions
    log: Log
    present: Callable[[], Iterable[str]]
    stopping: Callable[[], bool]
    report: Callable[[Progress], None]
    exchange: Exchange | None
    left: Callable[[], Mapping[str, str]]
    pace: Pace
    up: Counter[str]
    down: Counter[str]
    away: dict[str, float] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The approved plan."""
        return self.questions.plan

    def connected(self) -> set[str]:
        """Names of the sites that both ways lead to."""
        present = set(self.present())
        return present & self.exchange.reachable() if self.exchange is not None else present

    def check_stop(self) -> None:
        """Raises ``RoundError`` ``stopped`` if the operator asked to stop."""
        if self.stopping():
            raise RoundError(
                "stopped", "The run was stopped by its operator.", "`cloister lead resume` continues it."
            )

    def refuse(self, current: Round, site: str, reason: str) -> None:
        """Writes down that a site's answer could not be used."""
        if current.step:  # the update itself stands; why surplus noise was kept is written down once
            return
        self.log.append(
            "update.refused", job=self.plan.digest, round=current.number, site=site, reason=reason
        )

    def progress(self, current: Round) -> None:
        """Reports where the sites stand in a round."""
        rounds = self.plan.training.rounds
        standings = dict(current.standings)
        self.report(Progress(current.number, rounds, standings, dict(self.up), dict(self.down)))

    def ask(self, grid: Grid, current: Round, ask: Ask) -> Iterable[tuple[str, Opened]]:
        """Sends every invited site its envelope and yields the answers one by one as they arrive.

        A site that is away longer than ``pace.absence`` or silent longer than ``pace.answer`` is lost;
        a connected but silent site is sent the same task again, because Flower delivers at most once.
        """
        carrier = self._carrier(grid, ask.kind)
        post = Post(
            carrier=carrier,
            current=current,
            envelopes=lambda sites: self.questions.sealed(current, ask, sites),
            pace=self.pace,
            patience=self.pace.answer if ask.patience is None else ask.patience,
            present=self.connected if carrier is self.exchange else self.present,
            away=self.away,
            lose=lambda site, reason: self._lose(current, site, reason),
        )
        looked = float("-inf")
        while current.of(WAITING):
            if time.monotonic() - looked >= self.pace.look:
                looked = time.monotonic()
                self.check_stop()
                self._lose_leavers(current)
            for site, size in post.send():
                self.down[site] += size
            for answer in post.receive():
                try:
                    yield answer.site, self.opened(current, answer, (ask.answer, messages.REFUSAL))
                except CloisterError as error:
                    current.refuse(answer.site, error.id)
                    self.refuse(current, answer.site, error.id)
                    self.progress(current)
                del answer  # before the next one is fetched: one update in memory at a time
            post.drop_absent()

    def _lose_leavers(self, current: Round) -> None:
        for site, reason in self.left().items():
            if site in current.of(WAITING):
                self._lose(current, site, reason)

    def _carrier(self, grid: Grid, kind: str) -> Carrier:
        """Models and updates go by Flower; steps of secure sums, joint steps and bulk go by the service."""
        quick = kind in sums.ASKED or (self.plan.joint and kind == messages.TASK)
        if self.exchange is not None and (quick or messages.largest_of(self.plan) > BULKY):
            return self.exchange
        return FlowerCarrier(grid, self.pace.answer + self.pace.resend)

    def _lose(self, current: Round, site: str, reason: str) -> None:
        current.lose(site, reason)
        if not current.step:
            self.log.append("site.lost", job=self.plan.digest, round=current.number, site=site, reason=reason)
        self.progress(current)

    def opened(self, current: Round, answer: Answer, kinds: tuple[str, ...]) -> Opened:
        """An answer, counted, verified and opened.

        Raises:
            RoundError: ``site_failed``, the site answered with an error.
            ChannelError: as ``Questions.opened``.
        """
        if answer.refused:
            reason = answer.refused if messages.known(answer.refused) else "internal"
            raise RoundError("site_failed", f"{answer.site} answered with an error: {reason}.")
        self.up[answer.site] += len(answer.data)
        return self.questions.opened(current, answer.site, kinds, answer.data)
