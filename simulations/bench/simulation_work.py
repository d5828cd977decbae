"""The work that ``cloister bench simulation`` gives to both sides, in a folder that both read.

Many clients of four texts of 16 tokens each take one step of plain gradient descent a round on all their
rows, from a common model; the mean of what they send is the next one. The lead's plan says so in our words;
here is the same in numbers: token ids, classes, start, order of the parameters, rates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.client.site.records import Records
from cloister.privacy import canonical
from cloister.privacy.layout import Layout, Placement, initial, layout
from cloister.privacy.model import DEFAULT, BaseModel, describe
from cloister.privacy.update import Vector
from cloister.server.terms import Rates, Terms
from cloister.simulations import stage

BATCH, TOKENS, RANK, ALPHA = 4, 16, 8, 16.0
HEAD_RATE, ADAPTER_RATE = 0.05, 0.05
TARGETS = ("query", "value")
_NOTES_A_TEXT = 4  # long enough that every text is cut

Ids: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Work:
    """What is done.

    Attributes:
        clients: how many.
        rounds: how many are measured, beside one that warms up.
        top_layers: how many layers carry LoRA; 0 for the head alone.
        model: name or folder of the base model.
    """

    clients: int = 200
    rounds: int = 5
    top_layers: int = 1
    model: str = DEFAULT

    @classmethod
    def load(cls, folder: Path) -> Work:
        """What ``Prepared.save`` wrote."""
        return cls(**json.loads((folder / "work.json").read_text()))

    def save(self, folder: Path) -> None:
        """Writes it where the other side reads it."""
        (folder / "work.json").write_text(json.dumps(asdict(self)))

    @property
    def base(self) -> BaseModel:
        """The base model on this machine."""
        return describe(self.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes."""
        return stage.triage(2, 0).labels

    @property
    def names(self) -> tuple[str, ...]:
        """The clients."""
        return tuple(f"client{number:04d}" for number in range(self.clients))

    def records(self) -> dict[str, Records]:
        """What each client holds: texts that are all cut at ``TOKENS`` tokens."""
        notes = list(stage.triage(2, 0).train.values())
        texts = [text for part in notes for text in part.texts]
        labels = [label for part in notes for label in part.labels]
        found = {}
        for number, name in enumerate(self.names):
            rows = [(BATCH * number + row) % len(texts) for row in range(BATCH)]
            long = [" ".join(texts[(row + n) % len(texts)] for n in range(_NOTES_A_TEXT)) for row in rows]
            found[name] = Records(tuple(long), tuple(labels[row] for row in rows))
        return found

    def terms(self) -> Terms:
        """The same as an operator says it."""
        return Terms(
            "a benchmark",
            self.labels,
            mode="off",
            rounds=self.rounds + 1,
            steps=1,
            rate=1.0,
            rates=Rates("sgd", HEAD_RATE, ADAPTER_RATE),
            momentum=0.0,
            rank=RANK,
            alpha=ALPHA,
            targets=TARGETS,
            top_layers=self.top_layers,
            max_tokens=TOKENS,
        )

    def layout(self, base: BaseModel) -> Layout:
        """The order of the trained parameters."""
        placement = Placement(RANK, TARGETS, self.top_layers, len(self.labels))
        return layout(base.tensors, base.hidden, placement)

    def start(self, order: Layout) -> Vector:
        """The model before round 1."""
        return initial(order, canonical.digest(b"cloister bench simulation"))


@dataclass(frozen=True, eq=False)
class Rows:
    """All clients' rows as numbers.

    Attributes:
        ids: token ids, int64, shape (clients, rows, tokens).
        classes: int64, shape (clients, rows).
        features: pooled features of length 1, float32, shape (clients, rows, hidden); empty where nobody
            asked for them.
    """

    ids: Ids
    classes: Ids
    features: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Writes them where the other side reads them."""
        np.savez(folder / "rows.npz", ids=self.ids, classes=self.classes, features=self.features)

    @classmethod
    def load(cls, folder: Path) -> Rows:
        """What ``save`` wrote."""
        with np.load(folder / "rows.npz") as found:
            return cls(found["ids"], found["classes"], found["features"])


def rows_of(work: Work, base: BaseModel, *, features: bool) -> Rows:
    """The rows of a work, tokens as the base model reads them."""
    from cloister.client.learn.model import tokenize

    records = work.records()
    texts = [text for found in records.values() for text in found.texts]
    ids = tokenize(base, texts, TOKENS)
    if {len(one) for one in ids} != {TOKENS}:
        raise ValueError("a text is shorter than it should be")
    classes = np.stack([found.targets(work.labels) for found in records.values()])
    shape = (work.clients, BATCH)
    pooled = np.zeros((*shape, 0), dtype=np.float32)
    if features:
        from cloister.simulations.engine import frozen

        found = frozen.features(base, texts, TOKENS)
        pooled = found.astype(np.float32).reshape(*shape, -1)
    return Rows(np.stack(ids).reshape(*shape, TOKENS), classes, pooled)


@dataclass(frozen=True)
class Pace:
    """What one side took.

    Attributes:
        start: seconds until the first measured round: libraries, model, and the round that warms up.
        walls, cpus: seconds of each measured round; CPU seconds of all processes of the side.
        peak: bytes resident at most, in the first process alone.
    """

    start: float
    walls: tuple[float, ...]
    cpus: tuple[float, ...]
    peak: int = 0

    @classmethod
    def of(cls, start: float, marks: list[tuple[float, float]], peak: int = 0) -> Pace:
        """From the clock and the CPU time at the start of each round and at the end of the last.

        The first round warms up and counts as a part of the start.

        Args:
            start: seconds until it could begin.
            marks: clock and CPU time, seconds.
            peak: bytes.
        """
        spans = list(pairwise(marks[1:]))
        walls = tuple(after[0] - before[0] for before, after in spans)
        cpus = tuple(after[1] - before[1] for before, after in spans)
        return cls(start + marks[1][0] - marks[0][0], walls, cpus, peak)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Pace:
        """What a process printed."""
        found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**found)
