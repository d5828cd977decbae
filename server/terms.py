"""What an operator chooses of a job, and what is taken where nothing was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloister.privacy.clauses import Unit
from cloister.privacy.methods import Codec, Factors, Precision, Robust, ServerOptimizer
from cloister.privacy.plan import Rehearsal
from cloister.privacy.table import Table
from cloister.privacy.task import TaskKind
from cloister.server.analytic import Choice


@dataclass(frozen=True)
class Rates:
    """An optimizer and its learning rates, which suit gradients that are clipped or that are not."""

    optimizer: Literal["sgd", "adam"]
    head: float
    adapter: float


RATES = {
    "local": Rates("sgd", 1.0, 0.1),
    "joint": Rates("sgd", 1.0, 0.1),
    "off": Rates("adam", 0.03, 0.01),
}
"""Chosen on synthetic notes (docs/benchmarks.md): clipped and noised sums bear a far larger step."""

ADAM_JOINT = Rates("adam", 0.01, 0.003)
"""Chosen on SST-2 for samples of thousands of rows (docs/benchmarks.md)."""


@dataclass(frozen=True)
class Course:
    """How many rounds there are, local steps in each, and the Poisson sampling rate of a step."""

    rounds: int
    steps: int
    rate: float


COURSES = {"local": Course(4, 3, 0.2), "joint": Course(12, 1, 0.7), "off": Course(4, 3, 0.2)}
"""In joint mode every step is a round, and few large ones do best: one noise covers all that a step draws."""

STARTED = Course(11, 1, 1.0)
"""After a private start, ten steps on the full batch: with many more, a start was seen to gain nothing."""


@dataclass(frozen=True)
class Terms:
    """What an operator chooses; the defaults suit a few hundred to a few thousand short texts a site.

    Attributes:
        purpose: what the model is for, in words that every site reads before it approves.
        labels: the classes or tags, agreed beforehand; none where answers are learnt.
        task: what is learnt.
        pair: whether each row is a pair of texts.
        mode: ``local`` (every site adds all the noise that its own guarantee needs), ``joint`` (each adds a
            share of the noise of a common descent; needs ``secure``) or ``off``.
        unit: the unit of privacy; None for the one that the sites offer, which then must be the same.
        epsilon, delta: the target of the whole plan, per person or per record of one site.
        bound: clipping bound C of one unit's gradient.
        rounds, steps, rate: rounds, local steps in each, and Poisson sampling rate of a step; None for those
            of ``COURSES``.
        rates: optimizer and learning rates; None for those of ``RATES``.
        targets: which maps of a layer carry LoRA; None for ``layout.usual_targets`` of the base model.
        top_layers: layers that carry LoRA; those below are run once and cached.
        minimum_sites: fewer answers than that end the run; 0 for all but one, or more if ``secure`` needs it.
        secure: whether the server may open nothing but sums.
        colluding: with ``secure``, how many sites may put together what they know, and the server with them.
        bits: with ``secure`` and not in joint mode, how many a parameter travels as; None for 32.
        canaries: false records that each site makes up and trains on by coins; None for none.
        server: what the server makes of the mean change; None to add it as it is. Not in joint mode.
        proximal: mu of FedProx; None for none. Not in joint mode.
        factors: ``up`` trains LoRA's B alone, ``alternate`` B and A in turn; None both. Not in joint mode.
        precision: what sites take the products of a training pass in; None for float32.
        centred: radius within which each site holds its own update around the last mean; None for none. Not
            in joint mode.
        codec: how a site writes its update; None for words of 32 bits. Not with ``secure``.
        down: how the lead writes what a round changed; None to send the model. Not in joint mode.
        robust: what stands in the place of the mean; None for the mean. Not with ``secure``.
        analytic: one analytic round in the place of training; None to train by steps.
        start: an analytic round as the first, whose solution the head starts from; None to start from zeros.
        licence: what the base model is licensed under; None for what its card declares, if it does.
        table: the columns, where rows are those of a table; the base model is then ``model.Columns``.
        hidden: the width of a hidden layer on these columns; None for a linear model.
        surplus: in joint mode, whether noise for losses that did not happen is taken back.
        policy: the digest of the consortium's policy; None where each site's own decides alone.
        rehearsal: what the plan is instead of a job of organisations (``Plan.rehearsal``), if it is.
    """

    purpose: str
    labels: tuple[str, ...] = ()
    mode: Literal["local", "joint", "off"] = "local"
    unit: Unit | None = None
    epsilon: float = 8.0
    delta: float = 1e-5
    bound: float = 1.0
    rounds: int | None = None
    steps: int | None = None
    rate: float | None = None
    rates: Rates | None = None
    momentum: float = 0.9
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    top_layers: int = 1
    max_tokens: int = 64
    minimum_sites: int = 0
    range: float = 4.0
    secure: bool = False
    colluding: int = 1
    surplus: bool = False
    licence: str | None = None
    bits: int | None = None
    canaries: int | None = None
    rehearsal: Rehearsal | None = None
    server: ServerOptimizer | None = None
    robust: Robust | None = None
    proximal: float | None = None
    factors: Factors | None = None
    centred: float | None = None
    precision: Precision | None = None
    codec: Codec | None = None
    down: Codec | None = None
    policy: str | None = None
    analytic: Choice | None = None
    start: Choice | None = None
    task: TaskKind = "sequence-classification"
    pair: bool = False
    table: Table | None = None
    hidden: int | None = None

    @property
    def adapts(self) -> bool:
        """Whether anything is trained below the head: LoRA, or a hidden layer."""
        if self.table is not None:
            return self.hidden is not None
        return bool(self.top_layers) and self.analytic is None and self.start is None

    @property
    def course(self) -> Course:
        """Rounds, steps and rate."""
        if self.analytic:
            return Course(1, 1, 1.0)
        usual = STARTED if self.start and self.mode != "off" else COURSES[self.mode]
        return Course(self.rounds or usual.rounds, self.steps or usual.steps, self.rate or usual.rate)
