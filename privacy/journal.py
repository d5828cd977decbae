"""What a running agent or lead says: sentences for people, or one JSON object a line for machines.

Sentences are those of this release, as people see them. In the form for machines each is one object with
its time, its level and, if it tells of an error, the error's id; beside them stands every event of the
party's log as it is written, whose fields are typed and listed (``evidence.vocabulary``): no text of other
parties, no records, no row ids. What other libraries log passes with level and logger, and without its
text, which may hold paths or addresses that nobody here has looked at.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from datetime import datetime

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence.events import Event, timestamp
from cloister.privacy.evidence.log import EventLog, now

Say = Callable[[str], None]
FOLLOW_S = 0.5
_OURS = "cloister"
_ID = re.compile(r"\[([a-z][a-z0-9_]*)\]")


def line(text: str, at: datetime) -> str:
    """A sentence as one JSON object; ``error`` is the id in it, ``level`` is ``warning`` if it has one."""
    found = _ID.findall(text)
    return _encoded(
        at, {"level": "warning" if found else "info", "error": found[-1] if found else None, "text": text}
    )


def event(written: Event) -> str:
    """An event of the log as one JSON object; its time is that of the event."""
    body: dict[str, Json] = {"type": written.type, "seq": written.seq, "body": dict(written.body)}
    if written.job is not None:
        body["job"] = written.job
    if written.round is not None:
        body["round"] = written.round
    return canonical.encode({"time": written.ts, "level": "info", "event": body}).decode()


def _encoded(at: datetime, said: dict[str, Json]) -> str:
    said["time"] = timestamp(at)
    return canonical.encode({name: value for name, value in said.items() if value is not None}).decode()


class Listener(logging.Handler):
    """Takes what Python's loggers get: ours whole, others' without their text."""

    def __init__(self, write: Say) -> None:
        super().__init__(logging.WARNING)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one object."""
        said: dict[str, Json] = {"level": record.levelname.lower(), "logger": record.name}
        if record.name.partition(".")[0] == _OURS:
            text = record.getMessage()
            said.update(text=text, error=(_ID.findall(text) or [None])[-1])
        self._write(_encoded(now(), said))

    def install(self) -> None:
        """Takes the place of every handler that other libraries have put up."""
        loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
        for one in (logging.root, *loggers):
            for handler in tuple(one.handlers):
                one.removeHandler(handler)
        logging.root.addHandler(self)


class Journal:
    """Where a running process says what happens.

    Args:
        write: gets each line.
        machine: whether lines are JSON objects.
        log: the party's event log; its new events are lines, too, where lines are objects.

    Use as a context: events are followed while it is open; those of its last moment are written at the end.
    """

    def __init__(self, write: Say, log: EventLog, *, machine: bool) -> None:
        self._write, self._log, self._machine = write, log, machine
        self._mutex, self._stop = threading.Lock(), threading.Event()
        self._place, self._trouble = log.since(0)[1] if machine else 0, ""
        self._thread = threading.Thread(target=self._follow, name="journal", daemon=True)

    def say(self, text: str) -> None:
        """Writes a sentence."""
        self._put(line(text, now()) if self._machine else text)

    def _put(self, text: str) -> None:
        with self._mutex:
            self._write(text)

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_S):
            self._show()

    def _show(self) -> None:
        """Writes what is new in the log; a log that cannot be read is said once, and looked at again."""
        try:
            events, self._place = self._log.since(self._place)
        except CloisterError as error:
            if error.line() != self._trouble:
                self.say(error.line())
            self._trouble = error.line()
            return
        self._trouble = ""
        for one in events:
            self._put(event(one))

    def __enter__(self) -> Journal:
        if self._machine:
            Listener(self._put).install()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
            self._show()
