"""Writes down how far a run is for whoever asks: the newest at once, but not each of many in a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from cloister.privacy.errors import StateError

EVERY_S = 0.5
"""Between two writes at least: steps of all sites together follow each other faster than anybody reads."""


class Showing:
    """Hands on what is put in, the newest only where it comes too fast; whole when ``close`` returns.

    Args:
        write: takes what is to be shown, from one thread at a time.
        clock: seconds that only grow.
    """

    def __init__(
        self, write: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._mutex = threading.Lock()
        self._waiting: dict[str, Any] | None = None
        self._later: threading.Timer | None = None
        self._failure: StateError | None = None
        self._written = clock() - EVERY_S

    def put(self, progress: dict[str, Any]) -> None:
        """Writes now, or when it is time to, unless something newer comes before.

        Raises:
            StateError: it cannot be written, or could not the last time.
        """
        with self._mutex:
            self._check()
            self._waiting = progress
            if self._later is not None:
                return
            left = self._written + EVERY_S - self._clock()
            if left <= 0:
                self._flush()
                return
            self._later = threading.Timer(left, self._due)
            self._later.daemon = True
            self._later.start()

    def close(self) -> None:
        """Writes what has not been written; raises as ``put`` does."""
        with self._mutex:
            self._check()
            if self._later is not None:
                self._later.cancel()
                self._later = None
            self._flush()

    def _due(self) -> None:
        with self._mutex:
            self._later = None
            try:
                self._flush()
            except StateError as error:
                self._failure = error

    def _check(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _flush(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._written = self._clock()
            self._write(waiting)
