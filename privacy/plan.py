"""The plan: one frozen, validated, canonically encoded value that describes a run.

Its digest is what sites approve and sign, what every update is bound to and what the report quotes.
Parameters that change speed only stand apart (``server.app.Pace``) and are never in the digest.

Learning rates act on the mean gradient of a step: the clipped and noised sum divided by
``rate * units.low``, a public constant; never by the true number of units. A unit is a person with all
rows that count, or one record: ``privacy.unit`` says which.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from cloister.privacy import canonical
from cloister.privacy.analytic.constants import Analytic
from cloister.privacy.analytic.release import Release
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import Grid, most_sampled
from cloister.privacy.errors import AggregationError, PlanError
from cloister.privacy.frozen import Part as Part
from cloister.privacy.frozen import Positive as Positive
from cloister.privacy.methods import FACTORS, Codec, Factors, Robust, ServerOptimizer
from cloister.privacy.secagg.encoding import Ring
from cloister.privacy.secagg.quantisation import MOST_BITS, Quantisation
from cloister.privacy.secagg.ring import FEWEST_BITS
from cloister.privacy.secagg.terms import SumTerms
from cloister.privacy.task import Task as Task
from cloister.privacy.task import Text as Text

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Unit = Literal["person", "record"]
"""What one unit of privacy is: a person with all rows that count, or one record."""


class Party(Part):
    """One party, its public identity and the code that it runs, by digest."""

    name: Name
    identity: Digest
    code: Digest


class Rows(Part):
    """The public band that a site's number of training rows lies in, both ends included."""

    low: Annotated[int, Field(ge=1)]
    high: Annotated[int, Field(ge=1)]


class Persons(Rows):
    """The public band of a site's number of training persons, and how many rows of each count at most.

    Attributes:
        most_rows: rows of one person that are trained on, at most. The guarantee covers them all.
    """

    most_rows: Annotated[int, Field(ge=1, le=10_000)]


class Sized(Part):
    """A size told as bands: of rows and, where a column says whom a row is about, of persons.

    ``persons`` is absent from the bytes of a record-level site, never null.
    """

    rows: Rows
    persons: Persons | None = None

    @property
    def unit(self) -> Unit:
        """``person`` where persons are known, else ``record``."""
        return "record" if self.persons is None else "person"

    @property
    def units(self) -> Rows:
        """The band of the number of units of privacy."""
        return self.persons or self.rows


class Site(Sized, Party):
    """A party that trains: its dataset is named and its size known only as bands."""

    dataset: Name


class Base(Part):
    """The base model: by a digest over the manifest of all its files."""

    name: Text
    digest: Digest
    max_tokens: Annotated[int, Field(ge=8, le=8192)]


class Adapter(Part):
    """LoRA on the top layers and a linear head, if the task has one: all that is trained and travels.

    Attributes:
        top_layers: how many of the last layers carry LoRA; the layers below stay frozen.
        seed: public start of LoRA's A.
        parameters: d, the length of an update.
        layout: digest of the order of the parameters.
    """

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=256)]
    alpha: Positive
    targets: Annotated[tuple[Text, ...], Field(min_length=1)]
    top_layers: Annotated[int, Field(ge=0, le=1000)]
    seed: Digest
    parameters: Annotated[int, Field(ge=1, le=2**31)]
    layout: Digest


class Training(Part):
    """How a site trains in a round and how the rounds go together.

    Attributes:
        server: what the server makes of the mean change; absent from the bytes where it adds it as it is.
        proximal: mu of FedProx, which holds a site near the model that it starts a round from.
        factors: which factors of LoRA are trained; both where this is absent.
        analytic: constants of the one sum that takes the place of training; there exactly where the algorithm
            is ``analytic``. The fields of steps then say one step on the full batch.
    """

    algorithm: Literal["fedavg", "analytic"] = "fedavg"
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    steps: Annotated[int, Field(ge=1, le=100_000)]
    rate: Annotated[float, Field(gt=0, le=1)]
    optimizer: Literal["sgd", "adam"]
    head_rate: Positive
    adapter_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    server: ServerOptimizer | None = None
    proximal: Positive | None = None
    factors: Factors | None = None
    analytic: Analytic | None = None

    @property
    def words(self) -> list[str]:
        """What sites do besides averaging, as a report names it."""
        if self.analytic:
            return [self.analytic.words]
        proximal = [f"FedProx of {self.proximal:g}"] if self.proximal else []
        return [*proximal, *([FACTORS[self.factors]] if self.factors else [])]

    @model_validator(mode="after")
    def _proximal_is_stable(self) -> Self:
        # The bound also keeps the reach of an update (server.reach) that of one without FedProx.
        if self.proximal and self.proximal * max(self.head_rate, self.adapter_rate) > 1:
            raise ValueError("proximal times a learning rate is above 1: local steps would swing about")
        return self

    @model_validator(mode="after")
    def _one_sum_where_analytic(self) -> Self:
        if (self.analytic is None) != (self.algorithm != "analytic"):
            raise ValueError(
                "constants of an analytic round belong to the algorithm analytic, and to it alone"
            )
        if self.analytic is None:
            return self
        if (self.rounds, self.steps, self.rate, self.optimizer, self.momentum) != (1, 1, 1.0, "sgd", 0.0):
            raise ValueError("an analytic plan is one round of one step on the full batch, without momentum")
        if self.server or self.proximal or self.factors:
            raise ValueError("an analytic plan takes no steps that a method could change")
        return self


