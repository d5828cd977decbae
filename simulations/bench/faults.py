"""``cloister bench faults``: one job in which a process dies at every point of the protocol, beside itself.

A consortium is made and a plan approved by real processes; before its first round the lead dies and all of it
is copied. One copy runs undisturbed. In the other a site, the lead or Flower's server is killed (SIGKILL) at
one point after the other and started again, or the network between lead and sites is cut for a while. Both
have the same keys and the same ratchets, so they must come to the same model bit for bit, the same epsilon
and the same rows in every ledger.

    python -m cloister.simulations.bench.faults FOLDER MODEL [POINT ...]

does it in a network namespace of its own (``wire.isolation``), where a cable can be cut; all points if none
is named.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy.errors import RoundError
from cloister.privacy.model import DEFAULT
from cloister.server.folder import LeadFolder
from cloister.server.jobs import FAILED, FINISHED, STOPPED, Job, Jobs
from cloister.server.terms import Terms
from cloister.simulations import demo, generator
from cloister.simulations.bench import wire
from cloister.simulations.bench.ends import End, Struck, figures, judged, table
from cloister.simulations.bench.points import BEGUN, CABLE, FLOWER, LEAD, POINTS, SITE, Point
from cloister.simulations.bench.result import Limit, Result
from cloister.simulations.processes import Troupe
from cloister.simulations.stage import Stage

LIMITS = {
    "points": Limit(40, at_least=True),
    "model_mismatches": Limit(0),
    "ledger_losses": Limit(0),
    "epsilon_mismatches": Limit(0),
}
SITES = (SITE, "south", "west")
_ROUNDS_A_POINT = 2
_REACH_S, _LOOK_S = 600.0, 0.05


class Actors(Troupe):
    """The processes of one copy, all of which can be struck."""

    def __init__(self, place: Path, model: str, prefix: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._place, self._model, self._prefix = place, model, prefix
        (place / "faults").mkdir(exist_ok=True)

    def command(self, name: str, arguments: list[str]) -> list[str]:
        """See ``Troupe``."""
        where = arguments[arguments.index("--dir") + 1]
        module = "cloister.simulations.bench.faulty"
        faults = ["--faults", str(self._place / "faults"), "--model", self._model]
        prefix = () if name == LEAD else self._prefix
        return [*prefix, sys.executable, "-m", module, name, "--dir", where, *faults]

    def begin(self, name: str) -> None:
        """Starts the lead or a site of the copy."""
        folder = self._place / "lead" if name == LEAD else self._place / "sites" / name
        self.start(name, ["up", "--dir", str(folder)], self._place / f"{name}.out")

    def arm(self, point: Point) -> None:
        """From now on the point is due."""
        (self._place / "faults" / f"{point.role}.struck").unlink(missing_ok=True)
        partial = self._place / "faults" / "partial"
        partial.write_text(point.name)
        partial.replace(self._place / "faults" / f"{point.role}.due")

    def struck(self, point: Point) -> bool:
        """Whether the point was reached and its victim is gone."""
        if not (self._place / "faults" / f"{point.role}.struck").exists():
            return False
        return point.victim != point.role or self.ended(point.role)


def run(model: str = DEFAULT, points: Sequence[Point] = POINTS) -> Result:
    """Strikes at every point and compares with the run that nobody disturbed."""
    with tempfile.TemporaryDirectory(prefix="cloister-faults-") as scratch:
        struck, found = apart(Path(scratch), model, points)
    print(table(struck), file=sys.stderr)
    return Result("faults", found, LIMITS)


def apart(place: Path, model: str, points: Sequence[Point]) -> tuple[list[Struck], dict[str, float]]:
    """``compare`` in a network namespace of its own: what came of every point, and the figures.

    Where no namespace can be made, the points that cut the cable are left out, and ``cabled`` is 0.

    Raises:
        RoundError: ``site_failed``, with the last words of the process.
    """
    isolation = wire.isolation()
    able = [point for point in points if isolation or point.victim != CABLE]
    module = [sys.executable, "-m", "cloister.simulations.bench.faults", str(place), model]
    done = subprocess.run(
        [*isolation, *module, *(point.name for point in able)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RoundError(
            "site_failed", f"The benchmark of faults failed: {words[-1] if words else 'no word'}"
        )
    said = json.loads(done.stdout.splitlines()[-1])
    struck = [Struck(point, **came) for point, came in zip(able, said["points"], strict=True)]
    return struck, {**said["figures"], "cabled": float(bool(isolation))}


def main(arguments: list[str]) -> None:
    """Compares once and prints one JSON object. When it is told to end, its processes end as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    place, model, *names = arguments
    points = [point for point in POINTS if not names or point.name in names]
    struck, calm, disturbed = compare(Path(place), model, points, cabled=bool(wire.isolation()))
    came = {
        each.point: {"seconds": each.seconds, "closed": each.closed, "outcome": each.outcome}
        for each in judged(struck, calm, disturbed)
    }
    found = {"points": [came[point] for point in points], "figures": figures(struck, calm, disturbed)}
    print(json.dumps(found))


