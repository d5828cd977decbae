"""All ways to get a model, beside each other: should these sites federate, and how?

Every method picks its way (which kind of training, how many steps, which rate) on rows held back from
training and never on test rows. These searches are not charged to epsilon: in a simulation one program owns
all rows. A real consortium takes the ways that are printed here as they are, or searches on public rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits

from cloister.client.site.ledger import Ledger
from cloister.privacy.analytic.release import Mode
from cloister.privacy.dp import accounting
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError, UpdateError
from cloister.simulations.engine import spans
from cloister.simulations.engine.accounts import Book
from cloister.simulations.engine.holding import Holding, pooled
from cloister.simulations.engine.plans import DATASET, Parties, Promise
from cloister.simulations.engine.rounds import Account
from cloister.simulations.engine.ways import Model, Setting, Way
from cloister.simulations.scenarios import calibration, choices
from cloister.simulations.scenarios.calibration import Calibration
from cloister.simulations.scenarios.figures import AVERAGED, METHODS, Comparison, Figures, wilson
from cloister.simulations.scenarios.material import Material
from cloister.simulations.scenarios.progress import Progress
from cloister.simulations.scenarios.simple import simple

HELD_BACK = 0.15

Say = Callable[[str], None]
Engine = Literal["own", "flower"]


_ELSEWHERE = (0.125, 0.25, 0.5, 2.0, 4.0)
"""Other targets that the chosen ways are tried at, as multiples of the scenario's."""
_HALTS = 12
"""On the way of a method so many models at most are tried."""


