"""The consortium service: gRPC over mutual TLS 1.3 between the lead and its sites.

The gate (``server.gate``) has admitted every call before a method here runs. The roster is the
enrolment's; plans, decisions and status are the desk's. What a site says is verified under its keys of
the roster here; what the lead says was signed where it was made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import suppress
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.channel.certificates import fingerprint
from cloister.privacy.channel.facts import FACTS_CONTEXT
from cloister.privacy.consent import (
    DECISION_CONTEXT,
    OFFER_CONTEXT,
    WITHDRAWAL_CONTEXT,
    Decision,
    Offer,
    Withdrawal,
)
from cloister.privacy.errors import ChannelError, EnrolmentError, TransportError
from cloister.privacy.identity import PublicIdentity, Signature
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire import consortium_pb2_grpc as rpc
from cloister.privacy.wire.endorsement import Endorsement
from cloister.privacy.wire.signed import Signed
from cloister.privacy.wire.succession import Handover
from cloister.server.exchange import Exchange, Line
from cloister.server.folder import INVITES, SERVER, SITES, LeadFolder
from cloister.server.gate import LIMITS, Gate, Limits
from cloister.server.gathering import Collector
from cloister.server.jobs import Jobs
from cloister.server.listener import bind
from cloister.server.presence import Presence, state
from cloister.server.witnesses import Witnesses

_NONCE = 32
_KEEPALIVE_MS = 10_000
_ANSWER_MS = 5_000


class Desk(Protocol):
    """What the service asks of whoever keeps the jobs.

    All signatures are verified already, over exactly the canonical bytes of what is handed over.
    """

    def proposals(self, site: str) -> Iterable[Signed]:
        """Plans that concern a site, each under the lead's signature (``PLAN_CONTEXT``)."""
        ...

    def offer(self, offer: Offer, signature: Signature, site: PublicIdentity) -> None:
        """Takes a site's offer of a dataset."""
        ...

    def decide(self, decision: Decision, signature: Signature, site: PublicIdentity) -> None:
        """Takes a site's decision on a plan; raises ``PlanError`` ``plan_unknown``."""
        ...

    def withdraw(self, withdrawal: Withdrawal, signature: Signature, site: PublicIdentity) -> None:
        """Takes note that a site leaves; raises ``PlanError`` ``plan_unknown``."""
        ...

    def policy(self, digest: str, site: str) -> bytes:
        """The consortium's policy that a plan of a site names; raises ``PolicyError`` ``policy_missing``."""
        ...

    def status(self, site: str) -> Mapping[str, Json]:
        """What a site may know of where jobs stand."""
        ...


