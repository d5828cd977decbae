"""What a proposal may ask for, and the nearest that may be asked where it is too much.

Allowed is what the consortium's policy says of numbers that an operator chooses, and how many bytes a site
may send. Epsilon and bytes are those that the plan itself will have (``server.outline``), the nearest plan's
as well: it is drafted before it is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

from cloister.privacy.errors import PlanError
from cloister.privacy.policy.terms import Policy
from cloister.server.outline import Ground, Outline, outline
from cloister.server.terms import Terms


@dataclass(frozen=True)
class Allowed:
    """What is allowed; None where nothing is said.

    Attributes:
        epsilon, delta: of the whole plan.
        rounds, steps, rate: of its course.
        sent: bytes that one site may send in the whole job, encoded, before sealing and signing.
    """

    epsilon: float | None = None
    delta: float | None = None
    rounds: int | None = None
    steps: int | None = None
    rate: float | None = None
    sent: int | None = None

    @classmethod
    def of(cls, policy: Policy | None, sent: int | None = None, datasets: Iterable[str] = ()) -> Self:
        """What a policy of the consortium says of plans over these datasets."""
        if policy is None:
            return cls(sent=sent)
        named = [terms for name in datasets if (terms := policy.dataset(name))]
        epsilon = min([policy.privacy.epsilon, *(terms.epsilon for terms in named)])
        training = policy.training
        return cls(epsilon, policy.privacy.delta, training.rounds, training.steps, training.rate, sent)


def require(terms: Terms, ground: Ground, allowed: Allowed) -> None:
    """Refuses terms that ask for more than is allowed.

    Raises:
        PlanError: ``plan_conflict``, with everything that is too much and the nearest plan that is not.
        PlanError, BudgetError: as ``draft``.
    """
    _require_something(terms, allowed)
    capped = _capped(terms, allowed)
    over = [f"{name} {asked} is asked, and {limit} is allowed" for name, asked, limit in _over(terms, capped)]
    found = outline(capped, ground)
    if allowed.sent is not None and found.bytes_up > allowed.sent:
        over.append(f"each site would send {found.bytes_up:,} bytes, and {allowed.sent:,} are allowed")
    if over:
        said = "; ".join(over)
        near = _suggestion(terms, found, ground, allowed)
        raise PlanError("plan_conflict", f"{said[0].upper()}{said[1:]}.", near)


def _require_something(terms: Terms, allowed: Allowed) -> None:
    promised = (allowed.epsilon, allowed.delta) if terms.mode != "off" else ()
    if 0 in (*promised, allowed.rounds, allowed.steps, allowed.rate):
        raise PlanError(
            "plan_conflict",
            "The consortium's policy sets a limit to 0, so no such plan is allowed.",
            "Ask the consortium for another policy.",
        )


def _suggestion(terms: Terms, found: Outline, ground: Ground, allowed: Allowed) -> str:
    near = _nearest(found, ground, allowed)
    if near is None:
        return "No plan of this method fits: allow more, or take another method."
    changed = _options(terms, near.terms)
    told = f"{near.bytes_up:,} bytes from each site"
    if near.plan.privacy.mode != "off":
        told = f"epsilon {near.epsilon:.4g}, {told}"
    return f"The nearest plan that fits is the same with {' '.join(changed)} ({told})."


def _capped(terms: Terms, allowed: Allowed) -> Terms:
    """The same terms with no number above what is allowed."""
    course = terms.course
    if terms.mode != "off":
        epsilon, delta = _least(terms.epsilon, allowed.epsilon), _least(terms.delta, allowed.delta)
        terms = replace(terms, epsilon=epsilon, delta=delta)
    if terms.analytic is None:
        rounds, steps = _least(course.rounds, allowed.rounds), _least(course.steps, allowed.steps)
        terms = replace(terms, rounds=int(rounds), steps=int(steps), rate=_least(course.rate, allowed.rate))
    return terms


def _least(asked: float, allowed: float | None) -> float:
    return asked if allowed is None else min(asked, allowed)


def _over(terms: Terms, capped: Terms) -> Iterator[tuple[str, float, float]]:
    """What was capped: its name, what was asked and what is allowed."""
    asked, left = terms.course, capped.course
    for name, one, other in (
        ("epsilon", terms.epsilon, capped.epsilon),
        ("delta", terms.delta, capped.delta),
        ("rounds", asked.rounds, left.rounds),
        ("steps", asked.steps, left.steps),
        ("rate", asked.rate, left.rate),
    ):
        if one != other:
            yield name, one, other


def _options(terms: Terms, near: Terms) -> list[str]:
    """The options that make one out of the other."""
    found = [f"--{name} {limit}" for name, _, limit in _over(terms, near)]
    if terms.surplus and not near.surplus:
        found.append("no --take-back")
    return found


def _nearest(found: Outline, ground: Ground, allowed: Allowed) -> Outline | None:
    """The same with fewer rounds until its bytes fit; surplus noise stays in where one round would not."""
    if allowed.sent is None or found.bytes_up <= allowed.sent:
        return found
    fewer = math.floor(allowed.sent * found.plan.training.rounds / found.bytes_up)
    if fewer and found.terms.analytic is None:
        return outline(replace(found.terms, rounds=fewer), ground)
    if found.terms.surplus:
        return _nearest(outline(replace(found.terms, surplus=False), ground), ground, allowed)
    return None
