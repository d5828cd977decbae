"""Joining and staying connected, over real gRPC and TLS on loopback."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloister.client.consortium import Consortium, join, notice, refusal
from cloister.client.site.folder import SiteFolder
from cloister.client.watch import Watch
from cloister.privacy import canonical
from cloister.privacy.errors import UNWRITABLE, ChannelError, CloisterError, TransportError
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.joining import moment, parse
from cloister.privacy.wire.signed import Signed
from cloister.server.consortium import ConsortiumServer
from tests.ports import free_port
from tests.service import Service
from tests.waiting import LONG_S


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        yield running


def reason(action: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        action()
    return caught.value.id


# Joining


def test_joining_twice_with_the_same_invite_changes_nothing(service: Service) -> None:
    north, invite = service.site("north"), service.invite("north")
    roster = join(north, invite)
    kept = north.membership
    assert join(north, invite) == roster
    assert north.membership == kept


def test_a_lost_answer_does_no_harm(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    north, invite = service.site("north"), service.invite("north")

    def lose(*_: Any) -> None:
        raise TransportError("unreachable", "The answer was lost.")

    with monkeypatch.context() as patch:
        patch.setattr("cloister.client.site.folder.SiteFolder.become_member", lose)
        assert reason(lambda: join(north, invite)) == "unreachable"
    assert not north.joined
    assert [site.name for site in service.lead.enrolment.roster.sites] == ["north"]
    join(north, invite)
    assert north.joined


def test_a_member_does_not_join_anything_else(service: Service) -> None:
    north = service.member("north")
    other = service.invite("north-2").model_copy(update={"site": "north"})
    assert reason(lambda: join(north, other)) == "already_enrolled"


def test_an_invite_for_another_site_is_not_even_sent(service: Service) -> None:
    assert reason(lambda: join(service.site("south"), service.invite("north"))) == "invite_other_site"
    assert not service.events("channel.opened")


def test_an_invite_that_ended_is_not_even_sent(service: Service) -> None:
    invite = service.invite("north", days=-0.5)
    assert reason(lambda: join(service.site("north"), invite)) == "invite_expired"
    assert not service.events("channel.opened")


def test_the_lead_itself_refuses_an_invite_that_ended(service: Service) -> None:
    invite = service.invite("north", days=-0.5)
    later = moment(parse(invite.not_after) + timedelta(days=1))
    forged = invite.model_copy(update={"not_after": later})
    assert reason(lambda: join(service.site("north"), forged)) == "invite_expired"
    assert service.events("invite.refused")[-1].body["reason"] == "invite_expired"


def test_an_invite_is_used_by_one_site_only(service: Service, tmp_path: Path) -> None:
    invite = service.invite("north")
    join(service.site("north"), invite)
    thief = SiteFolder.create(tmp_path / "thief", "north")
    assert reason(lambda: join(thief, invite)) == "invite_used"
    assert not thief.joined


def test_an_invite_with_another_lead_in_it_brings_nothing(service: Service) -> None:
    """Whoever alters the invite on its way can name other keys, but cannot answer for them."""
    north, false = service.site("north"), PrivateIdentity.generate("lead", "lead")
    invite = service.invite("north").model_copy(update={"lead": false.public.to_json()})
    assert reason(lambda: join(north, invite)) == "signature_invalid"
    assert not north.joined


def test_where_nobody_listens_one_clear_line_says_so(service: Service) -> None:
    address = f"127.0.0.1:{free_port()}"
    invite = service.invite("north").model_copy(update={"service": address})
    with pytest.raises(TransportError) as caught:
        join(service.site("north"), invite)
    assert caught.value.id == "unreachable"
    assert address in caught.value.line()
    assert "\n" not in caught.value.line()


# What the lead says


def test_a_statement_on_another_connection_is_not_believed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = service.member("north"), service.member("south")
    with service.acting(south) as stub:
        stolen = stub.Open(pb.Challenge(nonce=b"\0" * 32), timeout=LONG_S)
    monkeypatch.setattr("cloister.client.consortium.Line.ask", lambda *_: stolen)
    with Consortium(north) as member, pytest.raises(ChannelError) as caught:
        member.open()
    assert caught.value.id == "wrong_context"
    *_, event = north.log.entries()
    assert (event.type, event.body["reason"]) == ("channel.refused", "wrong_context")


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        ("UNAVAILABLE", "invite_used", "unreachable"),
        ("DEADLINE_EXCEEDED", "", "unreachable"),
        ("PERMISSION_DENIED", "invite_used", "invite_used"),
        ("PERMISSION_DENIED", "rm -rf /", "refused"),
        ("INTERNAL", "internal", "internal"),
        ("INTERNAL", "Exception calling application: secret", "refused"),
        ("RESOURCE_EXHAUSTED", "rate_limited", "rate_limited"),
        ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 4)", "too_large"),
        ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!", "rate_limited"),
        ("UNIMPLEMENTED", "Method not found!", "protocol"),
    ],
)
def test_refusals_have_a_name_and_none_of_the_others_words(code: str, details: str, expected: str) -> None:
    error = refusal(Failure(grpc.StatusCode[code], details), "lead:1")
    assert error.id == expected
    assert "secret" not in error.line()
    assert "rm" not in error.what


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"{ }", b"\xff"])
def test_notices_are_objects(content: bytes) -> None:
    assert reason(lambda: notice(content)) == "protocol"


def test_an_answer_that_is_no_membership_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, invite = service.site("north"), service.invite("north")
    said = Signed.make(canonical.encode({"kind": "else"}), service.lead.identity, "cloister/membership/1")
    monkeypatch.setattr("cloister.client.consortium.Line.ask", lambda *_: pb.Signed(**said.fields()))
    assert reason(lambda: join(north, invite)) == "protocol"


# Watching


def test_a_site_is_told_what_happens_until_it_stops(service: Service) -> None:
    told: queue.Queue[Mapping[str, Any]] = queue.Queue()
    with Consortium(service.member("north")) as member:
        watch = Watch(member, told.put)
        watch.start()
        assert told.get(timeout=LONG_S) == {"kind": "presence", "present": ["north"]}
        assert watch.connected.is_set()
        service.server.presence.announce("proposal", job="x")
        assert told.get(timeout=LONG_S) == {"job": "x", "kind": "proposal"}
        watch.stop()
        assert not watch.is_alive()
        assert not watch.connected.is_set()


def test_a_site_connects_again_when_the_lead_comes_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.client.connection.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("cloister.client.connection.LONGEST_PAUSE_S", 0.05)
    told: queue.Queue[Mapping[str, Any]] = queue.Queue()
    with Consortium(service.member("north"), timeout=LONG_S) as member:
        watch = Watch(member, told.put)
        watch.start()
        told.get(timeout=LONG_S)
        service.server.stop(0)
        again = ConsortiumServer(service.lead, service.desk, service.addresses.service)
        again.start()
        assert told.get(timeout=LONG_S)["present"] == ["north"]
        assert watch.trouble is None
        watch.stop()
        again.stop(0)


def test_a_site_that_is_not_let_in_keeps_the_reason(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.client.connection.FIRST_PAUSE_S", 0.01)
    north = service.member("north")
    service.server.stop(0)
    with Consortium(north, timeout=1) as member:
        watch = Watch(member, lambda _: None)
        watch.start()
        while watch.trouble is None:
            watch.join(0.01)
        watch.stop()
    assert watch.trouble.id == "unreachable"
    assert not watch.connected.is_set()


@pytest.mark.parametrize("id", sorted(UNWRITABLE))
def test_a_lead_that_cannot_write_is_away_and_stops_no_site(id: str) -> None:
    """Ids that stop a process are said by its own machine only; a lead could stop every agent with them."""
    error = refusal(Failure(grpc.StatusCode.FAILED_PRECONDITION, id), "lead:1")
    assert (type(error), error.id) == (TransportError, "unreachable")
    assert id in error.line()
