"""From an operator's terms to a plan: calibrates the noise, works out the layout, names the parties."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cloister.privacy import canonical
from cloister.privacy.consent import Offer
from cloister.privacy.descent import learning_rates
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.errors import PlanError
from cloister.privacy.identity import PublicIdentity, Roster
from cloister.privacy.layout import Layout, Placement, initial, layout
from cloister.privacy.model import BaseModel
from cloister.privacy.plan import (
    FEWEST_CANARIES,
    MOST_CANARIES,
    Adapter,
    Aggregation,
    Base,
    Party,
    Plan,
    Privacy,
    Site,
    Task,
    Training,
    Unit,
)
from cloister.privacy.secagg.quantisation import MOST_BITS
from cloister.privacy.secagg.ring import fewest_bits
from cloister.privacy.secagg.terms import SumTerms
from cloister.privacy.update import Vector
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


@dataclass(frozen=True)
class Terms:
    """What an operator chooses; the defaults suit a few hundred to a few thousand short texts a site.

    Attributes:
        purpose: what the model is for, in words that every site reads before it approves.
        labels: the classes, agreed beforehand.
        mode: ``local`` (every site adds all the noise that its own guarantee needs), ``joint`` (each adds a
            share of the noise of a common descent; needs ``secure``) or ``off``.
        unit: the unit of privacy; None for the one that the sites offer, which then must be the same.
        epsilon, delta: the target of the whole plan, per person or per record of one site.
        bound: clipping bound C of one unit's gradient.
        rounds, steps, rate: rounds, local steps in each, and Poisson sampling rate of a step; None for those
            of ``COURSES``.
        rates: optimizer and learning rates; None for those of ``RATES``.
        top_layers: layers that carry LoRA; those below are run once and cached.
        minimum_sites: fewer answers than that end the run; 0 for all but one, or more if ``secure`` needs it.
        secure: whether the server may open nothing but sums.
        colluding: with ``secure``, how many sites may put together what they know, and the server with them.
        bits: with ``secure`` and not in joint mode, how many a parameter travels as; None for 32.
        canaries: false records that each site makes up and trains on by coins; None for none.
    """

    purpose: str
    labels: tuple[str, ...]
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
    targets: tuple[str, ...] = ("query", "value")
    top_layers: int = 1
    max_tokens: int = 64
    minimum_sites: int = 0
    range: float = 4.0
    secure: bool = False
    colluding: int = 1
    bits: int | None = None
    canaries: int | None = None

    @property
    def course(self) -> Course:
        """Rounds, steps and rate."""
        usual = COURSES[self.mode]
        return Course(self.rounds or usual.rounds, self.steps or usual.steps, self.rate or usual.rate)


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
            privacy, or there are too few sites for secure aggregation, or too few bits.
        BudgetError: no noise reaches the target.
    """
    if terms.mode == "joint" and (not terms.secure or terms.steps not in (None, 1)):
        raise PlanError(
            "plan_conflict",
            "Joint privacy needs secure aggregation, and each of its rounds is one step.",
            "Leave out --no-secure and --steps; --rounds says how many steps there are.",
        )
    missing = [site.name for site in roster.sites if site.name not in offers]
    if missing or not roster.sites:
        raise PlanError(
            "plan_conflict",
            f"No dataset was offered yet by: {', '.join(missing) or 'any site'}.",
            "Run `cloister site data add` and `cloister site up` there.",
        )
    sites = tuple(_site(member, offers[member.name]) for member in roster.sites)
    unit = _unit(terms, sites)
    order = layout(base.tensors, base.hidden, _placement(terms))
    check_bits(terms, len(sites))
    training, privacy = _training(terms), _privacy(terms, unit)
    rates = learning_rates(order, training.head_rate, training.adapter_rate)
    check_canaries(terms, sites)
    norm = reach(training, privacy, sites, rates, terms.canaries or 0) if terms.bits else None
    plan = Plan(
        consortium=roster.consortium,
        purpose=terms.purpose,
        nonce=secrets.token_hex(16),
        roster=roster.digest(),
        lead=Party(name=roster.lead.name, identity=roster.lead.digest(), code=code),
        sites=sites,
        base=Base(name=base.name, digest=base.digest, max_tokens=terms.max_tokens),
        task=Task(labels=terms.labels),
        adapter=_adapter(terms, order),
        training=training,
        privacy=privacy,
        aggregation=_aggregation(terms, len(sites), norm),
        canaries=terms.canaries,
    )
    return plan, initial(order, plan.adapter.seed)


def _training(terms: Terms) -> Training:
    rates, course = terms.rates or RATES[terms.mode], terms.course
    return Training(
        rounds=course.rounds,
        steps=course.steps,
        rate=course.rate,
        optimizer=rates.optimizer,
        head_rate=rates.head,
        adapter_rate=rates.adapter,
        momentum=terms.momentum,
    )


def _aggregation(terms: Terms, sites: int, norm: float | None) -> Aggregation:
    if not terms.secure:
        return Aggregation(minimum_sites=terms.minimum_sites or max(1, sites - 1), range=terms.range)
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
    )


def _placement(terms: Terms) -> Placement:
    return Placement(terms.rank, terms.targets, terms.top_layers, len(terms.labels))


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


def _adapter(terms: Terms, order: Layout) -> Adapter:
    return Adapter(
        rank=terms.rank,
        alpha=terms.alpha,
        targets=terms.targets,
        top_layers=terms.top_layers,
        seed=canonical.digest(secrets.token_bytes(32)),
        parameters=order.size,
        layout=order.digest(),
    )


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
