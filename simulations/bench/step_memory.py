"""The peak resident memory of a process that takes some training steps, with and without privacy.

    python -m cloister.simulations.bench.step_memory plain|private TOKENS

loads model and rows, then takes the same steps on the same units in either case, and prints what the kernel
says of the process: peak resident memory is of a process as a whole, so each side has one of its own.
Plain is PEFT with frozen base and AdamW over the trained tensors only; the C library's allocator is set
alike on both sides, as the product sets it (``privacy.heap``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from cloister.privacy.errors import RoundError
from cloister.simulations.bench import kernel
from cloister.simulations.bench.step_work import Work, plain, private, streams

SIDES = ("plain", "private")
STEPS = 3


@dataclass(frozen=True)
class Peak:
    """What the kernel says of one process, in bytes.

    Attributes:
        loaded: resident with model and rows in memory and no step taken.
        before: the peak up to then, of loading.
        peak: the peak after the steps: what an administrator sees.
    """

    loaded: int
    before: int
    peak: int

    @property
    def growth(self) -> int:
        """What the steps added."""
        return self.peak - self.loaded


@dataclass(frozen=True)
class Pair:
    """A process without and one with privacy, one after the other."""

    plain: Peak
    private: Peak

    @property
    def ratio(self) -> float:
        """Private over plain peak, of the whole process."""
        return self.private.peak / self.plain.peak

    @property
    def growth_ratio(self) -> float:
        """The same of what the steps added."""
        return self.private.growth / self.plain.growth


def pair(tokens: int, *, private_first: bool) -> Pair:
    """Both sides, each in a fresh process.

    Raises:
        RoundError: ``site_failed``, a process did not come to its end.
    """
    order = SIDES[::-1] if private_first else SIDES
    found = {side: _child(side, tokens) for side in order}
    return Pair(found["plain"], found["private"])


def _child(side: str, tokens: int) -> Peak:
    command = [sys.executable, "-m", "cloister.simulations.bench.step_memory", side, str(tokens)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise RoundError("site_failed", f"The measured process failed: {words[-1] if words else 'no word'}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


# The process that is measured


def steps(work: Work, side: str) -> Peak:
    """Takes the steps of one side in this process."""
    step = plain(work) if side == "plain" else private(work, work.fused())
    loaded, before = kernel.resident(), kernel.peak()
    for repeat in range(STEPS):
        step(work.draw(streams("draw", repeat)), streams("step", repeat))
    return Peak(loaded, before, kernel.peak())


def main(arguments: list[str]) -> None:
    """Is the process that is measured; prints one JSON object."""
    side, tokens = arguments
    print(json.dumps(vars(steps(Work.of(int(tokens)), side))))


if __name__ == "__main__":
    main(sys.argv[1:])
