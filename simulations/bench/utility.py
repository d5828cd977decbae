"""``cloister bench utility``: how near federated training comes to pooling, with privacy and without.

Through the real noise, encodings, keys and masks (``simulations.engine``), on data sets in the folder of
``--data``: banking77, four sites by a Dirichlet draw of 0.5, and heart_disease, its four hospitals and
FLamby's split. One dropout and one colluder are tolerated, and nobody drops out. Gaps are percentage points,
accuracies fractions; a figure with ``_low`` and ``_high`` beside it is a mean over five noise seeds with its
95 % interval (Student's t). Joint steps take surplus noise back, so theirs is sqrt(4 / 3) times that of
pooling (the rounds of heart_disease do not: sqrt(2) times).

============================  ==========================================================================
figure                        meaning
============================  ==========================================================================
analytic_accuracy             banking77, one analytic round without privacy, through fixed point and masks
analytic_error                its sums in float64 against pooling: relative difference of the weights
analytic_error_fixed          the same through fixed point
analytic_bytes                what a site sends for it, before sealing
heart_accuracy                heart_disease, one analytic round without privacy
heart_accuracy_eps1, _eps01   the same at epsilon 1 and 0.1 (delta 1e-4), joint; mean of 50 noise seeds
heart_resplit_gap             logistic regression on all rows less the round, mean of five re-splits
heart_resplit_gap_eps1        the round with all rows in one place less the federated one, both at epsilon 1
pooled_epsE, joint_epsE,      banking77, steps of a head at epsilon E: all rows in one place, noise in shares,
local_epsE                    each site's own noise; each with its own steps and rate
joint_gap_epsE                pooled less joint at the same epsilon
joint_over_local_epsE         joint less local at the same epsilon
ten_steps_gap                 joint at epsilon 8: many secure sums less ten
bytes_epsE, bytes_ten_steps   what a site sends in the whole joint run, before sealing
pooled_plain                  the head on all rows without privacy
============================  ==========================================================================

``COURSES`` were chosen on a tenth of the training rows, once (``search``), the rounds of heart by
cross-validation on its training rows (``search_heart``), and never on test rows. As everywhere
in such comparisons the search is not charged to epsilon; a real job takes the figures from here.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloister.client.site import records
from cloister.privacy.analytic.moments import plain
from cloister.privacy.analytic.ridge import distance, solve
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.model import DEFAULT, describe
from cloister.simulations import partition
from cloister.simulations.bench.result import Limit, Result
from cloister.simulations.engine import frozen
from cloister.simulations.engine.holding import Holding, pooled
from cloister.simulations.engine.methods import Member
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.sums import OpenSums
from cloister.simulations.engine.ways import HeadSteps, Model, OneRound, Setting, Way
from cloister.simulations.scenarios import catalogue
from cloister.simulations.scenarios.catalogue import data_file
from cloister.simulations.scenarios.material import Material

SEEDS, HEART_SEEDS, SITES = 5, 50, 4
DELTA, HEART_DELTA = 1e-5, 1e-4
_T = 2.7764451  # Student's t, 4 degrees of freedom, 95 %

COURSES = {
    (8.0, "pooled"): Course(100, 1, 0.5),
    (8.0, "joint"): Course(100, 1, 0.5),
    (8.0, "local"): Course(60, 1, 8.0),
    (3.0, "pooled"): Course(30, 1, 1.5),
    (3.0, "joint"): Course(30, 1, 1.5),
    (3.0, "local"): Course(60, 1, 4.0),
    (1.0, "pooled"): Course(60, 1, 0.25),
    (1.0, "joint"): Course(60, 1, 0.25),
    (1.0, "local"): Course(60, 1, 1.0),
}
"""Rounds, local steps and learning rate of each side at each epsilon, as ``search`` chose them."""
HUNDRED, TEN = Course(100, 1, 0.5), Course(10, 1, 16.0)
PLAIN = Course(300, 1, 1.0)
ROUND = OneRound(cosines=2048, ridge=0.3)
HEART = OneRound(scale=0.3, constant=0.3, ridge=1.0, cut=True)
HEART_PRIVATE = OneRound(kind="means", scale=0.5, constant=0.1, noise_share=0.0)
"""Class means lose less than ridge on 486 rows: 17 noised coordinates instead of 170."""

_LIMITS = {
    "analytic_accuracy": Limit(0.925, at_least=True),
    "analytic_error": Limit(1e-9),
    "analytic_error_fixed": Limit(1e-3),
    "heart_accuracy": Limit(0.80, at_least=True),
    "heart_accuracy_eps1": Limit(0.79, at_least=True),
    "heart_accuracy_eps01": Limit(0.72, at_least=True),
    "heart_resplit_gap": Limit(1.0),
    "joint_gap_eps8": Limit(0.5),
    "joint_gap_eps3": Limit(1.0),
    "joint_gap_eps1": Limit(2.0),
    "joint_over_local_eps3": Limit(2.0, at_least=True),
    "joint_over_local_eps1": Limit(5.0, at_least=True),
    "ten_steps_gap": Limit(2.5),
}


@dataclass(frozen=True, eq=False)
class Intents:
    """banking77 over four sites.

    Attributes:
        parties: the sites.
        test: the common test.
    """

    parties: Parties
    test: Holding


def run(data: Path) -> Result:
    """Measures everything; a quarter of an hour of one core.

    Raises:
        InputError: ``file_missing``.
    """
    heart_material = catalogue.heart(data, 0)
    found = heart(heart_material)
    told = intents(data)
    return Result("utility", {**analytic(told), **found, **private(told)}, _LIMITS)


def intents(data: Path) -> Intents:
    """banking77, its features, and who has which rows.

    Raises:
        InputError: ``file_missing``.
    """
    train, test = (
        records.load(data_file(data, "banking77", side), text="text", label="label")
        for side in ("train", "test")
    )
    base, labels = describe(DEFAULT), train.classes()
    features = frozen.features(base, [*train.texts, *test.texts])
    parts = partition.split(train, SITES, partition.Dirichlet(0.5), 0, minimum=40)
    targets = train.targets(labels)
    holdings = {
        f"site-{number}": Holding(features[rows], targets[rows]) for number, rows in enumerate(parts, start=1)
    }
    whole = Holding(features[len(train) :], test.targets(labels))
    return Intents(Parties(holdings, labels, (base.name, base.digest), surplus=True), whole)


# The analytic round


def analytic(told: Intents) -> dict[str, float]:
    """One round without privacy on banking77."""
    parties = told.parties
    setting = Setting(parties, Promise(), _entropies(parties, "analytic"), masked=True)
    rows = tuple(held.rows_band.high for held in parties.holdings.values())
    one = ROUND.analytic(parties.inputs, len(parties.labels), rows, Promise())
    terms = one.release.terms
    lifted = {name: one.lift.rows(held.features) for name, held in parties.holdings.items()}
    labels = {name: held.labels for name, held in parties.holdings.items()}
    sums = [plain(terms, lifted[name], labels[name]) for name in lifted]
    everything = plain(
        terms, np.concatenate(list(lifted.values())), np.concatenate([labels[name] for name in lifted])
    )
    expected = solve(terms, everything, one.ridge)
    fresh = _entropies(parties, "fixed")
    members = {name: Member(held, fresh[name]) for name, held in parties.holdings.items()}
    fixed = one.run(members, OpenSums(tuple(members)))
    return {
        "analytic_accuracy": ROUND.federated(setting).accuracy(told.test),
        "analytic_error": distance(solve(terms, np.sum(sums, axis=0), one.ridge), expected),
        "analytic_error_fixed": distance(fixed, expected),
        "analytic_bytes": one.release.content_bytes,
    }


def heart(material: Material) -> dict[str, float]:
    """The four hospitals."""
    figures = {"heart_accuracy": _federated(HEART, material, Promise(), 0).accuracy(material.test)}
    for name, epsilon in (("heart_accuracy_eps1", 1.0), ("heart_accuracy_eps01", 0.1)):
        promise = Promise("joint", epsilon, HEART_DELTA)
        figures[name] = statistics.fmean(
            _federated(HEART_PRIVATE, material, promise, seed).accuracy(material.test)
            for seed in range(HEART_SEEDS)
        )
    return figures | resplits(material)


def resplits(material: Material, times: int = 5, seeds: int = 10) -> dict[str, float]:
    """How the round stands to pooling when each hospital's rows are split anew, 34 % of them for testing."""
    from sklearn.linear_model import LogisticRegression

    plain_gaps, private_gaps = [], []
    promise = Promise("joint", 1.0, HEART_DELTA)
    for number in range(times):
        split = resplit(material, number)
        rows, test = pooled(split.train), split.test
        pooling = LogisticRegression(max_iter=1000).fit(rows.features, rows.labels)
        best = float(pooling.score(test.features, test.labels))
        plain_gaps.append(best - _federated(HEART, split, Promise(), 0).accuracy(test))
        for seed in range(seeds):
            entropy = FixedEntropy(f"resplit {number} {seed}".encode())
            together = HEART_PRIVATE.alone(rows, 2, promise, entropy).accuracy(test)
            private_gaps.append(together - _federated(HEART_PRIVATE, split, promise, seed).accuracy(test))
    return {
        "heart_resplit_gap": 100 * statistics.fmean(plain_gaps),
        "heart_resplit_gap_eps1": 100 * statistics.fmean(private_gaps),
    }