class ConsortiumService(rpc.ConsortiumServicer):
    """The methods of ``consortium.proto``.

    Args:
        folder: the lead's folder.
        desk: keeps the jobs.
        gate: knows the caller of each call.
        presence: who is connected.
        exchange: asks sites.
        witnesses: what the parties hold of each other's logs.
        collector: takes and shows evidence of finished jobs.
    """

    def __init__(
        self,
        folder: LeadFolder,
        desk: Desk,
        gate: Gate,
        presence: Presence,
        exchange: Exchange,
        witnesses: Witnesses,
        collector: Collector,
    ) -> None:
        self._enrolment = folder.enrolment
        self._endorsements = folder.endorsements
        self._identity = folder.identity
        self._desk = desk
        self._gate = gate
        self._presence = presence
        self._exchange = exchange
        self._witnesses = witnesses
        self._collector = collector

    def Open(self, request: pb.Challenge, context: Any) -> pb.Signed:  # noqa: N802  # names of the proto
        """States what this end saw of the connection."""
        if len(request.nonce) != _NONCE:
            raise TransportError("protocol", "A challenge has another length.")
        statement = self._gate.facts(context).statement(request.nonce)
        return pb.Signed(**Signed.make(statement, self._identity, FACTS_CONTEXT).fields())

    def Enrol(self, request: pb.Signed, context: Any) -> pb.Signed:  # noqa: N802
        """Makes the holder of an invite a member."""
        membership = self._enrolment.enrol(self._gate.caller(context), Signed.of(request))
        self._presence.announce("roster")
        return pb.Signed(**membership.fields())

    def Roster(self, request: pb.Empty, context: Any) -> pb.Signed:  # noqa: N802, ARG002
        """All members."""
        return pb.Signed(**self._enrolment.signed_roster().fields())

    def Offer(self, request: pb.Signed, context: Any) -> pb.Empty:  # noqa: N802
        """Takes an offer of the calling site."""
        site, signed = self._site(context), Signed.of(request)
        offer = Offer.from_bytes(signed.open(site, OFFER_CONTEXT))
        _check(offer, signed, site)
        self._desk.offer(offer, signed.signature, site)
        return pb.Empty()

    def Proposals(self, request: pb.Empty, context: Any) -> Iterator[pb.Signed]:  # noqa: N802, ARG002
        """Plans for the calling site."""
        for plan in self._desk.proposals(self._site(context).name):
            yield pb.Signed(**plan.fields())

    def Decide(self, request: pb.Signed, context: Any) -> pb.Empty:  # noqa: N802
        """Takes a decision of the calling site."""
        site, signed = self._site(context), Signed.of(request)
        decision = Decision.from_bytes(signed.open(site, DECISION_CONTEXT))
        _check(decision, signed, site)
        self._desk.decide(decision, signed.signature, site)
        return pb.Empty()

    def Status(self, request: pb.Empty, context: Any) -> pb.Notice:  # noqa: N802, ARG002
        """Who is connected, and where jobs stand."""
        told = self._desk.status(self._site(context).name)
        return pb.Notice(content=state(told, self._presence.present()))

    def Heads(self, request: pb.Notice, context: Any) -> pb.Notice:  # noqa: N802
        """Newest heads of logs, and countersignatures, both ways."""
        context.set_compression(grpc.Compression.Gzip)  # hexadecimal, Base64 and names that come again
        return pb.Notice(content=self._witnesses.hear(self._site(context), request.content))

    def Succeed(self, request: pb.Notice, context: Any) -> pb.Signed:  # noqa: N802
        """New keys of the calling site."""
        handover = Handover.from_bytes(request.content)
        membership = self._enrolment.succeed(self._gate.caller(context), handover)
        self._presence.announce("roster")
        return pb.Signed(**membership.fields())

    def Successions(self, request: pb.Empty, context: Any) -> Iterator[pb.Notice]:  # noqa: N802, ARG002
        """Every change of a member's keys."""
        self._site(context)
        for handover in self._enrolment.handovers:
            yield pb.Notice(content=handover.to_bytes())

    def Endorse(self, request: pb.Notice, context: Any) -> pb.Empty:  # noqa: N802
        """What an authority has signed for the calling site's keys; about others it is refused."""
        site, found = self._site(context), Endorsement.from_bytes(request.content)
        found.check(self._enrolment.roster.consortium, site)
        if found.said not in [one.said for one in self._endorsements.of(site)]:  # else nobody need look again
            self._endorsements.keep(found, self._enrolment.roster)
            self._presence.announce("roster")
        return pb.Empty()

    def Endorsements(self, request: pb.Empty, context: Any) -> Iterator[pb.Notice]:  # noqa: N802, ARG002
        """What authorities have signed for members' keys of now."""
        self._site(context)
        for found in self._endorsements.about(self._enrolment.roster):
            yield pb.Notice(content=found.to_bytes())

    def Policy(self, request: pb.Notice, context: Any) -> pb.Notice:  # noqa: N802
        """The consortium's policy that a plan of the calling site names."""
        site, refusal = self._site(context), TransportError("protocol", "A policy was asked for wrongly.")
        asked = canonical.decode(request.content, otherwise=refusal)
        if (
            not isinstance(asked, dict)
            or asked.keys() != {"policy"}
            or not canonical.is_digest(asked["policy"])
        ):
            raise refusal
        return pb.Notice(content=self._desk.policy(asked["policy"], site.name))

    def Withdraw(self, request: pb.Signed, context: Any) -> pb.Empty:  # noqa: N802
        """A site leaves a job, or the consortium."""
        site, signed = self._site(context), Signed.of(request)
        withdrawal = Withdrawal.from_bytes(signed.open(site, WITHDRAWAL_CONTEXT))
        _check(withdrawal, signed, site)
        self._desk.withdraw(withdrawal, signed.signature, site)
        if not withdrawal.plan:
            self._enrolment.revoke(site.name, withdrawal.reason)
            self._presence.announce("roster")
        return pb.Empty()

    def Wanted(self, request: pb.Empty, context: Any) -> Iterator[pb.Notice]:  # noqa: N802, ARG002
        """What evidence is wanted of the calling site."""
        for wish in self._collector.wishes(self._site(context).name):
            yield pb.Notice(content=wish.to_bytes())

    def HandOver(self, request_iterator: Iterator[pb.Portion], context: Any) -> pb.Empty:  # noqa: N802
        """Takes the calling site's part of the evidence of a job."""
        self._collector.take(self._site(context), request_iterator)
        return pb.Empty()

    def Bundle(self, request: pb.Notice, context: Any) -> Iterator[pb.Portion]:  # noqa: N802
        """Shows a bundle to the calling site."""
        yield from self._collector.show(self._site(context).name, request.content)

    def Sign(self, request: pb.Notice, context: Any) -> pb.Empty:  # noqa: N802
        """Takes the calling site's word on a bundle."""
        self._collector.hear(self._site(context), request.content)
        return pb.Empty()

    def Watch(self, request: pb.Empty, context: Any) -> Iterator[pb.Notice]:  # noqa: N802, ARG002
        """Keeps the calling site present, and tells it what happens."""
        line = self._presence.enter(self._site(context).name)
        if not context.add_callback(lambda: self._presence.leave(line)):
            self._presence.leave(line)  # the call ended before the callback could be set
        for notice in line:
            yield pb.Notice(content=notice)

    def Exchange(self, request_iterator: Iterator[pb.Piece], context: Any) -> Iterator[pb.Piece]:  # noqa: N802
        """Hands questions to the calling site; its answers are read on a thread of the call's own."""
        line = self._exchange.enter(self._site(context).name)
        if not context.add_callback(lambda: self._exchange.leave(line)):
            self._exchange.leave(line)  # the call ended before the callback could be set
        with suppress(grpc.RpcError):  # it may end at any moment; then the line is over
            context.send_initial_metadata(())
        reader = threading.Thread(
            target=self._read, args=(request_iterator, line), name="exchange-answers", daemon=True
        )
        reader.start()
        yield from line

    def _read(self, pieces: Iterator[pb.Piece], line: Line) -> None:
        """Reads a site's answers until the call ends or the site says that it has no more."""
        with suppress(grpc.RpcError):  # the call was cut
            for piece in pieces:
                if not self._exchange.take(line, piece):
                    break
        self._exchange.leave(line)

    def _site(self, context: Any) -> PublicIdentity:
        caller = self._gate.caller(context)
        if caller.identity is None:
            raise EnrolmentError("not_enrolled", f"{caller.name} is not a member yet.")
        return caller.identity


