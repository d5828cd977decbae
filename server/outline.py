"""What a plan would cost, from public terms alone, by the code that drafts the plan itself.

Noise multiplier, bytes and bound are those of the plan, and epsilon is what the ledgers will reserve.
Accuracy is not predicted. Time is, where the operator says how many rows a second the slowest site trains.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cloister.privacy.clauses import Adapter, Dense
from cloister.privacy.consent import Offer
from cloister.privacy.dp import accounting
from cloister.privacy.identity import Roster
from cloister.privacy.layout import Placement, dense, depth, layout
from cloister.privacy.model import BaseModel
from cloister.privacy.plan import Plan
from cloister.server.proposal import draft
from cloister.server.terms import COURSES, Terms

ROUND_SECONDS = 1.5
"""What a round costs beside training, ``overhead_scored_s`` of ``cloister bench round`` on 2 shared cores."""


@dataclass(frozen=True)
class Ground:
    """What is known before anything is asked.

    Attributes:
        roster, offers, base, code: see ``proposal.draft``.
    """

    roster: Roster
    offers: Mapping[str, Offer]
    base: BaseModel
    code: str

    def plan(self, terms: Terms) -> Plan:
        """The plan that would be proposed; raises as ``draft``."""
        return draft(terms, self.roster, self.offers, self.base, self.code)[0]

    def layers(self) -> int:
        """How many layers the base model has; none where rows of a table are learnt."""
        return depth(self.base.tensors)

    def head(self, terms: Terms) -> int:
        """The parameters of a head alone; of a table all that there are."""
        classes = len(terms.labels)
        if terms.table:
            return dense(self.base.hidden, terms.hidden, classes).size
        return layout(self.base.tensors, self.base.hidden, Placement(1, ("query",), 0, classes)).size


@dataclass(frozen=True)
class Outline:
    """A plan and what it would cost.

    Attributes:
        terms: what was drafted.
        plan: the draft.
        epsilon: what the ledgers will reserve in all; 0 without privacy.
        noise_factor: noise in a sum over all sites, over that of pooling at the same epsilon.
        bytes_up: what one site sends in the whole job, encoded, before sealing and signing.
        sums: how many sums are opened.
        course_seconds: before the first round, and of each; (0, 0) where no speed is known.
    """

    terms: Terms
    plan: Plan
    epsilon: float
    noise_factor: float
    bytes_up: int
    sums: int
    course_seconds: tuple[float, float]

    @property
    def seconds(self) -> float | None:
        """Of the whole job; None where no speed is known."""
        once, each = self.course_seconds
        return once + each * self.plan.training.rounds if each else None

    @property
    def adapter(self) -> str:
        """What is trained, in words."""
        adapter = self.plan.adapter
        if isinstance(adapter, Dense):
            return adapter.words
        if not isinstance(adapter, Adapter) or not adapter.top_layers:
            return "the head alone"
        return (
            f"LoRA of rank {adapter.rank} on {' and '.join(adapter.targets)} of the top "
            f"{adapter.top_layers} layers, and the head"
        )


def outline(terms: Terms, ground: Ground, speed: float | None = None) -> Outline:
    """What terms would cost.

    Raises:
        PlanError, BudgetError: as ``draft`` does, or no grid holds the noise.
    """
    plan = ground.plan(terms)
    training, per_sum = plan.training, 2 if plan.aggregation.surplus else 1
    sums = training.rounds * per_sum - (per_sum - 1 if training.start else 0)
    seconds = (0.0, 0.0) if speed is None else _seconds(plan, speed, ground.layers())
    return Outline(terms, plan, _epsilon(plan), _factor(plan), _sent(plan, sums), sums, seconds)


def _epsilon(plan: Plan) -> float:
    mechanism = plan.round_mechanism
    if mechanism is None:
        return 0.0
    if plan.joint:
        grid = plan.grid
        mechanism = grid.event(plan.training.rate, 1, grid.n_min - grid.t)
    return accounting.epsilon([mechanism] * plan.training.rounds, plan.privacy.delta)


def _factor(plan: Plan) -> float:
    sites, how = len(plan.sites), plan.aggregation
    if plan.privacy.mode == "off":
        return 0.0
    if not plan.joint:
        return math.sqrt(sites)
    sized = sites if how.surplus else how.minimum_sites
    return math.sqrt(sites / (sized - (how.colluding or 0)))


def _sent(plan: Plan, sums: int) -> int:
    """What a site sends in so many sums, of which the first may be that of an analytic round."""
    few = plan.quantisation
    each = few.code.content_bytes if few else plan.ring.content_bytes
    return (sums - 1) * each + (4 * plan.summands(1) if plan.release else each)


def _seconds(plan: Plan, speed: float, layers: int) -> tuple[float, float]:
    """What lies below the trained layers is read once; every step then runs the layers above for its rows."""
    rows, training = max(site.rows.high for site in plan.sites), plan.training
    share = plan.adapter.top_layers / layers if layers else 0.0
    return rows / speed, ROUND_SECONDS + rows * training.steps * training.rate * share / speed


def options(terms: Terms, more: tuple[str, ...] = ()) -> str:
    """The command line that proposes these terms.

    Args:
        terms: drafted by this planner.
        more: further options, such as the lead's folder, or the file of columns.
    """
    course, usual = terms.course, COURSES[terms.mode]
    given: list[str] = ["--purpose", terms.purpose]
    given += [] if terms.table else ["--labels", ",".join(terms.labels)]
    given += ["--privacy", terms.mode]
    if terms.mode != "off":
        given += ["--epsilon", str(terms.epsilon), "--delta", str(terms.delta)]
    given += ["--rounds", str(course.rounds)]
    given += ["--steps", str(course.steps)] if course.steps != usual.steps else []
    given += ["--rate", str(course.rate)]
    given += [] if terms.table else ["--top-layers", str(terms.top_layers)]
    given += ["--hidden", str(terms.hidden)] if terms.hidden else []
    given += _steps(terms)
    given += ["--unit", terms.unit] if terms.unit else []
    given += ["--colluding", str(terms.colluding)] if terms.colluding != 1 else []
    given += ["--minimum", str(terms.minimum_sites)] if terms.minimum_sites else []
    given += ["--take-back"] if terms.surplus else []
    return shlex.join(["cloister", "lead", "propose", *given, *more])


def _steps(terms: Terms) -> Iterator[str]:
    """How steps are taken, where not as usual."""
    if terms.rates:
        yield from ("--optimizer", terms.rates.optimizer)
        yield from ("--head-rate", str(terms.rates.head), "--adapter-rate", str(terms.rates.adapter))
    usual = Terms(terms.purpose)
    for name in ("momentum", "bound", "rank", "alpha"):
        value = getattr(terms, name)
        if value != getattr(usual, name):
            yield from (f"--{name}", str(value))
