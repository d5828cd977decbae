"""Which plan to propose, from public terms alone: no record, no trial.

What a candidate costs is exact (``server.outline``). Between candidates two rules of thumb choose, each with
what it was set beside:

- *Joint noise* where each site's own would be seen: ``load`` is the noise of a run over the signal of all
  units, ``factor * sqrt(classes / 2) * sqrt(d) * sigma_1 / units``, with d parameters and sigma_1 the
  multiplier of a single release at the target. Eleven measured cases of banking77, sst2 and heart_disease
  (heads and class means, 2 to 77 classes, 486 to 67,349 units, epsilon 0.1 to 8): below 0.23 joint noise
  brought nothing visible; at 0.39 and above, 2 points and more. For LoRA it is that of a head alone.
- *LoRA* only over many units: on 10,003 units of banking77 at epsilon 8 it did no better than the head alone,
  on 67,349 units of sst2 it did (3.5 points, both by joint steps). Nothing in between was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.errors import BudgetError, PlanError
from cloister.server.outline import Ground, Outline, options, outline
from cloister.server.terms import ADAM_JOINT, Terms

SHOWS = 0.3
"""The load of ``local`` from which on joint noise was seen to pay."""
MANY_UNITS = 30_000
"""Units from which on LoRA is proposed: between the measured cases."""
FEWEST_ROUNDS = 5
"""No plan with fewer is proposed unless it is asked for: nothing of the kind was measured."""
_HEAD_ROUNDS = 30
_LORA_JOINT: Final[dict[str, Any]] = {
    "rounds": 34,
    "rate": 0.1,
    "rates": ADAM_JOINT,
    "momentum": 0.8,
    "bound": 4.0,
    "alpha": 32.0,
}
"""The course of LoRA on sst2 (``cloister bench utility-long``): thousands of units a step, by Adam."""


def load(factor: float, parameters: int, classes: int, once: float, units: int) -> float:
    """Noise over signal; see the module docstring.

    Args:
        factor: noise over that of pooling.
        parameters: d.
        classes: how many.
        once: the noise multiplier of a single release at the target.
        units: of all sites together, by the low ends of their bands.
    """
    return factor * math.sqrt(parameters * classes / 2) * once / units


@dataclass(frozen=True)
class Limits:
    """What is allowed.

    Attributes:
        epsilon: of the whole plan; None for what is asked.
        sent: bytes that one site may send in the whole job, before sealing and signing.
        seconds: of the whole job; needs ``speed``.
        speed: rows that the slowest site trains in a second, measured there.
    """

    epsilon: float | None = None
    sent: int | None = None
    seconds: float | None = None
    speed: float | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Wish:
    """What is asked; None leaves it to the planner.

    Attributes:
        terms: purpose, labels, unit, target and what else the planner does not choose.
        mode, top_layers, rounds, rate: see ``Terms``.
        more: options that the command line gets in any case, such as the lead's folder.
    """

    terms: Terms
    mode: str | None = None
    top_layers: int | None = None
    rounds: int | None = None
    rate: float | None = None
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """An answer.

    Attributes:
        chosen: what to propose.
        why: the reasons, in sentences.
        passed: what would have come first and does not fit, with why.
        command: the line that proposes it.
    """

    chosen: Outline
    why: tuple[str, ...]
    passed: tuple[str, ...]
    command: str


def plan_for(wish: Wish, ground: Ground, limits: Limits = NO_LIMITS) -> Proposal:
    """What to propose.

    Raises:
        PlanError: ``plan_conflict``: nothing of what is asked fits; names the nearest that does.
        BudgetError: as ``draft``.
    """
    allowed = limits.epsilon
    if allowed is not None and wish.terms.epsilon > allowed and wish.mode != "off":
        near = _nearest(replace(wish, terms=replace(wish.terms, epsilon=allowed)), ground, limits)
        raise _refused(
            f"Epsilon {wish.terms.epsilon:g} is asked, and {allowed:g} is allowed.", near, wish.more
        )
    chosen, passed = _first(wish, ground, limits)
    if chosen is None:
        near = _nearest(wish, ground, limits)
        raise _refused(f"Nothing that was asked fits: {passed[0]}", near, wish.more)
    return Proposal(
        chosen, tuple(_why(wish, ground, chosen)), tuple(passed), options(chosen.terms, wish.more)
    )


def _refused(what: str, near: Outline | None, more: tuple[str, ...]) -> PlanError:
    if near is None:
        return PlanError("plan_conflict", what, "No plan fits: allow more, or ask more sites.")
    told = f"{_called(near.terms)}, rounds: {near.plan.training.rounds}, epsilon {near.epsilon:.4g}"
    return PlanError(
        "plan_conflict",
        what,
        f"The nearest that fits: {told}, {near.bytes_up:,} bytes: {options(near.terms, more)}",
    )


def _nearest(wish: Wish, ground: Ground, limits: Limits) -> Outline | None:
    """The first that fits once less and less of what was asked is kept."""
    relaxed = (
        wish,
        replace(wish, rounds=None),
        replace(wish, rounds=None, top_layers=None),
        replace(wish, rounds=None, top_layers=None, mode=None),
    )
    found = (_first(each, ground, limits, fewest=1)[0] for each in relaxed)
    return next((each for each in found if each), None)


def _first(
    wish: Wish, ground: Ground, limits: Limits, fewest: int = FEWEST_ROUNDS
) -> tuple[Outline | None, list[str]]:
    """The best candidate that fits, and what was better and does not."""
    passed: list[str] = []
    for terms in _candidates(wish, ground):
        try:
            found = outline(terms, ground, limits.speed)
            fault = _fault(found, limits)
            if fault and wish.rounds is None:
                found = _fewer(found, ground, limits, fewest) or found
        except (PlanError, BudgetError) as error:
            passed.append(f"{_called(terms)}: {error.what}")
            continue
        if fault:
            passed.append(f"{found.adapter}, {terms.mode} noise, rounds: {terms.course.rounds}: {fault}")
        if not _fault(found, limits):
            return found, passed
    return None, passed


def _fewer(found: Outline, ground: Ground, limits: Limits, fewest: int) -> Outline | None:
    """The same with as many rounds as fit."""
    rounds, most = found.plan.training.rounds, [float(found.plan.training.rounds)]
    if limits.sent is not None:
        most.append(rounds * limits.sent / found.bytes_up)
    if limits.seconds is not None and found.seconds is not None:
        once, each = found.course_seconds
        most.append((limits.seconds - once) / each)
    less = math.floor(min(most))
    if less < fewest:
        return None
    return outline(replace(found.terms, rounds=less), ground, limits.speed)


def _fault(found: Outline, limits: Limits) -> str:
    """Why it does not fit; "" where it does."""
    if limits.sent is not None and found.bytes_up > limits.sent:
        return f"it sends {found.bytes_up:,} bytes from each site, and {limits.sent:,} are allowed."
    if limits.seconds is not None and found.seconds is not None and found.seconds > limits.seconds:
        return f"it takes about {found.seconds:,.0f} seconds, and {limits.seconds:,.0f} are allowed."
    return ""


def _candidates(wish: Wish, ground: Ground) -> Iterator[Terms]:
    """Every way that is asked or left open, the best by the rules first."""
    layers, many = ground.layers(), _units(ground) >= MANY_UNITS
    adapters = (layers, 1, 0) if layers and many else (0,)
    modes = ("joint", "local") if _pays(wish, ground) else ("local", "joint")
    for top in adapters if wish.top_layers is None else (min(wish.top_layers, layers),):
        for mode in modes if wish.mode is None else (wish.mode,):
            yield _terms(wish, mode, top, many=many)


def _terms(wish: Wish, mode: str, top_layers: int, *, many: bool) -> Terms:
    """A head is cheap a step and takes many on all units; LoRA over many units the course that was measured,
    else the usual one of a proposal."""
    terms = replace(wish.terms, mode=mode, top_layers=top_layers, secure=True)  # type: ignore[arg-type]
    if mode != "joint":
        terms = replace(terms, surplus=False)
    if top_layers == 0 and mode != "off":
        terms = replace(terms, rounds=_HEAD_ROUNDS, steps=1, rate=1.0)
    if top_layers and mode == "joint" and many:
        terms = replace(terms, **_LORA_JOINT)
    given = {"rounds": wish.rounds, "rate": wish.rate}
    return replace(terms, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _units(ground: Ground) -> int:
    return sum(offer.units.low for offer in ground.offers.values())


def _local_load(wish: Wish, ground: Ground) -> float:
    terms, classes = wish.terms, len(wish.terms.labels)
    once = noise_multiplier(terms.epsilon, terms.delta, 1.0, 1)
    sites = math.sqrt(len(ground.roster.sites))
    return load(sites, ground.head(terms), classes, once, _units(ground))


def _pays(wish: Wish, ground: Ground) -> bool:
    return wish.mode != "off" and bool(_units(ground)) and _local_load(wish, ground) >= SHOWS


def _why(wish: Wish, ground: Ground, chosen: Outline) -> Iterator[str]:
    if chosen.plan.privacy.mode == "off":
        yield "No privacy was asked: nothing is noised, and no epsilon covers the model."
        return
    noise = _local_load(wish, ground)
    told = f"each site's own noise would be {noise:.2g} of the signal"
    if noise < SHOWS:
        yield f"Joint noise buys nothing that would show: {told}, and below {SHOWS} no gain was seen."
    else:
        yield f"Joint noise pays: {told}, above {SHOWS}; shares make it smaller at the same epsilon."
    if wish.mode is not None and (wish.mode == "joint") != (noise >= SHOWS):
        yield f"The mode {wish.mode} was asked for all the same."
    units = _units(ground)
    if wish.terms.table:
        yield "Rows of a table need no base model: all that is trained travels."
    elif units < MANY_UNITS:
        yield f"With {units:,} units or a few more, LoRA did no better than a head alone."
    else:
        yield f"With {units:,} units or more, LoRA was seen to do better than the head alone."


def _called(terms: Terms) -> str:
    trained = "the head alone" if not terms.top_layers else f"LoRA on the top {terms.top_layers} layers"
    if terms.table:
        trained = f"one hidden layer of {terms.hidden}" if terms.hidden else "a linear model"
    return f"{trained}, {terms.mode} noise"
