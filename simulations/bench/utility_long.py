"""``cloister bench utility-long``: LoRA on all layers in joint mode, beside word counts and itself pooled.

SST-2 (the folder ``sst2`` of ``--data``) over four sites by a Dirichlet draw of 0.5; MiniLM, LoRA of rank 8
on query and value of all six layers and a head of two classes. One dropout and one colluder are tolerated,
nobody drops out, and surplus noise is taken back, so noise is sqrt(4 / 3) times that of pooling. Everything
runs through the engine's own steps, noise and grid; the first seed through keys and masks as well. The others
leave masks out, which gives the same sums bit for bit. A seed is that of A, of sampling and of noise.

========================  ==============================================================================
figure                    meaning
========================  ==============================================================================
long_accuracy             joint at epsilon 8 on the common test, mean of five seeds; ``_low``, ``_high``: 95 %
                          (Student's t)
long_worst, long_best     the worst and the best seed
long_over_tfidf           that mean less ``tfidf_pooled``, in points
long_head                 a head alone in joint mode at the same epsilon, mean of five noise seeds
long_over_head            ``long_accuracy`` less that, in points; the planner proposes LoRA for so many units
tfidf_pooled              TF-IDF and logistic regression on all rows in one place, without privacy
long_pooled               the same LoRA on all rows in one place without privacy, mean of its seeds
long_gap_pooled           that less ``long_accuracy``, in points
long_epsilon, long_delta  of the whole run, by the ruling account
long_noise_multiplier     of a step
long_bytes_site           what a site sends in the whole run, before sealing and signing
long_sums                 secure sums of the whole run
========================  ==============================================================================

``JOINT`` and ``HEAD`` were chosen on whole sentences of the training rows, from whose training side every
phrase of theirs was taken (``phrases``), and never on test rows; the search was short (docs/benchmarks.md).
``PLAIN`` was not searched for yet. ``search`` does JOINT and PLAIN. It is not charged to epsilon; a real job
takes the figures from here.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import numpy as np

from cloister.client.learn.documents import Documents
from cloister.client.learn.training import LocalTrainer, Moment, Settings
from cloister.client.site import records
from cloister.client.site.records import Records
from cloister.privacy import canonical, code
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.layout import initial
from cloister.privacy.methods import Precision
from cloister.privacy.model import DEFAULT, BaseModel, describe
from cloister.privacy.update import Vector
from cloister.privacy.wire import messages
from cloister.server.terms import Rates, Terms
from cloister.simulations import baselines, partition
from cloister.simulations.bench import phrases
from cloister.simulations.bench.kept import Kept
from cloister.simulations.bench.result import Limit, Result
from cloister.simulations.bench.utility import spread
from cloister.simulations.engine import frozen
from cloister.simulations.engine.consortium import Consortium
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.plans import Course as Steps
from cloister.simulations.engine.plans import Parties, Promise
from cloister.simulations.engine.ways import HeadSteps, Setting
from cloister.simulations.scenarios.catalogue import data_file

SEEDS: Final = 5
PLAIN_SEEDS: Final = 1
SITES: Final = 4
EPSILON, DELTA = 8.0, 4.9e-6
"""Delta is the training rows to the power of -1.1."""
RANK: Final = 8
HELD: Final = 1500
"""Whole sentences that courses are chosen on."""

_ACCURACY = ("accuracy",)
_JOINT = (*_ACCURACY, "epsilon", "noise_multiplier", "bytes", "sums")

_LIMITS = {
    "long_over_tfidf": Limit(0.0, at_least=True),
    "long_over_head": Limit(0.0, at_least=True),
    "long_gap_pooled": Limit(3.0),
}


@dataclass(frozen=True)
class Course:
    """How LoRA and head are trained, by steps of Adam.

    Attributes:
        steps: how many; in joint mode each is a round.
        rate: the sampling rate.
        head, adapter: learning rates.
        alpha: of LoRA: its output is multiplied with alpha / rank.
        bound: C of one record's gradient in joint mode.
        momentum: in joint mode.
        precision: what the products of a training pass are taken in; None for float32.
        averaged: in joint mode, the mean of so many last models is the result, which costs no privacy.
    """

    steps: int
    rate: float
    head: float
    adapter: float
    alpha: float = 16.0
    bound: float = 2.4
    momentum: float = 0.8
    precision: Precision | None = None
    averaged: int = 1


JOINT = Course(34, 0.1, 0.01, 0.003, 32.0, 4.0, precision="bf16", averaged=2)
PLAIN = Course(400, 64 / 67_349, 5e-3, 1e-3)
HEAD = HeadSteps(Steps(30, 1, 2.0))


@dataclass(frozen=True, eq=False)
class Sentences:
    """Records over sites, and a test of them all.

    Attributes:
        base: the base model.
        train: site name -> its records.
        test: the common test.
        layers: how many of the base model carry LoRA: all.
    """

    base: BaseModel
    train: Mapping[str, Records]
    test: Records
    layers: int = 6

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted(set().union(*(found.classes() for found in self.train.values()))))

    @cached_property
    def pooled(self) -> Records:
        """All records in one place."""
        parts = list(self.train.values())
        return Records(
            tuple(text for part in parts for text in part.texts),
            tuple(label for part in parts for label in part.labels),
        )

    def for_choosing(self, number: int = HELD, seed: int = 1) -> Sentences:
        """The same sites without whole sentences that are then the test, nor any phrase of these."""
        pooled = self.pooled
        rows = phrases.divided(pooled.texts, number, seed)
        ends = np.cumsum([len(part) for part in self.train.values()])
        kept = np.split(rows.train, np.searchsorted(rows.train, ends[:-1]))
        train = {name: pooled.take(part) for name, part in zip(self.train, kept, strict=True)}
        return replace(self, train=train, test=pooled.take(rows.held))


def run(data: Path, out: Path | None = None) -> Result:
    """Measures everything.

    Args:
        data: the folder of data sets, ``sst2`` among them.
        out: a folder in which finished runs are kept; None to keep none.

    Raises:
        InputError: ``file_missing``.
        UsageError: ``folder_in_use``.
        StateError: as ``Kept`` does.
    """
    told, kept = load(data), Kept(out)
    with kept.held(_about(data, told.base)):
        return Result("utility-long", figures(told, kept), _LIMITS)


def load(data: Path) -> Sentences:
    """SST-2, and who has which rows.

    Raises:
        InputError: ``file_missing``.
    """
    train, test = (
        records.load(data_file(data, "sst2", side), text="text", label="label") for side in ("train", "test")
    )
    parts = partition.split(train, SITES, partition.Dirichlet(0.5), 0, minimum=40)
    sites = {f"site-{number}": train.take(rows) for number, rows in enumerate(parts, start=1)}
    return Sentences(describe(DEFAULT), sites, test)


def figures(told: Sentences, kept: Kept) -> dict[str, float]:
    """All figures, from runs that were kept or are run now."""
    words = kept.run("tfidf", _ACCURACY, lambda: {"accuracy": baselines.tfidf([told.pooled], told.test)})
    done = [
        kept.run(f"joint-{seed}", _JOINT, partial(joint, told, JOINT, seed, masked=seed == 0))
        for seed in range(SEEDS)
    ]
    alone = kept.run("head", _ACCURACY, lambda: {"accuracy": statistics.fmean(heads(told, HEAD))})["accuracy"]
    plain = [
        kept.run(f"pooled-{seed}", _ACCURACY, partial(_pooled, told, seed))["accuracy"]
        for seed in range(PLAIN_SEEDS)
    ]
    accuracies = [one["accuracy"] for one in done]
    mean, whole = statistics.fmean(accuracies), statistics.fmean(plain)
    return spread("long_accuracy", accuracies) | {
        "long_worst": min(accuracies),
        "long_best": max(accuracies),
        "tfidf_pooled": words["accuracy"],
        "long_over_tfidf": 100 * (mean - words["accuracy"]),
        "long_head": alone,
        "long_over_head": 100 * (mean - alone),
        "long_pooled": whole,
        "long_gap_pooled": 100 * (whole - mean),
        "long_epsilon": max(one["epsilon"] for one in done),
        "long_delta": DELTA,
        "long_noise_multiplier": done[0]["noise_multiplier"],
        "long_bytes_site": done[0]["bytes"],
        "long_sums": done[0]["sums"],
    }


def joint(told: Sentences, course: Course, seed: int, *, masked: bool = False) -> dict[str, float]:
    """One private federated run: its accuracy, cost and bytes.

    Raises:
        PlanError, BudgetError: no noise keeps the course within epsilon.
    """
    played = Consortium(told.base, told.train, seed)
    plan, _ = played.draft(_terms(told, course))
    shared, models = played.model(plan), _Last(course.averaged)
    start = initial(shared.layout, _seed_of_a(seed))
    done = played.run(shared, start, played.seats(shared), masked=masked, watch=models)
    mechanism = GaussianSteps(plan.privacy.noise_multiplier, course.rate, course.steps)
    return {
        "accuracy": shared.accuracy(models.mean, told.test),
        "epsilon": accounting.epsilon([mechanism], DELTA),
        "noise_multiplier": plan.privacy.noise_multiplier,
        "bytes": done.bytes_up,
        "sums": done.sums,
    }


def heads(told: Sentences, way: HeadSteps, seeds: int = SEEDS) -> list[float]:
    """The accuracies of a head alone in joint mode, one for each noise seed."""
    parts = {**told.train, "": told.test}
    features = frozen.features(told.base, [text for part in parts.values() for text in part.texts])
    ends = np.cumsum([len(part) for part in parts.values()])[:-1]
    found = {
        name: Holding(some, part.targets(told.labels))
        for (name, part), some in zip(parts.items(), np.split(features, ends), strict=True)
    }
    test = found.pop("")
    parties = Parties(found, told.labels, (told.base.name, told.base.digest), surplus=True)
    promise = Promise("joint", EPSILON, DELTA)
    accuracies = []
    for seed in range(seeds):
        entropies = {name: FixedEntropy(f"head {seed} {name}".encode()) for name in found}
        model = way.federated(Setting(parties, promise, entropies, masked=seed == 0))
        accuracies.append(model.accuracy(test))
    return accuracies


def pooled(told: Sentences, course: Course, seed: int) -> float:
    """The accuracy of the same model, trained on all rows in one place without privacy."""
    played = Consortium(told.base, told.train, seed)
    usual = {"momentum": Terms.momentum, "bound": Terms.bound}  # nothing is clipped, and Adam has its own
    terms = replace(_terms(told, course), mode="off", surplus=False, **usual)  # type: ignore[arg-type]
    shared = played.model(played.draft(terms)[0])
    rows: Documents = shared.documents(told.pooled)
    start = initial(shared.layout, _seed_of_a(seed))
    how = Settings(course.steps, course.rate, len(told.pooled), "adam", course.head, course.adapter)
    moment = Moment(1, 1, messages.model_digest(start))
    entropy = FixedEntropy(f"pooled {seed}".encode())
    entropy.advance(1)
    change = LocalTrainer(shared.adapted, rows).train(start, how, entropy, moment).values
    return shared.accuracy(start + change, told.test)


def _pooled(told: Sentences, seed: int) -> dict[str, float]:
    return {"accuracy": pooled(told, PLAIN, seed)}


def search(
    told: Sentences, courses: Sequence[Course], side: str = "joint", seed: int = 0
) -> list[tuple[float, Course]]:
    """Accuracy of each course on whole sentences of the training rows, best first."""
    part = told.for_choosing()
    found = [
        (joint(part, one, seed)["accuracy"] if side == "joint" else pooled(part, one, seed), one)
        for one in courses
    ]
    return sorted(found, key=lambda pair: -pair[0])


class _Last:
    """The mean of the last models of a run, as they come."""

    def __init__(self, number: int) -> None:
        self._models: deque[Vector] = deque(maxlen=number)

    def __call__(self, _sums: int, _sent: int, model: Vector) -> None:
        self._models.append(model)

    @property
    def mean(self) -> Vector:
        return np.asarray(np.mean(list(self._models), axis=0, dtype=np.float64), dtype=np.float32)


def _terms(told: Sentences, course: Course) -> Terms:
    return Terms(
        "sentences",
        told.labels,
        mode="joint",
        epsilon=EPSILON,
        delta=DELTA,
        bound=course.bound,
        rounds=course.steps,
        rate=course.rate,
        rates=Rates("adam", course.head, course.adapter),
        momentum=course.momentum,
        rank=RANK,
        alpha=course.alpha,
        top_layers=told.layers,
        precision=course.precision,
        secure=True,
        surplus=True,
    )


def _seed_of_a(seed: int) -> str:
    """A digest that the start of LoRA's A is drawn from; the plan's own is another one each time."""
    return canonical.digest(f"bench utility-long {seed}".encode())


def _about(data: Path, base: BaseModel) -> canonical.Json:
    """Everything that decides what a run comes to: courses, data, model and code."""
    return {
        "base": base.digest,
        "courses": [
            {name: str(value) for name, value in asdict(one).items()} for one in (JOINT, PLAIN, HEAD)
        ],
        "files": {
            side: canonical.digest_of_file(data_file(data, "sst2", side)) for side in ("train", "test")
        },
        "code": code.installed(),
    }
