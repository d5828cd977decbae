"""The local training of one site in one round: sampling, clipping, noise, optimizer, in that order.

Federated averaging, McMahan et al. 2017 (arXiv 1602.05629), with the local steps of DP-SGD, Abadi et
al. 2016 (arXiv 1607.00133). A plan may hold sites together by FedProx, Li et al. 2020 (arXiv 1812.06127): the
gradient of ``mu / 2 ||x - start||^2``, which depends on no record, is added after clip and noise. Nothing but
the change of the parameters comes out: no loss, no metric, no count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch

from cloister.client.learn.adapters import Adapted, set_flat
from cloister.client.learn.documents import Documents
from cloister.client.learn.factors import Selection, freezing
from cloister.client.learn.features import Indices, Units
from cloister.client.learn.precision import narrowed
from cloister.privacy import descent
from cloister.privacy.dp import accounting, joint, noise, sampling
from cloister.privacy.dp.audit import Audit, Watch
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import Entropy, KeyStream
from cloister.privacy.errors import UpdateError
from cloister.privacy.layout import Layout
from cloister.privacy.methods import Factors, Precision, frozen_in
from cloister.privacy.plan import Plan
from cloister.privacy.step.coverage import engine_for
from cloister.privacy.step.interface import NO_PHANTOMS, Engine, MicroBatch
from cloister.privacy.update import Delta, Noised, Share, Surplus, Vector

Rule: TypeAlias = Callable[[Vector], Vector]
"""An optimizer: the mean gradient of a step to the change of the parameters, both float32, shape (d,)."""


@dataclass(frozen=True)
class Guard:
    """The privacy of a step.

    Attributes:
        bound: the clipping bound C > 0 of one unit's gradient.
        noise_multiplier: sigma > 0, the noise in units of the bound.
    """

    bound: float
    noise_multiplier: float


@dataclass(frozen=True)
class Settings:
    """How a site trains in a round.

    Attributes:
        steps: local steps.
        rate: the probability in (0, 1] with which each unit, with all its documents, takes part in a step.
        expected_units: a public number of units; sums are divided by ``rate * expected_units``.
        optimizer: its state starts anew each round.
        head_rate: learning rate of the head, acting on that mean gradient.
        adapter_rate: learning rate of LoRA.
        momentum: of ``sgd``.
        guard: clipping and noise; None to train without privacy.
        proximal: mu of FedProx, 0 for none.
        factors: which of LoRA are trained; None for both.
    """

    steps: int
    rate: float
    expected_units: int
    optimizer: Literal["sgd", "adam"]
    head_rate: float
    adapter_rate: float
    momentum: float = 0.9
    guard: Guard | None = None
    proximal: float = 0.0
    factors: Factors | None = None

    @classmethod
    def of(cls, plan: Plan, site: str) -> Settings:
        """What a plan asks of one site.

        Raises:
            PlanError: ``plan_unknown``, the plan does not name the site.
        """
        training, privacy = plan.training, plan.privacy
        return cls(
            steps=training.steps,
            rate=training.rate,
            expected_units=plan.site(site).units.low,
            optimizer=training.optimizer,
            head_rate=training.head_rate,
            adapter_rate=training.adapter_rate,
            momentum=training.momentum,
            guard=None if privacy.mode == "off" else Guard(privacy.bound, privacy.noise_multiplier),
            proximal=training.proximal or 0.0,
            factors=training.factors,
        )


@dataclass(frozen=True)
class Moment:
    """Where in a run the training stands: what every key stream is bound to.

    Attributes:
        round: counted from 1.
        attempt: counted from 1.
        model: digest of the global model that training starts from.
    """

    round: int
    attempt: int
    model: str


class LocalTrainer:
    """A site's warm model and documents; trains as often as it is asked.

    Args:
        model: as ``adapters.place`` and its like give it.
        documents: the site's training documents, of that model.
        units: whose document each is, int64, shape (documents,), numbered from 0 without gaps; None
            where every document is a unit of its own.
        audit: adds phantom units to every private step and watches what becomes of them; None for none.
        precision: of the plan; None for float32.

    Raises:
        ModelError: ``precision_unsupported`` or ``layer_unsupported``.
    """

    def __init__(
        self,
        model: Adapted,
        documents: Documents,
        units: Indices | None = None,
        audit: Audit | None = None,
        precision: Precision | None = None,
    ) -> None:
        number = len(documents.lengths)
        self._units = Units.of(np.arange(number, dtype=np.int64) if units is None else units)
        if number != len(self._units.of_row):
            raise ValueError("there must be one unit a document")
        self._model = model
        self._documents = narrowed(documents, precision, model.device)
        self._narrow = precision is not None
        self._audit = audit
        self._engine = self._engine_for(model.layout)
        self._parts: dict[str, _Scope] = {}

    def train(self, start: Vector, settings: Settings, entropy: Entropy, moment: Moment) -> Delta:
        """Trains from ``start`` and gives back what changed, and every noised step that went into it.

        Formal guarantees:
            With ``settings.guard``, each step is the Poisson-subsampled Gaussian mechanism of its rate
            and noise multiplier on the site's units, empty samples included: a unit's gradient is the sum
            over all its documents, cut as one vector. The delta is a function of those noised sums,
            ``start`` and public settings alone, the gradient of FedProx included: phantom units have no
            coordinate in it. Without it, none.

        Args:
            start: the global parameters, float32, shape (d,); not changed.
            settings: the terms of the plan.
            entropy: where sampling and noise come from.
            moment: round, attempt and model that the key streams are bound to.

        Raises:
            UpdateError: ``update_not_finite``, training diverged; ``audit_failed``.
            ModelError: ``layer_unsupported``.
        """
        scope = self._scope(frozen_in(settings.factors, moment.round))
        with freezing(self._model, scope.selection.layout):
            parameters, mechanisms = self._steps(start, settings, _Streams(entropy, moment, 0), scope)
        if not np.isfinite(parameters).all():
            raise UpdateError(
                "update_not_finite", "Local training diverged.", "Lower the plan's learning rates."
            )
        return Delta(parameters - start, accounting.merged(mechanisms))

    def _steps(
        self, start: Vector, settings: Settings, streams: _Streams, scope: _Scope
    ) -> tuple[Vector, list[GaussianSteps]]:
        """The parameters after the steps of a round, and every noised step that went into them."""
        parameters, places = np.array(start, dtype=np.float32), scope.selection.places
        rule = _rule(settings, scope.selection.layout)
        mechanisms: list[GaussianSteps] = []
        moment = streams.moment
        watch = self._audit.watch(moment.round, moment.attempt) if self._audit else None
        for step in range(1, settings.steps + 1):
            set_flat(self._model, parameters)
            streams = replace(streams, step=step)
            gradient, noised = self._gradient(settings, streams, watch, scope)
            mechanisms += noised
            if settings.proximal:
                gradient += np.float32(settings.proximal) * (parameters - start)[places]
            parameters[places] += rule(gradient)
            del gradient  # the next pass, where most is held, would hold it, too
        if self._audit and watch:
            self._audit.keep(watch)
        return parameters, mechanisms

    def _gradient(
        self, settings: Settings, streams: _Streams, watch: Watch | None, scope: _Scope
    ) -> tuple[Vector, list[GaussianSteps]]:
        """The mean gradient of one step, and the noised step that it is made of, if it is."""
        units, phantoms = self._sample(settings.rate, streams.of("sampling"))
        if settings.guard is None:
            total, mechanisms = self._sum(units, scope.selection.layout), []
        else:
            noised = self._noised(units, phantoms, settings.guard, streams.of("noise"), watch, scope)
            total, mechanisms = noised.values, [GaussianSteps(noised.noise_multiplier, settings.rate, 1)]
        return total / np.float32(settings.rate * settings.expected_units), mechanisms

    def share(self, start: Vector, grid: Grid, rate: float, entropy: Entropy, moment: Moment) -> Share:
        """This site's part of one joint step from ``start``: its clipped sum with its share of the noise.

        Formal guarantees:
            Those of ``dp.joint.share``: units are drawn by Poisson sampling at ``rate``, empty samples
            included; a unit's gradient is the sum over all its documents, cut as one vector.

        Args:
            start: the global parameters, float32, shape (d,).
            grid: of the plan.
            rate: the sampling rate of the step.
            entropy: where sampling and noise come from.
            moment: round, attempt and model that the key streams are bound to.

        Raises:
            UpdateError: ``update_not_finite``, ``audit_failed``.
            ModelError: ``layer_unsupported``.
        """
        watch = self._audit.watch(moment.round, moment.attempt) if self._audit else None
        set_flat(self._model, np.array(start, dtype=np.float32))
        streams = _Streams(entropy, moment, 1)
        units, phantoms = self._sample(rate, streams.of("sampling"))
        active = watch.taking_part(phantoms) if watch else NO_PHANTOMS
        clipped = self._engine.clipped(self._batches(units), grid.bound, active)
        found = joint.share(clipped, grid, rate, streams.of)
        size = self._model.layout.size
        if self._audit and watch:
            watch.observe((found.values[size:] * grid.step).astype(np.float32), grid.bound)
            self._audit.keep(watch)
        return replace(found, values=found.values[:size])

    def surplus(self, grid: Grid, survivors: int, entropy: Entropy, moment: Moment) -> Surplus:
        """The noise of the share at the same moment that a sum over so many survivors does not need.

        Formal guarantees:
            Those of ``dp.joint.surplus``.

        Args:
            grid: of the plan.
            survivors: how many sites are in the opened sum.
            entropy: at the start of the round that the share was made in.
            moment: round, attempt and model that the share's key streams were bound to.

        Raises:
            BudgetError: ``mechanism_unaccountable``.
        """
        size = self._model.layout.size
        noised = size + (self._audit.phantoms if self._audit else 0)
        found = joint.surplus(noised, grid, survivors, _Streams(entropy, moment, 1).of)
        return replace(found, values=found.values[:size])

    def _engine_for(self, layout: Layout) -> Engine:
        """The engine for some of the trained tensors, which are the trainable ones now."""
        trained = {name: self._model.trained[name] for name, _ in layout.tensors}
        phantoms = self._audit.phantoms if self._audit else 0
        return engine_for(self._model, layout, trained, phantoms=phantoms, narrow=self._narrow)

    def _scope(self, frozen: str | None) -> _Scope:
        """What a round trains that leaves tensors whose names end so; its engine is made once."""
        if frozen is None:
            return _Scope(Selection.of(self._model.layout, None), self._engine)
        if frozen not in self._parts:
            selection = Selection.of(self._model.layout, frozen)
            with freezing(self._model, selection.layout):
                self._parts[frozen] = _Scope(selection, self._engine_for(selection.layout))
        return self._parts[frozen]

    def _sample(self, rate: float, stream: KeyStream) -> tuple[Indices, Indices]:
        """The units of a step and the phantoms, from one call: whatever is wrong with it shows in both."""
        real = len(self._units)
        drawn = sampling.poisson(real + (self._audit.phantoms if self._audit else 0), rate, stream)
        return drawn[drawn < real], drawn[drawn >= real] - real

    def _noised(
        self,
        units: Indices,
        phantoms: Indices,
        guard: Guard,
        stream: KeyStream,
        watch: Watch | None,
        scope: _Scope,
    ) -> Noised:
        """The noised sum of the model's coordinates; those of phantoms go to the audit and nowhere else."""
        active = watch.taking_part(phantoms) if watch else NO_PHANTOMS
        clipped = scope.engine.clipped(self._batches(units), guard.bound, active)
        noised = noise.gaussian(clipped, guard.noise_multiplier, stream)
        size = scope.selection.layout.size
        if watch:
            watch.observe(noised.values[size:], guard.bound)
        return replace(noised, values=noised.values[:size])

    def _sum(self, units: Indices, layout: Layout) -> Vector:
        """The plain sum of the gradients of all documents of ``units``: neither cut nor noised."""
        trained = self._model.trained
        total = np.zeros(layout.size, dtype=np.float32)
        for part in self._batches(units):
            gradients = torch.autograd.grad(
                part.losses().sum(), [trained[name] for name, _ in layout.tensors]
            )
            total += torch.cat([gradient.reshape(-1) for gradient in gradients]).cpu().numpy()
        return total

    def _batches(self, units: Indices) -> list[MicroBatch]:
        """All documents of ``units`` in micro-batches of like length, all of a unit in one."""
        return [
            MicroBatch(partial(self._documents.losses, rows), self._units.of_row[rows])
            for rows in self._units.chunks(self._documents.lengths, units)
        ]


