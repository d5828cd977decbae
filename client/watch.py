"""Staying connected: one thread that keeps ``Watch`` open, connects again, and passes notices on."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from cloister.client.consortium import Consortium, notice
from cloister.privacy.errors import CloisterError
from cloister.privacy.wire import consortium_pb2 as pb

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Watch(threading.Thread):
    """Keeps a site present at the lead until ``stop``.

    After a failure it waits, twice as long each time and somewhat at random so that sites do not come
    back all at once, and connects again.

    Args:
        member: the site's connection.
        handle: called with each notice, on this thread: it must be quick and must not raise. After
            every new connection the first notice is of the kind ``presence``; ask for everything then,
            because notices of the time between are lost.

    Attributes:
        connected: set while the lead counts this site as present.
        trouble: why it is not connected, None while all is well.
    """

    def __init__(self, member: Consortium, handle: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(name="consortium-watch", daemon=True)
        self.connected = threading.Event()
        self.trouble: CloisterError | None = None
        self._member = member
        self._handle = handle
        self._stopping = threading.Event()
        self._pause = FIRST_PAUSE_S
        self._call: Any = None

    def run(self) -> None:
        """Connects, listens and connects again."""
        while not self._stopping.is_set():
            try:
                self._listen()
            except CloisterError as error:
                self.trouble = error
            finally:
                self.connected.clear()
            self._stopping.wait(self._pause * (0.5 + secrets.randbelow(1000) / 1000))
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)

    def stop(self) -> None:
        """Ends the call and the thread."""
        self._stopping.set()
        if self._call is not None:
            self._call.cancel()
        if self.is_alive():
            self.join()

    def _listen(self) -> None:
        self._member.open()
        line = self._member.line
        self._call = line.stream("Watch", pb.Empty())
        if self._stopping.is_set():
            self._call.cancel()
        try:
            for message in self._call:
                told = notice(message.content)
                self.connected.set()
                self.trouble, self._pause = None, FIRST_PAUSE_S
                self._handle(told)
        except grpc.RpcError as error:
            if not self._stopping.is_set():
                raise line.refusal(error) from error