def compare(
    place: Path, model: str, points: Sequence[Point], *, cabled: bool = False
) -> tuple[list[Struck], End, End]:
    """What came of every point, and how the undisturbed and the disturbed copy of one job ended.

    Args:
        place: an empty folder.
        model: a base model's folder or name.
        points: where to strike.
        cabled: whether this process has a network namespace of its own: the sites then stand at the other end
            of a cable.

    Raises:
        RoundError: a point was never reached, a process did not start again, or a job failed.
    """
    base = place / "base"
    laid: AbstractContextManager[wire.Cable | None] = wire.cable() if cabled else contextlib.nullcontext()
    with laid as cable:
        prefix = cable.prefix if cable else ()
        prepare(base, model, sum(point.phase == "round" for point in points), prefix)
        calm, disturbed = (Path(shutil.copytree(base, place / name)) for name in ("calm", "disturbed"))
        with Actors(calm, model, prefix) as actors:
            for name in (LEAD, *SITES):
                actors.begin(name)
            _wait(lambda: _over(calm), 1800.0, "the undisturbed job", actors.check)
        with Actors(disturbed, model, prefix) as actors:
            struck = disturb(disturbed, actors, points)
    return struck, end(calm), end(disturbed)


def prepare(base: Path, model: str, points: int, prefix: tuple[str, ...]) -> None:
    """A consortium whose plan, with rounds for so many points, everybody approved; nobody runs any more."""
    base.mkdir()
    play, terms = _stage(), _terms(points)
    host = wire.LEAD if prefix else "127.0.0.1"
    wanted = demo.Demo(base, play, replace(terms, labels=play.labels), model, host)
    with Actors(base, model, prefix) as actors:
        actors.arm(BEGUN)
        cast = demo.assemble(wanted, actors, lambda _: None)
        job, _ = demo.propose(wanted, cast)
        demo.approve(job.plan, cast)
        _wait(lambda: actors.struck(BEGUN), _REACH_S, "the start of the job")


def disturb(place: Path, actors: Actors, points: Sequence[Point]) -> list[Struck]:
    """Runs a job to its end; at each point, in their order, somebody dies and is started again."""
    ordered = [point for phase in ("start", "round", "end") for point in points if point.phase == phase]
    found: list[Struck] = []
    if ordered:
        actors.arm(ordered[0])
    for name in (LEAD, *SITES):
        actors.begin(name)
    for point, after in zip(ordered, [*ordered[1:], None], strict=True):
        _wait(partial(actors.struck, point), _REACH_S, point.name)
        died, closed = time.monotonic(), _closed(place)
        if after is not None and point.phase != "round":  # the protocol gets there before a round is over
            actors.arm(after)
        if point.victim == point.role:
            actors.begin(point.role)
        _wait(partial(_went_on, place, actors, point, after, closed), _REACH_S, f"more after {point.name}")
        found.append(Struck(point, time.monotonic() - died, closed))
        if after is not None and point.phase == "round":
            actors.arm(after)
    _wait(lambda: _over(place), 1800.0, "the disturbed job", actors.check)
    return found


def _went_on(place: Path, actors: Actors, point: Point, after: Point | None, closed: int) -> bool:
    """Whether the protocol has gone on since a point: what was under way when others died does not count."""
    if _over(place) or _closed(place) > closed + (point.victim in (FLOWER, CABLE)):
        return True
    return point.phase != "round" and after is not None and actors.struck(after)


def end(place: Path) -> End:
    """What the finished job of a copy left.

    Raises:
        RoundError: it did not finish.
    """
    job = _job(place)
    if job.state != FINISHED:
        raise RoundError("site_failed", f"The job in {place.name} is {job.state}: {job.reason}")
    plan, log = job.plan, LeadFolder.open(place / "lead").log
    closed = {e.round: e.body for e in log.entries() if (e.type, e.job) == ("round.closed", plan.digest)}
    rows, epsilon = {}, {}
    for name in SITES:
        ledger = Datasets(SiteFolder.open(place / "sites" / name)).ledger
        rows[name] = sorted(
            (row.kind, kept.round, kept.attempt, str(kept.mechanism))
            for row in ledger.rows(demo.DATASET)
            if (kept := row.reservation).job == plan.digest
        )
        epsilon[name] = ledger.epsilon(demo.DATASET)
    return End(
        tuple(str(body["model"]) for body in closed.values()),
        tuple(_names(body["accepted"]) for body in closed.values()),
        rows,
        epsilon,
    )


def _names(value: Any) -> tuple[str, ...]:
    return tuple(str(name) for name in value)


def _stage() -> Stage:
    settings = generator.GeneratorSettings(sites=len(SITES), notes=120, test=24, alpha=10.0)
    corpus = generator.generate(settings)
    test = generator.records(corpus.test)
    train = (generator.records(notes) for notes in corpus.train.values())
    return Stage("a benchmark", test.classes(), dict(zip(SITES, train, strict=True)), test)


def _terms(points: int) -> Terms:
    return Terms(
        purpose="a benchmark",
        labels=("a", "b"),
        rounds=_ROUNDS_A_POINT * points + 4,
        steps=1,
        rate=0.1,
        epsilon=40.0,
        top_layers=1,
        max_tokens=16,
        secure=True,
    )


def _job(place: Path) -> Job:
    return next(iter(Jobs(place / "lead" / "jobs")))


def _over(place: Path) -> bool:
    return _job(place).state in (FINISHED, FAILED, STOPPED)


def _closed(place: Path) -> int:
    """How many rounds are over."""
    job, log = _job(place).plan.digest, LeadFolder.open(place / "lead").log
    return sum((event.type, event.job) == ("round.closed", job) for event in log.entries())


def _wait(
    ready: Callable[[], bool], seconds: float, what: str, check: Callable[[], None] = lambda: None
) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        check()
        if time.monotonic() > deadline:
            raise RoundError("deadline", f"Waited {seconds:.0f} seconds for {what} in vain.")
        time.sleep(_LOOK_S)


if __name__ == "__main__":
    main(sys.argv[1:])
