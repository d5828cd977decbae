"""The rounds of a simulated job: what a site and the lead do in each, without what carries it between them.

Order and code are those of a real round: a site reserves its cost, moves its randomness to the round,
trains, says what was done, and encodes; updates are masked and opened, or added up in the open; and the
server's own state of a round makes the next model of them. Sites take turns, and what a site sent is added
before the next one trains, so no more than one update is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from cloister.client.centring import centred
from cloister.privacy.analytic.solution import Solution
from cloister.privacy.descent import Memory, steps_of
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan
from cloister.privacy.secagg import surplus as noise_sum
from cloister.privacy.secagg.encoding import encode, residues
from cloister.privacy.secagg.terms import At
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.wire import messages
from cloister.server.optimizers import stepping
from cloister.server.rounds import Round
from cloister.simulations.engine.head import Moment
from cloister.simulations.engine.sums import Opened, Sums

ATTEMPT = 1


@dataclass(frozen=True, eq=False)
class Account:
    """Where a site's costs go before anything leaves, and what they came to once a sum was opened.

    Attributes:
        reserve: called with the round and what it may cost.
        settle: called with the round and what it came to.
    """

    reserve: Callable[[int, GaussianSteps], None] = lambda _round, _mechanism: None
    settle: Callable[[int, GaussianSteps], None] = lambda _round, _mechanism: None


FREE = Account()
"""Keeps no account: for searches on validation data, which a real consortium would have to charge."""


class Learner(Protocol):
    """A site's data in the form that its training starts from."""

    def train(self, model: Vector, entropy: Entropy, at: Moment) -> Delta:
        """What the local steps of a round change, and every noised step that went into it."""
        ...

    def share(self, model: Vector, entropy: Entropy, at: Moment) -> Share:
        """This site's part of one joint step."""
        ...

    def surplus(self, survivors: int, entropy: Entropy, at: Moment) -> Surplus:
        """What of this site's noise at a moment a sum over so many survivors does not need."""
        ...

    def sums(self, entropy: Entropy, at: Moment) -> Encoded:
        """This site's part of an analytic round."""
        ...


@dataclass(frozen=True, eq=False)
class Seat:
    """A site's place in a job.

    Attributes:
        learner: trains.
        entropy: where its sampling and noise come from.
        account: of its ledger.
    """

    learner: Learner
    entropy: Entropy
    account: Account = FREE


Seats = Mapping[str, Seat]
Watch = Callable[[int, int, Vector], None]
"""Told after each round: how many sums were opened and bytes sent by one site so far, and the model."""


def unwatched(_sums: int, _sent: int, _model: Vector) -> None:
    """Nobody looks on."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A model and what it took.

    Attributes:
        model: float32, shape (d,).
        bytes_up: what one site sent, encoded, before it was sealed and signed.
        sums: how many sums were opened.
    """

    model: Vector
    bytes_up: int
    sums: int


def joint(
    plan: Plan, layout: Layout, seats: Seats, sums: Sums, start: Vector, watch: Watch = unwatched
) -> Trained:
    """A joint job: every round one step and one opened sum, and one more where surplus noise is taken back.

    Args:
        plan: its mode is ``joint``.
        layout: the order of the trained parameters.
        seats: in the plan's order.
        sums: opens them.
        start: the model before round 1, float32, shape (d,).
        watch: told after each round.

    Raises:
        UpdateError, AggregationError, BudgetError: as each part does.
    """
    model, sent, opens, rate = start, 0, 0, plan.training.rate
    memory: Memory = ()
    steps = steps_of(plan, layout)
    for number in range(1, plan.training.rounds + 1):
        at, grid = At(number, 0, ATTEMPT, messages.model_digest(model)), plan.grid_in(number)
        step = steps.at(number) if steps else None
        if step is None:
            raise ValueError(f"no step is taken from the sum of round {number}")
        reserved = grid.event(rate, 1, grid.n_min - grid.t)
        sent_by = (
            _sums(seats, at, reserved) if plan.release_in(number) else _shares(seats, model, at, reserved)
        )
        opened = sums.open(at, sent_by)
        known, vectors = grid.settled(rate, len(opened.survivors)), 1
        for name in opened.survivors:
            seats[name].account.settle(number, known)
        if grid.unneeded(len(opened.survivors)):
            opened, vectors = _without_surplus(seats, sums, at, opened), 2
        change, memory = step.take(memory, opened.words, opened.survivors)
        model = model + change
        sent, opens = sent + vectors * opened.words.nbytes, opens + vectors
        watch(opens, sent, model)
    return Trained(model, sent, opens)


