"""LoRA in a simulation, or a model of tables: one model for all sites, and each site trains on it in turn.

The model is loaded, and the adapter of a plan placed on it, once. What the layers below the first trained
one say of a text is kept, so that only what is trained runs again (``client.learn.features``). Between rounds
a site keeps nothing of a model: by the protocol, every round starts from the global one with a fresh
optimizer. So to change sites is to copy one flat vector into the trained parameters, which each step of
training does anyway. Steps, noise and audit are those of a site's own trainer (``client.learn.training``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cloister.client.learn import analytic, tasks
from cloister.client.learn.adapters import Adapted, Classifier, set_flat
from cloister.client.learn.documents import Documents, Labelled, Worth
from cloister.client.learn.features import prepare
from cloister.client.learn.learner import require_unit
from cloister.client.learn.model import tokenize
from cloister.client.learn.training import LocalTrainer, Settings
from cloister.client.learn.training import Moment as TrainingMoment
from cloister.client.site import persons
from cloister.client.site.records import Records
from cloister.privacy.dp.audit import Audit, Pipeline
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError
from cloister.privacy.layout import Layout
from cloister.privacy.model import BaseModel, agreed_layout
from cloister.privacy.plan import Plan
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector
from cloister.simulations.engine.head import Moment


@dataclass(frozen=True, eq=False)
class AdapterLearner:
    """A site's rows, ready to be trained on with the shared model.

    Attributes:
        plan: the plan.
        trainer: the site's own code over the shared model.
        settings: of a round.
        rows, units: what the trainer trains on, and whose row each is.
    """

    plan: Plan
    trainer: LocalTrainer
    settings: Settings
    rows: Documents
    units: NDArray[np.int64]

    def train(self, model: Vector, entropy: Entropy, at: Moment) -> Delta:
        """See ``rounds.Learner`` and ``LocalTrainer.train``."""
        return self.trainer.train(model, self.settings, entropy, _moment(at))

    def share(self, model: Vector, entropy: Entropy, at: Moment) -> Share:
        """See ``rounds.Learner`` and ``LocalTrainer.share``."""
        return self.trainer.share(model, self.plan.grid, self.plan.training.rate, entropy, _moment(at))

    def surplus(self, survivors: int, entropy: Entropy, at: Moment) -> Surplus:
        """See ``rounds.Learner``."""
        return self.trainer.surplus(self.plan.grid, survivors, entropy, _moment(at))

    def sums(self, entropy: Entropy, at: Moment) -> Encoded:
        """See ``rounds.Learner``.

        Raises:
            PlanError: ``plan_conflict``, the rows have not one class each, or no frozen features.
        """
        if not isinstance(self.rows, Labelled):
            raise PlanError("plan_conflict", "An analytic round is on rows with one class each.")
        stream = entropy.stream("noise", round=at.round, step=1, attempt=at.attempt, model=at.model)
        return analytic.sums(self.plan, self.rows.features, self.rows.labels, self.units, stream)


@dataclass(frozen=True, eq=False)
class SharedModel:
    """The one model of a simulated job.

    Attributes:
        plan: what is trained, and how.
        base: the base model on this machine.
    """

    plan: Plan
    base: BaseModel

    @cached_property
    def layout(self) -> Layout:
        """The order of the trained parameters.

        Raises:
            ModelError: as ``agreed_layout``.
        """
        return agreed_layout(self.plan, self.base)

    @cached_property
    def adapted(self) -> Adapted:
        """The model in memory, its adapter in place.

        Raises:
            ModelError: as ``tasks.placed``.
        """
        return tasks.placed(self.plan, self.base, self.layout)

    def learners(self, records: Mapping[str, Records]) -> dict[str, AdapterLearner]:
        """The sites of the plan, each with an audit of its own where the plan is private.

        Args:
            records: site name -> what it trains on; of every site of the plan.

        Raises:
            PlanError: ``task_unsupported``, the plan is analytic; ``plan_unknown``; ``plan_conflict``, a site
                has no records, or records of another unit of privacy.
            InputError: a label is none of the plan's classes; ``tags_invalid``; as ``Records.check``.
        """
        if self.plan.training.analytic:
            raise PlanError(
                "task_unsupported",
                "An analytic round of a plan is simulated on cached features only.",
                "Take the way of one round (`engine.ways.OneRound`), or run the plan over real processes.",
            )
        if missing := {site.name for site in self.plan.sites} - set(records):
            raise PlanError("plan_conflict", f"There are no records of {min(missing)}.")
        for site, found in records.items():
            require_unit(self.plan, site, found)
        if not isinstance(self.adapted, Classifier) or self.plan.task.kind != "sequence-classification":
            return {
                site: self._learner(found, self.documents(found), site) for site, found in records.items()
            }
        # All tokenizers are the same; what frozen layers say is worked out site by site, as a site does.
        parts = records.values()
        texts = [text for found in parts for text in found.texts]
        seconds = [text for found in parts for text in found.seconds or ()]
        tokens = iter(self._tokens(texts, seconds if self.plan.task.pair else None))
        rows = {site: self._labelled(self.adapted, found, tokens) for site, found in records.items()}
        return {site: self._learner(records[site], found, site) for site, found in rows.items()}

    def _labelled(
        self, model: Classifier, records: Records, tokens: Iterator[NDArray[np.int64]]
    ) -> Documents:
        features = prepare(model, list(islice(tokens, len(records))))
        return Labelled(model, features, records.targets(self.plan.task.labels))

    def _learner(self, records: Records, rows: Documents, site: str) -> AdapterLearner:
        return self.learner(site, rows, persons.numbers(records), self._audit())

    def learner(
        self, site: str, rows: Documents, units: NDArray[np.int64], audit: Audit | None
    ) -> AdapterLearner:
        """One site of the plan.

        Args:
            site: its name.
            rows: as ``documents`` gives them.
            units: whose row each is, numbered from 0 without gaps, shape (rows,).
            audit: of its private steps; None for none.
        """
        trainer = LocalTrainer(self.adapted, rows, units, audit, self.plan.training.precision)
        return AdapterLearner(self.plan, trainer, Settings.of(self.plan, site), rows, units)

    def documents(self, records: Records) -> Documents:
        """Records as the model is trained on them, or tried.

        Raises:
            InputError: a label is none of the plan's classes; ``tags_invalid``.
        """
        return tasks.documents(self.plan, self.base, self.adapted, records)

    def worth(self, model: Vector, rows: Documents) -> Worth:
        """What a model is worth on rows."""
        set_flat(self.adapted, model)
        return rows.worth()

    def _tokens(self, texts: Sequence[str], seconds: Sequence[str] | None) -> tuple[NDArray[np.int64], ...]:
        return tokenize(self.base, texts, self.plan.max_tokens, seconds)

    def accuracy(self, model: Vector, records: Records) -> float:
        """The share of records whose class a model finds; of tags and answers see ``Worth``."""
        return self.worth(model, self.documents(records)).accuracy

    def _audit(self) -> Audit | None:
        if (mechanism := self.plan.site_mechanism) is None:
            return None
        pipeline = Pipeline(mechanism.noise_multiplier, mechanism.rate, mechanism.steps)
        return Audit.begin(self.plan.digest, pipeline)


def _moment(at: Moment) -> TrainingMoment:
    return TrainingMoment(at.round, at.attempt, at.model)
