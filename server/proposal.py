"""From an operator's terms to a plan: calibrates the noise, works out the layout, names the parties."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ValidationError

from cloister.privacy import canonical
from cloister.privacy.analytic.constants import Start
from cloister.privacy.clauses import (
    Adapter,
    Aggregation,
    Base,
    Dense,
    Party,
    Privacy,
    Site,
    Training,
    Unit,
)
from cloister.privacy.consent import Offer
from cloister.privacy.descent import learning_rates
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.errors import PlanError
from cloister.privacy.identity import PublicIdentity, Roster
from cloister.privacy.layout import Layout, Placement, dense, initial, layout, usual_targets
from cloister.privacy.methods import Codec, Factors, Precision, Robust, ServerOptimizer
from cloister.privacy.model import BaseModel
from cloister.privacy.plan import FEWEST_CANARIES, MOST_CANARIES, Plan, Rehearsal, malformed
from cloister.privacy.secagg.quantisation import MOST_BITS
from cloister.privacy.secagg.ring import fewest_bits
from cloister.privacy.secagg.terms import SumTerms
from cloister.privacy.table import Table
from cloister.privacy.task import Task, TaskKind
from cloister.privacy.update import Vector
from cloister.server import analytic as one_round
from cloister.server.reach import reach


@dataclass(frozen=True)
class Rates:
    """An optimizer and its learning rates, which suit gradients that are clipped or that are not."""

    optimizer: Literal["sgd", "adam"]
    head: float
    adapter: float


RATES = {
    "local": Rates("sgd", 1.0, 0.1),
    "joint": Rates("sgd", 1.0, 0.1),
    "off": Rates("adam", 0.03, 0.01),
}
"""Chosen on synthetic notes (docs/benchmarks.md): clipped and noised sums bear a far larger step."""


@dataclass(frozen=True)
class Course:
    """How many rounds there are, local steps in each, and the Poisson sampling rate of a step."""

    rounds: int
    steps: int
    rate: float


COURSES = {"local": Course(4, 3, 0.2), "joint": Course(12, 1, 0.7), "off": Course(4, 3, 0.2)}
"""In joint mode every step is a round, and few large ones do best: one noise covers all that a step draws."""

STARTED = Course(11, 1, 1.0)
"""After a private start, ten steps on the full batch: with many more, a start was seen to gain nothing."""


@dataclass(frozen=True)
class Terms:
    """What an operator chooses; the defaults suit a few hundred to a few thousand short texts a site.

    Attributes:
        purpose: what the model is for, in words that every site reads before it approves.
        labels: the classes or tags, agreed beforehand; none where answers are learnt.
        task: what is learnt.
        pair: whether each row is a pair of texts.
        mode: ``local`` (every site adds all the noise that its own guarantee needs), ``joint`` (each adds a
            share of the noise of a common descent; needs ``secure``) or ``off``.
        unit: the unit of privacy; None for the one that the sites offer, which then must be the same.
        epsilon, delta: the target of the whole plan, per person or per record of one site.
        bound: clipping bound C of one unit's gradient.
        rounds, steps, rate: rounds, local steps in each, and Poisson sampling rate of a step; None for those
            of ``COURSES``.
        rates: optimizer and learning rates; None for those of ``RATES``.
        targets: which maps of a layer carry LoRA; None for ``layout.usual_targets`` of the base model.
        top_layers: layers that carry LoRA; those below are run once and cached.
        minimum_sites: fewer answers than that end the run; 0 for all but one, or more if ``secure`` needs it.
        secure: whether the server may open nothing but sums.
        colluding: with ``secure``, how many sites may put together what they know, and the server with them.
        bits: with ``secure`` and not in joint mode, how many a parameter travels as; None for 32.
        canaries: false records that each site makes up and trains on by coins; None for none.
        server: what the server makes of the mean change; None to add it as it is. Not in joint mode.
        proximal: mu of FedProx; None for none. Not in joint mode.
        factors: ``up`` trains LoRA's B alone, ``alternate`` B and A in turn; None both. Not in joint mode.
        precision: what sites take the products of a training pass in; None for float32.
        centred: radius within which each site holds its own update around the last mean; None for none. Not
            in joint mode.
        codec: how a site writes its update; None for words of 32 bits. Not with ``secure``.
        down: how the lead writes what a round changed; None to send the model. Not in joint mode.
        robust: what stands in the place of the mean; None for the mean. Not with ``secure``.
        analytic: one analytic round in the place of training; None to train by steps.
        start: an analytic round as the first, whose solution the head starts from; None to start from zeros.
        table: the columns, where rows are those of a table; the base model is then ``model.Columns``.
        hidden: the width of a hidden layer on these columns; None for a linear model.
        surplus: in joint mode, whether noise for losses that did not happen is taken back.
        policy: the digest of the consortium's policy; None where each site's own decides alone.
        rehearsal: what the plan is instead of a job of organisations (``Plan.rehearsal``), if it is.
    """

    purpose: str
    labels: tuple[str, ...] = ()
    mode: Literal["local", "joint", "off"] = "local"
    unit: Unit | None = None
    epsilon: float = 8.0
    delta: float = 1e-5
    bound: float = 1.0
    rounds: int | None = None
    steps: int | None = None
    rate: float | None = None
    rates: Rates | None = None
    momentum: float = 0.9
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    top_layers: int = 1
    max_tokens: int = 64
    minimum_sites: int = 0
    range: float = 4.0
    secure: bool = False
    colluding: int = 1
    surplus: bool = False
    bits: int | None = None
    canaries: int | None = None
    rehearsal: Rehearsal | None = None
    server: ServerOptimizer | None = None
    robust: Robust | None = None
    proximal: float | None = None
    factors: Factors | None = None
    centred: float | None = None
    precision: Precision | None = None
    codec: Codec | None = None
    down: Codec | None = None
    policy: str | None = None
    analytic: one_round.Choice | None = None
    start: one_round.Choice | None = None
    task: TaskKind = "sequence-classification"
    pair: bool = False
    table: Table | None = None
    hidden: int | None = None

    @property
    def course(self) -> Course:
        """Rounds, steps and rate."""
        if self.analytic:
            return Course(1, 1, 1.0)
        usual = STARTED if self.start and self.mode != "off" else COURSES[self.mode]
        return Course(self.rounds or usual.rounds, self.steps or usual.steps, self.rate or usual.rate)


def check_surplus(terms: Terms) -> None:
    """Raises ``PlanError`` ``plan_conflict`` where noise is to be taken back and none is added in shares."""
    if terms.surplus and terms.mode != "joint":
        raise PlanError(
            "plan_conflict",
            "Surplus noise can be taken back only where noise is added in shares.",
            "Add --privacy joint, or leave out --take-back.",
        )


def check_bits(terms: Terms, sites: int) -> None:
    """Refuses few bits where they would not do: rounding comes after all noise, and levels must be left.

    Raises:
        PlanError: ``plan_conflict``.
    """
    if terms.bits is None:
        return
    if terms.mode == "joint" or not terms.secure:
        raise PlanError(
            "plan_conflict",
            "Few bits a parameter need secure aggregation; joint privacy has a grid of its own.",
            "Leave out --bits.",
        )
    if not fewest_bits(sites) <= terms.bits <= MOST_BITS:
        raise PlanError(
            "plan_conflict",
            f"{terms.bits} bits a parameter are not what {sites} sites can be added up in.",
            f"Take {fewest_bits(sites)} to {MOST_BITS}, or leave out --bits for 32.",
        )


def check_canaries(terms: Terms, sites: tuple[Site, ...]) -> None:
    """Refuses more canaries than some site has units: ``plan_conflict``."""
    least = min(site.units.low for site in sites)
    if terms.canaries is not None and not FEWEST_CANARIES <= terms.canaries <= min(MOST_CANARIES, least):
        raise PlanError(
            "plan_conflict",
            f"{terms.canaries} canaries do not suit sites of which one may have {least} units.",
            f"Take {FEWEST_CANARIES} to {min(MOST_CANARIES, least)}, or leave out --canaries."
            if least >= FEWEST_CANARIES
            else "Leave out --canaries.",
        )


def check_methods(terms: Terms) -> None:
    """Refuses a method that the rest of the terms leaves no room for.

    Raises:
        PlanError: ``plan_conflict``.
    """
    _check_task(terms)
    if terms.precision and (terms.table is not None or not terms.top_layers):
        raise PlanError(
            "plan_conflict",
            "What a head alone learns from is worked out once, in float32: no pass is left for bfloat16.",
            "Leave out --precision, or train LoRA on --top-layers 1 or more.",
        )
    if terms.mode == "joint":
        _check_joint(terms)
    if terms.centred and (terms.server or terms.factors == "alternate"):
        raise PlanError(
            "plan_conflict",
            "Centred clipping is around the last mean, which no site knows with a server optimizer or with "
            "factors in turn.",
            "Leave out --centred, or --server-optimizer and --factors alternate.",
        )
    if terms.centred and terms.codec:
        raise PlanError(
            "plan_conflict",
            "A codec adds what it left out before to an update that was cut, so nothing bounds their sum.",
            "Leave out --centred or --codec; without secure aggregation --robust bears sites that lie.",
        )
    if terms.codec and terms.secure:
        raise PlanError(
            "plan_conflict",
            "A codec gives each block a scale of its own, which secure aggregation cannot add.",
            "Take --bits instead, or add --no-secure: the lead then sees every single update.",
        )
    if terms.robust and terms.secure:
        raise PlanError(
            "plan_conflict",
            f"{terms.robust.kind} compares single updates, and secure aggregation opens only their sum.",
            "Leave out --robust, or add --no-secure: the lead then sees every single update.",
        )


_PLANTABLE = ("sequence-classification", "causal-lm")
"""Tasks of which false records can be made of random words."""


def _check_task(terms: Terms) -> None:
    if terms.analytic and terms.task not in ("sequence-classification", "tabular-classification"):
        raise PlanError(
            "plan_conflict",
            "An analytic round gives one class a row, and this task is another.",
            "Leave out --method ridge or means, or --task.",
        )
    if terms.canaries is not None and (terms.task not in _PLANTABLE or terms.pair):
        raise PlanError(
            "plan_conflict",
            "Canaries are single texts with a class or an answer, and the rows of this task are others.",
            "Leave out --canaries.",
        )
    _check_table(terms)
    if terms.task == "causal-lm" and not terms.top_layers:
        raise PlanError(
            "plan_conflict",
            "Answers are learnt by LoRA alone, and no layer would carry it.",
            "Take --top-layers 1 or more.",
        )


def _check_table(terms: Terms) -> None:
    if terms.hidden is not None and (terms.table is None or terms.analytic):
        raise PlanError(
            "plan_conflict",
            "A hidden layer is trained by steps on the columns of a table, and on nothing else.",
            "Leave out --hidden, or --method.",
        )
    if terms.table is not None and terms.factors:
        raise PlanError(
            "plan_conflict",
            "A table needs no base model, so there is no LoRA to train factors of.",
            "Leave out --factors.",
        )


def _check_joint(terms: Terms) -> None:
    if terms.server:
        raise PlanError(
            "plan_conflict",
            "Joint privacy and a server optimizer do not go together: every site takes each step again.",
            "Leave out --server-optimizer; the plan's momentum does the same.",
        )
    if terms.down:
        raise PlanError(
            "plan_conflict",
            "Every site takes each joint step again from its exact sum: no change can be coded.",
            "Leave out --codec-down.",
        )
    if terms.proximal or terms.factors or terms.centred:
        raise PlanError(
            "plan_conflict",
            "In joint mode a round is one step of all sites on all that is trained.",
            "Leave out --proximal, --factors and --centred.",
        )


def draft(
    terms: Terms, roster: Roster, offers: Mapping[str, Offer], base: BaseModel, code: str
) -> tuple[Plan, Vector]:
    """The plan of these terms over every site that has offered a dataset, and the start of training.

    Args:
        terms: the operator's choice.
        roster: everybody's public keys.
        offers: site name -> its signed offer.
        base: the base model on the lead's machine.
        code: digest of the lead's own code.

    Raises:
        PlanError: ``plan_conflict``, a site of the roster has made no offer, or one at another unit of
            privacy, or there are too few sites for secure aggregation, or too few bits, or a method
            does not go with the rest; ``plan_malformed``, a number is out of its range.
        BudgetError: no noise reaches the target.
    """
    try:
        return _draft(terms, roster, offers, base, code)
    except ValidationError as error:
        raise malformed(error) from error


def _draft(
    terms: Terms, roster: Roster, offers: Mapping[str, Offer], base: BaseModel, code: str
) -> tuple[Plan, Vector]:
    if terms.mode == "joint" and (not terms.secure or terms.steps not in (None, 1)):
        raise PlanError(
            "plan_conflict",
            "Joint privacy needs secure aggregation, and each of its rounds is one step.",
            "Leave out --no-secure and --steps; --rounds says how many steps there are.",
        )
    one_round.check(terms)
    check_methods(terms)
    check_surplus(terms)
    missing = [site.name for site in roster.sites if site.name not in offers]
    if missing or not roster.sites:
        raise PlanError(
            "plan_conflict",
            f"No dataset was offered yet by: {', '.join(missing) or 'any site'}.",
            "Run `cloister site data add` and `cloister site up` there.",
        )
    sites = tuple(_site(member, offers[member.name]) for member in roster.sites)
    unit = _unit(terms, sites)
    task = Task(kind=terms.task, labels=terms.labels, pair=True if terms.pair else None, table=terms.table)
    base.require_task(task)
    check_bits(terms, len(sites))
    privacy = _privacy(terms, unit)
    constants = terms.analytic and terms.analytic.constants(base.hidden, sites, private=privacy.mode != "off")
    terms = replace(terms, top_layers=0) if constants or terms.start else terms
    adapter = _adapter(terms, base, constants.head if constants else base.hidden)
    order = adapter.order
    start = one_round.start(terms.start, base.hidden, sites, private=privacy.mode != "off")
    training = one_round.training(constants) if constants else _training(terms, start)
    rates = learning_rates(order, training.head_rate, training.adapter_rate)
    check_canaries(terms, sites)
    norm = reach(training, privacy, sites, rates, terms.canaries or 0) if terms.bits else None
    how = _aggregation(terms, len(sites), norm)
    if constants:
        how = one_round.ranged(how, constants, privacy, sites, len(terms.labels))
    plan = Plan(
        consortium=roster.consortium,
        purpose=terms.purpose,
        nonce=secrets.token_hex(16),
        roster=roster.digest(),
        lead=Party(name=roster.lead.name, identity=roster.lead.digest(), code=code),
        sites=sites,
        base=Base(name=base.name, digest=base.digest, max_tokens=None if terms.table else terms.max_tokens),
        task=task,
        adapter=adapter.part,
        training=training,
        privacy=privacy,
        aggregation=how,
        canaries=terms.canaries,
        policy=terms.policy,
        rehearsal=terms.rehearsal,
    )
    return plan, initial(order, plan.adapter.seed)


def _training(terms: Terms, start: Start | None) -> Training:
    rates, course = terms.rates or RATES[terms.mode], terms.course
    return Training(
        rounds=course.rounds,
        steps=course.steps,
        rate=course.rate,
        optimizer=rates.optimizer,
        head_rate=rates.head,
        adapter_rate=rates.adapter,
        momentum=terms.momentum,
        server=terms.server,
        proximal=terms.proximal,
        factors=terms.factors,
        centred=terms.centred,
        precision=terms.precision,
        start=start,
    )


def _aggregation(terms: Terms, sites: int, norm: float | None) -> Aggregation:
    if not terms.secure:
        return _plain(terms, sites)
    least = SumTerms.least_threshold(sites, terms.colluding)
    if sites < least or least - terms.colluding < 2:
        raise PlanError(
            "plan_conflict",
            f"Secure aggregation among {sites} sites hides no update from {terms.colluding} that collude.",
            "Take more sites (at least 3) or fewer that may collude, or add --no-secure: the lead then sees "
            "every single update.",
        )
    return Aggregation(
        secure=True,
        minimum_sites=max(terms.minimum_sites or sites - 1, least),
        range=terms.range,
        threshold=least,
        colluding=terms.colluding,
        bits=terms.bits,
        norm=norm,
        surplus=True if terms.surplus else None,
        down=terms.down,
    )


def _plain(terms: Terms, sites: int) -> Aggregation:
    """How updates become one where the lead sees each."""
    fewest = terms.minimum_sites or max(1, sites - 1)
    if terms.robust and fewest < terms.robust.fewest:
        raise PlanError(
            "plan_conflict",
            f"{terms.robust.words} needs {terms.robust.fewest} updates, and a round may have {fewest}.",
            "Take more sites, fewer that may lie, or a larger --minimum.",
        )
    return Aggregation(
        minimum_sites=fewest, range=terms.range, robust=terms.robust, codec=terms.codec, down=terms.down
    )


def _placement(terms: Terms, base: BaseModel) -> Placement:
    targets = terms.targets or usual_targets(base.tensors)
    return Placement(terms.rank, targets, terms.top_layers, len(terms.labels))


def _site(member: PublicIdentity, offer: Offer) -> Site:
    return Site(
        name=member.name,
        identity=member.digest(),
        code=offer.code,
        dataset=offer.dataset,
        rows=offer.rows,
        persons=offer.persons,
    )


def _unit(terms: Terms, sites: tuple[Site, ...]) -> Unit:
    """The one unit of the plan; a weaker one is never chosen silently."""
    unit = terms.unit or sites[0].unit
    others = [site.name for site in sites if site.unit != unit]
    if others:
        raise PlanError(
            "plan_conflict",
            f"The unit of privacy is the {unit}, but another was offered by: {', '.join(others)}.",
            "Register all datasets with `cloister site data add --person COLUMN`, or all without.",
        )
    return unit


@dataclass(frozen=True)
class _Trained:
    """What is trained, and in which order."""

    part: Adapter | Dense
    order: Layout


def _adapter(terms: Terms, base: BaseModel, inputs: int) -> _Trained:
    seed = canonical.digest(secrets.token_bytes(32))
    if terms.table:
        order = dense(inputs, terms.hidden, len(terms.labels))
        own = Dense(hidden=terms.hidden, seed=seed, parameters=order.size, layout=order.digest())
        return _Trained(own, order)
    placement = _placement(terms, base)
    order = layout(base.tensors, inputs, placement)
    lora = Adapter(
        rank=terms.rank,
        alpha=terms.alpha,
        targets=placement.targets,
        top_layers=terms.top_layers,
        seed=seed,
        parameters=order.size,
        layout=order.digest(),
    )
    return _Trained(lora, order)


def _privacy(terms: Terms, unit: Unit) -> Privacy:
    if terms.mode == "off":
        return Privacy(mode="off", unit=unit, bound=terms.bound, noise_multiplier=0.0, epsilon=0.0, delta=0.0)
    course = terms.course
    sigma = noise_multiplier(terms.epsilon, terms.delta, course.rate, course.rounds * course.steps)
    return Privacy(
        mode=terms.mode,
        unit=unit,
        bound=terms.bound,
        noise_multiplier=sigma,
        epsilon=terms.epsilon,
        delta=terms.delta,
    )
