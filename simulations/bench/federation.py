"""A federation over real processes, watched from outside: gaps between rounds, bytes, memory.

The work is the one that other systems were measured with, as near as a plan expresses it: MiniLM, LoRA of
rank 8 on query and value of all six layers, four classes, three sites, three steps of 16 records a round,
at most 32 tokens a record, no privacy. Beside it, with four sites, the same with secure aggregation and
without, and joint steps of as many records.

    python -m cloister.simulations.bench.federation FOLDER KIND ROUNDS MODEL [cable]

must run in a network namespace of its own (``wire.isolation``) to lay a cable; elsewhere the counters of
the machine's loopback interface are read, which the lead's own two processes share with the sites.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cloister.client.site.records import Records
from cloister.server.terms import Rates, Terms
from cloister.simulations import demo, generator
from cloister.simulations.bench import wire
from cloister.simulations.bench.site import TIMES, Interval, intervals, scored
from cloister.simulations.processes import Memory, Troupe
from cloister.simulations.stage import Stage
from cloister.simulations.triage import DEPARTMENTS

CLASSES, NOTES, BATCH, STEPS, TOKENS = 4, 900, 16, 3, 32
_HELD_OUT = 0.1
_RATE = BATCH / (NOTES * (1 - _HELD_OUT))
_GIB = 1 << 30
_READ_S = 0.05


@dataclass(frozen=True)
class Kind:
    """What is run.

    Attributes:
        sites: how many.
        mode: of privacy.
        secure: whether updates are added up in secret.
    """

    sites: int
    mode: Literal["joint", "off"] = "off"
    secure: bool = False


KINDS = {
    "compared": Kind(3),
    "plain": Kind(4),
    "secure": Kind(4, secure=True),
    "joint": Kind(4, mode="joint", secure=True),
}


@dataclass(frozen=True)
class Measured:
    """What one run showed.

    Attributes:
        rounds: seconds from the first training start of a round to that of the next; of the rounds after
            which sites scored nothing.
        gaps: seconds from the first training start of a round to that of the next, without the time in
            which any site trained; of the rounds after which sites scored nothing.
        scored_gaps: the same of the other rounds: each site's scoring of the new global model, on its
            held-out records, is in the gap.
        steady: what went over the cable (the loopback interface where there is none) between two moments
            in which every site trained, over the arrays that the rounds between them move; None where
            there were no two such moments.
        whole_bytes: what went over it from the start of the sites' agents to the end of the run, the final
            model included.
        inner_bytes: what the lead's two processes told each other; 0 where that cannot be told apart.
        round_bytes: the arrays of all rounds: the model down and the update up, 4 bytes a parameter, for
            each site and round.
        pss_gib: peak of the proportional set sizes of all processes.
        cabled: whether there was a cable.
    """

    rounds: list[float]
    gaps: list[float]
    scored_gaps: list[float]
    steady: float | None
    whole_bytes: int
    inner_bytes: int
    round_bytes: int
    pss_gib: float
    cabled: bool


def gaps(noted: Iterable[Interval]) -> dict[int, float]:
    """The gap after each round but the last, by number, from the training intervals of all sites."""
    trained = {number: union(found) for number, found in _by_round(noted).items()}
    return {number: seconds - trained[number] for number, seconds in lengths(noted).items()}


def lengths(noted: Iterable[Interval]) -> dict[int, float]:
    """Seconds from the first training start of each round but the last to that of the next, by number."""
    starts = {number: min(i.start for i in found) for number, found in _by_round(noted).items()}
    return {number: starts[number + 1] - starts[number] for number in sorted(starts) if number + 1 in starts}


def quiet_moments(noted: Iterable[Interval], sites: int) -> dict[int, float]:
    """A moment of each round in which all sites trained, so that no array was on its way."""
    found = {
        number: (max(i.start for i in some), min(i.end for i in some))
        for number, some in _by_round(noted).items()
        if len(some) == sites
    }
    return {number: (start + end) / 2 for number, (start, end) in found.items() if start < end}


def _by_round(noted: Iterable[Interval]) -> dict[int, list[Interval]]:
    rounds: dict[int, list[Interval]] = {}
    for interval in noted:
        rounds.setdefault(interval.round, []).append(interval)
    return rounds


def union(noted: Iterable[Interval]) -> float:
    """The length of the time that at least one interval covers, seconds."""
    covered, until = 0.0, float("-inf")
    for interval in sorted(noted, key=lambda i: i.start):
        covered += max(0.0, interval.end - max(interval.start, until))
        until = max(until, interval.end)
    return covered


class Meter:
    """Reads the interface between lead and sites, the cable or the loopback interface, again and again."""

    def __init__(self, cable: wire.Cable | None) -> None:
        self._cable = cable
        self._inner = wire.counted("lo")[1]
        self._readings: list[tuple[float, int]] = []
        self._stop = threading.Event()

    @property
    def inner(self) -> int:
        """Bytes over the loopback interface since the start."""
        return wire.counted("lo")[1] - self._inner

    @property
    def bytes(self) -> int:
        """Bytes between lead and sites since the start."""
        return self._cable.bytes if self._cable else self.inner

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Reads on a thread while the context is open."""
        thread = threading.Thread(target=self._read, name="meter", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _read(self) -> None:
        while not self._stop.wait(_READ_S):
            self._readings.append((time.monotonic(), self.bytes))

    def at(self, moment: float) -> int:
        """The last reading before a moment."""
        return max((count for when, count in self._readings if when <= moment), default=0)

    def steady(self, noted: Iterable[Interval], vector: int, sites: int) -> float | None:
        """Bytes over arrays of the rounds between the first and the last quiet moment; see ``Measured``."""
        moments = quiet_moments(noted, sites)
        if len(moments) < 2:
            return None
        first, last = min(moments), max(moments)
        return (self.at(moments[last]) - self.at(moments[first])) / (2 * vector * (last - first))


class _Cast(Troupe):
    """The processes of a demo, the sites with a timed agent and at the far end of the cable."""

    def __init__(self, prefix: tuple[str, ...]) -> None:
        super().__init__()
        self._prefix = prefix

    def command(self, name: str, arguments: list[str]) -> list[str]:
        if name == "lead":
            return super().command(name, arguments)
        module = "cloister.simulations.bench.site"
        return [*self._prefix, sys.executable, "-m", module, *arguments[2:]]


def _stage(sites: int) -> Stage:
    labels = tuple(sorted(DEPARTMENTS)[:CLASSES])
    settings = generator.GeneratorSettings(sites=sites, notes=2 * NOTES, test=24, alpha=10.0)
    corpus = generator.generate(settings)

    def kept(notes: Iterable[generator.Note]) -> Records:
        return generator.records([note for note in notes if note.label in labels][:NOTES])

    train = {name: kept(notes) for name, notes in corpus.train.items()}
    return Stage("triage notes to departments", labels, train, kept(corpus.test))


def _terms(kind: Kind, labels: tuple[str, ...], rounds: int) -> Terms:
    together = kind.mode == "joint"
    return Terms(
        purpose="a benchmark",
        labels=labels,
        mode=kind.mode,
        rounds=rounds,
        steps=1 if together else STEPS,
        rate=_RATE,
        rates=None if together else Rates("adam", 0.002, 0.002),
        top_layers=6,
        max_tokens=TOKENS,
        minimum_sites=3,
        secure=kind.secure,
    )


def measure(out: Path, kind: Kind, rounds: int, model: str, *, cabled: bool) -> Measured:
    """Runs the federation in the folder ``out``."""
    play = _stage(kind.sites)
    host = wire.LEAD if cabled else "127.0.0.1"
    wanted = demo.Demo(out, play, _terms(kind, play.labels, rounds), model, host)
    laid: AbstractContextManager[wire.Cable | None] = wire.cable() if cabled else contextlib.nullcontext()
    with laid as cable, _Cast(cable.prefix if cable else ()) as troupe:
        memory, meter = Memory(pss=True, every=1.0, own=False), Meter(cable)
        with memory.watching(), meter.reading():
            cast = demo.assemble(wanted, troupe, lambda _: None)
            run = demo.federate(wanted, cast, demo.Watcher())
        sent, inner = meter.bytes, meter.inner
    noted = [interval for name in cast.sites for interval in intervals(run.site_job(name) / TIMES)]
    found, whole = gaps(noted), lengths(noted)
    vector = 4 * run.plan.adapter.parameters * kind.sites
    return Measured(
        rounds=[seconds for number, seconds in whole.items() if not scored(number)],
        gaps=[gap for number, gap in found.items() if not scored(number)],
        scored_gaps=[gap for number, gap in found.items() if scored(number)],
        steady=meter.steady(noted, vector, kind.sites),
        whole_bytes=sent,
        inner_bytes=inner if cable else 0,
        round_bytes=2 * vector * rounds,
        pss_gib=memory.peak_pss / _GIB,
        cabled=cabled,
    )


def main(arguments: list[str]) -> None:
    """Measures once and prints one JSON object. When it is told to end, its processes end as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    out, kind, rounds, model, *cable = arguments
    measured = measure(Path(out), KINDS[kind], int(rounds), model, cabled=bool(cable))
    found: dict[str, Any] = vars(measured)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
