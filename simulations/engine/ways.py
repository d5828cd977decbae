"""Ways to train that a simulation tries: steps of a linear head, or one analytic round; alone or together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.analytic.constants import Analytic as Constants
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.analytic.moments import Kind, Terms
from cloister.privacy.analytic.release import Release
from cloister.privacy.analytic.ridge import Linear
from cloister.privacy.analytic.solution import linear
from cloister.privacy.clauses import Rows
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import Entropy
from cloister.privacy.plan import Plan
from cloister.privacy.secagg.terms import SumTerms
from cloister.privacy.update import Vector
from cloister.simulations.engine import methods
from cloister.simulations.engine.head import Steps, scores
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.methods import Analytic, Member
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.rounds import FREE, Account, Trained, Watch, unwatched
from cloister.simulations.engine.sums import MaskedSums, OpenSums, Sums

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]


Scores: TypeAlias = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Halt:
    """A model on the way.

    Attributes:
        sums, bytes_up: what it took until here, as of ``Model``.
        scores: as of ``Model``.
    """

    sums: int
    bytes_up: int
    scores: Scores


@dataclass(frozen=True, eq=False)
class Model:
    """What a way ends in.

    Attributes:
        scores: of features, float64, shape (rows, classes): the most probable class has the greatest.
        mechanisms: what was done to each site's data, as it is reserved.
        bytes_up: what one site sent in all, before sealing and signing; 0 where nothing is sent.
        sums: how many secure sums were opened.
        noise_factor: the noise's standard deviation over that of the same way with all rows in one place; 0
            without privacy.
        halts: models after each round, where somebody watched.
    """

    scores: Scores
    mechanisms: tuple[GaussianSteps, ...] = ()
    bytes_up: int = 0
    sums: int = 0
    noise_factor: float = 0.0
    halts: tuple[Halt, ...] = ()

    def hits(self, rows: Holding) -> NDArray[np.bool_]:
        """Of which rows the class is found, shape (rows,)."""
        return np.asarray(self.scores(rows.features).argmax(axis=1) == rows.labels)

    def accuracy(self, rows: Holding) -> float:
        """How good its answers are; see ``Holding.score``."""
        return rows.score(self.scores(rows.features).argmax(axis=1))


class Elsewhere(Protocol):
    """Where a plan is run over the real ClientApps and ServerApp (``simulations.cluster``)."""

    def run(
        self, plan: Plan, parties: Parties, watch: Watch = unwatched, analytic: Analytic | None = None
    ) -> Trained:
        """Runs a plan to its end; ``analytic`` is what an analytic plan stands for here."""
        ...


@dataclass(frozen=True, eq=False)
class Setting:
    """What a federated run needs beside its way.

    Attributes:
        parties: who takes part.
        promise: its mode and target.
        entropies: site name -> its randomness.
        masked: whether sums go through real keys and masks; without, they are the same bit for bit.
        accounts: opens each site's account for a job; None to keep none.
        watched: whether the models on the way are kept.
        elsewhere: runs the plan over the sites' own apps, with accounts and randomness of its own; None for
            this process.
    """

    parties: Parties
    promise: Promise
    entropies: Mapping[str, Entropy]
    masked: bool = False
    accounts: Callable[[str, str], Account] | None = None
    watched: bool = False
    elsewhere: Elsewhere | None = None

    def members(self, job: str) -> dict[str, Member]:
        """The sites of a job."""
        return {
            name: Member(held, self.entropies[name], self.accounts(name, job) if self.accounts else FREE)
            for name, held in self.parties.holdings.items()
        }

    def sums(self, terms: SumTerms) -> Sums:
        """How sums are opened."""
        if self.masked:
            return MaskedSums(terms, self.parties.identities, self.entropies)
        return OpenSums(terms.sites)

    def noise_factor(self, *, steps: bool) -> float:
        """The noise in a sum over all sites, over that of the same target with all rows in one place.

        Args:
            steps: whether it is of joint steps, which may take surplus noise back, or of one release.
        """
        sites = len(self.parties.holdings)
        if self.promise.mode == "off":
            return 0.0
        back = steps and self.parties.surplus
        sized = sites if back else self.parties.aggregation().minimum_sites
        shares = sized - self.parties.colluding
        return float(np.sqrt(sites if self.promise.mode == "local" else sites / shares))


class Way(Protocol):
    """One way to train."""

    @property
    def words(self) -> str:
        """What it is, for people."""
        ...

    def alone(self, holding: Holding, classes: int, promise: Promise, entropy: Entropy) -> Model:
        """A model of some rows by themselves; a promise is kept with noise for these rows alone."""
        ...

    def federated(self, setting: Setting) -> Model:
        """A model of all sites."""
        ...


def _units(holding: Holding) -> Rows:
    return holding.persons_band(1) or holding.rows_band


@dataclass(frozen=True)
class HeadSteps:
    """Steps of gradient descent on a linear head.

    Attributes:
        course: rounds, steps, learning rate.
        bound: C of one unit's gradient, where there is a promise.
    """

    course: Course
    bound: float = 2.4

    @property
    def words(self) -> str:
        """See ``Way``."""
        course = self.course
        local = f" of {course.steps} local steps" if course.steps > 1 else ""
        return f"linear head, {course.rounds} rounds{local}, learning rate {course.learning_rate:g}"

    def alone(self, holding: Holding, classes: int, promise: Promise, entropy: Entropy) -> Model:
        """See ``Way``; as many steps as the federated run has."""
        course, steps = self.course, self.course.rounds * self.course.steps
        how = Steps(steps, course.rate, _units(holding).low, course.learning_rate, course.momentum)
        done: tuple[GaussianSteps, ...] = ()
        if promise.mode != "off":
            sigma = noise_multiplier(promise.epsilon, promise.delta, course.rate, steps)
            how = replace(how, bound=self.bound, noise_multiplier=sigma)
            done = (GaussianSteps(sigma, course.rate, steps),)
        model = methods.alone(holding, classes, how, entropy)
        return Model(lambda features: scores(model, features, classes), done, noise_factor=float(bool(done)))

    def federated(self, setting: Setting) -> Model:
        """See ``Way``."""
        promise = replace(setting.promise, bound=self.bound)
        return stepped(setting.parties.plan(self.words, promise, self.course), setting)


def stepped(plan: Plan, setting: Setting) -> Model:
    """A model of all sites, by the rounds of a plan that trains a head."""
    terms, classes = plan.sum_terms, len(plan.task.labels)
    if terms is None:
        raise ValueError("the plan of a simulation has secure sums")
    run, halts = methods.joint if plan.joint else methods.local, []

    def watch(opened: int, sent: int, model: Vector) -> None:
        if setting.watched:
            halts.append(Halt(opened, sent, lambda features: scores(model, features, classes)))

    if setting.elsewhere is not None:
        done = setting.elsewhere.run(plan, setting.parties, watch)
    else:
        done = run(plan, setting.members(plan.digest), setting.sums(terms), watch)
    mechanism = plan.round_mechanism
    total = (replace(mechanism, steps=mechanism.steps * plan.training.rounds),) if mechanism else ()
    return Model(
        lambda features: scores(done.model, features, classes),
        total,
        done.bytes_up,
        done.sums,
        setting.noise_factor(steps=True),
        tuple(halts),
    )


@dataclass(frozen=True)
class OneRound:
    """One analytic round.

    Attributes:
        kind: ridge or class means.
        cosines, bandwidth, scale, constant, cut: of the feature map, which cuts private rows in any case.
        ridge, weight, bound: see ``privacy.analytic``.
        noise_share: see ``methods.Analytic``.
    """

    kind: Kind = "ridge"
    cosines: int = 0
    bandwidth: float = 1.4142135623730951
    scale: float = 1.0
    constant: float = 1.0
    ridge: float = 0.3
    weight: float = 1.0
    bound: float = 1.0
    noise_share: float = 1.0
    cut: bool = False

    @property
    def words(self) -> str:
        """See ``Way``."""
        if self.kind == "means":
            return "class means, one round"
        beside = f" and {self.cosines} random cosines" if self.cosines else ""
        return f"ridge on features{beside}, one round, ridge {self.ridge:g}"

    def alone(self, holding: Holding, classes: int, promise: Promise, entropy: Entropy) -> Model:
        """See ``Way``."""
        one, model = self.solved_alone(holding, classes, promise, entropy)
        return self._model(one, model, float(promise.mode != "off"))

    def solved_alone(
        self, holding: Holding, classes: int, promise: Promise, entropy: Entropy, sigma: float | None = None
    ) -> tuple[Analytic, Linear]:
        """The round over some rows by themselves, and its solution.

        Args:
            holding, classes, promise, entropy: as of ``alone``.
            sigma: its noise multiplier; None for that which keeps the promise by itself.
        """
        own = Promise("off") if promise.mode == "off" else replace(promise, mode="local")
        one = self.analytic(holding.features.shape[1], classes, (holding.most_words,), own, sigma=sigma)
        return one, one.run({"": Member(holding, entropy)}, OpenSums(("",)))

    def federated(self, setting: Setting) -> Model:
        """See ``Way``."""
        one, model = self.solved(setting)
        found = self._model(one, model, setting.noise_factor(steps=False))
        return replace(found, bytes_up=one.release.content_bytes, sums=1)

    def solved(self, setting: Setting) -> tuple[Analytic, Linear]:
        """The round over all sites, and its solution."""
        parties, how = setting.parties, setting.parties.aggregation()
        private = setting.promise.mode != "off"
        rows = tuple(_units(held).high if private else held.most_words for held in parties.holdings.values())
        one = self.analytic(
            parties.inputs,
            len(parties.labels),
            rows,
            setting.promise,
            how.minimum_sites,
            parties.colluding,
        )
        terms = SumTerms(
            one.digest,
            parties.roster.digest(),
            tuple(parties.holdings),
            one.release.terms.parameters,
            how.threshold or 0,
            how.minimum_sites,
            parties.colluding,
        )
        if setting.elsewhere is not None:
            return one, self._elsewhere(setting.elsewhere, setting, one)
        return one, one.run(setting.members(one.digest), setting.sums(terms))

    def _elsewhere(self, elsewhere: Elsewhere, setting: Setting, one: Analytic) -> Linear:
        """The round as a plan, run where plans are run, and the linear model that its head is of."""
        constants = self.constants(setting.parties.inputs, one.lift.seed)
        promise = replace(setting.promise, bound=self.bound)
        plan = setting.parties.plan(self.words, promise, analytic=constants)
        done = elsewhere.run(plan, setting.parties, analytic=one)
        return linear(constants, done.model, len(plan.task.labels))

    def constants(self, inputs: int, seed: str) -> Constants:
        """What a plan says of the round, on so many features, its cosines drawn from a seed."""
        return Constants(
            kind=self.kind,
            inputs=inputs,
            cosines=self.cosines,
            bandwidth=self.bandwidth,
            seed=seed,
            scale=self.scale,
            constant=self.constant,
            weight=self.weight,
            ridge=self.ridge,
            noise_share=self.noise_share,
        )

    def analytic(
        self,
        inputs: int,
        classes: int,
        rows: tuple[int, ...],
        promise: Promise,
        n_min: int = 0,
        t: int = 1,
        sigma: float | None = None,
    ) -> Analytic:
        """The round of some sites; with a noise multiplier if one is given.

        Raises:
            PlanError: ``plan_conflict``, no sound grid fits it.
        """
        private = promise.mode != "off"
        lift = Lift(
            inputs,
            self.cosines,
            self.bandwidth,
            scale=self.scale,
            constant=self.constant,
            cut=private or self.cut,
        )
        if sigma is None:
            sigma = noise_multiplier(promise.epsilon, promise.delta, 1.0, 1) if private else 0.0
        terms = Terms(lift.width, classes, self.kind, self.weight, self.bound)
        release = Release(terms, rows, promise.mode, sigma, n_min, t)
        return Analytic(lift, release, self.ridge, self.noise_share)

    @staticmethod
    def _model(one: Analytic, linear: Linear, noise_factor: float) -> Model:
        mechanism = one.release.mechanism
        return Model(
            lambda features: _scores(linear, one.lift.rows(features)),
            (mechanism,) if mechanism else (),
            noise_factor=noise_factor,
        )


def _scores(linear: Linear, rows: Floats) -> Floats:
    """Scores with a column for each class: of two, an analytic round has but the second's lead."""
    found = rows @ linear.weights
    return np.hstack([np.zeros_like(found), found]) if found.shape[1] == 1 else found
