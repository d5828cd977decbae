"""What a simulated method would cost and whether joint noise would pay, without a record and without a trial.

``cloister lead plan`` answers for plans (``server.planning``); this for what a scenario compares, analytic
rounds among it.

Exact, by the code that a job runs: the noise multiplier, the epsilon, the noise in an opened sum over that of
pooling at the same epsilon, and the bytes of the encoded vectors.

Where an accuracy is expected, what noise leaves of it with joint noise and with each site's own
(``simulations.expectation``), and joint is proposed from a point on. Else a rule of thumb says whether a
difference in noise will show (``server.planning.load``).

Which method loses least is a rule of thumb, set beside ``simulations.bench.planner_cases.TUNING``. A single
release has the noise of the whole run, and so have the steps of a head together: with rows cut to norm 1 and
gradients cut to C, each way spends its whole sensitivity on the direction of a row. What differs is how that
noise meets them. Ridge adds p (p + 1) / 2 noised values of X'X, whose largest eigenvalue, 2 s sqrt(p), must
stay small beside the signal's, about units / p; on hundreds of features it does not, and ridge falls back to
class means. Class means spend half of a row's squared length on their constant and go no further than one
step; a head's first step is the same sum without that loss, and later ones correct it. On the dozens of
features of a table X'X is small, its rows are scaled by public ranges, and ridge brings the intercept that
class means lack, while a head's steps of fixed size overshoot. Where a table's classes are known to be alike
in number no intercept is missing, and class means are spared the noise of X'X.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cloister.privacy.analytic.moments import Terms
from cloister.privacy.analytic.release import Release
from cloister.privacy.dp import accounting
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import Grid
from cloister.privacy.errors import PlanError
from cloister.privacy.secagg.terms import SumTerms
from cloister.server.planning import SHOWS, load
from cloister.simulations.expectation import Expectation

Mode: TypeAlias = Literal["local", "joint"]
Method: TypeAlias = Literal["head", "ridge", "means"]

_WORD = 4  # bytes of a parameter in the 32-bit ring


@dataclass(frozen=True)
class Question:
    """What is known before anybody is asked.

    Attributes:
        units: (low, high) of each site's public band of units.
        classes: how many.
        inputs: the width of the frozen features.
        epsilon, delta: the target of the whole run.
        steps: of a head's descent.
        colluding: how many sites may put together what they know.
        most_bytes: what a site may send in the whole run, before sealing; None for no limit.
        surplus: whether joint steps take noise back that no lost site made needed, for twice the bytes.
        expected: of accuracy; None where nothing is known.

    Raises:
        PlanError: ``plan_conflict``.
    """

    units: tuple[tuple[int, int], ...]
    classes: int
    inputs: int
    epsilon: float
    delta: float
    steps: int = 60
    colluding: int = 1
    most_bytes: int | None = None
    surplus: bool = False
    expected: Expectation | None = None

    def __post_init__(self) -> None:
        bands = all(1 <= low <= high for low, high in self.units)
        if not (bands and self.classes >= 2 and self.inputs >= 1 and self.steps >= 1):
            raise PlanError(
                "plan_conflict", "Sites with units, two classes, a feature and a step are needed."
            )
        least = SumTerms.least_threshold(len(self.units), self.colluding)
        if len(self.units) < least or least - self.colluding < 2:
            raise PlanError(
                "plan_conflict",
                f"{len(self.units)} sites of which {self.colluding} may collude hide no single site.",
                f"Ask {3 + 2 * (self.colluding - 1)} sites or more.",
            )
        if self.expected is not None:
            self.expected.check(self.classes)

    @property
    def order(self) -> tuple[Method, ...]:
        """Methods, that which loses least to noise first."""
        if self.inputs > FEW_INPUTS:
            return ("head", "ridge", "means")
        alike = self.expected is not None and self.expected.alike(self.classes)
        return ("means", "ridge", "head") if alike else ("ridge", "means", "head")

    @property
    def minimum(self) -> int:
        """n_min: all sites but one, or more where that would be too few."""
        least = SumTerms.least_threshold(len(self.units), self.colluding)
        return max(len(self.units) - 1, least)

    def joint_factor(self, method: Method, *, surplus: bool) -> float:
        """Joint noise in a sum over all sites, over that of pooling; with surplus noise taken back or not."""
        sites = len(self.units)
        sized = sites if surplus and method == "head" else self.minimum
        return math.sqrt(sites / (sized - self.colluding))


@dataclass(frozen=True)
class Forecast:
    """One way to answer a question.

    Attributes:
        method, mode: what it is.
        noise_multiplier: sigma of each sum.
        epsilon: of the whole run at that sigma, by the ruling accountant.
        noise_factor: noise in a sum over all sites, over that of pooling at the same epsilon.
        load: noise over signal; see the module docstring.
        bytes_up: what one site sends in the whole run, before sealing.
        sums: secure sums.
        refused: why it cannot be had; "" where it can.
    """

    method: Method
    mode: Mode
    noise_multiplier: float
    epsilon: float
    noise_factor: float
    load: float
    bytes_up: int
    sums: int
    refused: str = ""


@dataclass(frozen=True)
class Proposal:
    """An answer.

    Attributes:
        forecasts: every way, feasible or not.
        chosen: the one that is proposed.
        why: the reasons, in sentences.
    """

    forecasts: tuple[Forecast, ...]
    chosen: Forecast
    why: tuple[str, ...]


def forecast(question: Question, method: Method, mode: Mode) -> Forecast:
    """What one way costs.

    Raises:
        PlanError: ``plan_conflict``, no noise reaches the target.
    """
    releases = question.steps if method == "head" else 1
    twice = question.surplus and method == "head" and mode == "joint"
    sums = 2 * releases if twice else releases
    sigma = noise_multiplier(question.epsilon, question.delta, 1.0, releases)
    joint = question.joint_factor(method, surplus=question.surplus)
    factor = math.sqrt(len(question.units)) if mode == "local" else joint
    parameters = _parameters(question, method)
    once = noise_multiplier(question.epsilon, question.delta, 1.0, 1)
    units = sum(low for low, _ in question.units)
    return Forecast(
        method,
        mode,
        sigma,
        accounting.epsilon([GaussianSteps(sigma, 1.0, releases)], question.delta),
        factor,
        load(factor, parameters, question.classes, once, units),
        _WORD * parameters * sums,
        sums,
        _refusal(question, method, mode, sigma, _WORD * parameters * sums),
    )


def propose(question: Question) -> Proposal:
    """The way that is proposed: ``joint`` only where it pays, and the method that loses least to noise.

    Raises:
        PlanError: ``plan_conflict``: nothing can be had, with what would have to change.
    """
    order = question.order
    modes: tuple[Mode, ...] = ("local", "joint")
    every = tuple(forecast(question, method, mode) for method in order for mode in modes)
    feasible = {(each.method, each.mode): each for each in every if not each.refused}
    if not feasible:
        raise PlanError("plan_conflict", f"Nothing fits: {every[0].refused}", "Allow more bytes or epsilon.")
    joint, why = _pays(question) if question.expected is None else _gains(question, question.expected)
    best: tuple[Mode, ...] = ("joint", "local") if joint else modes
    chosen = next(feasible[method, mode] for method in order for mode in best if (method, mode) in feasible)
    hint = _FIRMER if question.expected is None else ""
    told = (why, _method(question, chosen, order), hint, _cost(chosen), _surplus(question, chosen))
    return Proposal(every, chosen, tuple(sentence for sentence in told if sentence))


POINT = 0.01
"""From so much more accuracy on joint noise pays."""
_UNSURE = (0.005, 0.02)
"""Gains of which it is not sure on which side of a point they will be."""
_SPOKEN: Mapping[Method, str] = {"head": "A head", "ridge": "Ridge", "means": "Class means"}
_FIRMER = (
    "No accuracy is expected: what is thought reachable without privacy, and the share of the most common "
    "class, would make this firmer."
)
FEW_INPUTS = 128
"""Up to so many features ridge is proposed: between those of tables (16 and 61) and of language models (384),
where nothing was measured."""


def _method(question: Question, chosen: Forecast, order: tuple[Method, ...]) -> str:
    """Why this method."""
    if chosen.method != order[0]:
        return f"Method {chosen.method}: {order[0]} would lose less to noise, but it does not fit."
    if chosen.method == "means":
        return (
            f"Method means: on {question.inputs} features and classes about alike in number they lose least "
            "to noise."
        )
    if chosen.method == "ridge" and question.expected is not None:
        return (
            f"Method ridge: on {question.inputs} features one sum loses least to noise; class means would "
            "answer the most common class too often."
        )
    if chosen.method == "ridge":
        return (
            f"Method ridge: on {question.inputs} features one sum loses least to noise; class means do about "
            "the same where classes are alike in number."
        )
    return (
        f"Method head: on {question.inputs} features steps lose less to noise than one sum of all products."
    )


def _surplus(question: Question, chosen: Forecast) -> str:
    """What taking surplus noise back would change; "" where it is done, or can change nothing."""
    apart = question.surplus or (chosen.method, chosen.mode) != ("head", "joint")
    if apart or question.minimum == len(question.units):
        return ""
    factor = question.joint_factor("head", surplus=True)
    return (
        f"Taking surplus noise back (--take-back) would make that {factor:.3g} times while nobody is lost, "
        "for twice the bytes."
    )


def _gains(question: Question, expected: Expectation) -> tuple[bool, str]:
    """Whether joint pays by what is expected of the first method."""
    method = question.order[0]
    joint, local = (
        expected.accuracy(question.classes, forecast(question, method, mode).load)
        for mode in ("joint", "local")
    )
    gain = joint - local
    near = " That is near a point: both may do about the same." if _UNSURE[0] <= gain < _UNSURE[1] else ""
    told = (
        f"{_SPOKEN[method]} would have about {100 * joint:.1f} per cent right with shares and "
        f"{100 * local:.1f} with each site's own noise, by the {100 * expected.reachable:.3g} that are "
        f"expected without any.{near}"
    )
    if gain < POINT:
        return False, f"Joint noise buys nothing that would show. {told} Local trusts nobody."
    return True, f"Joint noise pays. {told}"


def _pays(question: Question) -> tuple[bool, str]:
    """Whether joint pays by the noise alone."""
    local = forecast(question, "head", "local")
    ratio = local.noise_factor / question.joint_factor(local.method, surplus=question.surplus)
    near = " That is near where it begins: both may do about the same." if _is_near(local.load) else ""
    if local.load < SHOWS:
        return False, (
            f"Joint noise buys nothing that would show: with {ratio:.2f} times its noise, each site's own is "
            f"{local.load:.2g} of the signal, and below {SHOWS} no gain was seen.{near} Local trusts nobody."
        )
    return True, (
        f"Joint noise pays: each site's own would be {local.load:.2g} of the signal (above {SHOWS}); shares "
        f"make it {ratio:.2f} times smaller at the same epsilon.{near}"
    )


NEAR = (0.2, 0.4)
"""Loads of which it is not sure on which side of a point a gain will be."""


def _is_near(found: float) -> bool:
    return NEAR[0] <= found < NEAR[1]


def _cost(chosen: Forecast) -> str:
    return (
        f"Epsilon {chosen.epsilon:.4g} by the account, noise {chosen.noise_factor:.3g} times that of "
        f"pooling, {chosen.bytes_up / 1000:,.1f} kB up from each site, secure sums: {chosen.sums}."
    )


def _parameters(question: Question, method: Method) -> int:
    if method == "head":
        return question.classes * (question.inputs + 1)
    return Terms(question.inputs + 1, question.classes, method).parameters


def _refusal(question: Question, method: Method, mode: Mode, sigma: float, sent: int) -> str:
    """Why a way cannot be had."""
    if question.most_bytes is not None and sent > question.most_bytes:
        return f"it sends {sent:,} bytes from each site, and {question.most_bytes:,} are allowed."
    if mode == "local":
        return ""
    rows = tuple(high for _, high in question.units)
    try:
        if method == "head":
            Grid(
                1.0,
                _parameters(question, method),
                sigma,
                len(rows),
                question.minimum,
                question.colluding,
                sum(rows),
                question.surplus,
            )
        else:
            terms = Terms(question.inputs + 1, question.classes, method)
            Release(terms, rows, "joint", sigma, question.minimum, question.colluding)
    except PlanError as error:
        return error.what
    return ""