def resplit(material: Material, number: int) -> Material:
    """The same hospitals with other test rows, 34 % of each."""
    rng = np.random.default_rng([34, number])
    train, own = {}, {}
    for name in material.train:
        every = pooled([material.train[name], material.own[name]])
        order = rng.permutation(len(every))
        cut = round(0.34 * len(every))
        own[name], train[name] = every.take(np.sort(order[:cut])), every.take(np.sort(order[cut:]))
    return Material(material.labels, train, own, pooled(own), material.base)


def search_heart(
    material: Material, promise: Promise, ways: Sequence[Way], folds: int = 5
) -> list[tuple[float, Way]]:
    """Accuracy of each way by cross-validation on the training rows, best first: how ``HEART`` was chosen."""
    rng = np.random.default_rng(5)
    fold = {name: rng.permutation(len(held)) % folds for name, held in material.train.items()}
    scores: list[list[float]] = [[] for _ in ways]
    for number in range(folds):
        train = {n: held.take(np.flatnonzero(fold[n] != number)) for n, held in material.train.items()}
        back = [held.take(np.flatnonzero(fold[n] == number)) for n, held in material.train.items()]
        part = Material(material.labels, train, {}, pooled(back), material.base)
        for place, way in enumerate(ways):
            for seed in range(1, 11 if promise.epsilon else 2):
                scores[place].append(_federated(way, part, promise, seed).accuracy(part.test))
    return sorted(zip(map(statistics.fmean, scores), ways, strict=True), key=lambda pair: -pair[0])


