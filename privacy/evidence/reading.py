"""What the figures of a report mean: the worst case, who was missing, and what joining was worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from cloister.privacy.dp import persons
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.statement import Statement, Terms, statement
from cloister.privacy.evidence.evidence import Accuracy, Evidence, SiteAccuracy
from cloister.privacy.evidence.kinds import REASONS
from cloister.privacy.plan import Plan

_CONFIDENCE = 1.96
"""Standard errors on each side of a 95 % interval."""


def even_odds(epsilon: float, delta: float) -> float:
    """The most often that somebody can be right who starts at 50:50 on whether a record was used.

    1 - (1 - delta) / (1 + exp(epsilon)).

    Formal guarantees:
        No test, whatever it knows besides, tells two neighbouring datasets apart with a higher
        probability of being right when both were equally likely before (Kairouz, Oh, Viswanath 2015,
        "The Composition Theorem for Differential Privacy", theorem 2.1).
    """
    falling = math.exp(-epsilon)
    return (1 + delta * falling) / (1 + falling)


@dataclass(frozen=True)
class Worst:
    """The weakest guarantee of all sites: the largest epsilon with the largest delta.

    Attributes:
        epsilon, delta: as printed by the site that has them.
        odds: ``even_odds`` of the two.
        site: the first one that has this epsilon.
    """

    epsilon: str
    delta: str
    odds: float
    site: str

    @classmethod
    def of(cls, evidence: Evidence) -> Worst | None:
        """None where no site has a guarantee."""
        stated = [(g.epsilon, g.delta, g.site) for g in evidence.privacy if g.epsilon and g.delta]
        if not stated:
            return None
        epsilon, _, site = max(stated, key=lambda one: float(one[0]))
        delta = max((value for _, value, _ in stated), key=float)
        return cls(epsilon, delta, even_odds(float(epsilon), float(delta)), site)


@dataclass(frozen=True)
class Several:
    """The guarantee of somebody whose data count more than once.

    Attributes:
        what: ``rows``, each a record of its own at one site, or ``sites``.
        number: how many.
        epsilon: at the delta of ``Worst``, rounded up to two decimals; None beyond what is accounted.
        odds: ``even_odds`` of the two; None likewise.
    """

    what: str
    number: int
    epsilon: str | None
    odds: float | None


def several(evidence: Evidence) -> list[Several]:
    """What the weakest site's terms mean for somebody with several rows, and at up to three sites."""
    stated = [g for g in evidence.privacy if g.epsilon and g.delta]
    if not stated:
        return []
    weakest = max(stated, key=lambda g: float(g.epsilon or 0))
    delta = max(float(g.delta or 0) for g in stated)
    terms = (weakest.noise_multiplier, weakest.rate, weakest.steps)
    steps = [GaussianSteps(float(terms[0] or 0), float(terms[1] or 0), int(terms[2] or 0))]
    rows = (2, 4, 8) if weakest.unit == "record" else ()
    found = [_several("rows", k, persons.epsilon(steps, k, delta), delta) for k in rows]
    sites = [k for k in (2, 3) if k <= len(evidence.plan.sites)]
    mode: Literal["local", "joint"] = "joint" if evidence.plan.joint else "local"
    return found + [_several("sites", k, persons.at_sites(steps, k, mode, delta), delta) for k in sites]


def _several(what: str, number: int, epsilon: float, delta: float) -> Several:
    if not math.isfinite(epsilon):
        return Several(what, number, None, None)
    printed = f"{math.ceil(epsilon * 100) / 100:.2f}"
    return Several(what, number, printed, even_odds(float(printed), delta))


@dataclass(frozen=True)
class State:
    """When a report speaks of, and until when it counts.

    Attributes:
        started, finished: of the job, by the lead's log; None where it does not show both.
        at: the newest of what the report names, else when it was made.
        until: the first day on which a paper ends that a site recorded for its data; None where none is.
        sites: whose papers end on that day.
    """

    started: str | None
    finished: str | None
    at: str
    until: str | None
    sites: tuple[str, ...]

    @classmethod
    def of(cls, evidence: Evidence) -> State:
        """A paper that was recorded again counts as it was recorded last."""
        moments = {one.event: one.at for one in evidence.cited}
        ends = next((source.events for source in evidence.sources if source.about == "job"), ())
        started, finished = (moments[ends[0]], moments[ends[-1]]) if len(ends) > 1 else (None, None)
        papers = {
            (one.party, one.about, one.form): one.until
            for one in evidence.consents
            if one.type == "consent.recorded" and one.until
        }
        until = min(papers.values(), default=None)
        sites = dict.fromkeys(party for (party, *_), day in papers.items() if day == until)
        at = max(moments.values(), default=evidence.created)
        return cls(started, finished, at, until, tuple(sites))


def by_site(evidence: Evidence, field: str) -> list[tuple[str, list[str]]]:
    """What ``sampler`` or ``entropy`` was, ``unknown`` where no log says, and at which sites."""
    found: dict[str, list[str]] = {}
    for stated in evidence.privacy:
        found.setdefault(getattr(stated, field) or "unknown", []).append(stated.site)
    return [*found.items()]