class Privacy(Part):
    """The promise.

    Attributes:
        mode: ``local``: every site adds all the noise that its own guarantee needs; ``joint``: the sites run
            one private descent together and each adds a share of its noise, which secure aggregation keeps
            covered; ``off``.
        noise_multiplier: sigma; in joint mode that of ``n_min - t`` shares together.
        unit: whom the promise is for: a person with all rows that count, or one record.
        relation: neighbouring datasets differ by one unit, added or removed.
    """

    mode: Literal["local", "joint", "off"]
    unit: Unit = "record"
    relation: Literal["add-remove"] = "add-remove"
    bound: Positive
    noise_multiplier: Annotated[float, Field(ge=0)]
    epsilon: Annotated[float, Field(ge=0)]
    delta: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _noise_where_promised(self) -> Self:
        private = self.mode != "off"
        if private and not (self.noise_multiplier > 0 and self.epsilon > 0 and self.delta > 0):
            raise ValueError("privacy needs noise_multiplier, epsilon and delta above 0")
        if not private and (self.noise_multiplier or self.epsilon or self.delta):
            raise ValueError("without privacy, noise_multiplier, epsilon and delta are 0")
        return self


class Aggregation(Part):
    """How updates become one.

    ``threshold`` and ``colluding`` are absent from the bytes of a plan without secure aggregation, ``bits``
    and ``norm`` from those of one whose words have 32 bits, ``surplus`` from those of one that leaves all
    noise in; it is never false.

    Attributes:
        secure: whether the server sees masked updates and opens their sum only; else it sees each.
        minimum_sites: n_min: the fewest sites of a round.
        range: the largest absolute value of a weighted coordinate of one site.
        threshold: T: so many survivors sign a survivor set, and hold shares of each other's seeds.
        colluding: t: so many sites may put together what they know, and the server with them.
        bits: b: sums are taken modulo 2^b, and a parameter travels as so many bits (``secagg.quantisation``).
        norm: with ``bits``, the greatest Euclidean length of one site's weighted update.
        robust: what stands in the place of the weighted mean; absent from the bytes of other plans. Every
            site then counts alike: a large one that lies weighs no more than a small one.
        codec: how a site writes its update, what was left out added to the next; without secure aggregation.
        down: how the lead writes what a round changed of the model. Both are absent from other plans' bytes.
        surplus: in joint mode, that noise for losses that did not happen is taken back (``secagg.surplus``).
    """

    secure: bool = False
    minimum_sites: Annotated[int, Field(ge=1)]
    range: Positive = 4.0
    threshold: Annotated[int, Field(ge=1)] | None = None
    colluding: Annotated[int, Field(ge=1)] | None = None
    bits: Annotated[int, Field(ge=FEWEST_BITS, le=MOST_BITS)] | None = None
    norm: Positive | None = None
    robust: Robust | None = None
    codec: Codec | None = None
    down: Codec | None = None
    surplus: Literal[True] | None = None

    @property
    def visibility(self) -> str:
        """What the server can see, in words."""
        if self.secure:
            return f"The server opens nothing but sums over at least {self.minimum_sites} sites"
        return "The server can see every single update"

    @property
    def width(self) -> int:
        """The bits of a word on the wire."""
        return self.bits or 32

    @property
    def rounding(self) -> str:
        """What few bits mean, in words; "" where a word has 32."""
        parts = [f"updates are rounded to {self.bits} bits a parameter"] if self.bits else []
        parts += [f"updates are coded as {self.codec} with error feedback"] if self.codec else []
        parts += [f"changes of the model are coded as {self.down}"] if self.down else []
        return " and ".join(parts).capitalize()

    @property
    def taking_back(self) -> str:
        """What becomes of surplus noise, in words; "" where all of it stays."""
        return "Noise for sites that were not lost is taken back" if self.surplus else ""

    @model_validator(mode="after")
    def _terms_where_secure(self) -> Self:
        if {self.threshold is not None, self.colluding is not None} != {self.secure}:
            raise ValueError("threshold and colluding belong to secure aggregation, and to it alone")
        if (self.bits is None) != (self.norm is None):
            raise ValueError("bits and norm belong together")
        if self.bits and not self.secure:
            raise ValueError("few bits belong to secure aggregation")
        if self.codec and self.secure:
            raise ValueError(
                "a codec gives each block a scale of its own, which secure aggregation cannot add: use bits"
            )
        if self.robust:
            self._check_robust(self.robust)
        return self

    def _check_robust(self, rule: Robust) -> None:
        if self.secure:
            raise ValueError(
                f"{rule.kind} compares single updates, and secure aggregation opens nothing but their sum"
            )
        if self.minimum_sites < rule.fewest:
            raise ValueError(
                f"{rule.words} needs {rule.fewest} updates, and a round may have {self.minimum_sites}"
            )


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
    adapter: Adapter
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
        if self.canaries and (not self.task.classifies or self.task.pair):
            raise ValueError("canaries are single texts with a class, and the task has other rows")
        if self.canaries and self.canaries > min(site.units.low for site in self.sites):
            raise ValueError("there are more canaries than units at some site")

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

    def _check_joint(self) -> None:
        """A joint job opens one noisy sum a round, and nothing else ever."""
        if not self.aggregation.secure:
            raise ValueError("joint privacy needs secure aggregation: a share protects nobody by itself")
        if self.training.steps != 1 or self.training.optimizer != "sgd":
            raise ValueError("in joint mode a round is one step, taken by sgd")
        if self.training.server:
            raise ValueError(
                "joint privacy and a server optimizer do not go together: every site takes each step again"
            )
        if self.aggregation.down:
            raise ValueError("every site takes each joint step again from its exact sum: no change is coded")
        if self.training.proximal:
            raise ValueError("FedProx has nothing to hold in joint mode: a site takes no steps of its own")
        if self.training.factors:
            raise ValueError(
                "in joint mode both factors of LoRA are trained: each share covers the whole grid"
            )
        if self.aggregation.bits:
            raise ValueError("joint privacy has a grid of its own, in words of 32 bits")
        try:
            _ = self.grid
        except PlanError as error:
            raise ValueError(error.what) from error

    def _check_analytic(self, analytic: Analytic) -> None:
        """An analytic plan opens one sum of all sites, and nothing of one site."""
        how = self.aggregation
        if not self.task.classifies:
            raise ValueError("an analytic round gives classes of texts, and the task is another")
        if not how.secure:
            raise ValueError(
                "an analytic round needs secure aggregation: the sums of a small site nearly are its rows"
            )
        if how.bits or how.down or how.surplus:
            raise ValueError("an analytic round is one sum in words of 32 bits: no few bits, code or surplus")
        if self.canaries:
            raise ValueError("canaries are not offered in an analytic round")
        if self.adapter.top_layers or self.adapter.parameters != len(self.task.labels) * (analytic.head + 1):
            raise ValueError("an analytic round gives a head on its features, and nothing else")
        try:
            needed = self._release(analytic).ring.range
        except PlanError as error:
            raise ValueError(error.what) from error
        if how.range < needed * (1 - 1e-9):  # else rows would decide who can take part
            raise ValueError(f"the range is below the {needed:g} that the sums of a site may reach")

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
        return Ring(self.summands, len(self.sites), self.aggregation.range)

    @cached_property
    def release(self) -> Release | None:
        """The one sum of an analytic plan; None in any other."""
        return self._release(self.training.analytic) if self.training.analytic else None

    def _release(self, analytic: Analytic) -> Release:
        privacy, how = self.privacy, self.aggregation
        most = [site.rows.high if privacy.mode == "off" else site.units.high for site in self.sites]
        terms = analytic.terms(len(self.task.labels), privacy.bound)
        fewest, t = how.minimum_sites, how.colluding or 0
        return analytic.release(terms, most, privacy.mode, privacy.noise_multiplier, fewest, t)

    @property
    def summands(self) -> int:
        """The length of the vector that a site sends: that of an update, or of its analytic sums."""
        return self.release.terms.parameters if self.release else self.adapter.parameters

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
            parameters=self.summands,
            threshold=how.threshold or 0,
            minimum=how.minimum_sites,
            colluding=how.colluding or 0,
        )

    @property
    def joint(self) -> bool:
        """Whether the sites take every step together, each with a share of the noise."""
        return self.privacy.mode == "joint"

    @property
    def stepped(self) -> bool:
        """Whether models are made of opened sums by steps of the plan, not by means of updates."""
        return self.joint or self.training.analytic is not None

    @cached_property
    def grid(self) -> Grid:
        """The integer grid of a joint job.

        Raises:
            PlanError: ``plan_conflict``, no sound grid fits these terms.
        """
        if self.release:
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
