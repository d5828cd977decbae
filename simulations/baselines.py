"""What federation is to be compared with: word counts, each site alone, and everything in one place.

Each site alone and all records pooled are trained by the code that trains in a federated run
(``client.learn.training``), for as many rounds and steps, with and without the plan's privacy, and
scored on one common test set. Pooling is what federation avoids; it exists in simulations only.

The private figures have the plan's noise multiplier, rate and steps, and therefore its epsilon per unit:
how many units there are does not enter the account.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloister.client.learn import tabular
from cloister.client.learn.adapters import Classifier
from cloister.client.learn.analytic import cosines_of, placed
from cloister.client.learn.documents import Labelled
from cloister.client.learn.evaluation import predict, score
from cloister.client.learn.features import Features, Indices, Pooled, prepare
from cloister.client.learn.model import load_encoder, tokenize
from cloister.client.learn.training import LocalTrainer, Moment, Settings
from cloister.client.site import persons
from cloister.client.site.records import Records
from cloister.privacy import canonical
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.layout import initial
from cloister.privacy.model import BaseModel, agreed_layout
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.server.terms import RATES
from cloister.simulations.analytic import alone

Labels: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    """Test accuracy of one way to train.

    Attributes:
        plain: without privacy.
        private: at the plan's epsilon; None where the plan has no privacy.
    """

    plain: float
    private: float | None


@dataclass(frozen=True)
class Baselines:
    """Accuracies on the common test set.

    Attributes:
        tfidf: TF-IDF and logistic regression on all records pooled, without privacy; None of a table.
        pooled: the plan's own model and training on all records pooled.
        alone: the same at each site by itself.
        federated: the same federated in this process without privacy: what the private federation's
            figure is to be compared with. None where the plan itself has no privacy.
    """

    tfidf: float | None
    pooled: Pair
    alone: Mapping[str, Pair]
    federated: float | None


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents that the frozen part of the model has seen.

    Attributes:
        features: one a document.
        labels: the class of each, int64, shape (documents,).
        units: whose document each is, int64, shape (documents,), numbered from 0 without gaps.
    """

    features: Features
    labels: Labels
    units: Indices

    def take(self, rows: Indices) -> Documents:
        """Some of the documents; nothing is computed again, and nothing but pooled features copied."""
        units = np.unique(self.units[rows], return_inverse=True)[1].astype(np.int64)
        part: Features = _Part(self.features, rows)
        if isinstance(self.features, Pooled):
            part = Pooled(self.features.values[torch.from_numpy(rows)])
        return Documents(part, self.labels[rows], units)


@dataclass(frozen=True, eq=False)
class _Part:
    """Features of the documents at ``rows`` of others."""

    whole: Features
    rows: Indices

    @property
    def lengths(self) -> Indices:
        return self.whole.lengths[self.rows]

    def logits(self, classifier: Classifier, rows: Indices) -> Tensor:
        return self.whole.logits(classifier, self.rows[rows])


