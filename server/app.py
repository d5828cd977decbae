"""The ServerApp: runs a plan, round by round, over any Flower ``Grid``.

The decisions are made in ``server.rounds``; this file moves the envelopes. Whatever arrives is opened
under the sender's key from the approved roster, checked against plan, round and attempt, added to the
sum and dropped. A fault of one site is recorded with its reason and never averaged over.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from cloister.privacy.errors import AggregationError, CloisterError, RoundError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.rounds import ServerSum
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.update import Vector
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.envelope import Header, Opened, open_envelope, peek, seal
from cloister.server.checkpoint import Checkpoint
from cloister.server.rounds import ACCEPTED, LOST, REFUSED, WAITING, Round, Standing
from cloister.server.sums import Adding, Ask


@dataclass(frozen=True)
class Pace:
    """Waiting times in seconds. They change speed only, so they stand outside the plan.

    Attributes:
        answer: a site that has not answered a task after this time is lost for the round.
        absence: so long may a site be disconnected before it is lost for the round.
        resend: a site that is connected but silent gets the same task again after this time.
        join: so long does a run wait at its start for sites that are not connected.
        poll: pause between two looks for answers.
        look: pause between two looks for sites that are not yet known to Flower.
    """

    answer: float = 1800.0
    absence: float = 10.0
    resend: float = 300.0
    join: float = 600.0
    poll: float = 0.02
    look: float = 0.2


class Log(Protocol):
    """Where the aggregator's events go (``privacy.evidence.log.EventLog``)."""

    def append(
        self, type: str, *, job: str | None = None, round: int | None = None, **fields: object
    ) -> object:
        """Appends one event, synced."""


