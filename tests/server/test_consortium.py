"""The service over real gRPC and TLS on loopback: who gets in, who does not, and what they are told."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from cloister.client.consortium import Consortium
from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical
from cloister.privacy.channel.certificates import Authority, fingerprint
from cloister.privacy.clauses import Rows
from cloister.privacy.consent import DECISION_CONTEXT, OFFER_CONTEXT, PLAN_CONTEXT, Decision, Offer
from cloister.privacy.errors import InputError, PlanError
from cloister.privacy.plan import Plan
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.signed import Signed
from cloister.server.consortium import ConsortiumServer
from cloister.server.gate import Limits
from tests.plans import DIGEST, plan_json
from tests.service import METHODS, Service, refused
from tests.waiting import LONG_S, eventually

Code = grpc.StatusCode


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path) as running:
        yield running


def plan_of(service: Service, **changes: Any) -> Plan:
    """A plan that names the lead of the service."""
    lead = service.lead.identity.public
    party = {"name": lead.name, "identity": lead.digest(), "code": DIGEST}
    return Plan.from_bytes(canonical.encode(plan_json(lead=party, **changes)))


# What a member may do


def test_both_ends_log_the_same_connection_with_both_certificates(service: Service) -> None:
    north = service.member("north")
    (own,) = (event.body for event in north.log.entries() if event.type == "channel.opened")
    theirs = service.events("channel.opened")[-1].body
    assert own["group"] == theirs["group"] == "X25519MLKEM768"
    assert own["tls"] == theirs["tls"] == "1.3"
    assert own["local"] == theirs["remote"] == fingerprint(north.membership.certificate)
    assert own["remote"] == theirs["local"] == fingerprint(service.lead.tls("server").certificate)
    assert (own["party"], theirs["party"]) == ("lead", "north")


def test_a_connection_is_logged_once_however_often_it_is_used(service: Service) -> None:
    north = service.member("north")
    before = len(service.events("channel.opened"))
    with Consortium(north) as member:
        for _ in range(5):
            member.status()
    assert len(service.events("channel.opened")) == before + 1


def test_members_see_the_roster_grow(service: Service) -> None:
    north = service.member("north")
    assert [peer.identity.name for peer in north.peers()] == ["lead", "north"]
    south = service.member("south")
    with Consortium(north) as member:
        roster = member.roster()
    assert roster == north.roster == south.roster == service.lead.enrolment.roster
    assert [site.name for site in roster.sites] == ["north", "south"]


def test_plans_arrive_with_the_leads_signature(service: Service) -> None:
    north, plan = service.member("north"), plan_of(service)
    service.propose(plan)
    with Consortium(north) as member:
        (proposal,) = member.proposals()
    assert proposal.plan == plan


def test_offers_and_decisions_arrive_verified(service: Service) -> None:
    north, plan = service.member("north"), plan_of(service)
    service.propose(plan)
    offer = Offer(site="north", dataset="notes", rows=Rows(low=128, high=255), code=DIGEST)
    decision = Decision(site="north", plan=plan.digest, approve=False, reason="budget_exceeded")
    with Consortium(north) as member:
        member.offer(offer)
        member.decide(decision)
    assert (service.desk.offers, service.desk.decisions) == ([offer], [decision])


def test_health_answers_members(service: Service) -> None:
    check = "/grpc.health.v1.Health/Check"
    with service.acting(service.member("north")) as stub:
        ask = stub.channel.unary_unary(
            check,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        assert ask(health_pb2.HealthCheckRequest(), timeout=LONG_S).status == 1


# Presence


def test_a_site_is_present_while_it_watches_and_gone_at_once(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    with service.acting(north) as one, service.acting(south) as two:
        first = one.Watch(pb.Empty())
        assert canonical.decode(next(first).content) == {"kind": "presence", "present": ["north"]}
        second = two.Watch(pb.Empty())
        assert canonical.decode(next(first).content)["present"] == ["north", "south"]
        assert service.server.present() == {"north", "south"}
        second.cancel()
        assert canonical.decode(next(first).content)["present"] == ["north"]
    assert eventually(lambda: not service.server.present())


def test_the_newest_call_of_a_site_counts(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        old = stub.Watch(pb.Empty())
        next(old)
        new = stub.Watch(pb.Empty())
        next(new)
        assert list(old) == []
        assert service.server.present() == {"north"}
        service.server.presence.announce("stop", ["north"], job="x")
        assert canonical.decode(next(new).content) == {"job": "x", "kind": "stop"}


def test_the_end_of_the_service_ends_its_calls(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        call = stub.Watch(pb.Empty())
        next(call)
        service.server.stop(5)
        assert list(call) == []
    assert not service.server.present()


# Who does not get in


@pytest.mark.parametrize("method", METHODS)
def test_the_certificate_of_an_invite_may_do_nothing_but_enrol(service: Service, method: str) -> None:
    with service.holding(service.invite("north")) as stub:
        assert refused(getattr(stub, method), METHODS[method]) == (Code.PERMISSION_DENIED, "not_enrolled")
    assert service.events("auth.failed")[-1].body["reason"] == "not_enrolled"
    assert not service.server.present()


@pytest.mark.parametrize("method", [*METHODS, "Enrol"])
def test_without_a_certificate_there_is_no_connection(service: Service, method: str) -> None:
    authority = service.lead.authority("sites").certificate_pem.decode()
    with service.stub(authority, None, None) as stub:
        code, _ = refused(getattr(stub, method), METHODS.get(method, pb.Signed()))
    assert code is Code.UNAVAILABLE
    assert not service.events("channel.opened")


@pytest.mark.parametrize("issuer", ["foreign", "operator"])
def test_certificates_of_other_authorities_open_nothing(service: Service, issuer: str) -> None:
    sites, operator = service.lead.authority("sites"), service.lead.authority("operator")
    key, certificate = {"foreign": Authority.create("sites"), "operator": operator}[issuer].client("north")
    with service.stub(sites.certificate_pem.decode(), key, certificate.decode()) as stub:
        assert refused(stub.Roster, pb.Empty())[0] is Code.UNAVAILABLE
    assert not service.events("channel.opened")


def test_a_certificate_that_is_in_no_list_opens_nothing(service: Service) -> None:
    sites = service.lead.authority("sites")
    key, certificate = sites.client("north")
    service.member("north")
    with service.stub(sites.certificate_pem.decode(), key, certificate.decode()) as stub:
        assert refused(stub.Roster, pb.Empty()) == (Code.PERMISSION_DENIED, "certificate_invalid")
    assert service.events("channel.refused")[-1].body["remote"] == fingerprint(certificate)


def test_a_site_does_not_talk_to_another_server(service: Service, tmp_path: Path) -> None:
    north = service.member("north")
    foreign = Authority.create("foreign").certificate_pem.decode()
    with service.stub(foreign, north.tls_key, north.membership.certificate) as stub:
        assert refused(stub.Roster, pb.Empty())[0] is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("version", "group", "reason"),
    [
        (ssl.TLSVersion.TLSv1_2, "P-256", "tls_version_too_low"),
        (ssl.TLSVersion.TLSv1_3, "P-256", "tls_group_not_pq"),
    ],
)
def test_a_weaker_handshake_is_refused_for_each_call(
    service: Service, version: ssl.TLSVersion, group: str, reason: str
) -> None:
    answer = call_over(service, service.member("north"), version)
    assert reason.encode() in answer
    assert b"hospitals" not in answer
    (event,) = service.events("channel.refused")
    assert event.body["reason"] == reason
    assert event.body["tls"] == ("1.2" if version is ssl.TLSVersion.TLSv1_2 else "1.3")
    assert event.body["group"] == group


def call_over(service: Service, site: SiteFolder, version: ssl.TLSVersion) -> bytes:
    """Calls ``Roster`` over Python's own TLS without a post-quantum group, in handmade HTTP/2 frames."""
    chain = site.path / "chain.pem"
    chain.write_bytes(site.membership.certificate.encode() + site.tls_key)
    context = ssl.create_default_context(cadata=site.membership.authority)
    context.load_cert_chain(chain)
    context.minimum_version = context.maximum_version = version
    context.set_ecdh_curve("prime256v1")
    context.set_alpn_protocols(["h2"])
    headers = {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/cloister.Consortium/Roster",
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(b"\0" + _literal(name) + _literal(value) for name, value in headers.items())
    frames = _frame(4, 0, 0, b"") + _frame(1, 4, 1, block) + _frame(0, 1, 1, b"\0" * 5)
    plain = socket.create_connection(("127.0.0.1", service.server.port), timeout=LONG_S)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames)
        answer = b""
        while b"grpc-message" not in answer and (piece := connection.recv(65536)):
            answer += piece
    return answer


