"""Which sites are connected, and what they are told: one open ``Watch`` call for each site.

A notice is a hint ("there is a proposal"): it is not signed, and a site does nothing on it but ask.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from queue import SimpleQueue

from cloister.privacy import canonical
from cloister.privacy.canonical import Json

_BACKLOG = 1000
"""A site that leaves so many notices unread is cut off; it connects again and asks."""


class Line:
    """The open call of one site."""

    def __init__(self, site: str) -> None:
        self.site = site
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()

    def put(self, notice: bytes) -> None:
        """Hands over a notice."""
        self._waiting.put(notice if self._waiting.qsize() < _BACKLOG else None)

    def end(self) -> None:
        """Ends the call."""
        self._waiting.put(None)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._waiting.get, None)


class Presence:
    """Who is connected now. A site's newest call counts; an older one is ended."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._lines: dict[str, Line] = {}

    def present(self) -> frozenset[str]:
        """Names of the connected sites."""
        with self._mutex:
            return frozenset(self._lines)

    def enter(self, site: str) -> Line:
        """A site has connected."""
        line = Line(site)
        with self._mutex:
            older = self._lines.get(site)
            self._lines[site] = line
        if older:
            older.end()
        self._tell_presence()
        return line

    def leave(self, line: Line) -> None:
        """A call has ended, by the site's wish or because its connection is gone."""
        line.end()
        with self._mutex:
            gone = self._lines.get(line.site) is line
            if gone:
                del self._lines[line.site]
        if gone:
            self._tell_presence()

    def cut(self, site: str) -> None:
        """Ends the call of a site."""
        with self._mutex:
            line = self._lines.get(site)
        if line is not None:
            self.leave(line)

    def announce(self, kind: str, sites: Iterable[str] | None = None, **fields: Json) -> None:
        """Tells the sites (all that are connected by default) that there is something to ask for.

        Args:
            kind: ``proposal``, ``round``, ``stop``, …; sites ignore kinds that they do not know.
            sites: whom to tell.
            fields: what else the notice says.
        """
        notice = canonical.encode({**fields, "kind": kind})
        wanted = None if sites is None else set(sites)
        with self._mutex:
            lines = [line for name, line in self._lines.items() if wanted is None or name in wanted]
        for line in lines:
            line.put(notice)

    def close(self) -> None:
        """Ends all calls."""
        with self._mutex:
            lines = list(self._lines.values())
        for line in lines:
            line.end()

    def _tell_presence(self) -> None:
        self.announce("presence", present=tuple(sorted(self.present())))


def state(value: Mapping[str, Json], present: Iterable[str]) -> bytes:
    """The answer to ``Status``: what the desk tells, and who is connected."""
    return canonical.encode({**value, "present": tuple(sorted(present))})