# Steps of a head


def private(told: Intents) -> dict[str, float]:
    """Joint beside pooled and local, epsilon by epsilon."""
    figures: dict[str, float] = {}
    for epsilon in (8.0, 3.0, 1.0):
        sides = {side: _side(told, epsilon, side) for side in ("pooled", "joint", "local")}
        for side, (accuracies, _) in sides.items():
            figures |= spread(f"{side}_eps{epsilon:g}", accuracies)
        joint, sent = sides["joint"]
        gaps = [100 * (one - other) for one, other in zip(sides["pooled"][0], joint, strict=True)]
        leads = [100 * (one - other) for one, other in zip(joint, sides["local"][0], strict=True)]
        figures |= spread(f"joint_gap_eps{epsilon:g}", gaps)
        figures |= spread(f"joint_over_local_eps{epsilon:g}", leads)
        figures[f"bytes_eps{epsilon:g}"] = sent
    many, _ = _side(told, 8.0, "joint", HUNDRED)
    few, sent = _side(told, 8.0, "joint", TEN)
    figures |= spread("ten_steps_gap", [100 * (a - b) for a, b in zip(many, few, strict=True)])
    whole = HeadSteps(PLAIN).alone(
        pooled(told.parties.holdings), len(told.parties.labels), Promise(), FixedEntropy(b"plain")
    )
    return figures | {"bytes_ten_steps": sent, "pooled_plain": whole.accuracy(told.test)}


def _side(told: Intents, epsilon: float, side: str, course: Course | None = None) -> tuple[list[float], int]:
    """The accuracy of each seed, and what a site sent in one run."""
    way = HeadSteps(course or COURSES[epsilon, side])
    accuracies, sent = [], 0
    for seed in range(SEEDS):
        model = trained(told.parties, way, epsilon, side, seed)
        accuracies.append(model.accuracy(told.test))
        sent = model.bytes_up
    return accuracies, sent


def trained(
    parties: Parties, way: Way, epsilon: float, side: str, seed: int, *, masked: bool = True
) -> Model:
    """One private run of one side: ``pooled``, ``joint`` or ``local``."""
    promise = Promise("local" if side == "local" else "joint", epsilon, DELTA)
    if side == "pooled":
        entropy = FixedEntropy(f"pooled {epsilon} {seed}".encode())
        return way.alone(pooled(parties.holdings), len(parties.labels), promise, entropy)
    return way.federated(Setting(parties, promise, _entropies(parties, f"{side} {epsilon} {seed}"), masked))


def search(told: Intents, epsilon: float, side: str, courses: Sequence[Course]) -> list[tuple[float, Course]]:
    """Accuracy of each course on a tenth of the training rows, best first: how ``COURSES`` were chosen."""
    rng = np.random.default_rng(1)
    train, held = {}, []
    for name, holding in told.parties.holdings.items():
        back = rng.random(len(holding)) < 0.1
        train[name] = holding.take(np.flatnonzero(~back))
        held.append(holding.take(np.flatnonzero(back)))
    parties = Parties(train, told.parties.labels, told.parties.base, surplus=told.parties.surplus)
    rows = pooled(held)
    found = [
        (trained(parties, HeadSteps(course), epsilon, side, 0, masked=False).accuracy(rows), course)
        for course in courses
    ]
    return sorted(found, key=lambda pair: -pair[0])


def _federated(way: Way, material: Material, promise: Promise, seed: int) -> Model:
    parties = Parties(material.train, material.labels, material.base)
    setting = Setting(
        parties, promise, _entropies(parties, f"heart {promise.epsilon} {seed}"), masked=seed == 0
    )
    return way.federated(setting)


def _entropies(parties: Parties, what: str) -> dict[str, FixedEntropy]:
    return {name: FixedEntropy(f"bench utility {what} {name}".encode()) for name in parties.holdings}


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean of five seeds and its 95 % interval."""
    mean = statistics.fmean(values)
    half = _T * statistics.stdev(values) / len(values) ** 0.5
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
