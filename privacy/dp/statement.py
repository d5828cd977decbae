"""The privacy statement of a job, as data: what is promised, to whom, by what means, and what is not.

The lines are those that a claim has to state after NIST SP 800-226 (2025), "Guidelines for Evaluating
Differential Privacy Guarantees": parameters, unit, neighbour relation, trust model, mechanism and
composition, bounds on contributions, hazards, side channels, and what lies outside.

A statement is a pure function of a job's terms and of the checks that its maker names. It never says more:
a hazard is listed as checked only if the caller passes its id, and the ruling epsilon is computed here
from the terms, not taken over. It describes what the terms promise; whether a site did so is another
matter, and the event log's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cloister.privacy.canonical import Json
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import RELATION, GaussianSteps
from cloister.privacy.dp.odds import Odds
from cloister.privacy.errors import PlanError

Mode: TypeAlias = Literal["local", "joint", "off"]
Unit: TypeAlias = Literal["person", "record"]

HAZARDS = {
    "shared_seed": "noise does not come from a seed that another site or a program may know",
    "key_reuse": "no key stream is used twice, over retries, restarts and jobs",
    "sampling_not_poisson": "units are drawn by independent coins of the rate that is charged",
    "empty_step_skipped": "a step that drew nothing adds its noise and is charged",
    "parameter_uncovered": "every tensor that is trained is clipped and noised",
    "norm_of_another_vector": "the vector that is summed is the one whose norm was taken",
    "unit_split": "all rows of a unit are summed before its norm is taken",
    "stale_rows": "no row of an earlier step or layer is summed",
    "row_not_finite": "a row with NaN or infinity cannot spoil or reveal a sum",
    "private_denominator": "sums are divided by public constants, never by the true number of units",
    "private_metric": "no loss, norm, count or metric of training data leaves",
    "low_bits": "the low bits of floating-point results do not give the noise away",
    "reserve_first": "the ledger is charged before anything is computed, and never refunded",
}
"""What is known to break such guarantees in practice, by id, said as what holds when it was checked."""

NOT_COVERED = {
    "timing": "when an answer comes and how long it takes",
    "participation": "that a site took part, and the sizes of what it sent",
    "test_metrics": "figures on records held back for testing",
    "size_bands": "the public band that a site's number of units lies in",
    "parameter_choice": "settings chosen by looking at the private data outside the ledger",
    "population": "what holds of the population with or without any one unit",
    "dishonest_site": "what a site does that lies about its data, noise or code",
    "other_ledgers": "what other jobs spent, and the same unit at another site",
    "float_sampler": "the distance of the float64 noise sampler from an ideal Gaussian",
    "many_rows": "a person with more rows than one: the promise is for a single record",
    "more_colluders": "more colluding sites than the terms allow for",
}
"""What no epsilon of a job speaks about, by id."""

_ALWAYS = (
    *("timing", "participation", "test_metrics", "size_bands"),
    *("parameter_choice", "population", "dishonest_site", "other_ledgers"),
)


@dataclass(frozen=True)
class Terms:
    """What a job promises, in numbers.

    Attributes:
        mode: where noise is added: at each site for itself, in shares for all sites, or nowhere.
        unit: whom the promise is for.
        rows_per_person: the most rows of one person that count; only for the unit ``person``.
        bound: the clipping bound of one unit; 0 for ``off``, as are the next two and ``delta``.
        noise_multiplier: sigma, in units of the (charged) sensitivity.
        rate: the sampling rate in (0, 1].
        steps: all steps of the job.
        delta: the probability of the event in which nothing is promised.
        colluders: how many sites may pool what they know; only for ``joint``, at least 1.

    Raises:
        PlanError: ``plan_malformed`` for terms that contradict each other.
        BudgetError: ``mechanism_unaccountable`` for numbers out of range.
    """

    mode: Mode
    unit: Unit
    bound: float
    noise_multiplier: float
    rate: float
    steps: int
    delta: float
    rows_per_person: int | None = None
    colluders: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("local", "joint", "off") or self.unit not in ("person", "record"):
            raise _malformed("Mode or unit is none that exists.")
        if (self.unit == "person") != (self.rows_per_person is not None):
            raise _malformed("Rows per person belong to the unit person, and to it alone.")
        if (self.mode == "joint") != (self.colluders >= 1):
            raise _malformed("A number of colluding sites belongs to joint mode, and to it alone.")
        if self.mode == "off" and (self.bound or self.noise_multiplier or self.delta):
            raise _malformed("Without privacy there is no bound, noise or delta.")
        if self.mode != "off" and not (self.bound > 0 and self.delta > 0):
            raise _malformed("A promise needs a clipping bound and a delta above 0.")
        if self.mode != "off":
            accounting.epsilon(self.mechanisms, self.delta)

    @property
    def mechanisms(self) -> tuple[GaussianSteps, ...]:
        """What the ledger charges for the whole job; nothing for ``off``."""
        if self.mode == "off":
            return ()
        return (GaussianSteps(self.noise_multiplier, self.rate, self.steps),)


@dataclass(frozen=True)
class Statement:
    """The statement of one job.

    Attributes:
        terms: what was promised.
        checked: ids of ``HAZARDS`` that were checked for this job or its code, in the order of that table.
        others: epsilon by accountants that stand beside the ruling one, by name.

    Raises:
        PlanError: ``plan_malformed`` for a hazard that is not in the table, or checks without a promise.
    """

    terms: Terms
    checked: tuple[str, ...] = ()
    others: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.checked != tuple(name for name in HAZARDS if name in self.checked):
            raise _malformed("A hazard is named that no table knows, or out of order.")
        if self.terms.mode == "off" and (self.checked or self.others):
            raise _malformed("Without privacy there is nothing that was checked or accounted.")

    @property
    def epsilon(self) -> float | None:
        """The ruling epsilon of the whole job, or None where nothing is promised."""
        terms = self.terms
        return None if terms.mode == "off" else accounting.epsilon(terms.mechanisms, terms.delta)

    @property
    def not_covered(self) -> tuple[str, ...]:
        """Ids of ``NOT_COVERED`` that apply to the terms."""
        if self.terms.mode == "off":
            return ()
        more = ["float_sampler"] if self.terms.mode == "local" else ["more_colluders"]
        return (*_ALWAYS, *more, *(["many_rows"] if self.terms.unit == "record" else []))

    def to_json(self) -> dict[str, Json]:
        """The form that is encoded canonically: ids and numbers, and no sentence but the fixed ones."""
        terms, epsilon = self.terms, self.epsilon
        if epsilon is None:
            return {"version": 1, "mode": "off", "guarantee": None}
        return {
            "version": 1,
            "mode": terms.mode,
            "guarantee": {"epsilon": epsilon, "delta": terms.delta, "accountant": "rdp"},
            "unit": terms.unit,
            "neighbours": RELATION,
            "contributions": {"bound": float(terms.bound), "rows_per_person": terms.rows_per_person},
            "mechanism": {
                "name": _NOISE[terms.mode],
                "noise_multiplier": float(terms.noise_multiplier),
                "steps": terms.steps,
            },
            "sampler": {"name": "full-batch" if terms.rate == 1 else "poisson", "rate": float(terms.rate)},
            "composition": "renyi-addition",
            "accountants": {"rdp": epsilon, **dict(sorted(self.others.items()))},
            "trust": {"against": _AGAINST[terms.mode], "colluders": terms.colluders},
            "hazards_checked": list(self.checked),
            "hazards_not_checked": [name for name in HAZARDS if name not in self.checked],
            "not_covered": list(self.not_covered),
        }

    def lines(self) -> tuple[str, ...]:
        """The same in plain words, one sentence or two a line."""
        epsilon, terms = self.epsilon, self.terms
        if epsilon is None:
            return ("No differential privacy: nothing is promised about any person or record.",)
        return (
            f"Epsilon {up(epsilon)} at delta {terms.delta:g}, for one {terms.unit} added or removed.",
            _contribution(terms),
            _mechanism(terms),
            _sampling(terms),
            "Composition: Rényi divergences of all steps are added; the ledger refuses what would pass.",
            *(f"Beside it, {name.upper()} says {up(value)}." for name, value in sorted(self.others.items())),
            _trust(terms),
            *Odds(epsilon, terms.delta).lines(terms.unit),
            *(f"Checked: {HAZARDS[name]}." for name in self.checked),
            *(f"Not checked: that {HAZARDS[name]}." for name in HAZARDS if name not in self.checked),
            *(f"Not covered: {NOT_COVERED[name]}." for name in self.not_covered),
        )


def statement(
    terms: Terms, checked: Iterable[str] = (), others: Mapping[str, float] | None = None
) -> Statement:
    """The statement of terms, with checks in any order.

    Args:
        terms: what was promised.
        checked: ids of ``HAZARDS``; only what was really checked.
        others: epsilon by the accountants that stand beside, as they were computed.

    Raises:
        PlanError: ``plan_malformed`` for an id that is not in the table.
    """
    named = set(checked)
    if not named <= HAZARDS.keys():
        raise _malformed("A hazard is named that no table knows.")
    return Statement(terms, tuple(name for name in HAZARDS if name in named), dict(others or {}))


_NOISE = {"local": "gaussian", "joint": "discrete-gaussian-shares"}
_NOISE_WORDS = {"local": "Gaussian noise", "joint": "exact discrete Gaussian noise, in shares,"}
_AGAINST = {"local": "everybody-outside-the-site", "joint": "everybody-outside-and-colluding-sites"}


def _contribution(terms: Terms) -> str:
    if terms.rows_per_person is None:
        return f"Each record changes a sum by at most {terms.bound:g}; a person may have many records."
    return (
        f"Each person, with at most {terms.rows_per_person} rows, changes a sum by at most {terms.bound:g}; "
        "rows beyond that number are not used."
    )


def _mechanism(terms: Terms) -> str:
    noise = f"{_NOISE_WORDS[terms.mode]} of multiplier {terms.noise_multiplier:g}"
    return f"Mechanism: {noise} in each of {terms.steps} steps."


def _sampling(terms: Terms) -> str:
    if terms.rate == 1:
        return "Sampler: none. Every step uses the full batch, and no amplification by sampling is claimed."
    return (
        f"Sampler: Poisson. In each step every {terms.unit} is drawn by its own coin, at rate {terms.rate:g}."
    )


def _trust(terms: Terms) -> str:
    if terms.mode == "local":
        return (
            "Trust: the site alone. It adds all the noise itself, so the promise holds against the server, "
            "the other sites and the public."
        )
    return (
        "Trust: the sites and secure aggregation. The promise holds against everybody outside and against "
        f"{terms.colluders} colluding sites, if single answers stay hidden and enough sites add their share."
    )


def up(value: float) -> str:
    """At most four decimals, never rounded down to look smaller."""
    text = f"{value:.4f}"
    return text if float(text) >= value else f"{value + 5e-5:.4f}"


def _malformed(what: str) -> PlanError:
    return PlanError("plan_malformed", what)