@dataclass(frozen=True)
class Progress:
    """What an operator may see of a run: who answered and how much was moved, never how well it learns."""

    round: int
    rounds: int
    standings: Mapping[str, Standing]
    up: Mapping[str, int]
    down: Mapping[str, int]


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
        up, down: bytes of envelopes by site, in this process.
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
    pace: Pace = field(default_factory=Pace)
    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)
    away: dict[str, float] = field(default_factory=dict)  # site -> since when it is not connected

    def run(self, grid: Grid) -> Checkpoint:
        """Runs the rounds that are left and hands the final model to the sites.

        Raises:
            RoundError: the plan's minimum of sites was not met, or the operator stopped the run.
            AggregationError: keys were not agreed, or a secure sum could not be opened. Its round is over
                and stays charged; the next one begins when the run is resumed.
        """
        state = self.resume
        self._await_sites(state)
        if self.plan.sum_terms and not state.agreed:
            self._adding(grid, self.plan.sum_terms).agree(lambda: self._stage(self.resume, 1))
            state = replace(state, agreed=True)
            self.save(state)
        for number in range(state.round + 1, self.plan.training.rounds + 1):
            state = self._round(grid, state, number)
            self.save(state)
        self._finish(grid, state)
        return state

    def _await_sites(self, state: Checkpoint) -> None:
        """Waits until every site is connected, or the minimum is and the time for joining is over."""
        wanted = {site.name for site in self.plan.sites} - set(state.excluded)
        deadline = time.monotonic() + self.pace.join
        while missing := wanted - set(self.present()):
            self._check_stop()
            if time.monotonic() > deadline:
                if len(wanted - missing) >= self.plan.aggregation.minimum_sites:
                    return
                raise RoundError(
                    "below_minimum",
                    f"Not enough sites are connected: {', '.join(sorted(missing))} missing.",
                    "Start `cloister site up` there and resume the job.",
                )
            time.sleep(self.pace.poll)

    def _check_stop(self) -> None:
        if self.stopping():
            raise RoundError(
                "stopped", "The run was stopped by its operator.", "`cloister lead resume` continues it."
            )

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
        for site, opened in self._exchange(grid, current, self._task(messages.TASK, answer, state)):
            self._take(current, site, opened, acknowledged, summing)
            self.progress(current)
            del opened  # before the next one is fetched: one update in memory at a time
        excluded = state.excluded | {
            name: standing.reason for name, standing in current.standings.items() if standing.state == REFUSED
        }
        after = replace(state, round=number, acknowledged=acknowledged, excluded=excluded, survivors=())
        if summing is None:
            new_model = current.close(state.model)
        else:
            new_model = self._add_up(grid, current, summing, state, after)
        self.log.append(
            "round.closed",
            job=job,
            round=number,
            model=messages.model_digest(new_model),
            **_outcome(current),
        )
        return replace(after, model=new_model)

    def _add_up(
        self, grid: Grid, current: Round, summing: ServerSum, state: Checkpoint, after: Checkpoint
    ) -> Vector:
        """The model after a secure sum over those whose masked update is there.

        Raises:
            RoundError: ``below_minimum``; the same sum is still open when the run is resumed.
            AggregationError: it can never be opened; the checkpoint ``after`` was saved.
        """
        current.check()
        survivors = summing.survivors()
        if state.survivors and survivors != state.survivors:  # sites sign one survivor set a round
            raise RoundError(
                "below_minimum",
                f"Round {current.number} had begun with {', '.join(state.survivors)}, and not all answer.",
                "Bring them back and resume; the sum is still open.",
            )
        self.save(replace(state, survivors=survivors))
        job, number = self.plan.digest, current.number
        try:
            words, signed, opened = self._adding(grid, summing.terms).open(current, summing)
        except AggregationError as error:
            self.log.append("round.aborted", job=job, round=number, reason=error.id, **_outcome(current))
            self.save(after)
            raise
        self.log.append(
            "sum.closed",
            job=job,
            round=number,
            step=0,
            survivors=sorted(summing.survivors()),
            signed=sorted(signed),
            opened=sorted(opened),
        )
        return current.close_with(state.model, words)

    def _adding(self, grid: Grid, terms: SumTerms) -> Adding:
        return Adding(
            terms,
            self._identities(),
            lambda current, ask: self._exchange(grid, current, ask),
            self._refused,
        )

    def _identities(self) -> dict[str, PublicIdentity]:
        return {site.name: self.roster.member(site.name) for site in self.plan.sites}

    def _refused(self, current: Round, site: str, reason: str) -> None:
        self.log.append(
            "update.refused", job=self.plan.digest, round=current.number, site=site, reason=reason
        )

    def _stage(self, state: Checkpoint, number: int) -> Round:
        """An exchange with all sites that are still asked, from the model of a checkpoint."""
        return Round(
            self.plan, number, 1, messages.model_digest(state.model), state.survivors or self._invited(state)
        )

    @staticmethod
    def _task(kind: str, answer: str, state: Checkpoint) -> Ask:
        """The global model, with what of each site arrived last."""

        def content(site: str) -> bytes:
            return messages.Task(state.model, state.acknowledged.get(site, "")).to_bytes()

        return Ask(kind, answer, content, patience=None)

    def _invited(self, state: Checkpoint) -> tuple[str, ...]:
        return tuple(site.name for site in self.plan.sites if site.name not in state.excluded)

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
                summing.add(site, sums.masked_from_bytes(opened.content, self.plan.adapter.parameters))
                current.note(site)
        except CloisterError as error:
            current.refuse(site, error.id)
            self.log.append("update.refused", job=job, round=number, site=site, reason=error.id)
            return
        acknowledged[site] = opened.digest
        self.log.append("update.received", job=job, round=number, site=site, sealed=opened.digest)

    def progress(self, current: Round) -> None:
        """Reports where the sites stand in a round."""
        rounds = self.plan.training.rounds
        standings = dict(current.standings)
        self.report(Progress(current.number, rounds, standings, dict(self.up), dict(self.down)))

    # Moving envelopes

    def _exchange(self, grid: Grid, current: Round, ask: Ask) -> Iterable[tuple[str, Opened]]:
        """Sends every invited site its envelope and yields the answers one by one as they arrive.

        A site that is away longer than ``pace.absence`` or silent longer than ``pace.answer`` is lost;
        a connected but silent site is sent the same task again, because Flower delivers at most once.
        """
        post = _Post(self, grid, current, ask)
        while current.of(WAITING):
            self._check_stop()
            post.send()
            waiting = current.of(WAITING)
            yield from post.receive()
            post.drop_absent()
            if current.of(WAITING) == waiting:  # nothing was heard
                time.sleep(self.pace.poll)

    def envelope(self, current: Round, site: str, ask: Ask) -> bytes:
        """The sealed and signed message for one site."""
        header = self._header(current, site, ask.kind, up=False)
        return seal(header, ask.content(site), self.identity, self.roster.member(site))

    def task(self, current: Round, site: str, state: Checkpoint) -> bytes:
        """The sealed and signed task of a round for one site."""
        return self.envelope(current, site, self._task(messages.TASK, messages.UPDATE, state))

    def opened(self, current: Round, site: str, kinds: tuple[str, ...], data: bytes) -> Opened:
        """An answer, verified and opened.

        Raises:
            ChannelError: not signed by the site, or for another plan, round, attempt or model.
        """
        secure = self.plan.aggregation.secure
        limit = messages.largest(self.plan.adapter.parameters, len(self.plan.sites) if secure else 0)
        kind = peek(data, limit).kind
        return open_envelope(
            data,
            expected=self._header(current, site, kind if kind in kinds else kinds[0], up=True),
            recipient=self.identity,
            sender=self.roster.member(site),
            limit=limit,
        )

    def _header(self, current: Round, site: str, kind: str, *, up: bool) -> Header:
        lead = self.plan.lead.name
        return Header(
            kind=kind,
            consortium=self.plan.consortium,
            plan=self.plan.digest,
            round=current.number,
            step=0,
            attempt=current.attempt,
            sender=site if up else lead,
            recipient=lead if up else site,
            model=current.model,
        )

    # The end

    def _finish(self, grid: Grid, state: Checkpoint) -> None:
        """Hands every site that is present the final model; a site that is away fetches it later."""
        current = self._stage(state, self.plan.training.rounds + 1)
        for site, opened in self._exchange(
            grid, current, self._task(messages.FINISH, messages.CLOSED, state)
        ):
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


