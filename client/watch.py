"""Staying connected: one call that keeps a site present at the lead, and passes notices on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cloister.client.connection import Connection
from cloister.client.consortium import Consortium, notice
from cloister.privacy.wire import consortium_pb2 as pb


class Watch(Connection):
    """Keeps a site present at the lead until ``stop``.

    Args:
        member: the site's connection.
        handle: called with each notice, on this thread: it must be quick and must not raise. After
            every new connection the first notice is of the kind ``presence``; ask for everything then,
            because notices of the time between are lost.
    """

    def __init__(self, member: Consortium, handle: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(member, "consortium-watch")
        self._handle = handle

    def hold(self) -> None:
        """Listens."""
        for message in self.call("Watch", pb.Empty()):
            told = notice(message.content)
            self.up()
            self._handle(told)
