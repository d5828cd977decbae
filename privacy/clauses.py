"""The clauses of a plan, each of them valid by itself; ``privacy.plan`` says what they must be together.

A clause that few plans have is optional and absent from the bytes of the others, never null: the digest of a
plan that was made before the clause existed stays what it was.

Learning rates act on the mean gradient of a step: the clipped and noised sum divided by
``rate * units.low``, a public constant; never by the true number of units. A unit is a person with all
rows that count, or one record: ``Privacy.unit`` says which.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from cloister.privacy.analytic.constants import Analytic, Start
from cloister.privacy.frozen import Part, Positive
from cloister.privacy.methods import FACTORS, PRECISIONS, Codec, Factors, Precision, Robust, ServerOptimizer
from cloister.privacy.secagg.quantisation import MOST_BITS
from cloister.privacy.secagg.ring import FEWEST_BITS
from cloister.privacy.task import Text

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
MOST_HIDDEN = 1024
Licence = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .+()/-]{0,99}$")]
"""A name or an SPDX expression."""
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
    """The base model: by a digest over the manifest of all its files.

    Rows of a table need none. There the columns stand in its place, by their digest.

    Attributes:
        max_tokens: where texts are cut; absent from the bytes where there are none.
        licence: what the lead declares that the model is licensed under, as its card has it or in the lead's
            words; absent from the bytes where nothing is declared.
    """

    name: Text
    digest: Digest
    max_tokens: Annotated[int, Field(ge=8, le=8192)] | None = None
    licence: Licence | None = None


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


class Dense(Part):
    """A linear map on features, or one hidden layer and a linear map: all of a model that has no base model.

    Attributes:
        hidden: the width of the hidden layer; absent from the bytes of a linear model.
        seed: public start of the hidden layer.
        parameters, layout: as of ``Adapter``.
    """

    kind: Literal["dense"] = "dense"
    hidden: Annotated[int, Field(ge=1, le=MOST_HIDDEN)] | None = None
    seed: Digest
    parameters: Annotated[int, Field(ge=1, le=2**31)]
    layout: Digest

    @property
    def top_layers(self) -> int:
        """No layer carries LoRA."""
        return 0

    @property
    def words(self) -> str:
        """What kind of model it is."""
        return f"one hidden layer of {self.hidden} and a linear head" if self.hidden else "a linear model"


Trained: TypeAlias = Annotated[Adapter | Dense, Field(discriminator="kind")]
"""What is trained and travels."""


class Training(Part):
    """How a site trains in a round and how the rounds go together.

    Attributes:
        server: what the server makes of the mean change; absent from the bytes where it adds it as it is.
        proximal: mu of FedProx, which holds a site near the model that it starts a round from.
        factors: which factors of LoRA are trained; both where this is absent.
        centred: radius of centred clipping: each site cuts its update to so far from what the last round
            changed (``client.centring``).
        precision: what sites take the products of a training pass in; float32 where this is absent.
        analytic: constants of the one sum that takes the place of training; there exactly where the algorithm
            is ``analytic``. The fields of steps then say one step on the full batch.
        start: that the first of the rounds is an analytic one, whose solution the others start from.
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
    centred: Positive | None = None
    precision: Precision | None = None
    analytic: Analytic | None = None
    start: Start | None = None

    @property
    def opening(self) -> Analytic | None:
        """The constants of an analytic first round; None where the first round trains."""
        return self.start.analytic if self.start else self.analytic

    @property
    def words(self) -> list[str]:
        """What sites do besides averaging, as a report names it."""
        if self.analytic:
            return [self.analytic.words]
        start = [self.start.words] if self.start else []
        proximal = [f"FedProx of {self.proximal:g}"] if self.proximal else []
        centred = [_cut(self.centred)] if self.centred else []
        factors = [FACTORS[self.factors]] if self.factors else []
        precision = [PRECISIONS[self.precision]] if self.precision else []
        return [*start, *proximal, *factors, *centred, *precision]

    @model_validator(mode="after")
    def _proximal_is_stable(self) -> Self:
        # The bound also keeps the reach of an update (server.reach) that of one without FedProx.
        if self.proximal and self.proximal * max(self.head_rate, self.adapter_rate) > 1:
            raise ValueError("proximal times a learning rate is above 1: local steps would swing about")
        return self

    @model_validator(mode="after")
    def _centre_is_the_mean(self) -> Self:
        if self.centred and (self.server or self.factors == "alternate"):
            raise ValueError(
                "centred clipping is around the last mean, which no site knows with a server optimizer or "
                "with factors in turn"
            )
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
        methods = (self.server, self.proximal, self.factors, self.centred, self.precision)
        if self.start or any(methods):
            raise ValueError("an analytic plan takes no steps that a method could change")
        return self

    @model_validator(mode="after")
    def _rounds_after_a_start(self) -> Self:
        if self.start is None:
            return self
        if self.rounds < 2:
            raise ValueError("a start is the first round of several, and there is no other")
        if self.start.analytic.cosines:
            raise ValueError("steps are on the frozen features, and a start on cosines is on others")
        if self.factors or self.centred:
            raise ValueError(
                "a start is a head, which has no factors, and no change to cut the next one around"
            )
        return self


def _cut(radius: float) -> str:
    """Centred clipping as a report names it: what nobody but the site itself can see."""
    return f"each site cuts its own update to {radius:g} around the last change, which no other can check"


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
