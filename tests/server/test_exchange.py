"""Questions and answers: the rules of a call by themselves, then over real gRPC and TLS on loopback."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.errors import TransportError
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.pieces import PIECE
from cloister.server.exchange import Answer, Exchange, Incoming, Line
from tests.service import Service
from tests.waiting import LONG_S, eventually

Code = grpc.StatusCode
LIMIT = 1 << 20


def piece(data: bytes = b"", number: int = 1, *, last: bool = False, refused: str = "") -> pb.Piece:
    return pb.Piece(data=data, number=number, last=last, refused=refused)


def asked(limit: int = LIMIT) -> tuple[Exchange, Line]:
    """An exchange with one site that has a question."""
    exchange = Exchange()
    exchange.admit(limit)
    line = exchange.enter("north")
    assert exchange.send("north", b"question", 1)
    return exchange, line


def fault(line: Line) -> str:
    """The error with which a call ends."""
    with pytest.raises(TransportError) as caught:
        list(line)
    return caught.value.id


# Pieces


@given(st.binary(max_size=2000), st.lists(st.integers(1, 700)))
def test_any_split_is_put_together_to_the_same(data: bytes, cuts: list[int]) -> None:
    parts, rest = [], data
    for cut in cuts:
        parts.append(rest[:cut])
        rest = rest[cut:]
    parts = [part for part in parts if part] + [rest]
    incoming = Incoming()
    for part in parts[:-1]:
        assert incoming.take(piece(part), 1, 1, len(data)) is None
    assert incoming.take(piece(parts[-1], last=True), 1, 1, len(data)) == data


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_a_limit_holds_whatever_the_split(data: bytes, limit: int) -> None:
    incoming = Incoming()

    def all_of_it() -> Any:
        for byte in data:
            incoming.take(piece(bytes([byte])), 1, 1, limit)
        return incoming.take(piece(last=True), 1, 1, limit)

    if len(data) <= limit:
        assert all_of_it() == data
    else:
        with pytest.raises(TransportError) as caught:
            all_of_it()
        assert caught.value.id == "too_large"
        assert len(incoming._buffer) <= limit


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_a_question_is_cut_into_pieces_of_the_agreed_size(size: int) -> None:
    exchange, line = asked()
    data = bytes(size)
    exchange.send("north", data, 1)
    sent = []
    for part in line:
        sent.append(part)
        if part.last:
            exchange.close()
    assert b"".join(part.data for part in sent) == data
    assert [len(part.data) for part in sent[:-1]] == [PIECE] * (len(sent) - 1)
    assert len(sent) == max(1, -(-size // PIECE))
    assert {part.number for part in sent} == {2}


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([piece(b"x", number=0)], id="no number"),
        pytest.param([piece(b"x", number=2)], id="never asked"),
        pytest.param([piece(b"")], id="empty and not the last"),
        pytest.param([piece(bytes(PIECE + 1), last=True)], id="too large a piece"),
        pytest.param([piece(b"x", last=True), piece(b"x", last=True)], id="answered twice"),
        pytest.param([piece(b"x"), piece(refused="internal", last=True)], id="refused midway"),
        pytest.param([piece(b"x", refused="internal", last=True)], id="answer and refusal"),
        pytest.param([piece(refused="internal")], id="a refusal that goes on"),
    ],
)
def test_what_is_not_of_the_protocol_ends_the_call(pieces: list[pb.Piece]) -> None:
    exchange, line = asked()
    assert [exchange.take(line, part) for part in pieces] == [True] * (len(pieces) - 1) + [False]
    assert fault(line) == "protocol"
    assert not exchange.reachable()
    assert not exchange.take(line, piece(b"x", last=True))


def test_without_a_question_nothing_is_taken() -> None:
    exchange = Exchange()
    exchange.admit(LIMIT)
    line = exchange.enter("north")
    assert not exchange.take(line, piece(b"x", last=True))
    assert fault(line) == "protocol"
    assert exchange.receive(0) == []


def test_an_answer_that_is_too_large_ends_the_call_and_leaves_nothing() -> None:
    exchange, line = asked(limit=10)
    assert exchange.take(line, piece(bytes(10)))
    assert not exchange.take(line, piece(b"x", last=True))
    assert fault(line) == "too_large"
    assert exchange.receive(0) == []
    assert not line.incoming._buffer


@pytest.mark.parametrize(("said", "taken"), [("replay", "replay"), ("Dr. Smith, 14 May", "internal")])
def test_of_a_refusal_only_a_known_id_is_taken(said: str, taken: str) -> None:
    exchange, line = asked()
    assert exchange.take(line, piece(refused=said, last=True))
    assert exchange.receive(0) == [Answer("north", refused=taken)]


# Questions that were replaced or withdrawn


def test_a_late_answer_is_dropped_and_the_new_one_is_taken() -> None:
    exchange, line = asked()
    exchange.send("north", b"newer", 1)
    assert exchange.take(line, piece(b"late", number=1, last=True))
    assert exchange.receive(0) == []
    assert exchange.awaited() == {"north"}
    assert exchange.take(line, piece(b"new", number=2, last=True))
    assert exchange.receive(0) == [Answer("north", b"new")]
    assert not exchange.awaited()


def test_a_question_may_be_replaced_in_the_middle_of_its_answer() -> None:
    exchange, line = asked()
    assert exchange.take(line, piece(b"la", number=1))
    exchange.send("north", b"newer", 1)
    assert exchange.take(line, piece(b"te", number=1, last=True))
    assert exchange.take(line, piece(b"n", number=2))
    assert exchange.take(line, piece(b"ew", number=2, last=True))
    assert exchange.receive(0) == [Answer("north", b"new")]


def test_an_answer_begins_only_when_the_one_before_is_whole() -> None:
    exchange, line = asked()
    assert exchange.take(line, piece(b"la", number=1))
    exchange.send("north", b"newer", 1)
    assert not exchange.take(line, piece(b"n", number=2))
    assert fault(line) == "protocol"


def test_an_answer_that_was_not_received_yet_gives_way_to_a_newer_question() -> None:
    exchange, line = asked()
    exchange.take(line, piece(b"old", number=1, last=True))
    exchange.send("north", b"newer", 1)
    assert exchange.receive(0) == []
    exchange.take(line, piece(b"new", number=2, last=True))
    assert exchange.receive(0) == [Answer("north", b"new")]


def test_a_replaced_question_is_not_sent_to_its_end() -> None:
    exchange, line = asked()
    exchange.send("north", bytes(10 * PIECE), 1)
    sent = iter(line)
    assert not next(sent).last
    exchange.send("north", b"newer", 1)
    assert next(sent) == piece(b"newer", number=3, last=True)


def test_after_the_job_late_answers_do_no_harm_and_are_not_kept() -> None:
    exchange, line = asked()
    exchange.enter("south")
    exchange.take(line, piece(b"la", number=1))
    exchange.admit(0)
    assert exchange.limit == 0
    assert not exchange.awaited()
    assert exchange.take(line, piece(b"te", number=1, last=True))
    assert exchange.receive(0) == []
    assert exchange.reachable() == {"north", "south"}


def test_a_late_answer_is_not_longer_than_what_was_admitted() -> None:
    exchange, line = asked(limit=10)
    exchange.admit(0)
    assert exchange.take(line, piece(bytes(10), number=1))
    assert not line.incoming._buffer
    assert not exchange.take(line, piece(b"x", number=1))
    assert fault(line) == "too_large"


def test_the_end_of_a_job_forgets_what_was_not_received() -> None:
    exchange, line = asked()
    exchange.take(line, piece(b"x", last=True))
    exchange.admit(0)
    exchange.admit(LIMIT)
    assert exchange.receive(0) == []


# Coming and going


def test_only_the_newest_call_of_a_site_counts() -> None:
    exchange, old = asked()
    new = exchange.enter("north")
    assert list(old) == []
    assert not exchange.take(old, piece(b"x", last=True))
    exchange.leave(old)
    assert exchange.reachable() == {"north"}
    assert not exchange.awaited()  # the question went with its call
    exchange.leave(new)
    exchange.leave(new)  # a call may end for two reasons at once
    assert exchange.reachable() == frozenset()
    assert not exchange.send("north", b"x", 1)


def test_an_answer_survives_the_end_of_its_call() -> None:
    exchange, line = asked()
    exchange.take(line, piece(b"x", last=True))
    exchange.leave(line)
    assert exchange.receive(0) == [Answer("north", b"x")]


def test_whoever_waits_is_woken_by_an_answer_and_by_the_end() -> None:
    exchange, line = asked()
    got: queue.Queue[list[Answer]] = queue.Queue()
    waiter = threading.Thread(target=lambda: [got.put(exchange.receive(LONG_S)) for _ in range(2)])
    waiter.start()
    exchange.take(line, piece(b"x", last=True))
    assert got.get(timeout=LONG_S) == [Answer("north", b"x")]
    exchange.close()
    assert got.get(timeout=LONG_S) == []
    waiter.join(LONG_S)
    assert list(exchange.enter("north")) == []
    assert not exchange.reachable()


def test_waiting_ends_when_its_time_is_over() -> None:
    started = time.monotonic()
    assert Exchange().receive(0.05) == []
    assert time.monotonic() - started >= 0.05


# Over gRPC


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        running.server.exchange.admit(LIMIT)
        yield running


class Site:
    """A site that says whatever a test wants; ``say(None)`` says that there is no more."""

    def __init__(self, stub: Any) -> None:
        said: queue.SimpleQueue[pb.Piece | None] = queue.SimpleQueue()
        self.say = said.put
        self.call = stub.Exchange(iter(said.get, None))
        self.call.initial_metadata()

    def refused(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError):
            list(self.call)
        self.say(None)
        return self.call.code(), self.call.details()


@pytest.fixture
def site(service: Service) -> Iterator[Site]:
    with service.acting(service.member("north")) as stub:
        site = Site(stub)
        yield site
        site.say(None)


def test_a_question_goes_out_and_its_answer_comes_in(service: Service, site: Site) -> None:
    exchange = service.server.exchange
    assert exchange.reachable() == {"north"}
    assert exchange.send("north", b"question", 1)
    assert next(site.call) == piece(b"question", last=True)
    site.say(piece(b"ans"))
    site.say(piece(b"wer", last=True))
    assert exchange.receive(LONG_S) == [Answer("north", b"answer")]


def test_an_unasked_answer_ends_the_call_with_an_id(service: Service, site: Site) -> None:
    site.say(piece(b"x", last=True))
    assert site.refused() == (Code.PERMISSION_DENIED, "protocol")
    assert not service.server.exchange.reachable()


def test_an_oversize_answer_ends_the_call_with_an_id(service: Service, site: Site) -> None:
    service.server.exchange.admit(PIECE)
    service.server.exchange.send("north", b"question", 1)
    assert next(site.call).last
    site.say(piece(bytes(PIECE)))
    site.say(piece(b"x", last=True))
    assert site.refused() == (Code.PERMISSION_DENIED, "too_large")
    assert service.server.exchange.receive(0) == []


def test_a_malformed_piece_ends_the_call_with_an_id(service: Service, site: Site) -> None:
    service.server.exchange.send("north", b"question", 1)
    assert next(site.call).last
    site.say(piece(bytes(PIECE + 1), last=True))
    assert site.refused() == (Code.PERMISSION_DENIED, "protocol")


def test_a_message_above_the_limit_of_the_service_ends_the_call(service: Service, site: Site) -> None:
    service.server.exchange.send("north", b"question", 1)
    site.say(piece(bytes(300 << 10), last=True))
    assert site.refused()[0] is Code.RESOURCE_EXHAUSTED
    assert eventually(lambda: not service.server.exchange.reachable())


def test_a_site_that_has_no_more_to_say_is_gone(service: Service, site: Site) -> None:
    site.say(None)
    assert list(site.call) == []
    assert not service.server.exchange.reachable()


def test_a_call_that_is_cut_is_noticed_and_leaves_no_thread(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        site = Site(stub)
        assert service.server.exchange.reachable() == {"north"}
    assert eventually(lambda: not service.server.exchange.reachable())
    site.say(None)
    assert eventually(lambda: "exchange-answers" not in {thread.name for thread in threading.enumerate()})


def test_a_site_that_does_not_read_blocks_nobody(service: Service, site: Site) -> None:
    exchange = service.server.exchange
    exchange.send("north", bytes(64 << 20), 1)  # more than connections buffer
    with service.acting(service.member("south")) as stub:
        other = Site(stub)
        exchange.send("south", b"question", 1)
        assert next(other.call).last
        other.say(piece(b"answer", last=True))
        assert exchange.receive(LONG_S) == [Answer("south", b"answer")]
        other.say(None)
    site.call.cancel()
    assert eventually(lambda: not exchange.reachable())


def test_the_newest_call_ends_the_older_one(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        older, newer = Site(stub), Site(stub)
        assert list(older.call) == []
        older.say(None)
        service.server.exchange.send("north", b"question", 1)
        assert next(newer.call) == piece(b"question", last=True)
        newer.say(None)


def test_the_end_of_the_service_ends_its_calls(service: Service, site: Site) -> None:
    service.server.stop(5)
    assert list(site.call) == []
    assert not service.server.exchange.reachable()


def test_the_certificate_of_an_invite_may_not_exchange(service: Service) -> None:
    with service.holding(service.invite("north")) as stub:
        assert Site(stub).refused() == (Code.PERMISSION_DENIED, "not_enrolled")
    assert service.events("auth.failed")[-1].body["reason"] == "not_enrolled"
    assert not service.server.exchange.reachable()


def test_without_a_certificate_there_is_no_exchange(service: Service) -> None:
    authority = service.lead.authority("sites").certificate_pem.decode()
    with service.stub(authority, None, None) as stub:
        assert Site(stub).refused()[0] is Code.UNAVAILABLE
    assert not service.server.exchange.reachable()
