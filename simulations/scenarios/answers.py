"""LoRA on a causal language model, by every method: whether the machinery carries it.

The plans are the lead's own drafts, the steps those of a site's own trainer, the sums masked, the ledgers
files (``simulations.engine.consortium``). Each method has one way, fixed beforehand: nothing is searched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cloister.client.learn.documents import Documents, Worth
from cloister.client.learn.instruction import Form
from cloister.client.learn.training import Guard, LocalTrainer, Moment, Settings
from cloister.client.site.records import Records, rows_band
from cloister.privacy.dp import accounting
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.privacy.wire import messages
from cloister.server.terms import Rates, Terms
from cloister.simulations.engine.accounts import Book
from cloister.simulations.engine.adapters import SharedModel
from cloister.simulations.engine.consortium import Consortium
from cloister.simulations.engine.plans import Promise
from cloister.simulations.engine.rounds import ATTEMPT, Account
from cloister.simulations.scenarios.figures import AVERAGED, METHODS, Comparison, Figures, wilson
from cloister.simulations.scenarios.institutes import Corpus
from cloister.simulations.scenarios.progress import Progress

Say = Callable[[str], None]

WORDS = {name: words for name, words in (METHODS | AVERAGED).items() if name != "federated_ridge"}
"""The methods that there are for answers."""
MOST_TOKENS = 96
_ALL_LAYERS = 2
ROUNDS, _STEPS, _RATE = 4, 10, 0.2
JOINT_ROUNDS = 20
_STEADY = Rates("sgd", 1.0, 1.0)
_QUICK = Rates("adam", 0.01, 0.01)


@dataclass
class Rehearsal:
    """Compares on one corpus; as ``comparison.Contest`` does on features.

    Attributes:
        material: the sites.
        epsilon, delta: the target of the private methods.
        seed: of sampling and noise.
        ledgers: the folder that ledgers are made in.
        say: told what is going on.
        seeds: as of a contest; there is one run of each method.
    """

    material: Corpus
    epsilon: float
    delta: float
    seed: int
    ledgers: Path
    say: Say = lambda _: None
    seeds: int = 1
    _seconds: dict[str, float] = field(default_factory=dict, init=False)

    def run(self) -> Comparison:
        """Every method of ``WORDS``."""
        found: dict[str, Figures] = {}
        progress = Progress(len(WORDS), self.say)
        for name, words in WORDS.items():
            progress.begin(words)
            started = time.monotonic()
            found[name] = self.figures(name)
            self._seconds[name] = time.monotonic() - started
        untouched = self._shared.worth(self._start, self._test)
        return Comparison(found, self._counted(), untouched.accuracy, self._seconds, loss=untouched.loss)

    def figures(self, method: str) -> Figures:
        """One method by itself.

        Raises:
            PlanError, BudgetError: the target cannot be kept.
        """
        private = Promise("local", self.epsilon, self.delta)
        measures: dict[str, Callable[[], Figures]] = {
            "local_only": lambda: self._alone(self.material.train, None),
            "local_only_private": lambda: self._alone(self.material.train, private),
            "pooled": lambda: self._alone({"": _together(self.material.train)}, None),
            "pooled_private": lambda: self._alone({"": _together(self.material.train)}, private),
            "federated_local": lambda: self._federated("federated_local", self._terms("local")),
            "federated_joint": lambda: self._federated("federated_joint", self._terms("joint")),
            "federated_averaging": lambda: self._federated("federated_averaging", self._terms("off")),
        }
        return measures[method]()

    # What all methods share

    def _terms(self, mode: str) -> Terms:
        plain = Terms(
            "answers of nine institutes",
            task="causal-lm",
            mode="off",
            epsilon=self.epsilon,
            delta=self.delta,
            rounds=ROUNDS,
            steps=_STEPS,
            rate=_RATE,
            rates=_QUICK,
            top_layers=_ALL_LAYERS,
            max_tokens=MOST_TOKENS,
            secure=True,
        )
        if mode == "local":
            return replace(plain, mode="local", steps=1, rates=_STEADY)
        if mode == "joint":
            return replace(plain, mode="joint", rounds=JOINT_ROUNDS, steps=None, rates=_STEADY)
        return plain

    @cached_property
    def _played(self) -> Consortium:
        return Consortium(self.material.base, self.material.train, self.seed)

    @cached_property
    def _drafted(self) -> tuple[Plan, Vector]:
        return self._played.draft(self._terms("off"))

    @cached_property
    def _shared(self) -> SharedModel:
        return self._played.model(self._drafted[0])

    @property
    def _start(self) -> Vector:
        return self._drafted[1]

    @cached_property
    def _test(self) -> Documents:
        return self._shared.documents(self.material.test)

    @cached_property
    def _own(self) -> dict[str, Documents]:
        return {name: self._shared.documents(rows) for name, rows in self.material.own.items()}

    # Methods

    def _alone(self, holders: Mapping[str, Records], promise: Promise | None) -> Figures:
        """Rows by themselves: those of each site, or all of them under one name."""
        course = self._terms("local" if promise else "off").course
        steps = course.rounds * course.steps
        models, sigma = {}, 0.0
        if promise:
            sigma = noise_multiplier(promise.epsilon, promise.delta, course.rate, steps)
        for name, rows in holders.items():
            models[name] = self._trained(name, rows, steps, sigma)
        pooled = "" in models
        at = {site: models["" if pooled else site] for site in self.material.train}
        done = [GaussianSteps(sigma, course.rate, steps)] if promise else []
        figures = self._figures(at, _words(self._terms("local" if promise else "off")))
        if not promise:
            return figures
        return replace(figures, epsilon=accounting.epsilon(done, promise.delta), noise_factor=1.0)

    def _trained(self, name: str, rows: Records, steps: int, sigma: float) -> Vector:
        plan, rates = self._drafted[0], _STEADY if sigma else _QUICK
        settings = Settings(
            steps=steps,
            rate=plan.training.rate,
            expected_units=rows_band(len(rows))[0],
            optimizer=rates.optimizer,
            head_rate=rates.head,
            adapter_rate=rates.adapter,
            guard=Guard(plan.privacy.bound or 1.0, sigma) if sigma else None,
        )
        trainer = LocalTrainer(self._shared.adapted, self._shared.documents(rows))
        entropy = FixedEntropy(f"alone {self.seed} {name} {sigma}".encode())
        entropy.advance(1)
        moment = Moment(1, ATTEMPT, messages.model_digest(self._start))
        return self._start + trainer.train(self._start, settings, entropy, moment).values

    def _federated(self, name: str, terms: Terms) -> Figures:
        """A plan from its draft to its end, through keys, masks and ledgers."""
        plan, start = self._played.draft(terms)
        shared = SharedModel(plan, self.material.base)
        books: list[Book] = []

        def account(site: str) -> Account:
            promise = Promise("local", self.epsilon, self.delta)
            path = self.ledgers / name / f"{site}.sqlite"
            books.append(Book.open(path, plan.privacy.unit, promise, plan.digest))
            return books[-1].account

        private = plan.privacy.mode != "off"
        seats = self._played.seats(shared, account) if private else self._played.seats(shared)
        done = self._played.run(shared, start, seats, masked=True)
        figures = self._figures(dict.fromkeys(self.material.train, done.model), _words(terms))
        return replace(
            figures,
            epsilon=max(book.epsilon for book in books) if books else None,
            noise_factor=self._noise_factor(plan),
            bytes_up=done.bytes_up,
            sums=done.sums,
            path=((done.sums, done.bytes_up, figures.accuracy),),
        )

    @staticmethod
    def _noise_factor(plan: Plan) -> float:
        sites, how = len(plan.sites), plan.aggregation
        if plan.privacy.mode == "off":
            return 0.0
        shares = how.minimum_sites - (how.colluding or 0)
        return float(np.sqrt(sites if plan.privacy.mode == "local" else sites / shares))

    def _figures(self, models: Mapping[str, Vector], way: str) -> Figures:
        worths: dict[int, Worth] = {}
        for model in models.values():
            if id(model) not in worths:
                worths[id(model)] = self._shared.worth(model, self._test)
        common = {name: worths[id(model)] for name, model in models.items()}
        own = {name: self._shared.worth(model, self._own[name]).accuracy for name, model in models.items()}
        share = float(np.mean([worth.accuracy for worth in common.values()]))
        return Figures(
            share,
            wilson(share, len(self.material.test)),
            (share,),
            own,
            {name: worth.accuracy for name, worth in common.items()},
            way,
            loss=float(np.mean([worth.loss for worth in common.values() if worth.loss is not None])),
        )

    def _counted(self) -> tuple[float, str]:
        """Each letter by what most often came after the one before, in all answers pooled."""
        form = Form.of(self.material.base)
        size = len(form.tokenizer)
        table = np.zeros((size, size), dtype=np.int64)
        rows = _together(self.material.train)
        for before, after in _letters(form, rows):
            np.add.at(table, (before, after), 1)
        best = table.argmax(axis=1)
        shares = [
            float((best[before] == after).mean()) for before, after in _letters(form, self.material.test)
        ]
        return float(np.mean(shares)), "each letter by the one before, counted"


def _words(terms: Terms) -> str:
    """What a method does, for people."""
    course, rates = terms.course, terms.rates or _QUICK
    local = f" of {course.steps} local steps" if course.steps > 1 else ""
    return (
        f"LoRA in all layers, {course.rounds} rounds{local}, rate {course.rate:g}, {rates.optimizer}, "
        f"learning rate {rates.adapter:g}"
    )


def _letters(form: Form, rows: Records) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each answer its letters, and what stands before each."""
    turns = form.turns(rows.texts, rows.labels, MOST_TOKENS)
    return [(ids[start - 1 : -1], ids[start:]) for ids, start in zip(turns.ids, turns.starts, strict=True)]


def _together(parts: Mapping[str, Records]) -> Records:
    """All rows in one place, which only a simulation can have."""
    return Records(
        tuple(text for rows in parts.values() for text in rows.texts),
        tuple(label for rows in parts.values() for label in rows.labels),
        kind="causal-lm",
    )