def _check(said: Offer | Decision | Withdrawal, signed: Signed, site: PublicIdentity) -> None:
    """Refuses what speaks for another site, or leaves a field to its default."""
    if said.site != site.name:
        raise ChannelError("wrong_context", f"{site.name} speaks for {said.site}.")
    if said.to_bytes() != signed.content:
        raise TransportError("protocol", "What was signed leaves a field out.")


class ConsortiumServer:
    """The running service.

    Args:
        folder: the lead's folder.
        desk: keeps the jobs.
        address: where to listen, ``host:port``; port 0 takes a free one.
        limits: what callers may ask.

    Attributes:
        port: the port that it listens on.
        presence: who is connected; ``announce`` tells them something.
        exchange: asks connected sites and collects their answers.
        collector: what arrives for the evidence of finished jobs.

    Raises:
        InputError: ``port_in_use``.
    """

    def __init__(self, folder: LeadFolder, desk: Desk, address: str = "", limits: Limits = LIMITS) -> None:
        pair = folder.tls(SERVER)
        self.presence, self.exchange = Presence(), Exchange()
        gate = Gate(folder.enrolment, folder.log, fingerprint(pair.certificate), limits)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(limits.calls, thread_name_prefix="consortium"),
            interceptors=(gate,),
            options=_options(limits),
            maximum_concurrent_rpcs=limits.calls,
        )
        self._witnesses = Witnesses(
            folder.path, folder.identity, folder.log, lambda: folder.enrolment.roster.members
        )
        self.collector = Collector(Jobs(folder.jobs, folder.vault), folder.enrolment, folder.log)
        service = ConsortiumService(
            folder, desk, gate, self.presence, self.exchange, self._witnesses, self.collector
        )
        rpc.add_ConsortiumServicer_to_server(service, self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        trusted = b"".join(folder.authority(door).certificate_pem for door in (SITES, INVITES))
        credentials = grpc.ssl_server_credentials(
            [(pair.key, pair.certificate)], trusted, require_client_auth=True
        )
        address = address or f"[::]:{folder.settings.port_consortium}"
        host, _, port = address.rpartition(":")
        bind(host.strip("[]"), int(port)).close()  # gRPC would say it less plainly, or share the port
        self.port = int(self._server.add_secure_port(address, credentials))

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float = 1.0) -> None:
        """Ends the sites' calls and the service."""
        self._health.enter_graceful_shutdown()
        self.presence.close()
        self.exchange.close()
        self._server.stop(grace).wait()

    def cut(self, names: Iterable[str]) -> None:
        """Ends the open calls of sites that are members no longer."""
        for name in names:
            self.presence.cut(name)
            self.exchange.cut(name)

    def conflicts(self) -> frozenset[str]:
        """Origins of the logs that contradict a head that the lead has countersigned."""
        return self._witnesses.witness.conflicts()

    def present(self) -> frozenset[str]:
        """Names of the sites that are connected now."""
        return self.presence.present()


def _options(limits: Limits) -> list[tuple[str, int]]:
    """gRPC's settings: a second process on the port fails, idle peers are found out, sizes are bounded."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.message),
        ("grpc.server_handshake_timeout_ms", _KEEPALIVE_MS),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _ANSWER_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ANSWER_MS),
        ("grpc.http2.max_ping_strikes", 0),  # pings are how a silent site stays known
    ]
