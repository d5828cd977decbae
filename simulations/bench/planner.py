"""``cloister bench planner``: whether the planner's order of accuracies is that of trials, in twenty cases.

Beforehand, from public bands and, where one is at hand, a public expectation of accuracy
(``simulations.expectation``), ``simulations.planner`` says whether joint noise will show over each site's
own, and which method loses least to noise: steps of a head, or one sum for ridge or for class means.
Here each method is run in both modes by the engine on cached features, with fifty noise seeds; its steps,
rate and ridge are those that do best on rows held back from training, in the mean of ten ways to hold some
back, each with noise of its own: one alone leaves mostly to chance what is chosen. The cases were written
down before any was run (``planner_cases``): those of the target, and ten that nothing was set beside
(``unseen_`` before their figures).

=========================  ==============================================================================
figure                     meaning
=========================  ==============================================================================
right                      cases in which both that follow are right
right_mode                 joint was said to pay, and is at least a point better than local; or was said to
                           buy nothing, and is less than a point better; each mode with the method that does
                           best there
right_method               the method that was said to lose least is within a point of the best, in the mode
                           that was proposed
cases                      how many were run; those whose data set is not here are left out and named
CASE_gain                  points of joint over local
CASE_gain_error            the standard error of that, over noise seeds
CASE_behind                points of the proposed method behind the best in the proposed mode; 0: the best
=========================  ==============================================================================

LoRA is not among the methods: it is not trained on cached features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError, UpdateError
from cloister.simulations.bench.planner_cases import CASES, UNSEEN, Case
from cloister.simulations.bench.result import Limit, Result
from cloister.simulations.engine.holding import Holding, pooled
from cloister.simulations.engine.plans import Parties, Promise
from cloister.simulations.engine.ways import OneRound, Setting, Way
from cloister.simulations.expectation import Expectation
from cloister.simulations.planner import POINT, Method, Mode, Proposal, Question, propose
from cloister.simulations.scenarios import choices
from cloister.simulations.scenarios.comparison import sides
from cloister.simulations.scenarios.material import Material

_LIMITS = {"right": Limit(8, at_least=True)}
_METHODS: tuple[Method, ...] = ("head", "ridge", "means")
_MODES: tuple[Mode, ...] = ("local", "joint")


@dataclass(frozen=True)
class Trials:
    """How often things are tried.

    Attributes:
        seeds: noise seeds of what is chosen, on test rows.
        draws: ways to hold rows back.
    """

    seeds: int = 50
    draws: int = 10


TRIALS = Trials()


@dataclass(frozen=True)
class Score:
    """What one method came to in one mode, as fractions.

    Attributes:
        mean: accuracy on test rows, over noise seeds.
        error: the standard error of that; 0 for one seed.
    """

    mean: float
    error: float = 0.0

    @classmethod
    def of(cls, runs: Sequence[float]) -> Score:
        """The score of runs."""
        error = np.std(runs, ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else 0.0
        return cls(float(np.mean(runs)), float(error))


NOTHING = Score(0.0)

Measured: TypeAlias = Mapping[tuple[Method, Mode], Score]
"""(method, mode) -> its score, where it can be kept."""


@dataclass(frozen=True)
class Verdict:
    """What was said of a case, and what came out.

    Attributes:
        pays: whether joint noise was said to pay.
        method: that was said to lose least.
        gain: of joint over local, as a fraction.
        gain_error: its standard error over noise seeds.
        behind: of the method behind the best in the proposed mode, as a fraction.
    """

    pays: bool
    method: Method
    gain: float
    gain_error: float
    behind: float

    @classmethod
    def of(cls, proposal: Proposal, measured: Measured) -> Verdict:
        """The verdict on a proposal."""
        mode, method = proposal.chosen.mode, proposal.chosen.method
        joint, local = _best(measured, "joint"), _best(measured, "local")
        return cls(
            mode == "joint",
            method,
            joint.mean - local.mean,
            math.hypot(joint.error, local.error),
            _best(measured, mode).mean - measured.get((method, mode), NOTHING).mean,
        )

    @property
    def right_mode(self) -> bool:
        """See the module docstring."""
        return self.pays == (self.gain >= POINT)

    @property
    def right_method(self) -> bool:
        """See the module docstring."""
        return self.behind < POINT

    @property
    def words(self) -> str:
        """What was said."""
        return f"joint {'pays' if self.pays else 'buys nothing'}, {self.method} first"


def _best(measured: Measured, mode: Mode) -> Score:
    """That of the method that does best in a mode, the first of equals."""
    return max(
        (score for (_, at), score in measured.items() if at == mode),
        default=NOTHING,
        key=lambda score: score.mean,
    )


def run(
    data: Path, cases: Sequence[Case] = CASES, unseen: Sequence[Case] = UNSEEN, trials: Trials = TRIALS
) -> Result:
    """Runs the cases whose data sets are in a folder; some twenty minutes of a processor.

    Raises:
        InputError: a data set cannot be used.
    """
    figures: dict[str, float] = {}
    notes: list[str] = []
    for before, some in (("", cases), ("unseen_", unseen)):
        counts = {"right": 0, "right_mode": 0, "right_method": 0, "cases": 0}
        for case in some:
            if case.needs and not (data / case.needs).is_dir():
                notes.append(f"Not measured: {case.name}. There is no {data / case.needs}.")
                continue
            verdict = judged(case, data, trials)
            figures[f"{before}{case.name}_gain"] = 100 * verdict.gain
            figures[f"{before}{case.name}_gain_error"] = 100 * verdict.gain_error
            figures[f"{before}{case.name}_behind"] = 100 * verdict.behind
            counts["right_mode"] += verdict.right_mode
            counts["right_method"] += verdict.right_method
            counts["right"] += verdict.right_mode and verdict.right_method
            counts["cases"] += 1
            notes.append(f"{case.name}: {verdict.words}.")
        figures |= {f"{before}{name}": count for name, count in counts.items()}
    return Result("planner", figures, _LIMITS, notes=tuple(notes))


def judged(case: Case, data: Path, trials: Trials) -> Verdict:
    """One case: the planner's answer, and the trials."""
    material = case.material(data)
    return Verdict.of(
        propose(question(material, case.epsilon, case.delta, case.expected)),
        measured(material, case.epsilon, case.delta, trials),
    )