@dataclass(frozen=True, eq=False)
class Ground:
    """What all trained baselines share.

    Attributes:
        plan: says how to train.
        classifier: the model; its trained parameters are overwritten.
        train: the documents of each site.
        pooled: the documents of all sites.
        test: the common test set.
        seed: of sampling and noise; the same seed gives the same figures.
    """

    plan: Plan
    classifier: Classifier
    train: Mapping[str, Documents]
    pooled: Documents
    test: Documents
    seed: bytes

    @classmethod
    def of(
        cls, plan: Plan, base: BaseModel, train: Mapping[str, Records], test: Records, seed: bytes
    ) -> Ground:
        """Loads the model and runs its frozen part once over every document.

        Raises:
            ModelError: the model or its adapter is not the plan's.
            InputError: ``class_unknown``.
        """
        classifier = _placed(plan, base)
        pooled = _seen(classifier, base, plan, list(train.values()))
        sites = dict(zip(train, _apart(pooled, list(train.values())), strict=True))
        return cls(plan, classifier, sites, pooled, _seen(classifier, base, plan, [test]), seed)

    def scores(
        self, model: Vector, base: BaseModel, held: Mapping[str, Records]
    ) -> tuple[float, dict[str, float]]:
        """Accuracy of a model on the common test set, and on records that each site held out."""
        parts = list(held.values())
        own = _apart(_seen(self.classifier, base, self.plan, parts), parts)
        return self._score(model, self.test), {
            name: self._score(model, documents) for name, documents in zip(held, own, strict=True)
        }

    def _score(self, model: Vector, documents: Documents) -> float:
        return score(predict(self.classifier, documents.features, model), documents.labels).accuracy

    def apart(self) -> Ground:
        """The same ground with a model of its own, so that two trainings can go on at once."""
        return replace(self, classifier=copy.deepcopy(self.classifier))

    def alone(self, site: str) -> Pair:
        """One site by itself."""
        return self._pair(site, self.train[site], self._settings(site))

    def together(self) -> Pair:
        """All records in one place; the public number of units is the sum over the sites."""
        return self._pair("", self.pooled, self._together())

    def _together(self) -> Settings:
        units = sum(site.units.low for site in self.plan.sites)
        return replace(self._settings(self.plan.sites[0].name), expected_units=units)

    def _settings(self, site: str) -> Settings:
        """What the plan asks of a site; the steps of a joint job follow each other without a break."""
        settings = Settings.of(self.plan, site)
        return replace(settings, steps=self.plan.training.rounds) if self.plan.joint else settings

    def federated(self) -> float | None:
        """The plan's rounds, weights and training over all sites without privacy; None if it has none."""
        private = self.plan.privacy.mode != "off"
        if self.plan.joint or (self.plan.training.analytic and private):
            # Without noise, steps that are taken together are steps on all records, and so are sums.
            return self._accuracy(" federated", self.pooled, _open(self._together()))
        names = [site.name for site in self.plan.sites]
        settings = {name: Settings.of(self.plan, name) for name in names}
        if settings[names[0]].guard is None:
            return None
        trainers = {name: self._trainer(self.train[name]) for name in names}
        entropies = {name: FixedEntropy(self.seed, job=f"{name} federated") for name in names}
        model: Vector = initial(self.classifier.layout, self.plan.adapter.seed)
        for number in range(1, self.plan.training.rounds + 1):
            change = np.zeros_like(model)
            moment = Moment(number, 1, canonical.digest(model.tobytes()))
            for name in names:
                entropies[name].advance(number)
                delta = trainers[name].train(model, _open(settings[name]), entropies[name], moment)
                change += np.float32(self.plan.weight(name)) * delta.values
            model = model + change
        return self._score(model, self.test)

    def _pair(self, name: str, documents: Documents, settings: Settings) -> Pair:
        plain = self._accuracy(f"{name} plain", documents, _open(settings))
        if settings.guard is None:
            return Pair(plain, None)
        return Pair(plain, self._accuracy(f"{name} private", documents, settings))

    def _accuracy(self, name: str, documents: Documents, settings: Settings) -> float:
        """Trains from the plan's start for all its rounds and scores the last model."""
        entropy = FixedEntropy(self.seed, job=name)
        if self.plan.training.analytic:
            entropy.advance(1)
            noise = entropy.stream("noise", round=1, step=1, attempt=1, model=self.plan.digest)
            given = documents.features, documents.labels, documents.units
            return self._score(alone(self.plan, *given, noise if settings.guard else None), self.test)
        trainer = self._trainer(documents)
        model: Vector = initial(self.classifier.layout, self.plan.adapter.seed)
        for number in range(1, 2 if self.plan.joint else self.plan.training.rounds + 1):
            entropy.advance(number)
            moment = Moment(number, 1, canonical.digest(model.tobytes()))
            model = model + trainer.train(model, settings, entropy, moment).values
        return self._score(model, self.test)

    def _trainer(self, documents: Documents) -> LocalTrainer:
        rows = Labelled(self.classifier, documents.features, documents.labels)
        precision = self.plan.training.precision
        return LocalTrainer(self.classifier, rows, documents.units, precision=precision)


