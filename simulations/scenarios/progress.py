"""How far something of several parts is, and about how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Says each part when it begins.

    Attributes:
        parts: how many there are.
        say: told, line by line.
        clock: the time, in seconds.
    """

    parts: int
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _begun: list[float] = field(default_factory=list, init=False)

    def begin(self, words: str) -> None:
        """A part begins; what is left is taken to be as long as the parts before, on average."""
        self._begun.append(self.clock())
        done = len(self._begun) - 1
        told = f"{words} … ({done + 1} of {self.parts}"
        if done:
            each = (self._begun[-1] - self._begun[0]) / done
            told += f", about {duration(each * (self.parts - done))} left"
        self.say(f"{told})")


def duration(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
