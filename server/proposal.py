"""From an operator's terms to a plan: calibrates the noise, works out the layout, names the parties."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

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
from cloister.privacy.model import BaseModel
from cloister.privacy.plan import Plan, malformed
from cloister.privacy.secagg.terms import SumTerms
from cloister.privacy.task import Task
from cloister.privacy.update import Vector
from cloister.server import analytic as one_round
from cloister.server.compatibility import check, check_bits, check_canaries
from cloister.server.reach import reach
from cloister.server.terms import RATES, Terms


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
    check(terms)
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
        base=Base(
            name=base.name,
            digest=base.digest,
            max_tokens=None if terms.table else terms.max_tokens,
            licence=terms.licence or base.licence,
        ),
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
