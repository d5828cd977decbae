"""The ServerApp: runs a plan, round by round, over any Flower ``Grid``.

What becomes of a round is decided in ``server.rounds``, envelopes are moved by ``server.correspondence``.
Whatever arrives is opened under the sender's key from the approved roster, checked against plan, round and
attempt, added to the sum and dropped; a fault of one site is never averaged over.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from cloister.privacy.codecs import feedback
from cloister.privacy.descent import Steps
from cloister.privacy.errors import AggregationError, CloisterError, RoundError, UpdateError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.plan import Plan
from cloister.privacy.secagg import surplus
from cloister.privacy.secagg.server import ServerSum
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.update import Vector
from cloister.privacy.wire import broadcast, messages, sums
from cloister.privacy.wire.broadcast import Change
from cloister.privacy.wire.envelope import Opened
from cloister.server.checkpoint import Checkpoint, Pending
from cloister.server.correspondence import Correspondence, Log, Progress
from cloister.server.exchange import Exchange
from cloister.server.optimizers import stepping
from cloister.server.post import Pace
from cloister.server.questions import Questions
from cloister.server.rounds import ACCEPTED, LOST, REFUSED, WAITING, Round
from cloister.server.sums import Adding, Ask

_PASSING = frozenset(
    {
        *("sum_over", "survivor_set_fixed"),  # it crashed between two writes, and the round is over
        *("model_fell", "model_unknown"),  # it refuses the model, or lacks the one that a change is of
        *("policy_refused", "policy_waits"),  # its policy allows no round now (its hours are over)
    }
)
"""Reasons that cost a site a round and not the job."""


@dataclass
class Federation:
    """One run of a plan at the aggregator.

    Attributes:
        plan: the approved plan.
        identity: the lead's keys.
        roster: everybody's public keys, of the digest that the plan names.
        log: the lead's event log.
        resume: the checkpoint to go on from; of round 0 at the start.
        save: called with a checkpoint after every round, before sites hear of the next one.
        present: the names of the sites that are connected now.
        stopping: whether the operator asked to stop.
        report: called with the progress whenever a site's standing changes.
        exchange: the consortium service's way to the sites; None where everything goes by Flower.
        descent: the steps of a joint job, and of an analytic round; there exactly where the plan has such.
        give_up: ends the round whose sum was begun and not opened, instead of waiting for its survivors.
        left: sites that have left the job, or that are asked no more, each with the id of the reason.
        pace: waiting times.
        up, down: bytes of envelopes by site, in this process.
        mail: what goes to the sites and comes back.
    """

    plan: Plan
    identity: PrivateIdentity
    roster: Roster
    log: Log
    resume: Checkpoint
    save: Callable[[Checkpoint], None]
    present: Callable[[], Iterable[str]]
    stopping: Callable[[], bool] = lambda: False
    report: Callable[[Progress], None] = lambda _: None
    exchange: Exchange | None = None
    descent: Steps | None = None
    give_up: bool = False
    left: Callable[[], Mapping[str, str]] = dict
    pace: Pace = field(default_factory=Pace)
    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)
    mail: Correspondence = field(init=False)

    def __post_init__(self) -> None:
        if (self.descent is not None) != self.plan.stepped:
            raise ValueError("the server takes steps exactly in joint mode and in analytic rounds")
        self.mail = Correspondence(
            questions=Questions(self.plan, self.identity, self.roster),
            log=self.log,
            present=self.present,
            stopping=self.stopping,
            report=self.report,
            exchange=self.exchange,
            left=self.left,
            pace=self.pace,
            up=self.up,
            down=self.down,
        )

    def run(self, grid: Grid) -> Checkpoint:
        """Runs the rounds that are left and hands the final model to the sites.

        Raises:
            RoundError: the plan's minimum of sites was not met, or the operator stopped the run.
            AggregationError: keys were not agreed, or a secure sum could not be opened. Its round is over
                and stays charged; the next one begins when the run is resumed.
        """
        if self.exchange is None:
            return self._run(grid)
        self.exchange.admit(messages.largest_of(self.plan))
        try:
            return self._run(grid)
        finally:
            self.exchange.admit(0)

    def _run(self, grid: Grid) -> Checkpoint:
        state = self.resume
        if self.give_up and state.survivors:
            over = replace(state, survivors=(), taken=None, pending=None, sent=None, holders=())
            after = replace(over, round=state.round + 1)
            state = self._give_up(after, "below_minimum", accepted=[], refused=[], lost=list(state.survivors))
        self._await_sites(state)
        if self.plan.sum_terms and not state.agreed:
            self._adding(grid, self.plan.sum_terms).agree(lambda: self._stage(self.resume, 1))
            state = replace(state, agreed=True)
            self.save(state)
        for number in range(state.round + 1, self.plan.training.rounds + 1):
            state = self._round(grid, state, number)
            self.save(state)
        if self.plan.training.analytic and not state.model.any():
            raise RoundError(
                "nothing_aggregated",
                "The one round of this plan ended without a sum, so there is no model.",
                "Propose a new plan; what sites were charged stays charged.",
            )
        self._finish(grid, state)
        return state

    def _await_sites(self, state: Checkpoint) -> None:
        """Waits until every site is connected, or the minimum is and the time for joining is over."""
        joining = {site.name for site in self.plan.sites} - set(state.excluded)
        deadline = time.monotonic() + self.pace.join
        while missing := (wanted := joining - set(self.left())) - self.mail.connected():
            self.mail.check_stop()
            if time.monotonic() > deadline or len(wanted) < self.plan.aggregation.minimum_sites:
                if len(wanted - missing) >= self.plan.aggregation.minimum_sites:
                    return
                raise RoundError(
                    "below_minimum",
                    f"Not enough sites are connected: {', '.join(sorted(missing))} missing.",
                    "Start `cloister site up` there and resume the job.",
                )
            time.sleep(self.pace.poll)

    # One round

    def _round(self, grid: Grid, state: Checkpoint, number: int) -> Checkpoint:
        current = self._stage(state, number)
        job, terms = self.plan.digest, self.plan.sum_terms
        self.log.append(
            "round.opened", job=job, round=number, model=current.model, invited=list(current.invited)
        )
        place = At(number, 0, current.attempt, current.model)
        summing = ServerSum(terms, place, self._identities()) if terms else None
        acknowledged = dict(state.acknowledged)
        answer = sums.MASKED if terms else messages.UPDATE
        for site, opened in self.mail.ask(grid, current, self._task(messages.TASK, answer, state)):
            self._take(current, site, opened, acknowledged, summing)
            self.mail.progress(current)
            del opened  # before the next one is fetched
        excluded = state.excluded | {
            name: standing.reason
            for name, standing in current.standings.items()
            if standing.state == REFUSED and standing.reason not in _PASSING
        }
        after = replace(
            state,
            round=number,
            acknowledged=acknowledged,
            excluded=excluded,
            survivors=(),
            taken=None,
            pending=None,
        )
        after = replace(after, sent=None, holders=())  # what a round that moves nothing leaves unsaid
        if summing is None:
            after = self._moved(current, after, current.close())
        else:
            after = self._add_up(grid, current, summing, state, after)
        self.log.append(
            "round.closed",
            job=job,
            round=number,
            model=messages.model_digest(after.model),
            **_outcome(current),
        )
        return after

    def _add_up(
        self, grid: Grid, current: Round, summing: ServerSum, state: Checkpoint, after: Checkpoint
    ) -> Checkpoint:
        """The state after a secure sum over those whose masked update is there.

        Raises:
            RoundError: ``below_minimum``; the same sum is still open when the run is resumed.
            AggregationError, UpdateError: it can never be opened, or is no sum of the plan's updates; the
                checkpoint ``after`` was saved.
        """
        current.check()
        survivors = summing.survivors()
        if state.survivors and survivors != state.survivors:  # sites sign one survivor set a round
            raise RoundError(
                "below_minimum",
                f"Round {current.number} had begun with {', '.join(state.survivors)}, and not all answer.",
                "Bring them back and resume, or resume with --give-up: the round then stays charged.",
            )
        adding = self._adding(grid, summing.terms)
        pending = state.pending
        if pending is None:
            self.save(replace(state, survivors=survivors))
            try:
                pending = Pending(*adding.open(current, summing))
            except AggregationError as error:
                self._give_up(after, error.id, **_outcome(current))
                raise
        words = pending.words
        self._sum_closed(current, survivors, pending.signed, pending.opened)
        step = self.descent.at(current.number) if self.descent else None
        if step is None:
            return self._closed(current, after, words)
        if self.plan.aggregation.surplus and self.plan.grid_in(current.number).unneeded(len(survivors)):
            self.save(replace(state, survivors=survivors, pending=pending))
            words = self._without_surplus(adding, current, survivors, words)
        try:
            change, moments = step.take(state.moments, words, survivors)
        except UpdateError as error:  # no noisy sum of joint steps is one, but an analytic sum may be
            self._give_up(after, error.id, **_outcome(current))
            raise
        # Sites take a joint step again; without shared noise the sums of all sites stay with the lead.
        taken = messages.Taken(words, survivors) if self.plan.joint else None
        return after.stepped(change, moments, taken)

    def _without_surplus(
        self, adding: Adding, current: Round, survivors: tuple[str, ...], words: NDArray[np.uint32]
    ) -> NDArray[np.uint32]:
        """The opened sum of a joint step without its surplus noise; as it is if that cannot be had."""
        try:
            noise, signed, opened = adding.surplus(current, survivors)
        except AggregationError as error:
            self.log.append(
                "surplus.kept",
                job=self.plan.digest,
                round=current.number,
                reason=error.id,
                survivors=sorted(survivors),
            )
            return words
        self._sum_closed(current, survivors, signed, opened, surplus.STEP)
        return surplus.without(words, noise)

    def _sum_closed(
        self,
        current: Round,
        survivors: tuple[str, ...],
        signed: tuple[str, ...],
        opened: tuple[str, ...],
        step: int = 0,
    ) -> None:
        self.log.note(  # before the round is closed, which is appended
            "sum.closed",
            job=self.plan.digest,
            round=current.number,
            step=step,
            survivors=sorted(survivors),
            signed=sorted(signed),
            opened=sorted(opened),
        )

    def _closed(self, current: Round, after: Checkpoint, words: NDArray[np.uint32]) -> Checkpoint:
        """The state after an opened sum of updates."""
        try:
            return self._moved(current, after, current.close_with(words))
        except UpdateError as error:
            self._give_up(after, error.id, **_outcome(current))
            raise

    def _moved(self, current: Round, after: Checkpoint, mean: Vector) -> Checkpoint:
        """The state after the server's step by a mean change."""
        change, moments = stepping.step(self.plan.training.server, after.moments, mean)
        down = self.plan.aggregation.down
        if down is None:
            return replace(after, model=after.model + change, moments=moments)
        fed = feedback.encode(down, change, after.rest)
        return replace(
            after,
            model=after.model + fed.values,
            moments=moments,
            rest=fed.rest,
            sent=Change(current.model, fed.content),
            holders=current.of(ACCEPTED),
        )

    def _give_up(self, after: Checkpoint, reason: str, **outcome: list[str]) -> Checkpoint:
        """Ends a round whose sum is lost: it stays charged, and no step is taken."""
        self.log.append("round.aborted", job=self.plan.digest, round=after.round, reason=reason, **outcome)
        self.save(after)
        return after

    def _adding(self, grid: Grid, terms: SumTerms) -> Adding:
        return Adding(
            terms,
            self._identities(),
            lambda current, ask: self.mail.ask(grid, current, ask),
            self.mail.refuse,
        )

    def _identities(self) -> dict[str, PublicIdentity]:
        return {site.name: self.roster.member(site.name) for site in self.plan.sites}

    def _stage(self, state: Checkpoint, number: int) -> Round:
        """An exchange with all sites that are still asked, from the model of a checkpoint."""
        return Round(
            self.plan, number, 1, messages.model_digest(state.model), state.survivors or self._invited(state)
        )

    def _task(self, kind: str, answer: str, state: Checkpoint) -> Ask:
        """The global model, or what changed of it, with what of each site arrived last."""
        memory = state.moments if self.plan.remembered else ()

        def content(site: str) -> bytes:
            known = state.acknowledged.get(site, "")
            if state.sent is not None and site in state.holders:
                return broadcast.changed(known, state.sent)
            task = messages.Task(state.model, known, state.taken, memory)
            return task.to_bytes() if self.plan.aggregation.down is None else broadcast.full(task)

        return Ask(kind, answer, content, patience=None)

    def _invited(self, state: Checkpoint) -> tuple[str, ...]:
        gone = {*state.excluded, *self.left()}
        return tuple(site.name for site in self.plan.sites if site.name not in gone)

    def _take(
        self,
        current: Round,
        site: str,
        opened: Opened,
        acknowledged: dict[str, str],
        summing: ServerSum | None,
    ) -> None:
        """Adds an update to the round, or notes why it cannot be used."""
        job, number = self.plan.digest, current.number
        if opened.header.kind == messages.REFUSAL:
            reason = messages.refusal_reason(opened.content)
            current.refuse(site, reason)
            self.log.append("update.refused", job=job, round=number, site=site, reason=reason)
            return
        try:
            if summing is None:
                current.accept(site, opened.pieces)
            else:
                d, bits = self.plan.summands(number), self.plan.aggregation.width
                summing.add(site, sums.masked_from_bytes(opened.content, d, bits))
                current.note(site)
        except CloisterError as error:
            current.refuse(site, error.id)
            self.log.append("update.refused", job=job, round=number, site=site, reason=error.id)
            return
        acknowledged[site] = opened.digest
        write = self.log.note if current.of(WAITING) else self.log.append  # the last one syncs them all
        write("update.received", job=job, round=number, site=site, sealed=opened.digest)

    # The end

    def _finish(self, grid: Grid, state: Checkpoint) -> None:
        """Hands every site that is present the final model; one that is away does not get it."""
        current = self._stage(state, self.plan.training.rounds + 1)
        for site, opened in self.mail.ask(grid, current, self._task(messages.FINISH, messages.CLOSED, state)):
            if opened.header.kind == messages.REFUSAL:
                current.refuse(site, messages.refusal_reason(opened.content))
            else:
                current.note(site)
        self.log.append(
            "model.released",
            job=self.plan.digest,
            model=messages.model_digest(state.model),
            recipients=list(current.of(ACCEPTED)),
        )


def _outcome(current: Round) -> dict[str, list[str]]:
    """Who is in which state at the end of a round."""
    return {
        "accepted": list(current.of(ACCEPTED)),
        "refused": list(current.of(REFUSED)),
        "lost": list(current.of(LOST)),
    }


def server_app(federation: Federation, done: Callable[[Checkpoint], None] = lambda _: None) -> ServerApp:
    """The Flower ServerApp of one run; ``done`` gets the final checkpoint."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  # Flower calls it with both names
        done(federation.run(grid))

    return app
