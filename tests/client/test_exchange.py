"""A site that answers over the consortium service: real gRPC and TLS on loopback, and leads that lie."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.app import answer
from cloister.client.consortium import Consortium
from cloister.client.exchange import _UNREAD, Correspondence, Incoming, _Outgoing
from cloister.client.participation import Participant
from cloister.client.site.folder import SiteFolder
from cloister.client.watch import Watch
from cloister.privacy.errors import (
    UNWRITABLE,
    BudgetError,
    ChannelError,
    CloisterError,
    EntropyError,
    LogError,
    PlanError,
    StateError,
    TransportError,
)
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.envelope import Header, seal
from cloister.privacy.wire.pieces import PIECE
from cloister.server.consortium import ConsortiumServer
from cloister.server.exchange import Answer, Exchange
from tests.plans import DIGEST
from tests.service import Service
from tests.waiting import LONG_S, eventually

LIMIT = 4 << 20


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.client.connection.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("cloister.client.connection.LONGEST_PAUSE_S", 0.05)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        running.server.exchange.admit(LIMIT)
        yield running


@pytest.fixture
def exchange(service: Service) -> Exchange:
    return service.server.exchange


@contextmanager
def answering(
    site: SiteFolder, answer: Callable[[bytes], bytes], limit: int = LIMIT
) -> Iterator[Correspondence]:
    """A site at work, connected."""
    with Consortium(site, timeout=LONG_S) as member:
        correspondence = Correspondence(member, answer, lambda: limit)
        correspondence.start()
        try:
            assert correspondence.connected.wait(LONG_S)
            yield correspondence
        finally:
            correspondence.stop()


def backwards(question: bytes) -> bytes:
    return question[::-1]


def never(_: bytes) -> bytes:
    raise AssertionError("nothing whole arrived, so nothing may be asked")


# Questions and answers


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 << 20])
def test_envelopes_of_any_size_go_both_ways(service: Service, exchange: Exchange, size: int) -> None:
    question = os.urandom(size)
    with answering(service.member("north"), backwards):
        assert exchange.send("north", question, 1)
        assert exchange.receive(LONG_S) == [Answer("north", backwards(question))]


def test_one_call_carries_many_questions_and_leaves_no_thread(service: Service, exchange: Exchange) -> None:
    def running() -> int:
        """Threads other than those that the service keeps for its next calls."""
        return sum(not thread.name.startswith("consortium_") for thread in threading.enumerate())

    north, before = service.member("north"), running()
    with answering(north, backwards):
        for number in range(50):
            question = os.urandom(number * 1000)
            exchange.send("north", question, number)
            assert exchange.receive(LONG_S) == [Answer("north", backwards(question))]
    assert eventually(lambda: not exchange.reachable())
    assert eventually(lambda: running() <= before)


def test_sites_answer_independently_of_each_other(service: Service, exchange: Exchange) -> None:
    release = threading.Event()

    def slow(question: bytes) -> bytes:
        release.wait(LONG_S)
        return question + b"north"

    north, south = service.member("north"), service.member("south")
    with ExitStack() as stack:
        stack.enter_context(answering(north, slow))
        stack.enter_context(answering(south, lambda question: question + b"south"))
        assert exchange.reachable() == {"north", "south"}
        for site, question in (("north", bytes(3 << 20)), ("south", bytes(1 << 20))):
            exchange.send(site, question, 1)
        assert exchange.receive(LONG_S) == [Answer("south", bytes(1 << 20) + b"south")]
        assert exchange.awaited() == {"north"}
        release.set()
        assert exchange.receive(LONG_S) == [Answer("north", bytes(3 << 20) + b"north")]


def test_the_answer_to_a_replaced_question_is_not_taken_for_the_new_ones(
    service: Service, exchange: Exchange
) -> None:
    asked, release = threading.Semaphore(0), threading.Event()
    questions = []

    def slow(question: bytes) -> bytes:
        questions.append(question)
        asked.release()
        release.wait(LONG_S)
        return question

    with answering(service.member("north"), slow):
        exchange.send("north", b"older", 1)
        assert asked.acquire(timeout=LONG_S)
        exchange.send("north", b"newer", 1)
        release.set()
        assert exchange.receive(LONG_S) == [Answer("north", b"newer")]
    assert questions == [b"older", b"newer"]
    assert exchange.receive(0) == []


def test_a_question_that_is_replaced_on_its_way_is_not_answered(
    service: Service, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, pb.Piece(number=1, data=b"half"), pb.Piece(number=2, data=b"whole", last=True))
    questions: list[bytes] = []

    def note(question: bytes) -> bytes:
        questions.append(question)
        return question

    with answering(service.member("north"), note):
        assert eventually(lambda: bool(questions))
    assert questions[0] == b"whole"


# What cannot be answered


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BudgetError("budget_exceeded", "Patients of ward 7 are used up."), "budget_exceeded"),
        (ValueError("Dr. Smith, 14 May"), "internal"),
    ],
)
def test_nothing_but_an_id_leaves(
    service: Service, exchange: Exchange, error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(question: bytes) -> bytes:
        if question == b"refuse":
            raise error
        return question

    with answering(service.member("north"), refuse) as correspondence:
        exchange.send("north", b"refuse", 1)
        assert exchange.receive(LONG_S) == [Answer("north", refused=reason)]
        exchange.send("north", b"next", 1)  # the call goes on
        assert exchange.receive(LONG_S) == [Answer("north", b"next")]
        assert correspondence.failure is None
    assert str(error) in caplog.text  # in the site's own log


@pytest.mark.parametrize(
    "error",
    [
        StateError("disk_full", "full"),
        StateError("state_unwritable", "read only"),
        LogError("log_unwritable", "gone"),
        EntropyError("ratchet_unwritable", "gone"),
    ],
    ids=lambda error: error.id,
)
def test_a_machine_that_cannot_write_ends_and_says_nothing(
    service: Service, exchange: Exchange, error: CloisterError
) -> None:
    assert error.id in UNWRITABLE

    def broken(_: bytes) -> bytes:
        raise error

    with answering(service.member("north"), broken) as correspondence:
        exchange.send("north", b"question", 1)
        correspondence.join(LONG_S)
        assert not correspondence.is_alive()
        assert correspondence.failure is error
        assert not correspondence.connected.is_set()
        assert eventually(lambda: not exchange.reachable())
    assert exchange.receive(0) == []


def test_a_log_that_cannot_be_written_ends_the_connection_for_good(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Consortium) -> None:
        raise LogError("log_unwritable", "gone")

    folder = service.member("north")
    monkeypatch.setattr("cloister.client.consortium.Consortium.open", full)
    with Consortium(folder) as member:
        for kept in (Correspondence(member, never, lambda: LIMIT), Watch(member, lambda _: None)):
            kept.start()
            kept.join(LONG_S)
            assert not kept.is_alive()
            assert kept.failure is not None
            assert kept.failure.id == "log_unwritable"


# Leads that lie


def test_a_lead_that_asks_and_does_not_read_is_disconnected_before_memory_fills() -> None:
    waiting = _Outgoing()
    for number in range(_UNREAD):
        waiting.put(iter([pb.Piece(number=number)]))
    with pytest.raises(TransportError) as caught:
        waiting.put(iter([pb.Piece(number=9)]))
    assert caught.value.id == "protocol"
    waiting.end()
    assert len(list(waiting)) == _UNREAD, "what was taken goes out"


def says(monkeypatch: pytest.MonkeyPatch, *said: pb.Piece) -> None:
    """Makes the lead say this, then wait for the end of the call."""

    def lie(line: Any) -> Iterator[pb.Piece]:
        yield from said
        line._next()

    monkeypatch.setattr("cloister.server.exchange.Line.__iter__", lie)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([pb.Piece(number=0, data=b"x", last=True)], "protocol"),
        ([pb.Piece(number=1)], "protocol"),
        ([pb.Piece(number=1, data=bytes(PIECE + 1), last=True)], "protocol"),
        ([pb.Piece(number=1, data=b"x", last=True, refused="internal")], "protocol"),
        ([pb.Piece(number=2, data=b"x"), pb.Piece(number=1, data=b"x", last=True)], "protocol"),
        ([pb.Piece(number=1, data=bytes(PIECE))] * 3, "too_large"),
    ],
    ids=["no number", "empty", "large piece", "refusal", "backwards", "too large"],
)
def test_a_lead_that_does_not_keep_to_the_protocol_is_disconnected(
    service: Service, monkeypatch: pytest.MonkeyPatch, said: list[pb.Piece], reason: str
) -> None:
    monkeypatch.setattr("cloister.client.connection.FIRST_PAUSE_S", 60.0)
    says(monkeypatch, *said)
    with Consortium(service.member("north")) as member:
        correspondence = Correspondence(member, never, lambda: 2 * PIECE)
        correspondence.start()
        assert eventually(lambda: correspondence.trouble is not None)
        assert correspondence.trouble is not None
        assert correspondence.trouble.id == reason
        assert isinstance(correspondence.trouble, TransportError)
        assert eventually(lambda: not correspondence.connected.is_set())
        assert correspondence._call.code() is grpc.StatusCode.CANCELLED  # not for the lead to agree to
        assert eventually(lambda: not service.server.exchange.reachable())
        correspondence.stop()
        assert not correspondence.is_alive()


def test_a_question_is_not_asked_twice_under_one_number() -> None:
    incoming = Incoming()
    assert incoming.take(pb.Piece(number=1, data=b"x", last=True), 9)
    with pytest.raises(TransportError) as caught:
        incoming.take(pb.Piece(number=1, data=b"x", last=True), 9)
    assert caught.value.id == "protocol"


@given(st.binary(max_size=2000), st.lists(st.integers(1, 700)), st.binary(max_size=50))
def test_any_split_is_put_together_to_the_same(data: bytes, cuts: list[int], replaced: bytes) -> None:
    incoming, rest = Incoming(), data
    if replaced:
        assert not incoming.take(pb.Piece(number=3, data=replaced), 2000)
    for cut in cuts:
        if rest[:cut]:
            assert not incoming.take(pb.Piece(number=4, data=rest[:cut]), len(data))
        rest = rest[cut:]
    assert incoming.take(pb.Piece(number=4, data=rest, last=True), len(data))
    assert (incoming.number, incoming.question()) == (4, data)


# Coming and going


def test_a_site_connects_again_when_the_lead_comes_back(service: Service) -> None:
    with answering(service.member("north"), backwards) as correspondence:
        service.server.stop(0)
        assert eventually(lambda: correspondence.trouble is not None)
        assert not correspondence.connected.is_set()
        again = ConsortiumServer(service.lead, service.desk, service.addresses.service)
        again.exchange.admit(LIMIT)
        again.start()
        assert correspondence.connected.wait(LONG_S)
        assert correspondence.trouble is None
        assert again.exchange.send("north", b"question", 1)
        assert again.exchange.receive(LONG_S) == [Answer("north", b"noitseuq")]
        correspondence.stop()
        again.stop(0)


def test_a_question_that_was_lost_with_its_call_is_asked_again(service: Service, exchange: Exchange) -> None:
    working, release = threading.Semaphore(0), threading.Event()

    def slow(question: bytes) -> bytes:
        working.release()
        release.wait(LONG_S)
        return question

    with answering(service.member("north"), slow):
        exchange.send("north", b"question", 1)
        assert working.acquire(timeout=LONG_S)
        exchange.leave(exchange._lines["north"])  # as if the connection was lost
        assert not exchange.awaited()
        release.set()
        assert eventually(lambda: exchange.reachable() == {"north"})
        assert exchange.receive(0) == []
        exchange.send("north", b"question", 1)
        assert exchange.receive(LONG_S) == [Answer("north", b"question")]


def test_a_lead_that_cannot_be_reached_is_named_and_does_not_hold_up_the_stop(service: Service) -> None:
    north = service.member("north")
    service.server.stop(0)
    with Consortium(north, timeout=1) as member:
        correspondence = Correspondence(member, never, lambda: LIMIT)
        correspondence.start()
        assert eventually(lambda: correspondence.trouble is not None)
        assert correspondence.trouble is not None
        assert correspondence.trouble.id == "unreachable"
        correspondence.stop()
        assert not correspondence.is_alive()


def test_a_stop_while_nothing_is_asked_ends_at_once(service: Service, exchange: Exchange) -> None:
    with answering(service.member("north"), never) as correspondence:
        correspondence.stop()
        assert not correspondence.is_alive()
        assert not correspondence.connected.is_set()
        assert eventually(lambda: not exchange.reachable())
        correspondence.stop()  # twice does no harm


def test_a_stop_before_the_start_of_the_call_ends_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, opening, release = service.member("north"), threading.Event(), threading.Event()

    def slow(_: Consortium) -> None:
        opening.set()
        release.wait(LONG_S)

    monkeypatch.setattr("cloister.client.consortium.Consortium.open", slow)
    with Consortium(north) as member:
        correspondence = Correspondence(member, never, lambda: LIMIT)
        correspondence.start()
        assert opening.wait(LONG_S)
        correspondence.stop(0)
        release.set()
        correspondence.join(LONG_S)
        assert not correspondence.is_alive()
        assert correspondence.trouble is None


def test_a_stop_during_an_answer_does_not_wait_for_it_and_nothing_leaves(
    service: Service, exchange: Exchange
) -> None:
    working, release = threading.Event(), threading.Event()

    def slow(question: bytes) -> bytes:
        working.set()
        release.wait(LONG_S)
        return question

    with answering(service.member("north"), slow) as correspondence:
        exchange.send("north", b"question", 1)
        assert working.wait(LONG_S)
        correspondence.stop(0.1)
        assert correspondence.is_alive()  # at its answer still: nobody has released it
        assert eventually(lambda: not exchange.reachable())
        release.set()
        correspondence.join(LONG_S)
        assert not correspondence.is_alive()
    assert exchange.receive(0) == []


def test_a_stop_in_the_middle_of_a_large_answer_ends_both_directions(
    service: Service, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lead reads no further, so the answer stands in the way until the call is cancelled."""
    reading, release = threading.Event(), threading.Event()

    def stuck(*_: Any) -> bool:
        reading.set()
        return release.wait(LONG_S)

    monkeypatch.setattr(Exchange, "take", stuck)
    with answering(service.member("north"), lambda _: bytes(64 << 20)) as correspondence:
        exchange.send("north", b"question", 1)
        assert reading.wait(LONG_S)
        correspondence.stop(5)
        assert not correspondence.is_alive()
        assert eventually(lambda: not exchange.reachable())
        release.set()


# Whose answer


class Part:
    """A participant that answers with what it was asked."""

    def handle(self, data: bytes) -> bytes:
        return b"answer to " + data


def test_an_envelope_goes_to_the_participant_of_its_plan() -> None:
    lead, north = PrivateIdentity.generate("lead", "lead"), PrivateIdentity.generate("north", "site")
    header = Header("task", "hospitals", DIGEST, 1, 0, 1, "lead", "north", DIGEST)
    data = seal(header, b"content", lead, north.public)
    participants = cast("dict[str, Participant]", {DIGEST: Part()})
    assert answer(participants, data) == b"answer to " + data
    with pytest.raises(PlanError) as unknown:
        answer({}, data)
    assert unknown.value.id == "plan_unknown"
    with pytest.raises(ChannelError) as malformed:
        answer(participants, b"no envelope")
    assert malformed.value.id == "envelope_malformed"