@dataclass
class Contest:
    """Compares on one material.

    Attributes:
        material: the sites.
        epsilon, delta: the target of the private methods.
        seed: of held-back rows and of noise.
        ledgers: the folder that ledgers are made in.
        say: told what is going on.
        seeds: how many noise seeds a private method gets.
        engine: what runs the first noise seed of a federated method: ``own`` this process, ``flower`` the
            sites' own apps under Flower's engine over Ray. All else is run here.
    """

    material: Material
    epsilon: float
    delta: float
    seed: int
    ledgers: Path
    say: Say = lambda _: None
    seeds: int = choices.SEEDS
    engine: Engine = "own"
    _seconds: dict[str, float] = field(default_factory=dict, init=False)
    _chosen: dict[str, Way] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._train, self._back = {}, {}
        for place, (name, holding) in enumerate(self.material.train.items()):
            rest, back = sides(holding, np.random.default_rng([self.seed, place]))
            self._train[name], self._back[name] = rest, back
        self._validation = pooled(self._back)
        self._parties = self._members(self.material.train)
        self._trial = self._members(self._train)

    def _members(self, holdings: Mapping[str, Holding]) -> Parties:
        material = self.material
        return Parties(holdings, material.labels, material.base, licence=material.licence)

    def figures(self, method: str) -> Figures:
        """One method of ``METHODS`` or ``AVERAGED`` by itself.

        Raises:
            PlanError, BudgetError: the target cannot be kept.
        """
        off, there = Promise("off"), Promise("local", self.epsilon, self.delta)
        joint = replace(there, mode="joint")
        measures: dict[str, Callable[[], Figures]] = {
            "local_only": lambda: self._alone(off),
            "local_only_private": lambda: self._alone(there),
            "pooled": lambda: self._together(off),
            "pooled_private": lambda: self._together(there),
            "federated_ridge": lambda: self._federated("federated_ridge", off, self._rounds(off)),
            "federated_averaging": lambda: self._federated("federated_averaging", off, choices.averaging()),
            "federated_local": lambda: self._federated("federated_local", there, self._ways(there)),
            "federated_joint": lambda: self._federated("federated_joint", joint, self._ways(joint)),
        }
        with _one_thread():
            return measures[method]()

    def run(self) -> Comparison:
        """Everything; in the order of ``METHODS``, what ``AVERAGED`` names last."""
        found: dict[str, Figures] = {}
        methods = METHODS | AVERAGED if self.material.tagged else METHODS
        progress = Progress(len(methods) + 2, self.say)
        for name, words in methods.items():
            progress.begin(words)
            started = time.monotonic()
            found[name] = self.figures(name)
            self._seconds[name] = time.monotonic() - started
        progress.begin("a simple model")
        started = time.monotonic()
        with _one_thread():
            plainly = simple(self.material)
        self._seconds["simple"] = time.monotonic() - started
        progress.begin("other targets")
        started = time.monotonic()
        with _one_thread():
            curves = {name: self._curve(name, found[name]) for name in ("federated_local", "federated_joint")}
        self._seconds["other targets"] = time.monotonic() - started
        test = self.material.test
        usual = np.full(len(test), np.bincount(test.labels).argmax())
        return Comparison(found, plainly, test.score(usual), self._seconds, curves)

    def chosen(self, method: str) -> tuple[Way, Parties, Mapping[str, FixedEntropy]]:
        """The way that a private federated method chose, the sites, and the noise of its first seed."""
        return self._chosen[method], self._parties, self._entropies(f"{method} 0")

    def _curve(self, name: str, known: Figures) -> list[tuple[float, float]]:
        """The way that was chosen, at other targets."""
        mode: Mode = "joint" if name == "federated_joint" else "local"
        points = [(self.epsilon, known.accuracy)]
        for factor in _ELSEWHERE:
            promise = Promise(mode, factor * self.epsilon, self.delta)
            setting = Setting(self._parties, promise, self._entropies(f"{name} at {factor}"))
            try:
                model = self._chosen[name].federated(setting)
            except (PlanError, UpdateError):  # no grid holds its noise: no point there
                continue
            points.append((promise.epsilon, model.accuracy(self.material.test)))
        return sorted(points)

    # One method

    def _alone(self, promise: Promise) -> Figures:
        """Every site by itself; accuracy is the mean over sites, each with a way of its own."""
        models: dict[str, Model] = {}
        ways: list[str] = []
        for name, holding in self.material.train.items():
            way = self._own_way(name, holding, promise)
            ways.append(way.words)
            models[name] = self._solo(way, holding, promise, name)
        common = {name: model.accuracy(self.material.test) for name, model in models.items()}
        own = {name: model.accuracy(self.material.own[name]) for name, model in models.items()}
        mechanisms = [model.mechanisms for model in models.values()]
        return self._figures(
            (float(np.mean(list(common.values()))),),
            list(models.values()),
            own,
            common,
            "; ".join(dict.fromkeys(ways)),
            epsilon=max(accounting.epsilon(done, promise.delta) for done in mechanisms)
            if promise.epsilon
            else None,
            noise_factor=1.0 if promise.epsilon else 0.0,
        )

    def _own_way(self, name: str, holding: Holding, promise: Promise) -> Way:
        rest, back = sides(holding, np.random.default_rng([self.seed, *name.encode()]))
        return self._best(
            self._ways(promise), lambda way: self._solo(way, rest, promise, f"{name} trial"), back
        )[0]

    def _together(self, promise: Promise) -> Figures:
        rest, whole = pooled(self._train), pooled(self.material.train)
        way, trial = self._best(
            self._ways(promise),
            lambda way: self._solo(way, rest, promise, "together trial"),
            self._validation,
        )
        models = [self._solo(way, whole, promise, f"together {turn}") for turn in self._turns(promise)]
        epsilon = accounting.epsilon(models[0].mechanisms, promise.delta) if promise.epsilon else None
        return self._shared(models, way, epsilon, trial)

    def _federated(self, name: str, promise: Promise, ways: Sequence[Way]) -> Figures:
        """A federated method: its first seed through keys, masks and ledgers, the others without."""
        way, trial = self._best(
            ways,
            lambda way: way.federated(Setting(self._trial, promise, self._entropies("trial"))),
            self._validation,
        )
        self._chosen[name] = way
        models = [self._first(name, promise, way)]
        for turn in self._turns(promise)[1:]:
            setting = Setting(self._parties, promise, self._entropies(f"{name} {turn}"))
            models.append(way.federated(setting))
        return self._shared(models, way, self._charged(name) if promise.epsilon else None, trial)

    def _first(self, name: str, promise: Promise, way: Way) -> Model:
        """The first noise seed of a federated method: through keys, masks and ledgers, in either engine."""
        what, folder = f"{name} 0", self.ledgers / name
        setting = Setting(self._parties, promise, self._entropies(what), masked=True, watched=True)
        if self.engine == "flower":
            from cloister.simulations.cluster.running import Cluster

            return way.federated(replace(setting, elsewhere=Cluster(folder, self._seeds(what), promise)))

        def account(site: str, job: str) -> Account:
            return Book.open(folder / f"{site}.sqlite", self._parties.unit, promise, job).account

        return way.federated(replace(setting, accounts=account if promise.epsilon else None))

    def _charged(self, name: str) -> float:
        """The most that the ledger of a site was charged for a method."""
        paths = [self.ledgers / name / f"{site}.sqlite" for site in self.material.train]
        return max(Ledger(path).epsilon(DATASET) for path in paths)

    def _shared(
        self, models: Sequence[Model], way: Way, epsilon: float | None, trial: Model | None
    ) -> Figures:
        """The figures of a model that every site gets."""
        seeds = tuple(model.accuracy(self.material.test) for model in models)
        own = {
            name: float(np.mean([model.accuracy(rows) for model in models]))
            for name, rows in self.material.own.items()
        }
        common = dict.fromkeys(own, float(np.mean(seeds)))
        first, groups = models[0], self.material.groups
        figures = self._figures(
            seeds,
            models,
            own,
            common,
            way.words,
            epsilon=epsilon,
            noise_factor=first.noise_factor,
            bytes_up=first.bytes_up,
            sums=first.sums,
        )
        return replace(
            figures,
            path=self._path(first, seeds[0]),
            calibration=self._calibration(models, trial) if trial else None,
            groups=groups.accuracies(np.mean([model.hits(self.material.test) for model in models], axis=0))
            if groups
            else {},
        )

    def _path(self, model: Model, end: float) -> tuple[tuple[int, int, float], ...]:
        """Where a federated model was on its way; for one round only its end."""
        if not model.sums:
            return ()
        rows = self.material.test
        places = np.unique(np.geomspace(1, max(1, len(model.halts) - 1), _HALTS).astype(int) - 1)
        halts = [model.halts[place] for place in places] if len(model.halts) > 1 else []
        on = [
            (
                halt.sums,
                halt.bytes_up,
                rows.score(halt.scores(rows.features).argmax(axis=1)),
            )
            for halt in halts
        ]
        return (*on, (model.sums, model.bytes_up, end))

    def _calibration(self, models: Sequence[Model], trial: Model) -> Calibration:
        """By a temperature fitted on what each site held back from the trial of the way."""
        heat = calibration.temperature(
            calibration.losses(trial.scores(back.features), back.labels) for back in self._back.values()
        )
        test = self.material.test
        told = [model.scores(test.features) for model in models]
        before, after = (
            float(np.mean([calibration.error(each, test.labels, at) for each in told])) for at in (1.0, heat)
        )
        return Calibration(heat, before, after)

    def _figures(
        self,
        seeds: tuple[float, ...],
        models: Sequence[Model],
        own: Mapping[str, float],
        common: Mapping[str, float],
        way: str,
        *,
        epsilon: float | None,
        noise_factor: float,
        bytes_up: int = 0,
        sums: int = 0,
    ) -> Figures:
        mean = float(np.mean(seeds))
        interval = self._interval(mean, models)
        return Figures(mean, interval, seeds, own, common, way, epsilon, noise_factor, bytes_up, sums)

    def _interval(self, share: float, models: Sequence[Model]) -> tuple[float, float]:
        """How well so many test records measure a figure."""
        test = self.material.test
        if test.documents is None:
            return wilson(share, len(test))
        found = [test.counts(model.scores(test.features).argmax(axis=1)) for model in models]
        return spans.interval(np.mean(found, axis=0))

    # Which way

    def _best(
        self, ways: Sequence[Way], fit: Callable[[Way], Model], rows: Holding
    ) -> tuple[Way, Model | None]:
        """The way that does best on held-back rows, the first of equals, and the model that did.

        What cannot be kept is left out; the first without a model where none can.
        """
        best: tuple[Way, Model | None] = (ways[0], None)
        top = -1.0
        for way in ways:
            try:
                model = fit(way)
            except (PlanError, UpdateError):  # no grid, or no range, holds its noise
                continue
            score = model.accuracy(rows)
            if score > top:
                best, top = (way, model), score
        return best

    def _ways(self, promise: Promise) -> list[Way]:
        if self.material.tagged:
            return choices.tagging(promise)
        return [*self._rounds(promise), *choices.courses(promise)]

    def _rounds(self, promise: Promise) -> list[Way]:
        if self.material.tagged:
            return choices.tagging_round()
        return choices.rounds(
            promise, table=self.material.texts is None, rows=sum(map(len, self._train.values()))
        )

    def _solo(self, way: Way, rows: Holding, promise: Promise, what: str) -> Model:
        entropy = FixedEntropy(f"simulate {self.seed} {promise.mode} {what}".encode())
        return way.alone(rows, len(self.material.labels), promise, entropy)

    def _entropies(self, what: str) -> dict[str, FixedEntropy]:
        return {name: FixedEntropy(seed) for name, seed in self._seeds(what).items()}

    def _seeds(self, what: str) -> dict[str, bytes]:
        return {name: f"simulate {self.seed} {what} {name}".encode() for name in self.material.train}

    def _turns(self, promise: Promise) -> range:
        return range(self.seeds if promise.epsilon else 1)


def _one_thread() -> AbstractContextManager[object]:
    """Matrices here are small: a second thread waits more than it works, and waiting costs processor time."""
    found: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return found


def sides(holding: Holding, rng: np.random.Generator) -> tuple[Holding, Holding]:
    """Rows to train on and rows held back, units whole; at least one unit is held back."""
    units = rng.permutation(holding.number_of_units)
    cut = max(1, round(HELD_BACK * len(units)))
    back = np.sort(holding.rows_of(np.sort(units[:cut])))
    rest = np.sort(holding.rows_of(np.sort(units[cut:])))
    return holding.take(rest), holding.take(back)