def _seen(classifier: Classifier, base: BaseModel, plan: Plan, parts: list[Records]) -> Documents:
    """All records of several parts, once through the frozen part of the model."""
    if plan.task.table:
        seen = [tabular.features(plan.task.table, records).values for records in parts]
        labels = np.concatenate([records.targets(plan.task.labels) for records in parts])
        return Documents(Pooled(torch.cat(seen)), labels, _numbered(parts))
    texts = [text for records in parts for text in records.texts]
    seconds = [text for records in parts for text in records.seconds or ()] if plan.task.pair else None
    labels = np.concatenate([records.targets(plan.task.labels) for records in parts])
    ids = tokenize(base, texts, plan.max_tokens, seconds)
    return Documents(prepare(classifier, ids), labels, _numbered(parts))


def _placed(plan: Plan, base: BaseModel) -> Classifier:
    order = agreed_layout(plan, base)
    if plan.task.table:
        return tabular.placed(plan, order)
    return placed(load_encoder(base), order, plan.lora.alpha, cosines_of(plan))


def _numbered(parts: list[Records]) -> Indices:
    """The unit of each record over several parts; the same person at two sites is two units there."""
    numbers = [persons.numbers(records) for records in parts]
    starts = np.cumsum([0, *(int(part.max(initial=-1)) + 1 for part in numbers)])
    return np.concatenate([part + start for part, start in zip(numbers, starts[:-1], strict=True)])


def _apart(documents: Documents, parts: list[Records]) -> list[Documents]:
    """The documents of each part again."""
    ends = np.cumsum([len(records) for records in parts])
    return [documents.take(rows) for rows in np.split(np.arange(ends[-1]), ends[:-1])]


def _open(settings: Settings) -> Settings:
    """The same training without privacy: gradients that are not clipped need rates of their own."""
    rates = RATES["off"]
    return replace(
        settings, guard=None, optimizer=rates.optimizer, head_rate=rates.head, adapter_rate=rates.adapter
    )


def measure(ground: Ground, train: Mapping[str, Records], test: Records) -> Baselines:
    """All baselines of a simulated run.

    Args:
        ground: of the same records.
        train: the training records of each site.
        test: the common test set.

    Raises:
        UpdateError: as training itself does.
    """
    names = [site.name for site in ground.plan.sites]
    with _one_thread_each(), ThreadPoolExecutor(os.cpu_count()) as pool:
        together = pool.submit(lambda: ground.apart().together())
        federated = pool.submit(lambda: ground.apart().federated())
        alone = list(pool.map(lambda name: ground.apart().alone(name), names))
        found = dict(zip(names, alone, strict=True))
        words = None if test.table else tfidf(list(train.values()), test)
        return Baselines(words, together.result(), found, federated.result())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Trainings side by side: each on one thread of torch's, which wastes less than two on each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            # Set here once: filters that threads set for themselves get in each other's way.
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            yield
    finally:
        torch.set_num_threads(threads)


def tfidf(train: list[Records], test: Records) -> float:
    """Test accuracy of TF-IDF over words and pairs of words, and logistic regression, trained on all."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    texts = [text for records in train for text in _joined(records)]
    model.fit(texts, [label for records in train for label in records.labels])
    return float(model.score(_joined(test), test.labels))


def _joined(records: Records) -> list[str]:
    """The texts, and of a pair both in one: word counts know no more of it."""
    pairs = zip(records.texts, records.seconds or [""] * len(records), strict=True)
    return [f"{text} {second}".rstrip() for text, second in pairs]