CHECKED = (
    *("shared_seed", "key_reuse", "sampling_not_poisson", "empty_step_skipped", "parameter_uncovered"),
    *("norm_of_another_vector", "unit_split", "stale_rows", "row_not_finite", "private_denominator"),
    *("private_metric", "reserve_first"),
)
"""Hazards that the code of this release excludes by construction, or its tests plant and catch."""


def statement_of(plan: Plan) -> Statement:
    """The privacy statement of a plan, were it carried out as written and without retries."""
    privacy, training = plan.privacy, plan.training
    rows = plan.most_rows if privacy.unit == "person" else None
    if privacy.mode == "off":
        return statement(Terms("off", privacy.unit, 0, 0, training.rate, 0, 0, rows))
    terms = Terms(
        mode=privacy.mode,
        unit=privacy.unit,
        bound=privacy.bound,
        noise_multiplier=privacy.noise_multiplier,
        rate=training.rate,
        steps=training.rounds * training.steps,
        delta=privacy.delta,
        rows_per_person=rows,
        colluders=plan.aggregation.colluding or 0 if plan.joint else 0,
    )
    known = {"shared_seed"} if plan.rehearsal == "simulation" else set()  # its noise can be drawn again
    return statement(terms, [name for name in CHECKED if name not in known])


@dataclass(frozen=True)
class Missing:
    """A site that did not contribute to some rounds, for one reason.

    Attributes:
        how: ``refused`` or ``lost``.
        reason: an error id.
        meaning: what the id means.
        rounds: such as ``rounds 3 and 5–8``.
        numbers: of these rounds.
    """

    site: str
    how: str
    reason: str
    meaning: str
    rounds: str
    numbers: tuple[int, ...]


def missing(evidence: Evidence) -> list[Missing]:
    """Every site that was refused or lost, in the order in which it first happened."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for done in evidence.rounds:
        for how, absences in (("refused", done.refused), ("lost", done.lost)):
            for absence in absences:
                found.setdefault((absence.site, how, absence.reason), []).append(done.round)
    return [
        Missing(site, how, reason, REASONS[reason], spans(numbers), tuple(numbers))
        for (site, how, reason), numbers in found.items()
    ]


def spans(numbers: Iterable[int]) -> str:
    """Ascending round numbers in words: ``round 3``, ``rounds 3 and 5–8``."""
    parts = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}–{members[-1]}")
    return f"round{'' if len(parts) == 1 and parts[0].isdigit() else 's'} {listing(parts)}"


def listing(parts: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = [*parts] or ["nobody"]
    return f"{', '.join(first)} and {last}" if first else last


MINIMUM_CELL = 10
"""Shares of fewer test records than this are not printed: they tell too much about single ones."""


def too_few(rows: int) -> bool:
    """Whether a share of so many test records is held back."""
    return rows < MINIMUM_CELL


def interval(share: float, rows: int) -> tuple[float, float]:
    """A 95 % interval for the accuracy behind a share of ``rows`` test records.

    Source: Wilson 1927; it stays within [0, 1] and is sound for shares near both ends.

    Raises:
        ValueError: there are no test records.
    """
    if rows < 1:
        raise ValueError("an interval needs at least one test record")
    square = _CONFIDENCE**2 / rows
    centre = (share + square / 2) / (1 + square)
    half = _CONFIDENCE * math.sqrt(share * (1 - share) / rows + square / (4 * rows)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Comparison:
    """The federated model against another way to train.

    Attributes:
        site: at which site, "" on the common test set.
        other: ``tfidf``, ``pooled``, ``pooled_private``, ``alone`` or ``alone_private``.
        federated, against: the two accuracies.
        margin: half-width of a 95 % interval of their difference, as if the two were independent.
    """

    site: str
    other: str
    federated: float
    against: float
    margin: float

    @property
    def verdict(self) -> str:
        """``better``, ``too close``, or ``not better`` (equal or worse)."""
        if self.federated <= self.against:
            return "not better"
        return "better" if self.federated - self.against > self.margin else "too close"


def comparisons(accuracy: Accuracy) -> Iterator[Comparison]:
    """Every comparison that the figures allow: the common ones first, then site by site."""
    common = (
        ("tfidf", accuracy.tfidf),
        ("pooled", accuracy.pooled),
        ("pooled_private", accuracy.pooled_private),
    )
    for other, value in common:
        if value is not None:
            yield _compare("", other, accuracy.federated, value, int(accuracy.test_rows))
    for site in accuracy.sites:
        rows = int(site.test_rows or accuracy.test_rows)
        if not too_few(rows):
            yield from _at(site, rows)


def _at(site: SiteAccuracy, rows: int) -> Iterator[Comparison]:
    for other, value in (("alone", site.local_only), ("alone_private", site.local_only_private)):
        if value is not None and site.federated is not None:
            yield _compare(site.name, other, site.federated, value, rows)


def _compare(site: str, other: str, federated: float, against: float, rows: int) -> Comparison:
    variance = (federated * (1 - federated) + against * (1 - against)) / max(rows, 1)
    return Comparison(site, other, federated, against, _CONFIDENCE * math.sqrt(variance))
