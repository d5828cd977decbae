"""A call to the consortium service that is kept open, by a thread that connects again after a failure."""

from __future__ import annotations

import secrets
import threading
from abc import ABC, abstractmethod
from typing import Any

import grpc

from cloister.client.consortium import Consortium
from cloister.privacy.errors import UNWRITABLE, CloisterError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Connection(threading.Thread, ABC):
    """Keeps a call open until ``stop``.

    After a failure it waits, twice as long each time and somewhat at random so that sites do not come
    back all at once, and connects again.

    Args:
        member: the site's connection.
        name: of the thread.

    Attributes:
        connected: set while the lead holds the other end.
        trouble: why it is not connected, None while all is well.
        failure: this machine cannot write; the thread has ended. Look at it now and then.
    """

    def __init__(self, member: Consortium, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.connected = threading.Event()
        self.trouble: CloisterError | None = None
        self.failure: CloisterError | None = None
        self._member = member
        self._stopping = threading.Event()
        self._pause = FIRST_PAUSE_S
        self._call: Any = None

    @abstractmethod
    def hold(self) -> None:
        """Opens the call with ``call``, says ``up`` once it is open, and works until it ends."""

    def call(self, method: str, request: Any) -> Any:
        """Opens a call that ``stop`` ends."""
        self._call = self._member.line.stream(method, request)
        if self._stopping.is_set():
            self._call.cancel()
        return self._call

    def up(self) -> None:
        """Notes that the call is open."""
        self.connected.set()
        self.trouble, self._pause = None, FIRST_PAUSE_S

    def run(self) -> None:
        """Connects, holds the call and connects again."""
        while not self._stopping.is_set():
            try:
                self._hold()
            except CloisterError as error:
                self.trouble = error
                if error.id in UNWRITABLE:
                    self.failure = error
                    return
            finally:
                self.connected.clear()
            self._stopping.wait(self._pause * (0.5 + secrets.randbelow(1000) / 1000))
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)

    def _hold(self) -> None:
        self._member.open()
        try:
            self.hold()
        except grpc.RpcError as error:
            if not self._stopping.is_set():
                raise self._member.line.refusal(error) from error

    def stop(self, wait: float | None = None) -> None:
        """Ends the call and the thread.

        Args:
            wait: seconds for what the thread is at; ``is_alive`` says whether it goes on. None for as long as
                it takes.
        """
        self._stopping.set()
        if self._call is not None:
            self._call.cancel()
        if self.is_alive():
            self.join(wait)
