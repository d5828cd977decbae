"""The ASGI gate before SuperLink's app: who may call what, how large a call may be, and the long poll.

Flower's own API has no long poll. Here a caller that finds nothing may wait: it names a bell and for how
long, and the call is repeated when another caller rings that bell or the time is over::

    x-cloister-wait: 5 NODE     hold an empty answer back for up to 5 seconds, or until NODE rings
    x-cloister-wake: NODE run   ring these bells when this call has succeeded

A pull marks the message that it finds as delivered. So a call whose caller has gone is never repeated:
it would claim a message for nobody (the "ghost poll").
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

WAIT, WAKE = b"x-cloister-wait", b"x-cloister-wake"
LONGEST_WAIT = 20.0
"""Seconds. A caller that vanishes without closing its connection can lose a message within this time."""

_OK, _TOO_LARGE = 200, 413
_PATIENCE = 4


class Bells:
    """Wakes calls that wait, by the name they wait under."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Event, str] = {}
        self.closing = False

    @contextmanager
    def listening(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever ``name`` rings."""
        bell = asyncio.Event()
        self._waiting[bell] = name
        try:
            yield bell
        finally:
            del self._waiting[bell]

    def ring(self, names: Iterable[str]) -> None:
        """Wakes the calls that wait under one of ``names``."""
        wanted = set(names)
        for bell, name in self._waiting.items():
            if name in wanted:
                bell.set()

    def close(self) -> None:
        """Ends all waiting, for good."""
        self.closing = True
        for bell in self._waiting:
            bell.set()


class _Answer:
    """What the app answered, held back."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def send(self, event: Event) -> None:
        """Keeps one event."""
        self.events.append(event)

    @property
    def succeeded(self) -> bool:
        """Whether the status is 200."""
        return bool(self.events) and self.events[0].get("status") == _OK

    @property
    def nothing_found(self) -> bool:
        """Whether it is an empty protobuf message, which has no bytes at all."""
        return self.succeeded and not any(event.get("body") for event in self.events)


class Gate:
    """Stands before an app on one listener.

    Args:
        app: the app behind it.
        bells: shared by the gates of one server.
        limit: bytes of the largest body that is taken.
        refusal: the HTTP status with which a call is refused, 0 to let it in.
    """

    def __init__(
        self, app: App, bells: Bells, limit: int, refusal: Callable[[Scope], int] = lambda _: 0
    ) -> None:
        self._app, self._bells, self._limit, self._refusal = app, bells, limit, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif status := self._refusal(scope):
            await _refuse(send, status)
        elif (body := await self._body(receive)) is None:
            await _refuse(send, _TOO_LARGE)
        else:
            await self._serve(scope, body, receive, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, None if it is too large or the caller has gone.

        Some of what is too much is read and dropped, so that the caller gets to hear why.
        """
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            event = await receive()
            if event["type"] != "http.request" or size > _PATIENCE * self._limit:
                return None
            part = event.get("body", b"")
            size += len(part)
            if size <= self._limit:
                parts.append(part)
            more = event.get("more_body", False)
        return b"".join(parts) if size <= self._limit else None

    async def _serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        seconds, name = _wait(header(scope, WAIT))
        gone = asyncio.ensure_future(receive())  # completes when the caller has gone
        try:
            answer = await self._ask(scope, body, gone, seconds, name)
            if gone.done():
                return
            if answer.succeeded and (names := header(scope, WAKE)):
                self._bells.ring(names.split())
            for event in answer.events:
                await send(event)
        finally:
            gone.cancel()

    async def _ask(
        self, scope: Scope, body: bytes, gone: asyncio.Future[Event], seconds: float, name: str
    ) -> _Answer:
        """Asks the app, again and again while it finds nothing and the caller waits."""
        deadline = asyncio.get_running_loop().time() + seconds
        with self._bells.listening(name) as bell:
            while True:
                bell.clear()  # before the app is asked, or a ring in between is lost
                answer = await self._once(scope, body, gone)
                left = deadline - asyncio.get_running_loop().time()
                if not answer.nothing_found or left <= 0 or self._bells.closing or gone.done():
                    return answer
                rung = asyncio.ensure_future(bell.wait())
                either: list[asyncio.Future[Any]] = [rung, gone]
                await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                rung.cancel()
                if gone.done():
                    return answer

    async def _once(self, scope: Scope, body: bytes, gone: asyncio.Future[Event]) -> _Answer:
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Event:
            return pending.pop() if pending else await asyncio.shield(gone)

        answer = _Answer()
        await self._app({**scope, "state": dict(scope.get("state", {}))}, receive, answer.send)
        return answer


def header(scope: Scope, name: bytes) -> str:
    """The value of a request header, "" if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def _wait(text: str) -> tuple[float, str]:
    """Seconds and bell of a wait header; anything malformed does not wait."""
    seconds, _, name = text.partition(" ")
    try:
        return max(0.0, min(float(seconds), LONGEST_WAIT)), name
    except ValueError:
        return 0.0, ""


async def _refuse(send: Send, status: int) -> None:
    """Answers with a status and nothing else, and hangs up: the body may still be on its way."""
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