def question(
    material: Material, epsilon: float, delta: float, expected: Expectation | None = None
) -> Question:
    """What a planner may know of a material: bands, classes, the width of the features, an expectation."""
    bands = [held.persons_band(held.most_rows) or held.rows_band for held in material.train.values()]
    units = tuple((band.low, band.high) for band in bands)
    width = material.test.features.shape[1]
    return Question(units, len(material.labels), width, epsilon, delta, expected=expected)


def measured(material: Material, epsilon: float, delta: float, trials: Trials) -> Measured:
    """Every method in both modes."""
    splits = [_Split.of(material, draw) for draw in range(trials.draws)]
    whole = Parties(material.train, material.labels, material.base)
    found: dict[tuple[Method, Mode], Score] = {}
    for mode in _MODES:
        promise = Promise(mode, epsilon, delta)
        for method in _METHODS:
            tried = dict(_scores(_ways(material, promise, method), splits, promise))
            if not tried:
                continue
            way = max(tried, key=lambda each: tried[each])
            runs = [_accuracy(way, whole, promise, material.test, f"{turn}") for turn in range(trials.seeds)]
            found[method, mode] = Score.of(runs)
    return found


@dataclass(frozen=True, eq=False)
class _Split:
    """One way to hold rows back.

    Attributes:
        draw: which one, from 0.
        trial: the sites without them.
        back: the rows held back, of all sites.
    """

    draw: int
    trial: Parties
    back: Holding

    @classmethod
    def of(cls, material: Material, draw: int) -> _Split:
        """The split of a draw."""
        rest, back = {}, {}
        for place, (name, holding) in enumerate(material.train.items()):
            rest[name], back[name] = sides(holding, np.random.default_rng([draw, place]))
        return cls(draw, Parties(rest, material.labels, material.base), pooled(back))


def _ways(material: Material, promise: Promise, method: Method) -> Sequence[Way]:
    if method == "head":
        return choices.courses(promise)
    rows = sum(map(len, material.train.values()))
    rounds = choices.rounds(promise, table=material.texts is None, rows=rows)
    return [way for way in rounds if isinstance(way, OneRound) and way.kind == method]


def _scores(ways: Sequence[Way], splits: Sequence[_Split], promise: Promise) -> Iterator[tuple[Way, float]]:
    """The mean accuracy of each way on rows held back, of those that can be kept in every split."""
    for way in ways:
        try:
            found = [
                _accuracy(way, split.trial, promise, split.back, f"trial {split.draw}") for split in splits
            ]
        except (PlanError, UpdateError):  # no grid, or no range, holds its noise
            continue
        yield way, float(np.mean(found))


def _accuracy(way: Way, parties: Parties, promise: Promise, rows: Holding, what: str) -> float:
    seeds = {name: f"bench planner {promise.mode} {what} {name}".encode() for name in parties.holdings}
    entropies = {name: FixedEntropy(seed) for name, seed in seeds.items()}
    return way.federated(Setting(parties, promise, entropies)).accuracy(rows)
