"""The plan: one frozen, validated, canonically encoded value that describes a run.

Its digest is what sites approve and sign, what every update is bound to and what the report quotes.
Parameters that change speed only stand apart (``server.post.Pace``) and are never in the digest.

Its clauses stand in ``privacy.clauses``, its task in ``privacy.task``.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from cloister.privacy import canonical
from cloister.privacy.analytic.constants import Analytic, Start
from cloister.privacy.analytic.release import Release
from cloister.privacy.clauses import (
    Adapter,
    Aggregation,
    Base,
    Dense,
    Digest,
    Name,
    Party,
    Privacy,
    Site,
    Trained,
    Training,
)
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import Grid, most_sampled
from cloister.privacy.errors import AggregationError, PlanError
from cloister.privacy.frozen import Part
from cloister.privacy.secagg.encoding import Ring
from cloister.privacy.secagg.quantisation import Quantisation
from cloister.privacy.secagg.terms import SumTerms
from cloister.privacy.task import Task, Text

FEWEST_CANARIES, MOST_CANARIES = 20, 1000
Rehearsal: TypeAlias = Literal["demo", "simulation"]


class Plan(Part):
    """A whole run. Two plans with the same terms differ in their nonce and are two jobs.

    Attributes:
        canaries: false records that each site makes up and may train on, to measure what the model keeps
            (``client.site.canaries``); absent from the bytes of a plan that has none.
        policy: the digest of the consortium's policy, which every site applies beside its own; absent from
            the bytes of a plan that is under none.
        rehearsal: that no organisation takes part: a ``demo`` plays all parties as processes of one machine,
            a ``simulation`` in one program. Absent from the bytes of a plan that is meant. The report of a
            rehearsal carries a mark on every page.
    """

    version: Literal[1] = 1
    consortium: Name
    purpose: Text
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    roster: Digest
    lead: Party
    sites: Annotated[tuple[Site, ...], Field(min_length=1, max_length=1000)]
    base: Base
    task: Task
    adapter: Trained
    training: Training
    privacy: Privacy
    aggregation: Aggregation
    canaries: Annotated[int, Field(ge=FEWEST_CANARIES, le=MOST_CANARIES)] | None = None
    policy: Digest | None = None
    rehearsal: Rehearsal | None = None

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        names = [self.lead.name, *(site.name for site in self.sites)]
        if len(set(names)) != len(names):
            raise ValueError("two parties have the same name")
        if self.aggregation.minimum_sites > len(self.sites):
            raise ValueError("minimum_sites is more than there are sites")
        self._check_task()
        if self.aggregation.secure:
            self._check_sums()
        self._check_ways()
        if self.training.factors and not self.adapter.top_layers:
            raise ValueError("factors belong to LoRA, and no layer carries it")
        if self.training.precision and not self.adapter.top_layers:
            raise ValueError("a precision is that of passes through LoRA, and no layer carries it")
        if not self.joint and self.aggregation.surplus:
            raise ValueError(
                "surplus noise belongs to joint privacy: elsewhere every site needs all of its own"
            )
        others = [site.name for site in self.sites if site.unit != self.privacy.unit]
        if others:
            raise ValueError(f"the unit of privacy is the {self.privacy.unit}, but not at {others[0]}")
        return self

    def _check_task(self) -> None:
        if not self.adapter.top_layers and self.task.kind == "causal-lm":
            raise ValueError("answers are learnt by LoRA alone, and no layer carries it")
        if (self.base.max_tokens is None) != (self.task.table is not None):
            raise ValueError("a length of texts belongs to texts, and to them alone")
        if self.base.licence and self.task.table:
            raise ValueError("a licence is that of a base model, and there is none")
        self._check_table()
        if self.canaries and not (self.task.of_texts or self.task.generates):
            raise ValueError("canaries are texts with a class or an answer, and the task has other rows")
        if self.canaries and self.canaries > min(site.units.low for site in self.sites):
            raise ValueError("there are more canaries than units at some site")

    def _check_table(self) -> None:
        table, dense = self.task.table, isinstance(self.adapter, Dense)
        if dense != (table is not None):
            raise ValueError("a model without a base model learns rows of a table, and they need no other")
        if table is None:
            return
        if self.base.digest != table.digest:
            raise ValueError("the columns are not those of the digest in the place of a base model")
        if self.training.opening and isinstance(self.adapter, Dense) and self.adapter.hidden:
            raise ValueError("an analytic round gives a linear model, and no hidden layer")

    def _check_sums(self) -> None:
        try:
            self._quantisation("")
        except (AggregationError, PlanError) as error:
            raise ValueError(error.what) from error

    def _check_ways(self) -> None:
        if self.joint:
            self._check_joint()
        if self.training.analytic:
            self._check_analytic(self.training.analytic)
        if self.training.start:
            self._check_start(self.training.start)
        if self.training.centred and self.aggregation.codec:
            raise ValueError("a codec adds what it left out before to an update that centred clipping cut")

    def _check_joint(self) -> None:
        """A joint job opens one noisy sum a round, and nothing else ever."""
        if not self.aggregation.secure:
            raise ValueError("joint privacy needs secure aggregation: a share protects nobody by itself")
        if self.training.steps != 1:
            raise ValueError("in joint mode a round is one step")
        if self.training.server:
            raise ValueError(
                "joint privacy and a server optimizer do not go together: every site takes each step again"
            )
        if self.aggregation.down:
            raise ValueError("every site takes each joint step again from its exact sum: no change is coded")
        if self.training.proximal:
            raise ValueError("FedProx has nothing to hold in joint mode: a site takes no steps of its own")
        if self.training.centred:
            raise ValueError(
                "centred clipping would cut the noise of a joint step, and its share of the grid"
            )
        if self.training.factors:
            raise ValueError(
                "in joint mode both factors of LoRA are trained: each share covers the whole grid"
            )
        if self.aggregation.bits:
            raise ValueError("joint privacy has a grid of its own, in words of 32 bits")
        try:
            _ = self.grid, self.grid_in(1)
        except PlanError as error:
            raise ValueError(error.what) from error

    def _check_analytic(self, analytic: Analytic) -> None:
        """An analytic plan opens one sum of all sites, and nothing of one site."""
        if self.aggregation.surplus:
            raise ValueError("an analytic round takes no noise back")
        needed = self._check_sum(analytic, self.privacy.bound)
        if self.aggregation.range < needed * (1 - 1e-9):  # else rows would decide who can take part
            raise ValueError(f"the range is below the {needed:g} that the sums of a site may reach")

    def _check_start(self, start: Start) -> None:
        """The first round opens one sum, at the noise and the cost of every round after it."""
        self._check_sum(start.analytic, start.bound)
        if self.privacy.mode != "off" and (self.training.steps, self.training.rate) != (1, 1.0):
            raise ValueError(
                "after a private start a round is one step on the full batch, whose cost is the start's, too"
            )

    def _check_sum(self, analytic: Analytic, bound: float) -> float:
        """What a plan with an analytic round must be; the largest value that a site's sums may reach."""
        how = self.aggregation
        if not self.task.classifies:
            raise ValueError("an analytic round gives one class a row, and the task is another")
        if not how.secure:
            raise ValueError(
                "an analytic round needs secure aggregation: the sums of a small site nearly are its rows"
            )
        if how.bits or how.down:
            raise ValueError("an analytic round is one sum in words of 32 bits: no few bits and no code")
        if self.canaries:
            raise ValueError("canaries are not offered in an analytic round")
        if self.adapter.top_layers or self.adapter.parameters != len(self.task.labels) * (analytic.head + 1):
            raise ValueError("an analytic round gives a head on its features, and nothing else")
        try:
            return self._release(analytic, bound).ring.range
        except PlanError as error:
            raise ValueError(error.what) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """The plan of canonical bytes.

        Raises:
            PlanError: ``plan_malformed``, naming the field.
        """
        canonical.decode(data, otherwise=PlanError("plan_malformed", "The plan is not canonical JSON."))
        try:
            plan = cls.model_validate_json(data)
        except ValidationError as error:
            raise malformed(error) from error
        if plan.to_bytes() != data:
            raise PlanError(
                "plan_malformed", "The plan leaves a field to its default; every field must be written."
            )
        return plan

    def to_bytes(self) -> bytes:
        """The canonical bytes: what is signed, approved and hashed."""
        return canonical.encode(self.model_dump(mode="json", exclude_none=True))

    @cached_property
    def digest(self) -> str:
        """The digest of the plan: the name of the job."""
        return canonical.digest(self.to_bytes())

    @property
    def lora(self) -> Adapter:
        """What is trained on a base model.

        Raises:
            PlanError: ``task_unsupported``, there is none.
        """
        if not isinstance(self.adapter, Adapter):
            raise PlanError("task_unsupported", "The plan's rows are those of a table, and not texts.")
        return self.adapter

    @property
    def max_tokens(self) -> int:
        """Where texts are cut; raises ``PlanError`` ``task_unsupported`` where there are none."""
        if self.base.max_tokens is None:
            raise PlanError("task_unsupported", "The plan's rows are those of a table, and not texts.")
        return self.base.max_tokens

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each site stands in ``sites``."""
        return {site.name: place for place, site in enumerate(self.sites)}

    def site(self, name: str) -> Site:
        """The terms of one site.

        Raises:
            PlanError: ``plan_unknown``, the site is not in the plan.
        """
        if name not in self.places:
            raise PlanError("plan_unknown", f"The plan does not name {name}.")
        return self.sites[self.places[name]]

    def weight(self, name: str) -> float:
        """The public weight of a site: the low end of its band over the sum of all; they add up to 1.

        What is added up in an analytic round is not weighted.
        """
        if self.training.analytic:
            self.site(name)
            return 1.0
        return self.site(name).units.low / self.least_units

    @cached_property
    def least_units(self) -> int:
        """How many units there are at least, at all sites together."""
        return sum(site.units.low for site in self.sites)

    @property
    def method(self) -> str:
        """How the parties train, as a report names it."""
        if self.training.analytic:
            return f"{self.training.algorithm}, {self.training.analytic.words}"
        parts = (self.aggregation.robust, self.training.server)
        others = [part.words for part in parts if part]
        return ", ".join([self.training.algorithm, *self.training.words, *others])

    @property
    def most_rows(self) -> int:
        """The most rows that one unit has at any site: 1 for records."""
        return max(site.persons.most_rows if site.persons else 1 for site in self.sites)

    @property
    def ring(self) -> Ring:
        """The ring that updates are summed in."""
        return Ring(self.adapter.parameters, len(self.sites), self.aggregation.range)

    @cached_property
    def release(self) -> Release | None:
        """The sum of an analytic round, the only one or that of a start; None where there is none."""
        analytic, start = self.training.opening, self.training.start
        return self._release(analytic, start.bound if start else self.privacy.bound) if analytic else None

    def release_in(self, round: int) -> Release | None:
        """The sum of a round that is analytic; None of one that trains."""
        return self.release if round == 1 else None

    def _release(self, analytic: Analytic, bound: float) -> Release:
        privacy, how = self.privacy, self.aggregation
        most = [site.rows.high if privacy.mode == "off" else site.units.high for site in self.sites]
        terms = analytic.terms(len(self.task.labels), bound)
        fewest, t = how.minimum_sites, how.colluding or 0
        return analytic.release(terms, most, privacy.mode, privacy.noise_multiplier, fewest, t)

    def summands(self, round: int) -> int:
        """The length of the vector that a site sends in a round: that of an update, or of analytic sums."""
        release = self.release_in(round)
        return release.terms.parameters if release else self.adapter.parameters

    def bound_in(self, round: int) -> float:
        """C of one unit in a round."""
        release = self.release_in(round)
        return release.terms.bound if release else self.privacy.bound

    @property
    def sum_terms(self) -> SumTerms | None:
        """The terms of secure aggregation; None where the server sees single updates."""
        return self._terms(self.digest) if self.aggregation.secure else None

    @property
    def quantisation(self) -> Quantisation | None:
        """The terms of few bits a parameter; None where a word has 32."""
        return self._quantisation(self.digest) if self.aggregation.bits else None

    def _quantisation(self, job: str) -> Quantisation | None:
        terms, how = self._terms(job), self.aggregation
        return None if how.bits is None or how.norm is None else Quantisation(terms, how.bits, how.norm)

    def _terms(self, job: str) -> SumTerms:
        how = self.aggregation
        return SumTerms(
            job=job,
            roster=self.roster,
            sites=tuple(site.name for site in self.sites),
            parameters=self.adapter.parameters,
            threshold=how.threshold or 0,
            minimum=how.minimum_sites,
            colluding=how.colluding or 0,
            first=self.release.terms.parameters if self.release else 0,
        )

    @property
    def joint(self) -> bool:
        """Whether the sites take every step together, each with a share of the noise."""
        return self.privacy.mode == "joint"

    @property
    def remembered(self) -> int:
        """How many vectors of length d a joint step leaves that models do not tell: the two of Adam."""
        return 2 if self.joint and self.training.optimizer == "adam" else 0

    def remembered_after(self, round: int) -> int:
        """The same of a round's step: an analytic one leaves nothing."""
        return 0 if self.release_in(round) else self.remembered

    @property
    def stepped(self) -> bool:
        """Whether a model is made of an opened sum by a step of the plan, not by the mean of updates."""
        return self.joint or self.training.opening is not None

    @cached_property
    def grid(self) -> Grid:
        """The integer grid of a joint job, but for the round of a start.

        Raises:
            PlanError: ``plan_conflict``, no sound grid fits these terms.
        """
        if self.release and self.training.analytic:
            return self.release.grid
        units = sum(site.units.high + (self.canaries or 0) for site in self.sites)
        most = most_sampled(units, self.training.rate)
        return Grid(
            bound=self.privacy.bound,
            parameters=self.adapter.parameters,
            noise_multiplier=self.privacy.noise_multiplier,
            sites=len(self.sites),
            n_min=self.aggregation.minimum_sites,
            t=self.aggregation.colluding or 0,
            sampled=most,
            surplus=bool(self.aggregation.surplus),
        )

    def grid_in(self, round: int) -> Grid:
        """The integer grid of a round of a joint job; raises as ``grid``."""
        release = self.release_in(round)
        return release.grid if release else self.grid

    @property
    def round_mechanism(self) -> GaussianSteps | None:
        """What one round may cost a site that trains in it, by the plan; None without privacy."""
        if self.privacy.mode == "off":
            return None
        return GaussianSteps(self.privacy.noise_multiplier, self.training.rate, self.training.steps)

    @property
    def site_mechanism(self) -> GaussianSteps | None:
        """What the noise of one site alone amounts to in a round: in joint mode a share's."""
        if not self.joint:
            return self.round_mechanism
        return GaussianSteps(self.grid.share / self.grid.units, self.training.rate, 1)


def malformed(error: ValidationError) -> PlanError:
    """The first fault of a validation as a plan error: names the field, never its value."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "plan"
    return PlanError("plan_malformed", f"The plan cannot be used: {place}: {first['msg']}.")


@lru_cache(maxsize=128)
def parsed(data: bytes) -> Plan:
    """``Plan.from_bytes`` for who looks at the same jobs again and again: equal bytes are parsed once."""
    return Plan.from_bytes(data)
