"""A long job in which sites and the lead die now and then: no process grows, and none loses file handles."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from cloister.server.jobs import Jobs
from cloister.server.terms import Terms
from tests.ensemble import Ensemble, Stand, stand
from tests.hands import LABELS, hands

SITES = ("coast", "north", "south", "west")
ROUNDS = 240
TERMS = Terms("notes", LABELS, rounds=ROUNDS, steps=1, rate=0.2, secure=True, epsilon=40.0)
WARM = 30
"""Rounds after a start that do not count: caches fill, the allocator settles."""
LONG_ENOUGH = 60
"""Rounds of a process's life that a slope is drawn through."""
MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """What one process held after a round."""

    name: str
    process: int
    round: int
    resident: int
    handles: int


def look(actors: Ensemble, number: int) -> Iterator[Sample]:
    """A sample of every process: sites, the lead, and Flower's server beneath it."""
    for name, actor in actors.actors.items():
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(actor.process.pid)
            named = [(name, own), *((f"{name}'s child", child) for child in own.children(recursive=True))]
            for what, found in named:
                with suppress(psutil.NoSuchProcess):
                    yield Sample(what, found.pid, number, found.memory_info().rss, handles(found))


def handles(process: psutil.Process) -> int:
    """Open file handles, without those of databases and of connections that stand.

    While one connection holds a lock, SQLite keeps the handles of others that were closed, as many as were
    ever open at once, and uses them again. Connections come and go with the site that dies; one whose other
    end is gone, and that nobody closed, stands no longer and counts.
    """
    kept = sum(".sqlite" in Path(file.path).suffix for file in process.open_files())
    standing = sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("inet"))
    return process.num_fds() - kept - standing


def lives(samples: list[Sample]) -> dict[tuple[str, int], list[Sample]]:
    """The samples of each process that lived long enough, without those of its first rounds."""
    found: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        found.setdefault((sample.name, sample.process), []).append(sample)
    warm = {who: [s for s in life if s.round >= life[0].round + WARM] for who, life in found.items()}
    return {who: life for who, life in warm.items() if life and life[-1].round - life[0].round >= LONG_ENOUGH}


def growth(life: list[Sample]) -> float:
    """MiB per 100 rounds: the slope of a straight line through the resident sizes."""
    rounds, sizes = [s.round for s in life], [s.resident / MIB for s in life]
    return float(100 * np.polyfit(rounds, sizes, 1)[0])


def kept(life: list[Sample]) -> int:
    """How many file handles a process has at rest in the last quarter of its life more than in the first.

    At rest it has the fewest: a sample may fall into a moment in which it writes. One that was lost is open
    in every later sample.
    """
    quarter = len(life) // 4
    first, last = (min(s.handles for s in part) for part in (life[:quarter], life[-quarter:]))
    return last - first


def test_a_handle_that_is_lost_is_counted_and_one_that_is_open_for_a_moment_is_not() -> None:
    def life(handles: list[int]) -> list[Sample]:
        return [Sample("north", 1, number, MIB, held) for number, held in enumerate(handles)]

    assert kept(life([15, 17] * 20 + [15, 16, 16, 17] * 10)) == 0
    assert kept(life([15] * 30 + [16] * 10)) == 1
    assert kept(life([15] * 30 + [17, 16] * 5)) == 1


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stand]:
    with hands(tmp_path_factory.mktemp("soak")) as person, stand(person, SITES, TERMS, model) as found:
        yield found


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_no_process_grows_while_others_die(soaked: Stand) -> None:
    actors, chance = soaked.cast.troupe, random.Random(7)
    assert isinstance(actors, Ensemble)
    samples: list[Sample] = []
    deaths = {chance.randrange(low, low + 20): "south" for low in range(10, ROUNDS - 20, 25)}
    deaths[ROUNDS // 2] = "lead"
    with soaked.running(TERMS) as (end, plan):
        job, seen = Jobs(soaked.cast.lead.jobs).find(plan.digest), 0
        while not end.done():
            number = int(job.progress.get("round", 0))
            if number > seen:
                samples += look(actors, number)
                for due in [at for at in deaths if at <= number]:
                    name = deaths.pop(due)
                    actors.actors[name].kill()
                    actors.again(name)
                seen = number
            time.sleep(0.02)
        end.result()
    assert not deaths
    measured = lives(samples)
    assert {name for name, _ in measured} >= {"coast", "north", "west", "lead", "lead's child"}
    print(
        {who: (round(growth(life), 3), life[-1].handles - life[0].handles) for who, life in measured.items()}
    )
    assert {who: growth(life) for who, life in measured.items() if growth(life) >= 1.0} == {}
    assert {who: lost for who, life in measured.items() if (lost := kept(life)) > 0} == {}
