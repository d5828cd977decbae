"""Waiting for what other threads do: only a fault takes as long as this waits."""

from __future__ import annotations

import time
from collections.abc import Callable

LONG_S = 120.0
"""Far longer than anything takes, on a busy machine as well; a test that fails waits so long, no other."""


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something becomes true."""
    deadline = time.monotonic() + LONG_S
    while not (done := holds()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return done