@dataclass(frozen=True)
class _Scope:
    """What a round trains, and the engine for it."""

    selection: Selection
    engine: Engine


@dataclass(frozen=True)
class _Streams:
    """The key streams of one step."""

    entropy: Entropy
    moment: Moment
    step: int

    def of(self, purpose: str) -> KeyStream:
        at = self.moment
        return self.entropy.stream(
            purpose, round=at.round, step=self.step, attempt=at.attempt, model=at.model
        )


def _rule(settings: Settings, layout: Layout) -> Rule:
    rates = descent.learning_rates(layout, settings.head_rate, settings.adapter_rate)
    return _sgd(rates, settings.momentum) if settings.optimizer == "sgd" else _adam(rates)


def _sgd(rates: Vector, momentum: float) -> Rule:
    """Stochastic gradient descent with momentum."""
    memory: descent.Memory = ()

    def change(gradient: Vector) -> Vector:
        nonlocal memory
        memory = (descent.momentum(memory, gradient, rates, momentum),)
        return memory[0]

    return change


def _adam(rates: Vector) -> Rule:
    """Adam, whose means start anew."""
    memory: descent.Memory = ()
    number = 0

    def change(gradient: Vector) -> Vector:
        nonlocal memory, number
        number += 1
        changed, memory = descent.adam(memory, gradient, rates, descent.ADAM_DECAYS, number)
        return changed

    return change
