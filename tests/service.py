"""A consortium service on loopback with real TLS, and a desk in memory behind it.

with Service(tmp_path) as service:
    north = service.member("north")
    with Consortium(north) as member:
        member.roster()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc

from cloister.client.consortium import join
from cloister.client.site.folder import SiteFolder
from cloister.privacy.consent import PLAN_CONTEXT, Decision, Offer, Withdrawal
from cloister.privacy.errors import PlanError, PolicyError
from cloister.privacy.identity import PublicIdentity, Signature
from cloister.privacy.plan import Plan
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire import consortium_pb2_grpc as rpc
from cloister.privacy.wire.joining import Invite
from cloister.privacy.wire.signed import Signed
from cloister.server.consortium import ConsortiumServer
from cloister.server.enrolment import Addresses
from cloister.server.folder import LeadFolder, Settings
from cloister.server.gate import LIMITS, Limits
from tests.ports import free_port
from tests.waiting import LONG_S

METHODS = {
    "Open": pb.Challenge(nonce=b"\0" * 32),
    "Roster": pb.Empty(),
    "Offer": pb.Signed(),
    "Proposals": pb.Empty(),
    "Decide": pb.Signed(),
    "Status": pb.Empty(),
    "Watch": pb.Empty(),
    "Heads": pb.Notice(content=b'{"head":"","held":{},"marks":[],"proofs":{},"version":1}'),
    "Successions": pb.Empty(),
    "Withdraw": pb.Signed(),
    "Wanted": pb.Empty(),
    "HandOver": iter(()),
    "Bundle": pb.Notice(),
    "Sign": pb.Notice(),
    "Endorse": pb.Notice(),
    "Endorsements": pb.Empty(),
    "Policy": pb.Notice(content=b'{"policy":"sha256:' + b"0" * 64 + b'"}'),
}
"""Every method but ``Enrol``, with a request that is well formed."""


class MemoryDesk:
    """A desk that keeps everything in lists."""

    def __init__(self) -> None:
        self.plans: list[Signed] = []
        self.offers: list[Offer] = []
        self.decisions: list[Decision] = []
        self.withdrawals: list[Withdrawal] = []
        self.policies: dict[str, bytes] = {}

    def proposals(self, site: str) -> list[Signed]:
        return self.plans

    def offer(self, offer: Offer, signature: Signature, site: PublicIdentity) -> None:
        self.offers.append(offer)

    def decide(self, decision: Decision, signature: Signature, site: PublicIdentity) -> None:
        if decision.plan not in {Plan.from_bytes(plan.content).digest for plan in self.plans}:
            raise PlanError("plan_unknown", "secret words of the lead")
        self.decisions.append(decision)

    def withdraw(self, withdrawal: Withdrawal, signature: Signature, site: PublicIdentity) -> None:
        self.withdrawals.append(withdrawal)

    def policy(self, digest: str, site: str) -> bytes:
        if digest not in self.policies:
            raise PolicyError("policy_missing", "secret words of the lead")
        return self.policies[digest]

    def status(self, site: str) -> Mapping[str, Any]:
        if site == "broken":
            raise RuntimeError("secret words of the lead")
        return {"jobs": len(self.plans)}


class Service:
    """A lead's folder and its running service on a port of loopback that stays its own when it stops."""

    def __init__(self, path: Path, limits: Limits = LIMITS) -> None:
        self.path = path
        self.lead = LeadFolder.create(path / "lead", Settings(consortium="hospitals", host="127.0.0.1"))
        self.desk = MemoryDesk()
        self.server = ConsortiumServer(self.lead, self.desk, f"127.0.0.1:{free_port()}", limits)
        self.addresses = Addresses(f"127.0.0.1:{self.server.port}", "127.0.0.1:1")

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop(0)

    def invite(self, name: str, days: float = 1) -> Invite:
        return self.lead.enrolment.invite(name, self.addresses, days)

    def site(self, name: str) -> SiteFolder:
        """A site that has not joined."""
        return SiteFolder.create(self.path / name, name)

    def member(self, name: str) -> SiteFolder:
        site = self.site(name)
        join(site, self.invite(name))
        return site

    def propose(self, plan: Plan) -> Signed:
        signed = Signed.make(plan.to_bytes(), self.lead.identity, PLAN_CONTEXT)
        self.desk.plans.append(signed)
        return signed

    def events(self, *types: str) -> list[Any]:
        return [event for event in self.lead.log.entries() if event.type in types]

    @contextmanager
    def stub(self, authority: str, key: bytes | None, certificate: str | None) -> Iterator[Any]:
        """A bare stub under any certificate, or none."""
        chain = certificate.encode() if certificate else None
        credentials = grpc.ssl_channel_credentials(authority.encode(), key, chain)
        with grpc.secure_channel(self.addresses.service, credentials) as channel:
            stub: Any = rpc.ConsortiumStub(channel)
            stub.channel = channel  # for methods that the stub does not have
            yield stub

    @contextmanager
    def holding(self, invite: Invite) -> Iterator[Any]:
        """A bare stub under the certificate of an invite."""
        with self.stub(invite.authority, invite.key.encode(), invite.certificate) as stub:
            yield stub

    @contextmanager
    def acting(self, site: SiteFolder) -> Iterator[Any]:
        """A bare stub under the certificate of a member."""
        member = site.membership
        with self.stub(member.authority, site.tls_key, member.certificate) as stub:
            yield stub


def refused(call: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    """Code and details of a call that fails."""
    try:
        answer = call(request, timeout=LONG_S)
        list(answer) if hasattr(answer, "__iter__") else None
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call was not refused")