def _without_surplus(seats: Seats, sums: Sums, at: At, opened: Opened) -> Opened:
    """An opened sum, less the noise that it does not need."""
    parts = _surpluses(seats, at, opened.survivors)
    surplus = sums.open(noise_sum.place(at), parts, over=opened.survivors)
    return Opened(noise_sum.without(opened.words, surplus.words), opened.survivors)


def _surpluses(seats: Seats, at: At, survivors: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for name in survivors:
        seat = seats[name]
        seat.entropy.advance(at.round)  # from the start of the round: the same parts once more
        moment = Moment(at.round, at.attempt, at.model)
        yield name, residues(seat.learner.surplus(len(survivors), seat.entropy, moment)).content


def _shares(seats: Seats, model: Vector, at: At, reserved: GaussianSteps) -> Iterator[tuple[str, bytes]]:
    for name, seat in seats.items():
        seat.account.reserve(at.round, reserved)
        seat.entropy.advance(at.round)
        share = seat.learner.share(model, seat.entropy, Moment(at.round, at.attempt, at.model))
        yield name, residues(share).content


def local(plan: Plan, seats: Seats, sums: Sums | None, start: Vector, watch: Watch = unwatched) -> Trained:
    """Federated averaging (McMahan et al. 2017), with every site's own noise where the plan is private.

    Args:
        plan: its mode is ``local`` or ``off``.
        seats: in the plan's order.
        sums: opens what travels masked; None where the plan has no secure aggregation and the server adds up
            what it sees.
        start: the model before round 1, float32, shape (d,).
        watch: told after each round.

    Raises:
        PlanError: ``plan_conflict``, the plan has few bits a parameter or a codec, which is not simulated.
        UpdateError, AggregationError, BudgetError, RoundError: as each part does.
    """
    how = plan.aggregation
    if how.bits is not None or how.codec is not None or how.down is not None:
        raise PlanError(
            "plan_conflict",
            "A simulation adds up words of 32 bits, and the plan has fewer.",
            "Leave out bits and codecs.",
        )
    if (sums is not None) != plan.aggregation.secure:
        raise ValueError("updates are masked exactly where the plan says so")
    model, before, sent = start, start, 0
    moments: stepping.Moments = ()
    if plan.release and sums:
        model, sent = _begun(plan, seats, sums, start)
        before = model
        watch(1, sent, model)
    for number in range(2 if plan.release else 1, plan.training.rounds + 1):
        current = Round(plan, number, ATTEMPT, messages.model_digest(model), tuple(seats))
        at = At(number, 0, ATTEMPT, current.model)
        updates = _updates(plan, seats, model, model - before, at)
        if sums is None:
            for name, content in updates:
                current.accept(name, (content,))
            mean = current.close()
        else:
            opened = sums.open(at, updates)
            for name in opened.survivors:
                current.note(name)
            mean = current.close_with(opened.words)
        change, moments = stepping.step(plan.training.server, moments, mean)
        before, model, sent = model, model + change, sent + plan.ring.content_bytes
        watch(number, sent, model)
    return Trained(model, sent, plan.training.rounds)


def _begun(plan: Plan, seats: Seats, sums: Sums, zero: Vector) -> tuple[Vector, int]:
    """The model after an analytic first round, and what a site sent for it."""
    at, mechanism = At(1, 0, ATTEMPT, messages.model_digest(zero)), plan.round_mechanism
    opened = sums.open(at, _sums(seats, at, mechanism))
    if mechanism:
        for name in opened.survivors:
            seats[name].account.settle(1, mechanism)
    head, _ = Solution.of(plan).take((), opened.words, opened.survivors)
    return zero + head, opened.words.nbytes


def _sums(seats: Seats, at: At, reserved: GaussianSteps | None) -> Iterator[tuple[str, bytes]]:
    for name, seat in seats.items():
        if reserved:
            seat.account.reserve(at.round, reserved)
        seat.entropy.advance(at.round)
        yield name, seat.learner.sums(seat.entropy, Moment(at.round, at.attempt, at.model)).content


def _updates(plan: Plan, seats: Seats, model: Vector, last: Vector, at: At) -> Iterator[tuple[str, bytes]]:
    reserved, ring = plan.round_mechanism, plan.ring
    for name, seat in seats.items():
        if reserved:
            seat.account.reserve(at.round, reserved)
        seat.entropy.advance(at.round)
        delta = seat.learner.train(model, seat.entropy, Moment(at.round, at.attempt, at.model))
        if radius := plan.training.centred:
            delta = centred(delta, last, radius)
        content = encode(delta, plan.weight(name), ring).content
        for mechanism in delta.mechanisms:
            seat.account.settle(at.round, mechanism)
        yield name, content
