"""Whoever keeps a log while it is there: what it writes when it comes, while it stays, and when it goes.

A log says by itself what happened; that nothing happened for a while, only the process that works in the
folder can say. It writes

- when it comes, how long nothing was written (``log.gap``), and whether the process before it had ended as it
  should (``restart``) or not (``unclean``); and the state of the machine's clock (``clock.status``);
- when it ends as it should, ``log.stopped``;
- while a job runs and nothing else is written, ``log.heartbeat``: silence means that it was not there;
- that it stood still, with the machine or by itself (``log.gap``, ``paused``);
- that the clock was set (``clock.stepped``), or is kept in step now and was not before (``clock.status``);
- what it runs on when it begins to take part in a job (``software.recorded``).

The log itself notices a clock that went back, and an event that could not be written (``log``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from cloister.privacy import software, timekeeping
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence.log import STEP_S, EventLog, now
from cloister.privacy.software import Software
from cloister.privacy.timekeeping import ClockState, span

LOOK_S = 10.0
"""How often it is looked."""
BEAT_S = 600.0
"""After so long without an event, a heartbeat is written while a job runs."""
SILENCE_S = 3 * BEAT_S
"""No party's log is silent for longer while a job runs, but for a gap that it tells of."""
_STILL_S = 300.0
_COMING = ("log.stopped", "clock.status", "log.opened")


class Keeping(threading.Thread):
    """Writes down what only the process knows that keeps a log, on a thread of its own, until ``leave``.

    Args:
        log: what is kept.
        busy: whether a job runs now.
        state: tells the state of this machine's clock.
        wall: this machine's clock.
        steady: seconds that only grow, whoever sets the clock, and also while the machine sleeps.
        running: tells what this process runs on.

    Attributes:
        failure: this machine cannot write; the thread has ended.
    """

    def __init__(
        self,
        log: EventLog,
        busy: Callable[[], bool],
        state: Callable[[], ClockState] = timekeeping.state,
        wall: Callable[[], datetime] = now,
        steady: Callable[[], float] = timekeeping.steady,
        running: Callable[[], Software] = software.running,
    ) -> None:
        super().__init__(name="keeping", daemon=True)
        self.failure: CloisterError | None = None
        self._log, self._busy, self._state, self._wall, self._steady = log, busy, state, wall, steady
        self._running = running
        self._stopping = threading.Event()
        self._seen, self._known = (wall(), steady()), state()
        self._why, self._since = _before(log), log.last_time

    def come(self) -> None:
        """Writes down how the process before ended, how long nothing was written, and the clock's state.

        What was written since this was made does not count: it is of this process.

        Raises:
            LogError: ``log_unwritable``.
        """
        with self._log.batch():
            if self._why:
                self._log.gap(self._why, self._since)
            self._tell("start")
        self._seen = (self._wall(), self._steady())

    def begin(self, job: str) -> None:
        """Writes down clock and software of this process when it begins with a job; raises as ``come``."""
        found = self._running().fields()
        with self._log.batch():
            self._tell("job", job)
            self._log.append("software.recorded", job=job, **found)

    def _tell(self, occasion: str, job: str | None = None) -> None:
        self._known = self._state()
        self._log.append("clock.status", job=job, occasion=occasion, **self._known.fields())

    def look(self) -> None:
        """Looks once; raises as ``come``."""
        (wall, steady), (then, before) = (self._wall(), self._steady()), self._seen
        self._seen = (wall, steady)
        passed = steady - before
        moved = (wall - then).total_seconds() - passed
        if passed > _STILL_S:
            self._log.gap("paused")
        if abs(moved) > STEP_S and not (moved < 0 and self._noticed(wall, passed)):
            self._log.append("clock.stepped", way="forward" if moved > 0 else "back", by=span(moved))
        state = self._state()
        if (state.state, state.source) != (self._known.state, self._known.source):
            self._tell("change")
        if self._busy() and self._log.silence() > BEAT_S:
            self._log.note("log.heartbeat")

    def _noticed(self, wall: datetime, passed: float) -> bool:
        """Whether the log has told of it by itself since the last look, ``passed`` seconds ago."""
        told = self._log.newest("clock.stepped")
        age = None if told is None else (wall - datetime.fromisoformat(told.ts)).total_seconds()
        return age is not None and 0 <= age <= passed

    def run(self) -> None:
        """Looks every few seconds."""
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
            except CloisterError as error:
                self.failure = error
                return

    def stop(self, wait: float) -> None:
        """Ends the thread; waits so many seconds for what it is doing."""
        self._stopping.set()
        if self.is_alive():
            self.join(wait)

    def leave(self) -> None:
        """Writes down that the process ends as it should; raises as ``come``."""
        self._log.append("log.stopped")


def _before(log: EventLog) -> str:
    """Why nothing was written; "" where no process kept this log before, nor one that it goes on from."""
    last = log.newest(*_COMING)
    if last is None or last.type == "clock.status":
        return "unclean"
    return "restart" if last.type == "log.stopped" or "previous" in last.body else ""
