"""The plan of a simulated consortium: the real value, with real keys, over features computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from cloister.privacy import canonical, code
from cloister.privacy.analytic.constants import Analytic, Start
from cloister.privacy.analytic.release import Mode
from cloister.privacy.clauses import Adapter, Aggregation, Base, Party, Privacy, Site, Training
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.plan import Plan, Rehearsal, malformed
from cloister.privacy.secagg.terms import SumTerms
from cloister.privacy.task import Task
from cloister.server import analytic as one_round
from cloister.simulations.engine.head import head_layout
from cloister.simulations.engine.holding import Holding

LEAD = "lead"
DATASET = "records"
TOKENS: dict[str, int] = {"sequence-classification": 64, "token-classification": 128}
"""The most tokens of a record that the base model reads, by the kind of task."""
_RANGE = 64.0
"""Of a weighted coordinate of a head's update in fixed point, where a site has a quarter of all units or
more: a step of 6e-8 a site. Among many sites a coordinate has less weight, and the range is as much smaller;
the step, which grows with their number, would else be larger than what one of them changes."""


@dataclass(frozen=True)
class Promise:
    """What a private method promises.

    Attributes:
        mode: ``local``, ``joint`` or ``off``.
        epsilon, delta: of the whole plan; 0 both with ``off``.
        bound: C of one unit's gradient.
    """

    mode: Mode = "off"
    epsilon: float = 0.0
    delta: float = 0.0
    bound: float = 1.0


@dataclass(frozen=True)
class Course:
    """How a head is trained.

    Attributes:
        rounds, steps: rounds, and local steps in each; joint mode has one step a round.
        learning_rate: on the mean gradient.
        momentum: of the steps.
        rate: the sampling rate; 1 is the full batch, without sampling and without amplification.
    """

    rounds: int
    steps: int
    learning_rate: float
    momentum: float = 0.9
    rate: float = 1.0


@dataclass(frozen=True, eq=False)
class Parties:
    """Who takes part, with keys made for this simulation.

    Attributes:
        holdings: site name -> what it holds.
        labels: the classes.
        base: what the features come from: a name and a digest.
        colluding: how many sites may put together what they know.
        surplus: whether joint steps take surplus noise back; an analytic round never does.
        licence: what the base model's card declares; None where it declares nothing, and of rows of a table.
    """

    holdings: Mapping[str, Holding]
    labels: tuple[str, ...]
    base: tuple[str, str]
    colluding: int = 1
    surplus: bool = False
    licence: str | None = None
    identities: dict[str, PrivateIdentity] = field(init=False)

    def __post_init__(self) -> None:
        made = {name: PrivateIdentity.generate(name, "site") for name in self.holdings}
        object.__setattr__(self, "identities", {LEAD: PrivateIdentity.generate(LEAD, "lead"), **made})

    @property
    def unit(self) -> str:
        """``person`` where all sites know persons, else ``record``."""
        return "person" if all(each.units is not None for each in self.holdings.values()) else "record"

    @property
    def roster(self) -> Roster:
        """Everybody's public keys."""
        return Roster("simulation", tuple(identity.public for identity in self.identities.values()))

    @property
    def _task(self) -> Task:
        tagged = any(each.documents is not None for each in self.holdings.values())
        return Task(labels=self.labels, kind="token-classification" if tagged else "sequence-classification")

    @property
    def _base(self) -> Base:
        name, digest = self.base
        return Base(name=name, digest=digest, max_tokens=TOKENS[self._task.kind], licence=self.licence)

    @property
    def _sites(self) -> tuple[Site, ...]:
        most_rows, digest = max(each.most_rows for each in self.holdings.values()), code.installed()
        return tuple(
            Site(
                name=name,
                identity=self.identities[name].public.digest(),
                code=digest,
                dataset=DATASET,
                rows=each.rows_band,
                persons=each.persons_band(most_rows) if self.unit == "person" else None,
            )
            for name, each in self.holdings.items()
        )

    @property
    def inputs(self) -> int:
        """The width of the features."""
        return int(next(iter(self.holdings.values())).features.shape[1])

    def plan(
        self,
        purpose: str,
        promise: Promise,
        course: Course = Course(1, 1, 1.0),
        *,
        analytic: Analytic | None = None,
        start: Start | None = None,
        rehearsal: Rehearsal | None = None,
    ) -> Plan:
        """The plan of one method.

        Args:
            purpose: what it is called.
            promise: what it promises.
            course: how a head is trained; as it is for an analytic round.
            analytic: the constants of an analytic round in the place of training.
            start: the analytic round that the first of the course's rounds is; None for none.
            rehearsal: ``simulation`` where evidence is to be made, which then carries its mark.

        Raises:
            PlanError: ``plan_malformed``, these terms cannot be kept; ``plan_conflict``, no noise reaches the
                target, or no sound grid fits.
        """
        try:
            return self._plan(purpose, promise, course, analytic, start, rehearsal)
        except ValidationError as error:
            raise malformed(error) from error

    def _plan(
        self,
        purpose: str,
        promise: Promise,
        course: Course,
        analytic: Analytic | None,
        start: Start | None,
        rehearsal: Rehearsal | None,
    ) -> Plan:
        order = head_layout(analytic.head if analytic else self.inputs, len(self.labels))
        roster, digest, sites = self.roster, code.installed(), self._sites
        privacy = _privacy(promise, course, self.unit)
        how = self.aggregation(steps=promise.mode == "joint" and not analytic)
        if analytic:
            how = one_round.ranged(how, analytic, privacy, sites, len(self.labels))
        return Plan(
            consortium=roster.consortium,
            purpose=purpose,
            nonce=canonical.raw(canonical.digest(purpose.encode()))[:16].hex(),
            roster=roster.digest(),
            lead=Party(name=LEAD, identity=roster.lead.digest(), code=digest),
            sites=sites,
            base=self._base,
            task=self._task,
            adapter=Adapter(
                rank=1,
                alpha=1.0,
                targets=("none",),
                top_layers=0,
                seed=canonical.digest(b"a head starts from zero"),
                parameters=order.size,
                layout=order.digest(),
            ),
            training=one_round.training(analytic) if analytic else _training(course, start),
            privacy=privacy,
            aggregation=how,
            rehearsal=rehearsal,
        )

    @property
    def _heaviest(self) -> float:
        """The largest weight of a site, as the plan will have it."""
        units = [site.units.low for site in self._sites]
        return max(units) / sum(units)

    def aggregation(self, *, steps: bool = False) -> Aggregation:
        """How sums are opened: all sites but one must be there, or more where that would be too few.

        Args:
            steps: whether they are joint steps.
        """
        least = SumTerms.least_threshold(len(self.holdings), self.colluding)
        return Aggregation(
            secure=True,
            minimum_sites=max(len(self.holdings) - 1, least),
            range=min(_RANGE, 4 * _RANGE * self._heaviest),
            threshold=least,
            colluding=self.colluding,
            surplus=True if steps and self.surplus else None,
        )


def _training(course: Course, start: Start | None) -> Training:
    return Training(
        rounds=course.rounds,
        steps=course.steps,
        rate=course.rate,
        optimizer="sgd",
        head_rate=course.learning_rate,
        adapter_rate=course.learning_rate,
        momentum=course.momentum,
        start=start,
    )


def _privacy(promise: Promise, course: Course, unit: str) -> Privacy:
    sigma = 0.0
    if promise.mode != "off":
        steps = course.rounds * course.steps
        sigma = noise_multiplier(promise.epsilon, promise.delta, course.rate, steps)
    return Privacy.model_validate(
        {
            "mode": promise.mode,
            "unit": unit,
            "bound": promise.bound,
            "noise_multiplier": sigma,
            "epsilon": promise.epsilon,
            "delta": promise.delta,
        }
    )