class _Post:
    """The messages of one exchange: which were sent to whom, and since when a site is away."""

    def __init__(self, federation: Federation, grid: Grid, current: Round, ask: Ask) -> None:
        self.federation, self.grid = federation, grid
        self.current, self.ask = current, ask
        self.patience = federation.pace.answer if ask.patience is None else ask.patience
        self.sent: dict[str, tuple[str, float]] = {}  # site -> (message id, when)
        self.started = time.monotonic()
        self.looked = 0.0

    def send(self) -> None:
        """Sends to every waiting site that is connected and has no message, or has been silent too long."""
        now, pace = time.monotonic(), self.federation.pace
        recent = {site for site, (_, when) in self.sent.items() if now - when <= pace.resend}
        due = [site for site in self.current.of(WAITING) if site not in recent]
        if not due or now - self.looked < pace.look:
            return
        self.looked = now
        nodes = {node.name: node.node_id for node in self.grid.get_nodes()}
        for site in due:
            if site not in nodes:
                continue
            data = self.federation.envelope(self.current, site, self.ask)
            content = RecordDict({"envelope": ConfigRecord({"b": data})})
            message = Message(
                content=content,
                message_type="train",
                dst_node_id=nodes[site],
                group_id=str(self.current.number),
                ttl=pace.answer + pace.resend,
            )
            (message_id,) = self.grid.push_messages([message])
            self.sent[site] = (message_id, now)
            self.federation.down[site] += len(data)

    def receive(self) -> Iterable[tuple[str, Opened]]:
        """The answers that are there, opened; one that does not open marks its site as refused."""
        waiting = {self.sent[s][0]: s for s in self.current.of(WAITING) if s in self.sent}
        if not waiting:
            return
        for reply in self._pulled(waiting):
            site = waiting[reply.metadata.reply_to_message_id]
            try:
                yield site, self._open(site, reply)
            except CloisterError as error:
                self.current.refuse(site, error.id)
                self.federation.log.append(
                    "update.refused",
                    job=self.federation.plan.digest,
                    round=self.current.number,
                    site=site,
                    reason=error.id,
                )
                self.federation.progress(self.current)
            del reply

    def _pulled(self, waiting: Mapping[str, str]) -> Iterable[Message]:
        yield from self.grid.pull_messages(list(waiting))
        for message_id in getattr(self.grid, "lost", ()):  # what Flower has given up on is sent again
            if message_id in waiting:
                self.sent.pop(waiting[message_id], None)

    def _open(self, site: str, reply: Message) -> Opened:
        if reply.has_error():
            told = reply.error.reason or ""
            reason = told if messages.known(told) else "internal"
            raise RoundError("site_failed", f"{site} answered with an error: {reason}.")
        try:
            data = reply.content["envelope"]["b"]
        except KeyError as error:
            raise RoundError("site_failed", f"{site} answered something that holds no envelope.") from error
        if not isinstance(data, bytes):
            raise RoundError("site_failed", f"{site} answered something that holds no envelope.")
        self.federation.up[site] += len(data)
        return self.federation.opened(self.current, site, (self.ask.answer, messages.REFUSAL), data)

    def drop_absent(self) -> None:
        """Gives up on sites that are away or silent for too long; their message may still be worked on."""
        now, pace = time.monotonic(), self.federation.pace
        away, present = self.federation.away, set(self.federation.present())
        for site in present:
            away.pop(site, None)
        for site in self.current.of(WAITING):
            if site not in present and now - away.setdefault(site, now) > pace.absence:
                self._lose(site, "site_lost")
            elif now - self.started > self.patience:
                self._lose(site, "deadline")

    def _lose(self, site: str, reason: str) -> None:
        self.current.lose(site, reason)
        federation, number = self.federation, self.current.number
        federation.log.append("site.lost", job=federation.plan.digest, round=number, site=site, reason=reason)
        federation.progress(self.current)


def server_app(federation: Federation, done: Callable[[Checkpoint], None] = lambda _: None) -> ServerApp:
    """The Flower ServerApp of one run; ``done`` gets the final checkpoint."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  # Flower calls it with both names
        done(federation.run(grid))

    return app
