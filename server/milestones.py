"""Says now and then how far a run is: a line for whoever watches, not one for every round."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cloister.server.correspondence import Progress
from cloister.server.rounds import ACCEPTED

EVERY_S = 30.0


@dataclass
class Milestones:
    """The progress of one run, for people.

    Attributes:
        say: gets a line, at most one in ``EVERY_S``.
        name: of the job, in the line.
        clock: seconds that only grow.
    """

    say: Callable[[str], None]
    name: str
    clock: Callable[[], float] = time.monotonic
    _began: tuple[float, int] | None = field(default=None, init=False)
    _said: float = field(default=0.0, init=False)

    def pass_by(self, progress: Progress) -> None:
        """Takes a standing of the run, and says it if it is time to."""
        now = self.clock()
        if self._began is None:
            self._began, self._said = (now, progress.round), now
        if now - self._said < EVERY_S or progress.round > progress.rounds:  # the end is no round
            return
        self._said = now
        states = [standing.state for standing in progress.standings.values()]
        sites = f"{states.count(ACCEPTED)} of {len(states)} sites in"
        left = _left(now - self._began[0], progress.round - self._began[1], progress)
        self.say(f"{self.name}: round {progress.round} of {progress.rounds}, {sites}{left}")


def _left(seconds: float, rounds: int, progress: Progress) -> str:
    """The time that is left, in words, after some rounds that took so many seconds."""
    if rounds < 1:
        return ""
    minutes = seconds / rounds * (progress.rounds - progress.round + 1) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"
