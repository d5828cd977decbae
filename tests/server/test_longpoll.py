from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from cloister.server.longpoll import LONGEST_WAIT, Bells, Gate, _wait
from tests.waiting import LONG_S

FOUND, NOTHING = (200, b"message"), (200, b"")
LIMIT = 1000


class App:
    """Answers what ``answers`` holds, the last for ever; notes what it was asked."""

    def __init__(self, *answers: tuple[int, bytes], asked: Callable[[], None] = lambda: None) -> None:
        self.answers, self.asked = list(answers), asked
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        event = await receive()
        assert event["more_body"] is False
        scope["state"]["left behind"] = True
        self.bodies.append(event["body"])
        self.asked()
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})


class Caller:
    """One call through a gate, body in pieces, that can hang up."""

    def __init__(self, *pieces: bytes, **headers: str) -> None:
        self.pieces = list(pieces) or [b""]
        self.headers = [(f"x-cloister-{name}".encode(), value.encode()) for name, value in headers.items()]
        self.gone = asyncio.Event()
        self.events: list[Any] = []
        self.state: dict[str, Any] = {}

    async def receive(self) -> Any:
        if self.pieces:
            body = self.pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self.pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Any) -> None:
        self.events.append(event)

    async def call(self, gate: Gate) -> tuple[int, bytes] | None:
        scope = {"type": "http", "path": "/", "headers": self.headers, "state": self.state}
        await gate(scope, self.receive, self.send)
        if not self.events:
            return None
        return self.events[0]["status"], b"".join(event.get("body", b"") for event in self.events)


async def settled() -> None:
    """Lets every task go on until it waits for something from outside; no clock has a part in it."""
    for _ in range(100):
        await asyncio.sleep(0)


def once(app: App, *pieces: bytes, **headers: str) -> tuple[int, bytes] | None:
    async def main() -> tuple[int, bytes] | None:
        return await asyncio.wait_for(Caller(*pieces, **headers).call(Gate(app, Bells(), LIMIT)), LONG_S)

    return asyncio.run(main())


def test_a_call_that_does_not_wait_is_answered_at_once() -> None:
    app = App(NOTHING)
    assert once(app, b"que", b"stion") == NOTHING
    assert app.bodies == [b"question"]


def test_a_call_that_waits_and_finds_something_is_answered_at_once() -> None:
    assert once(App(FOUND), wait="20 north") == FOUND


def test_a_call_that_waits_is_answered_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves when it is looked at: the time is never over before the first answer."""
    looks = itertools.count()
    monkeypatch.setattr(asyncio.SelectorEventLoop, "time", lambda _: next(looks) / 2000)
    app = App(NOTHING)
    assert once(app, wait="0.01 north") == NOTHING
    assert len(app.bodies) == 2


@pytest.mark.parametrize("answer", [(500, b""), (401, b"{}"), (204, b"")])
def test_a_failure_is_no_empty_answer(answer: tuple[int, bytes]) -> None:
    app = App(answer)
    assert once(app, wait="20 north") == answer
    assert len(app.bodies) == 1


@pytest.mark.parametrize("ring", ["north", "south north"])
def test_a_bell_wakes_the_call_that_waits_for_it_with_the_same_body(ring: str) -> None:
    async def main() -> None:
        bells, app = Bells(), App(NOTHING, FOUND)
        gate = Gate(app, bells, LIMIT)
        waiting = asyncio.create_task(Caller(b"question", wait="20 north").call(gate))
        await settled()
        assert app.bodies == [b"question"]
        assert await Caller(b"push", wake=ring).call(Gate(App(FOUND), bells, LIMIT)) == FOUND
        assert await asyncio.wait_for(waiting, LONG_S) == FOUND
        assert app.bodies == [b"question"] * 2

    asyncio.run(main())


def test_another_bell_or_a_failed_call_wakes_nobody() -> None:
    async def main() -> None:
        bells, app = Bells(), App(NOTHING, FOUND)
        waiting = asyncio.create_task(Caller(wait="20 north").call(Gate(app, bells, LIMIT)))
        await settled()
        await Caller(wake="south").call(Gate(App(FOUND), bells, LIMIT))
        await Caller(wake="north").call(Gate(App((500, b"")), bells, LIMIT))
        await settled()
        assert not waiting.done()
        bells.ring(["north"])
        await waiting

    asyncio.run(main())


def test_a_ring_while_the_app_is_being_asked_is_not_lost() -> None:
    async def main() -> None:
        bells = Bells()
        app = App(NOTHING, FOUND, asked=lambda: bells.ring(["north"]))
        call = Caller(wait="20 north").call(Gate(app, bells, LIMIT))
        assert await asyncio.wait_for(call, LONG_S) == FOUND

    asyncio.run(main())


def test_a_caller_that_has_gone_claims_nothing() -> None:
    """The ghost poll: a wake-up for a dead caller would take a message that nobody receives."""

    async def main() -> None:
        bells, app = Bells(), App(NOTHING, FOUND)
        caller = Caller(wait="20 north")
        waiting = asyncio.create_task(caller.call(Gate(app, bells, LIMIT)))
        await settled()
        caller.gone.set()
        bells.ring(["north"])
        assert await asyncio.wait_for(waiting, LONG_S) is None
        assert len(app.bodies) == 1

    asyncio.run(main())


def test_closing_ends_all_waiting_now_and_later() -> None:
    async def main() -> None:
        bells = Bells()
        gate = Gate(App(NOTHING), bells, LIMIT)
        waiting = asyncio.create_task(Caller(wait="20 north").call(gate))
        await settled()
        bells.close()
        assert await asyncio.wait_for(waiting, LONG_S) == NOTHING
        assert await asyncio.wait_for(Caller(wait="20 north").call(gate), LONG_S) == NOTHING

    asyncio.run(main())


def test_a_body_up_to_the_limit_passes_and_a_larger_one_never_reaches_the_app() -> None:
    app = App(FOUND)
    assert once(app, b"x" * LIMIT) == FOUND
    assert once(app, b"x" * LIMIT, b"x") == (413, b"")
    assert once(app, *[b"x" * 100] * 1000) == (413, b"")
    assert len(app.bodies) == 1


def test_a_caller_that_hangs_up_within_its_body_reaches_nothing() -> None:
    async def main() -> None:
        app, caller = App(FOUND), Caller()

        async def cut() -> Any:
            return {"type": "http.disconnect"}

        caller.receive = cut  # type: ignore[method-assign]
        await caller.call(Gate(app, Bells(), LIMIT))
        assert app.bodies == []

    asyncio.run(main())


def test_a_refused_call_never_reaches_the_app() -> None:
    async def main() -> None:
        app = App(FOUND)
        assert await Caller().call(Gate(app, Bells(), LIMIT, lambda scope: 403)) == (403, b"")
        assert app.bodies == []

    asyncio.run(main())


def test_one_call_leaves_nothing_behind_for_the_next() -> None:
    async def main() -> None:
        caller = Caller()
        await caller.call(Gate(App(FOUND), Bells(), LIMIT))
        assert caller.state == {}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("5 north", (5.0, "north")),
        ("0.5 run", (0.5, "run")),
        ("1e9 x", (LONGEST_WAIT, "x")),
        ("inf x", (LONGEST_WAIT, "x")),
        ("-1 x", (0.0, "x")),
        ("nan x", (0.0, "x")),
        ("", (0.0, "")),
        ("soon x", (0.0, "")),
    ],
)
def test_a_wait_is_bounded_and_anything_malformed_does_not_wait(text: str, wait: tuple[float, str]) -> None:
    assert _wait(text) == wait
