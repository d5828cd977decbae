"""A site's agent that notes when it trained, in its own folder, and scores every fourth global model only.

Other systems' sites score nothing in a round, ours do: so rounds with and without can be told apart.
Whatever leaves the site is the same as ever.

    python -m cloister.simulations.bench.site --dir FOLDER --model MODEL
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloister.client.agent import Agent
from cloister.client.contribution import Learner
from cloister.client.guard import Score
from cloister.client.jobs import Job
from cloister.client.participation import Participant
from cloister.client.site.folder import SiteFolder
from cloister.privacy.dp.audit import Audit
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.wire.envelope import Header

TIMES = "times.jsonl"
_SCORED = 4


@dataclass(frozen=True)
class Interval:
    """The training of one site in one round, in seconds of the machine's monotonic clock."""

    round: int
    start: float
    end: float


def scored(number: int) -> bool:
    """Whether sites score the global model that came out of a round."""
    return number % _SCORED == 0


def intervals(path: Path) -> list[Interval]:
    """What a site has noted."""
    return [Interval(**json.loads(line)) for line in path.read_text().splitlines()]


class TimedLearner:
    """Another learner, and a line for each time that it worked.

    Args:
        learner: does the work.
        path: where the lines go.
    """

    def __init__(self, learner: Learner, path: Path) -> None:
        self._learner, self._path = learner, path

    @property
    def audit(self) -> Audit | None:
        """See ``Learner``."""
        return self._learner.audit

    def train(self, model: Vector, header: Header) -> Delta:
        """See ``Learner``."""
        with self._timed(header.round):
            return self._learner.train(model, header)

    def share(self, model: Vector, header: Header) -> Share:
        """See ``Learner``."""
        with self._timed(header.round):
            return self._learner.share(model, header)

    def sums(self, header: Header) -> Encoded:
        """See ``Learner``."""
        with self._timed(header.round):
            return self._learner.sums(header)

    def surplus(self, header: Header, survivors: int) -> Surplus:
        """See ``Learner``."""
        return self._learner.surplus(header, survivors)

    @contextmanager
    def _timed(self, round: int) -> Iterator[None]:
        start = time.monotonic()
        yield
        done = Interval(round, start, time.monotonic())
        with self._path.open("a") as file:
            file.write(json.dumps(vars(done)) + "\n")

    def keep(self, model: Vector, round: int) -> Score | None:
        """See ``Learner``."""
        return self._learner.keep(model, round) if scored(round) else None

    def release(self, model: Vector) -> None:
        """See ``Learner``."""
        self._learner.release(model)


class TimedAgent(Agent):
    """The agent, with its learners timed."""

    def _participant(self, job: Job) -> Participant:
        participant = super()._participant(job)
        participant.learner = TimedLearner(participant.learner, job.folder / TIMES)
        return participant


def main() -> None:
    """Runs until it is told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    TimedAgent(SiteFolder.open(arguments.dir), arguments.model, lambda line: print(line, flush=True)).run(
        stop
    )


if __name__ == "__main__":
    main()
