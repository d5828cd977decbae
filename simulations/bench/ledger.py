"""``cloister bench ledger``: how long a ledger of 60 unlike entries takes to say its ruling epsilon.

The entries differ in noise multiplier, rate and steps, no two alike, so nothing is shared between them. Cold
is a fresh process that has computed nothing; loading Python and numpy is not timed. Warm is the same
question again in the same process, as a site's agent asks it. The ledger is the site's own, in a file in a
temporary folder, without an event log.

=========================  ==============================================================================
figure                     meaning
=========================  ==============================================================================
ruling_s                   the account alone, cold; median of fresh processes
ruling_warm_s              the same, warm
reopened_s                 open the ledger's file and ask for its total, cold
reopened_warm_s            ask for the total again, warm
reserve_s                  the 60th reserve, in the process that made the 59 before it; it is on the disk
                           when it returns
entries                    how many there are
=========================  ==============================================================================
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cloister.client.site.ledger import Ledger
from cloister.privacy import canonical
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import RoundError
from cloister.simulations.bench.result import Limit, Result, spread

ENTRIES = 60
_REPEATS = 5
_DATASET, _EPSILON, _DELTA = "bench", 1e6, 1e-5
_LIMITS = {"ruling_s": Limit(1.0), "reopened_s": Limit(1.0)}


def entries(number: int = ENTRIES) -> list[GaussianSteps]:
    """Blocks of steps that all differ: noise from 0.6, rates from 1/200 to 1/2, 1 to 50 steps."""
    return [
        GaussianSteps(0.6 + 0.05 * place, 0.005 + 0.495 * (17 * place % 60) / 60, 1 + 7 * place % 50)
        for place in range(number)
    ]


def run() -> Result:
    """Measures everything, in about half a minute.

    Raises:
        RoundError: ``site_failed``, a process that is measured failed.
    """
    with tempfile.TemporaryDirectory(prefix="cloister-bench-") as folder:
        path = Path(folder) / "ledger.db"
        reserves = written(path, entries())
        accounts, reopened = zip(*((_child([]), _child([str(path)])) for _ in range(_REPEATS)), strict=True)
    return result(reserves[-1], accounts, reopened)


def result(
    reserve: float, accounts: tuple[tuple[float, float], ...], reopened: tuple[tuple[float, float], ...]
) -> Result:
    """The figures of what was measured: seconds of the last reserve, and (cold, warm) of each process."""
    figures = {
        **spread("ruling_s", (cold for cold, _ in accounts)),
        **spread("ruling_warm_s", (warm for _, warm in accounts)),
        **spread("reopened_s", (cold for cold, _ in reopened)),
        **spread("reopened_warm_s", (warm for _, warm in reopened)),
        "reserve_s": reserve,
        "entries": float(ENTRIES),
    }
    return Result("ledger", figures, _LIMITS)


def written(path: Path, mechanisms: list[GaussianSteps]) -> list[float]:
    """Reserves one round for each mechanism in a new ledger; seconds of each reserve."""
    ledger, job = Ledger(path), canonical.digest(b"cloister bench ledger")
    ledger.open_budget(_DATASET, "record", _EPSILON, _DELTA)

    def reserve(number: int, mechanism: GaussianSteps) -> float:
        started = time.perf_counter()
        ledger.reserve(_DATASET, job, number, 1, mechanism)
        return time.perf_counter() - started

    return [reserve(number, mechanism) for number, mechanism in enumerate(mechanisms, start=1)]


def _child(arguments: list[str]) -> tuple[float, float]:
    """Seconds of a fresh process, cold and warm."""
    command = [sys.executable, "-m", "cloister.simulations.bench.ledger", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RoundError("site_failed", f"The measured process failed: {words[-1] if words else 'no word'}")
    cold, warm = json.loads(done.stdout.splitlines()[-1])
    return cold, warm


# The process that is measured


def twice(ask: Callable[[], float]) -> tuple[float, float]:
    """Seconds of asking, and of asking again."""
    started = time.perf_counter()
    ask()
    between = time.perf_counter()
    ask()
    return between - started, time.perf_counter() - between


def main(arguments: list[str]) -> None:
    """Is the process that is measured: the account alone, or the ledger in the file that is named."""
    if arguments:
        print(json.dumps(twice(lambda: Ledger(Path(arguments[0])).epsilon(_DATASET))))
    else:
        print(json.dumps(twice(lambda: accounting.epsilon(entries(), _DELTA))))


if __name__ == "__main__":
    main(sys.argv[1:])
