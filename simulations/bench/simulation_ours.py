"""Our side of ``cloister bench simulation``: one process that plays all clients.

    python -m cloister.simulations.bench.simulation_ours KIND FOLDER

``lora`` trains adapters, ``head`` heads on cached features; both write ``ours.npy``, the model at the end.
``grow`` alternates rounds of few clients and of all, in one process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from cloister.privacy.entropy import Entropy, FixedEntropy, KeyStream
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.simulations.bench import kernel
from cloister.simulations.bench.simulation_work import HEAD_RATE, Pace, Rows, Work, rows_of
from cloister.simulations.engine import methods
from cloister.simulations.engine.consortium import Consortium
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.rounds import Seat
from cloister.simulations.engine.sums import OpenSums

FEW, REPEATS = 10, 3


class Noting:
    """The randomness of the first client, which notes the clock whenever a round begins.

    Attributes:
        marks: seconds on the clock and of this process's CPU time.
    """

    def __init__(self) -> None:
        self._inner = FixedEntropy(b"first")
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Notes now."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def advance(self, round: int) -> None:
        """See ``Entropy``."""
        self.mark()
        self._inner.advance(round)

    def stream(self, purpose: str, *, round: int, step: int = 0, attempt: int = 1, model: str) -> KeyStream:
        """See ``Entropy``."""
        return self._inner.stream(purpose, round=round, step=step, attempt=attempt, model=model)


class Lora:
    """A job of some clients, ready to run.

    Args:
        work: what is done.
        rounds: of the plan.
    """

    def __init__(self, work: Work, rounds: int) -> None:
        self._played = Consortium(work.base, work.records())
        plan, _ = self._played.draft(replace(work.terms(), rounds=rounds))
        self._shared = self._played.model(plan)
        self._learners = self._shared.learners(self._played.records)
        self.start = work.start(self._shared.layout)
        self.client_rounds = work.clients * rounds

    def run(self) -> tuple[Noting, Vector]:
        """All rounds; the clock, and the model at the end."""
        noting = Noting()
        first, *_ = self._learners
        seats: Mapping[str, Seat] = {
            name: Seat(learner, noting if name == first else self._played.entropy(name))
            for name, learner in self._learners.items()
        }
        model = self._played.run(self._shared, self.start, seats, masked=False).model
        noting.mark()
        return noting, model


def lora(work: Work, folder: Path, since: float) -> Pace:
    """Adapters."""
    rows_of(work, work.base, features=False).save(folder)
    job = Lora(work, work.rounds + 1)
    ready = time.time() - since
    noting, model = job.run()
    np.save(folder / "ours.npy", model)
    return Pace.of(ready, noting.marks, kernel.peak())


def head(work: Work, folder: Path, since: float) -> Pace:
    """Heads on cached features, in numpy."""
    base = work.base
    rows = rows_of(work, base, features=True)
    rows.save(folder)
    plan, members, noting = _heads(work, rows, (base.name, base.digest))
    ready = time.time() - since
    model = methods.local(plan, members, OpenSums(work.names)).model
    noting.mark()
    np.save(folder / "ours.npy", model)
    return Pace.of(ready, noting.marks, kernel.peak())


def _heads(work: Work, rows: Rows, base: tuple[str, str]) -> tuple[Plan, dict[str, methods.Member], Noting]:
    held = {
        name: Holding(rows.features[place].astype(np.float64), rows.classes[place])
        for place, name in enumerate(work.names)
    }
    parties = Parties(held, work.labels, base)
    plan = parties.plan("a benchmark", Promise(), Course(work.rounds + 1, 1, HEAD_RATE, 0.0))
    noting = Noting()
    drawn: dict[str, Entropy] = {name: FixedEntropy(name.encode()) for name in held}
    drawn[work.names[0]] = noting
    return plan, {name: methods.Member(one, drawn[name]) for name, one in held.items()}, noting


def grow(work: Work) -> float:
    """CPU time of a client-round among all clients, over that among ``FEW``; the median of pairs."""
    many = Lora(work, 1)
    few = Lora(replace(work, clients=FEW), max(1, work.clients // FEW // 4))
    few.run()
    return float(np.median([_cost(many) / _cost(few) for _ in range(REPEATS)]))


def _cost(job: Lora) -> float:
    noting, _ = job.run()
    return (noting.marks[-1][1] - noting.marks[0][1]) / job.client_rounds


def main(arguments: list[str]) -> None:
    """Is the process that is measured; prints one JSON object."""
    import torch

    since = psutil.Process().create_time()
    kind, place = arguments
    folder = Path(place)
    work = Work.load(folder)
    torch.set_num_threads(1)
    if kind == "grow":
        print(json.dumps({"growth": grow(work)}))
        return
    pace = {"lora": lora, "head": head}[kind](work, folder, since)
    print(json.dumps(vars(pace)))


if __name__ == "__main__":
    main(sys.argv[1:])
