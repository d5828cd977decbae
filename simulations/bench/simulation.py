"""``cloister bench simulation``: the engine against Flower's own simulation over Ray, on the same work.

200 clients, each one step of plain gradient descent on four texts of 16 tokens a round, five rounds after one
that warms up. MiniLM with LoRA of rank 8 on query and value of the top layer, which is what a plan trains by
default, and a head. No privacy, and updates are added up in the open. One worker with one thread on each
side: our process; one actor of Ray, whose other processes and Flower's server have the rest of the machine.
Each side runs alone, in fresh processes, ours before and after Flower's.

=========================  ==============================================================================
figure                     meaning
=========================  ==============================================================================
speedup_example            a client-round's wall time under Flower over ours; Flower's clients build their
                           model for every message, as its examples do; median of rounds
speedup_cached             the same with the model kept in Ray's actor
speedup_head               the same where nothing but the head is trained: Flower's clients keep their model
                           and run its encoder; the engine trains on features that it worked out once
speedup_features           the same with those features given to Flower's clients as well: no encoder
speedup_all_cached         as speedup_cached with LoRA in all layers, where no layer can be left out
speedup_all_example        as speedup_example, the same
..._cpu                    the same of CPU seconds of all processes of a side
ours_ms, cached_ms, ...    wall milliseconds of a client-round
..._start_s                seconds until the first measured round: libraries, model, Ray, the round that warms
                           up, and for ours what frozen layers say of all texts; not in the figures above
difference_...             largest difference of a parameter between the two models at the end, over the
                           largest parameter: the work was the same
memory_gib_1000            the most that was resident in our process with so many clients
memory_gib_100             the same with 100
cost_growth                CPU time of a client-round of ours among 1,000 clients over that among 10
=========================  ==============================================================================

Without Ray (``pip install 'cloister[ray]'``) only the last three are measured, and the result says so.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cloister.privacy.errors import RoundError
from cloister.simulations.bench.result import Limit, Result
from cloister.simulations.bench.simulation_work import Pace, Work

_GIB = 1 << 30
_LIMITS = {
    "speedup_example": Limit(10.0, at_least=True),
    "speedup_cached": Limit(2.0, at_least=True),
    "speedup_head": Limit(50.0, at_least=True),
    "memory_gib_1000": Limit(1.5),
    "memory_gib_100": Limit(1.2),
    "cost_growth": Limit(1.1),
}


@dataclass(frozen=True)
class Sides:
    """What one piece of work took.

    Attributes:
        work: the work.
        ours: our runs, before and after.
        flower: kind of client -> its run.
        differences: kind of client -> how far its model at the end is from ours, over our largest parameter.
    """

    work: Work
    ours: Sequence[Pace]
    flower: Mapping[str, Pace]
    differences: Mapping[str, float]

    def figures(self, names: Mapping[str, str], ours: str) -> dict[str, float]:
        """The figures of this work.

        Args:
            names: kind of client -> what its figures are called.
            ours: what ours are called.
        """
        walls = [wall for pace in self.ours for wall in pace.walls]
        cpus = [cpu for pace in self.ours for cpu in pace.cpus]
        each = 1000 / self.work.clients
        found = {f"{ours}_ms": median(walls) * each, f"{ours}_ms_cpu": median(cpus) * each}
        found[f"{ours}_start_s"] = median(pace.start for pace in self.ours)
        for kind, name in names.items():
            theirs = self.flower[kind]
            found[f"speedup_{name}"] = median(theirs.walls) / median(walls)
            found[f"speedup_{name}_min"] = min(theirs.walls) / max(walls)
            found[f"speedup_{name}_max"] = max(theirs.walls) / min(walls)
            found[f"speedup_{name}_cpu"] = median(theirs.cpus) / median(cpus)
            found[f"{name}_ms"] = median(theirs.walls) * each
            found[f"{name}_ms_cpu"] = median(theirs.cpus) * each
            found[f"{name}_start_s"] = theirs.start
            found[f"difference_{name}"] = self.differences[kind]
        return found


def run(work: Work | None = None, many: int = 1000) -> Result:
    """Measures everything; a quarter of an hour on two idle cores.

    Args:
        work: what both sides do; None for that of the figures above.
        many: clients of ``cost_growth`` and of the larger memory figure.

    Raises:
        RoundError: ``site_failed``, a process that is measured failed.
    """
    work = work or Work()
    figures: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    if importlib.util.find_spec("ray") is None:
        notes = ("Not measured: every speedup_. Ray is not here: pip install 'cloister[ray]'.",)
    else:
        lora = compared(work, "lora", ("example", "cached"))
        figures |= lora.figures({"example": "example", "cached": "cached"}, "ours")
        head = compared(replace(work, top_layers=0), "head", ("head", "features"))
        figures |= head.figures({"head": "head", "features": "features"}, "ours_head")
        every = compared(replace(work, top_layers=_depth(work), rounds=2), "lora", ("example", "cached"))
        figures |= every.figures({"example": "all_example", "cached": "all_cached"}, "ours_all")
    for clients in (many, many // 10):
        figures[f"memory_gib_{clients}"] = alone(replace(work, clients=clients, rounds=1)).peak / _GIB
    figures["cost_growth"] = growth(replace(work, clients=many, rounds=1))
    return Result("simulation", figures, _LIMITS, notes=notes)


def compared(work: Work, ours: str, kinds: Sequence[str]) -> Sides:
    """Ours, Flower's kinds of clients one after the other, and ours again."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        work.save(folder)
        first = _pace("simulation_ours", ours, folder)
        flower = {kind: _pace("simulation_flower", kind, folder) for kind in kinds}
        again = _pace("simulation_ours", ours, folder)
        end = np.load(folder / "ours.npy")
        far = {kind: float(np.abs(np.load(folder / f"{kind}.npy") - end).max()) for kind in kinds}
    largest = float(np.abs(end).max())
    return Sides(work, (first, again), flower, {kind: value / largest for kind, value in far.items()})


def alone(work: Work) -> Pace:
    """Our side by itself, in a fresh process."""
    with tempfile.TemporaryDirectory() as made:
        work.save(Path(made))
        return _pace("simulation_ours", "lora", Path(made))


def growth(work: Work) -> float:
    """See ``simulation_ours.grow``."""
    with tempfile.TemporaryDirectory() as made:
        work.save(Path(made))
        return float(_said("simulation_ours", "grow", Path(made))["growth"])


def _depth(work: Work) -> int:
    from cloister.privacy.layout import depth

    return depth(work.base.tensors)


def _pace(module: str, kind: str, folder: Path) -> Pace:
    return Pace.from_json(_said(module, kind, folder))


def _said(module: str, kind: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", f"cloister.simulations.bench.{module}", kind, str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=_environment())
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RoundError("site_failed", f"The measured process failed: {words[-1] if words else 'no word'}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray's actors speak, too
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _environment() -> dict[str, str]:
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
