"""A consortium over real processes that a test can pause, kill and start again, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from cloister.privacy.plan import Plan
from cloister.server.jobs import Job, Jobs
from cloister.server.terms import Terms
from cloister.simulations.demo import Cast, Demo, Run, Watcher, assemble, federate
from cloister.simulations.processes import Troupe
from cloister.simulations.stage import Source, from_file
from tests.hands import CLOISTER, Hands, Running, until, write_records


class Ensemble(Troupe):
    """The processes of a demo, in a test's hands.

    Attributes:
        actors: who runs now, by name.
    """

    def __init__(self, person: Hands) -> None:
        super().__init__()
        self._person, self._lines = person, dict[str, list[str]]()
        self.actors: dict[str, Running] = {}

    def start(self, name: str, arguments: list[str], output: Path) -> None:
        """Starts an actor; its output goes to a file of the hands."""
        self._lines[name] = arguments
        self.again(name)

    def program(self, name: str) -> tuple[str, ...]:
        """What an actor runs."""
        return CLOISTER

    def again(self, name: str) -> Running:
        """Starts an actor that has ended; gives back what runs now."""
        self.actors[name] = self._person.start(name, *self._lines[name], program=self.program(name))
        return self.actors[name]

    def mend(self) -> None:
        """Everybody runs."""
        for name, actor in list(self.actors.items()):
            if actor.process.poll() is None:
                actor.go_on()
            else:
                self.again(name)


@dataclass
class Stand:
    """A consortium that runs, and how to run plans on it."""

    demo: Demo
    cast: Cast
    over: Event = field(default_factory=Event)

    def run(self, terms: Terms) -> Run:
        """Runs a plan to its end."""
        return federate(replace(self.demo, terms=terms), self.cast, Watcher(show=self._show))

    def _show(self, job: Job, sites: Any) -> None:
        assert not self.over.is_set(), "the test ended before its run"

    @contextmanager
    def running(self, terms: Terms) -> Iterator[tuple[Future[Run], Plan]]:
        """Runs a plan while the test does something else; gives its end and the plan, once it runs."""
        known = {job.plan.digest for job in Jobs(self.cast.lead.jobs)}
        with ThreadPoolExecutor(1) as pool:
            end = pool.submit(self.run, terms)
            try:
                new = until(lambda: end.done() or self._started(known), "the start of a job")
                assert isinstance(new, Plan), end.result()
                yield end, new
            finally:
                if not end.done():
                    self.over.set()
        self.over.clear()

    def _started(self, known: set[str]) -> Plan | None:
        new = [job.plan for job in Jobs(self.cast.lead.jobs) if job.plan.digest not in known]
        return next((plan for plan in new if self.events(plan, "round.opened")), None)

    def events(self, plan: Plan, *types: str) -> list[Any]:
        """The events of a job in the lead's log."""
        log = self.cast.lead.log.entries()
        return [event for event in log if event.type in types and event.job == plan.digest]

    def received(self, plan: Plan, number: int) -> dict[str, list[str]]:
        """Site -> digests of what arrived of it in a round, again and again if it was asked again."""
        found: dict[str, list[str]] = {}
        for event in self.events(plan, "update.received"):
            if event.round == number:
                found.setdefault(event.body["site"], []).append(event.body["sealed"])
        return found

    def hold(self, plan: Plan, name: str, others: set[str]) -> int:
        """Pauses a site so that a round waits for it alone; the number of that round."""
        actors: dict[str, Running] = self.cast.troupe.actors  # type: ignore[attr-defined]
        actors[name].pause()

        def waiting() -> int:
            number: int = self.events(plan, "round.opened")[-1].round
            return number if set(self.received(plan, number)) == others else 0

        return until(waiting, f"a round that waits for {name} alone")


@contextmanager
def stand(
    person: Hands, names: tuple[str, ...], budget: Terms, model: Path, cast: type[Ensemble] = Ensemble
) -> Iterator[Stand]:
    """A consortium of sites with records of their own, up and running."""
    notes = write_records(person.place / "notes.csv", seed=4, rows=120 * len(names))
    play = from_file(Source(notes, "text", "department", None, "iid"), sites=len(names), seed=0)
    play = replace(play, train=dict(zip(names, play.train.values(), strict=True)))
    out = person.place / "run"
    out.mkdir(exist_ok=True)
    demo = Demo(out, play, budget, str(model))
    with cast(person) as ensemble:
        yield Stand(demo, assemble(demo, ensemble, lambda _: None))