def _literal(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + body


# What does not get through


def test_a_site_cannot_speak_for_another(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    offer = Offer(site="south", dataset="notes", rows=Rows(low=1, high=2), code=DIGEST).to_bytes()
    own = pb.Signed(**Signed.make(offer, north.identity, OFFER_CONTEXT).fields())
    stolen = pb.Signed(**Signed.make(offer, south.identity, OFFER_CONTEXT).fields())
    with service.acting(north) as stub:
        assert refused(stub.Offer, own)[1] == "wrong_context"
        assert refused(stub.Offer, stolen)[1] == "signature_invalid"
    assert service.desk.offers == []


def test_a_signature_for_one_purpose_does_not_serve_another(service: Service) -> None:
    north, plan = service.member("north"), plan_of(service)
    service.propose(plan)
    said = Decision(site="north", plan=plan.digest, approve=True).to_bytes()
    with service.acting(north) as stub:
        wrong = pb.Signed(**Signed.make(said, north.identity, OFFER_CONTEXT).fields())
        assert refused(stub.Decide, wrong)[1] == "signature_invalid"
        assert refused(stub.Decide, pb.Signed(content=said))[1] == "signature_invalid"
    assert service.desk.decisions == []


def test_what_is_signed_leaves_no_field_out(service: Service) -> None:
    north, plan = service.member("north"), plan_of(service)
    service.propose(plan)
    short = canonical.encode({"site": "north", "plan": plan.digest, "approve": True})
    with service.acting(north) as stub:
        said = pb.Signed(**Signed.make(short, north.identity, DECISION_CONTEXT).fields())
        assert refused(stub.Decide, said)[1] == "protocol"
    assert service.desk.decisions == []


def test_a_member_cannot_enrol_again(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        assert refused(stub.Enrol, pb.Signed())[1] == "already_enrolled"


def test_an_oversized_message_is_refused_unread(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        code, details = refused(stub.Decide, pb.Signed(content=bytes(300 << 10)))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "larger than max" in details


def test_bytes_that_are_no_message_are_refused(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        send = stub.channel.unary_unary("/cloister.Consortium/Decide")
        assert refused(send, b"\xff" * 1000)[0] is Code.INTERNAL
        assert refused(stub.Decide, pb.Signed(content=b"\xff" * 1000))[1] == "signature_invalid"


def test_unknown_methods_are_unknown(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        for method in ("/cloister.Consortium/Everything", "/grpc.health.v1.Health/Watch"):
            assert refused(stub.channel.unary_unary(method), b"")[0] is Code.UNIMPLEMENTED


def test_errors_cross_as_ids_only(service: Service) -> None:
    north = service.member("north")
    said = Decision(site="north", plan=DIGEST, approve=True).to_bytes()
    with service.acting(north) as stub:
        known = refused(
            stub.Decide, pb.Signed(**Signed.make(said, north.identity, DECISION_CONTEXT).fields())
        )
    with service.acting(service.member("broken")) as stub:
        unforeseen = refused(stub.Status, pb.Empty())
    assert known == (Code.PERMISSION_DENIED, "plan_unknown")
    assert unforeseen == (Code.INTERNAL, "internal")


def test_a_challenge_has_one_length(service: Service) -> None:
    with service.acting(service.member("north")) as stub:
        assert refused(stub.Open, pb.Challenge(nonce=b"short"))[1] == "protocol"


def test_too_many_calls_are_refused_and_logged_once(tmp_path: Path) -> None:
    with Service(tmp_path, Limits(rate=0.001, burst=3)) as service:
        north, south = service.member("north"), service.site("south")
        with service.acting(north) as stub:
            for _ in range(2):  # joining has taken the first
                stub.Status(pb.Empty(), timeout=LONG_S)
            for _ in range(3):
                assert refused(stub.Status, pb.Empty()) == (Code.RESOURCE_EXHAUSTED, "rate_limited")
        (event,) = service.events("auth.failed")
        assert event.body["reason"] == "rate_limited"
        with service.holding(service.invite("south")) as other:  # each caller has its own measure
            assert refused(other.Enrol, pb.Signed())[1] == "protocol"
        assert not south.joined


def test_a_plan_that_the_lead_did_not_sign_is_not_taken(service: Service) -> None:
    north, south = service.member("north"), service.member("south")
    service.desk.plans = [Signed.make(plan_of(service).to_bytes(), south.identity, PLAN_CONTEXT)]
    with Consortium(north) as member, pytest.raises(PlanError) as caught:
        member.proposals()
    assert caught.value.id == "plan_unsigned"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"consortium": "banks"}, "plan_unsigned"),
        ({"lead": {"name": "lead", "identity": DIGEST, "code": DIGEST}}, "plan_unsigned"),
        ({"sites": plan_json(("south", "west"))["sites"]}, "plan_unknown"),
    ],
)
def test_a_plan_of_another_consortium_lead_or_site_is_not_taken(
    service: Service, changes: dict[str, Any], reason: str
) -> None:
    north = service.member("north")
    lead = {"lead": {"name": "lead", "identity": service.lead.identity.public.digest(), "code": DIGEST}}
    service.propose(Plan.from_bytes(canonical.encode(plan_json() | lead | changes)))
    with Consortium(north) as member, pytest.raises(PlanError) as caught:
        member.proposals()
    assert caught.value.id == reason


def test_two_services_do_not_share_a_port(service: Service) -> None:
    with pytest.raises(InputError) as caught:
        ConsortiumServer(service.lead, service.desk, service.addresses.service)
    assert caught.value.id == "port_in_use"
