"""``cloister bench start``: whether a head gains by starting from an analytic round, at the same epsilon.

banking77 over four sites as in ``bench utility``, joint mode, delta 1e-5, five noise seeds, the same on both
sides of each pair. What starts from the round pays for it out of the same budget (``engine.started``). Masks
are left out, which gives the same sums bit for bit.

==============================  =======================================================================
figure                          what it is
==============================  =======================================================================
plain_epsE                      accuracy of the head by steps alone, mean of five seeds
started_epsE                    the same number of steps after an analytic round, all within E
gain_epsE                       the second less the first in percentage points, seed by seed
gain_ten                        the same for ten steps at epsilon 8
plain_off_ten, started_off_ten  ten rounds without privacy
==============================  =======================================================================

Each round of a plan with a start costs the same, so with S steps the start takes one part in S + 1 of the
Rényi budget. Its gain was chosen on a tenth of the training rows; the courses are those of ``bench utility``.
"""

from __future__ import annotations

from pathlib import Path

from cloister.privacy.entropy import FixedEntropy
from cloister.simulations.bench import utility
from cloister.simulations.bench.result import Result
from cloister.simulations.bench.utility import COURSES, DELTA, SEEDS, TEN, Intents
from cloister.simulations.engine.plans import Course, Promise
from cloister.simulations.engine.started import StartedSteps
from cloister.simulations.engine.ways import HeadSteps, OneRound, Setting, Way

FIRST = OneRound(constant=0.3, ridge=1.0, weight=0.5, noise_share=0.5)
OPEN = OneRound(ridge=0.3)
OPEN_TEN = Course(10, 1, 10.0)


def run(data: Path) -> Result:
    """Measures everything; some ten minutes of one core.

    Raises:
        InputError: ``file_missing``.
    """
    return Result("start", figures(utility.intents(data)))


def figures(told: Intents) -> dict[str, float]:
    """The figures of a consortium."""
    found: dict[str, float] = {}
    for epsilon in (8.0, 3.0, 1.0):
        plain, started = _pair(told, epsilon, COURSES[epsilon, "joint"])
        gains = [100 * (one - other) for one, other in zip(started, plain, strict=True)]
        found |= utility.spread(f"plain_eps{epsilon:g}", plain)
        found |= utility.spread(f"started_eps{epsilon:g}", started)
        found |= utility.spread(f"gain_eps{epsilon:g}", gains)
    plain, started = _pair(told, 8.0, TEN)
    found |= utility.spread("gain_ten", [100 * (a - b) for a, b in zip(started, plain, strict=True)])
    off = Promise()
    return found | {
        "plain_off_ten": _accuracy(told, HeadSteps(OPEN_TEN), off, 0),
        "started_off_ten": _accuracy(told, StartedSteps(OPEN, OPEN_TEN), off, 0),
    }


def _pair(told: Intents, epsilon: float, course: Course) -> tuple[list[float], list[float]]:
    promise = Promise("joint", epsilon, DELTA)
    ways: tuple[Way, Way] = (HeadSteps(course), StartedSteps(FIRST, course))
    plain, started = ([_accuracy(told, way, promise, seed) for seed in range(SEEDS)] for way in ways)
    return plain, started


def _accuracy(told: Intents, way: Way, promise: Promise, seed: int) -> float:
    drawn = {
        name: FixedEntropy(f"bench start {promise.epsilon} {seed} {name}".encode())
        for name in told.parties.holdings
    }
    return way.federated(Setting(told.parties, promise, drawn)).accuracy(told.test)
