"""The site's end of the consortium service: connects outbound only and believes signatures only.

The lead's keys are those of the invite. Rosters and plans are taken with the lead's signatures or not at
all; notices of ``Watch`` only say that there is something to ask for. A refusal arrives as an error id;
an id that this release does not know becomes ``TransportError`` ``refused``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any

import grpc

from cloister.client.proxy import grpc_options
from cloister.client.site.folder import SiteFolder, Stored
from cloister.privacy import canonical
from cloister.privacy.channel.certificates import fingerprint
from cloister.privacy.channel.facts import FACTS_CONTEXT, Facts
from cloister.privacy.consent import (
    DECISION_CONTEXT,
    OFFER_CONTEXT,
    PLAN_CONTEXT,
    WITHDRAWAL_CONTEXT,
    Decision,
    Offer,
    Withdrawal,
)
from cloister.privacy.errors import (
    UNWRITABLE,
    ChannelError,
    CloisterError,
    EnrolmentError,
    PlanError,
    TransportError,
    areas,
)
from cloister.privacy.evidence.log import now
from cloister.privacy.identity import Roster
from cloister.privacy.plan import Plan
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire import consortium_pb2_grpc as rpc
from cloister.privacy.wire.endorsement import Endorsement
from cloister.privacy.wire.joining import ROSTER_CONTEXT, Invite, Membership, Request
from cloister.privacy.wire.portions import BUNDLE_LIMIT, Wish, Word, cut, joined
from cloister.privacy.wire.signed import Signed
from cloister.privacy.wire.succession import Handover, heir

TIMEOUT_S = 20.0
_EVIDENCE_S = 300.0
_NONCE = 32
_OPTIONS = [
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True)
class Proposal:
    """A plan and the lead's signatures over it, verified."""

    plan: Plan
    signed: Signed


class Line:
    """A connection to the service under one certificate; every failure has a name.

    Args:
        address: ``host:port``.
        authority: PEM of the authority that vouches for the server.
        key, certificate: PEM of what this end presents.
        timeout: seconds that a call may take.
    """

    def __init__(
        self, address: str, *, authority: str, key: bytes, certificate: str, timeout: float = TIMEOUT_S
    ) -> None:
        self._address = address
        self._timeout = timeout
        self.certificate = fingerprint(certificate)
        credentials = grpc.ssl_channel_credentials(authority.encode(), key, certificate.encode())
        self._channel = grpc.secure_channel(address, credentials, [*_OPTIONS, *grpc_options(address)])
        self._stub = rpc.ConsortiumStub(self._channel)

    def ask(self, method: str, request: Any, timeout: float | None = None, *, packed: bool = False) -> Any:
        """The answer to a call.

        Args:
            method: its name.
            request: the request, or an iterator of requests where the method takes several.
            timeout: seconds that the call may take, if not those of the line.
            packed: compress it; only what holds nothing that is secret from a member.

        Raises:
            TransportError: the lead cannot be reached, or what was asked is not of the protocol.
            CloisterError: the lead refuses, with the id that it gives.
        """
        try:
            packing = grpc.Compression.Gzip if packed else None
            return getattr(self._stub, method)(request, timeout=timeout or self._timeout, compression=packing)
        except grpc.RpcError as error:
            raise refusal(error, self._address) from error

    def ask_all(self, method: str, request: Any) -> tuple[Any, ...]:
        """All answers to a call that gives several; raises as ``ask``."""
        return tuple(self.each(method, request, self._timeout))

    def each(self, method: str, request: Any, timeout: float) -> Iterator[Any]:
        """The answers to a call that gives several, one after another; raises as ``ask``."""
        call = getattr(self._stub, method)(request, timeout=timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise refusal(error, self._address) from error
        finally:
            call.cancel()  # where whoever reads has had enough

    def stream(self, method: str, request: Any) -> Any:
        """A call that goes on until it is cancelled: an iterator that raises ``grpc.RpcError``.

        Args:
            method: its name.
            request: the request, or an iterator of requests where the method takes several.
        """
        return getattr(self._stub, method)(request)

    def refusal(self, error: grpc.RpcError) -> CloisterError:
        """A failure of ``stream`` by its name."""
        return refusal(error, self._address)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


class Consortium(AbstractContextManager["Consortium"]):
    """A member's connection to the lead.

    Args:
        folder: the folder of a site that has joined.

    Raises:
        EnrolmentError: ``not_enrolled``.
    """

    def __init__(self, folder: SiteFolder, timeout: float = TIMEOUT_S) -> None:
        self._folder = folder
        self._member: Stored = folder.membership
        self._lead = self._member.leader
        self.line = Line(
            self._member.service,
            authority=self._member.authority,
            key=folder.tls_key,
            certificate=self._member.certificate,
            timeout=timeout,
        )

    def open(self) -> Facts:
        """What the lead's end sees of the connection, verified, checked and logged.

        Raises:
            ChannelError: ``signature_invalid``, ``wrong_context``, ``tls_version_too_low`` or
                ``tls_group_not_pq``.
        """
        nonce = secrets.token_bytes(_NONCE)
        answer = Signed.of(self.line.ask("Open", pb.Challenge(nonce=nonce)))
        own = self.line.certificate
        self._follow(answer, FACTS_CONTEXT)
        try:
            facts = Facts.stated(answer.open(self._lead, FACTS_CONTEXT), nonce, own)
        except ChannelError as error:
            self._folder.log.append("channel.refused", route="consortium", reason=error.id)
            raise
        self._folder.log.append("channel.opened", party=self._lead.name, **facts.fields(own, facts.server))
        return facts

    def roster(self) -> Roster:
        """The lead's roster of now, verified and kept in the folder."""
        signed = Signed.of(self.line.ask("Roster", pb.Empty()))
        self._follow(signed, ROSTER_CONTEXT)
        roster = self._folder.keep_roster(signed, handovers=self.handovers)
        told = self.line.ask_all("Endorsements", pb.Empty())
        self._folder.keep_endorsements(bytes(notice.content) for notice in told)
        return roster

    def endorse(self, found: Endorsement) -> None:
        """Hands in what an authority has signed for this site's own keys; the lead gives it to everybody."""
        self.line.ask("Endorse", pb.Notice(content=found.to_bytes()))

    def _follow(self, answer: Signed, context: str) -> None:
        """Takes on new keys of the lead if an answer needs them and the known ones have signed for them.

        Raises:
            ChannelError: ``signature_invalid``, no such keys verify the answer; or as ``Handover.opened``.
        """
        try:
            answer.open(self._lead, context)
        except ChannelError:
            new = heir(self._lead, self.handovers(), self._member.consortium)
            answer.open(new, context)
            self._folder.follow_lead(new)
            self._member, self._lead = self._folder.membership, new

    def handovers(self) -> tuple[Handover, ...]:
        """Every change of a member's keys, oldest first; not verified."""
        told = self.line.ask_all("Successions", pb.Empty())
        return tuple(Handover.from_bytes(notice.content) for notice in told)

    def succeed(self, handover: Handover) -> Membership:
        """Hands in new keys of this site; what the lead answers, verified."""
        answer = Signed.of(self.line.ask("Succeed", pb.Notice(content=handover.to_bytes())))
        return Membership.opened(answer, self._lead, handover.old)

    def withdraw(self, withdrawal: Withdrawal) -> None:
        """Signs and sends that this site leaves a job, or the consortium; of a job that the lead knows."""
        signed = Signed.make(withdrawal.to_bytes(), self._folder.identity, WITHDRAWAL_CONTEXT)
        try:
            self.line.ask("Withdraw", pb.Signed(**signed.fields()))
        except PlanError as error:
            if error.id != "plan_unknown":
                raise

    def offer(self, offer: Offer) -> None:
        """Signs and sends the name of a dataset that plans may use."""
        signed = Signed.make(offer.to_bytes(), self._folder.identity, OFFER_CONTEXT)
        self.line.ask("Offer", pb.Signed(**signed.fields()))

    def proposals(self) -> tuple[Proposal, ...]:
        """Plans for this site.

        Raises:
            PlanError: ``plan_unsigned``, ``plan_malformed``, or ``plan_unknown``: it is not for this site.
        """
        plans = self.line.ask_all("Proposals", pb.Empty())
        return tuple(self._verified(Signed.of(plan)) for plan in plans)

    def _verified(self, signed: Signed) -> Proposal:
        refusal = PlanError("plan_unsigned", "A plan is not signed by the lead that this site knows.")
        try:
            plan = Plan.from_bytes(signed.open(self._lead, PLAN_CONTEXT))
        except ChannelError as error:
            raise refusal from error
        if (plan.consortium, plan.lead.identity) != (self._member.consortium, self._lead.digest()):
            raise refusal
        plan.site(self._folder.name)
        return Proposal(plan, signed)

    def policy(self, plan: Plan) -> bytes:
        """The consortium's policy that a plan names; not compared with the plan."""
        asked = canonical.encode({"policy": plan.policy})
        return bytes(self.line.ask("Policy", pb.Notice(content=asked)).content)

    def decide(self, decision: Decision) -> None:
        """Signs and sends this site's decision on a plan."""
        signed = Signed.make(decision.to_bytes(), self._folder.identity, DECISION_CONTEXT)
        self.line.ask("Decide", pb.Signed(**signed.fields()))

    def status(self) -> Mapping[str, Any]:
        """Who is connected (``present``) and where jobs stand, as the lead tells it."""
        return notice(self.line.ask("Status", pb.Empty()).content)

    def heads(self, said: bytes) -> bytes:
        """What the lead answers to what this site says of heads (``client.witnessing``)."""
        return bytes(self.line.ask("Heads", pb.Notice(content=said), packed=True).content)

    def wanted(self) -> tuple[Wish, ...]:
        """What the lead wants of this site for the evidence of finished jobs."""
        return tuple(Wish.from_bytes(told.content) for told in self.line.ask_all("Wanted", pb.Empty()))

    def hand_over(self, wish: Wish, files: Mapping[str, bytes]) -> None:
        """Hands over this site's part of the evidence of a job.

        Raises:
            CloisterError: the lead refuses, with the id that it gives.
        """
        first = pb.Portion(data=wish.to_bytes())
        self.line.ask("HandOver", chain([first], cut(files)), timeout=_EVIDENCE_S)

    def bundle(self, wish: Wish) -> dict[str, bytes]:
        """The files of the bundle that a wish names; nothing of it is checked.

        Raises:
            TransportError: ``too_large``, ``protocol``.
            EvidenceError: ``bundle_unknown``.
        """
        told = pb.Notice(content=wish.to_bytes())
        return joined(self.line.each("Bundle", told, _EVIDENCE_S), BUNDLE_LIMIT)

    def say(self, word: Word) -> None:
        """Tells the lead this site's word on a bundle."""
        self.line.ask("Sign", pb.Notice(content=word.to_bytes()))

    def close(self) -> None:
        """Ends the connection."""
        self.line.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def join(folder: SiteFolder, invite: Invite) -> Roster:
    """Makes the site a member; safe to repeat until it has worked.

    Raises:
        EnrolmentError: ``already_enrolled``, ``invite_other_site``, ``invite_expired``, or what the lead
            refuses with.
        TransportError: the lead cannot be reached; nothing has changed here.
        ChannelError, IdentityError: the lead's answer does not verify.
    """
    if folder.joined:
        if folder.membership.invite == invite.id:
            return folder.roster
        raise EnrolmentError(
            "already_enrolled",
            "This site is a member already.",
            "Make another folder for another consortium.",
        )
    if invite.site != folder.name:
        raise EnrolmentError(
            "invite_other_site",
            f"The invite is for {invite.site}; this site is {folder.name}.",
            "Use its own.",
        )
    invite.refuse_expired(now())
    membership, roster = _enrol(folder, invite)
    folder.become_member(Stored.of(invite, membership.certificate), roster)
    own = folder.identity.public
    folder.log.append("site.joined", site=own.name, identity=own.digest())
    with Consortium(folder) as member:
        member.open()
    return folder.roster


def _enrol(folder: SiteFolder, invite: Invite) -> tuple[Membership, Signed]:
    request = Request(
        consortium=invite.consortium,
        invite=invite.id,
        identity=folder.identity.public.to_json(),
        csr=folder.signing_request(),
    ).signed(folder.identity)
    line = Line(
        invite.service,
        authority=invite.authority,
        key=invite.key.encode(),
        certificate=invite.certificate,
    )
    try:
        answer = Signed.of(line.ask("Enrol", pb.Signed(**request.fields())))
    finally:
        line.close()
    membership = Membership.opened(answer, invite.leader, request)
    return membership, Signed.from_json(membership.roster)


def notice(content: bytes) -> Mapping[str, Any]:
    """The value of a notice; raises ``TransportError`` ``protocol`` for anything else."""
    refusal = TransportError("protocol", "The lead said something that is not of the protocol.")
    value = canonical.decode(content, otherwise=refusal)
    if not isinstance(value, dict):
        raise refusal
    return value


def refusal(error: grpc.RpcError, address: str) -> CloisterError:
    """The named error for a failed call; no text of the other side goes into it."""
    code, details = error.code(), str(error.details())
    if code in _AWAY:
        return TransportError(
            "unreachable",
            f"The lead does not answer at {address}.",
            "Check that `cloister lead up` runs there and that this machine may connect to it.",
        )
    if details in UNWRITABLE:  # the lead's fault, and never this machine's: it must not stop for it
        return TransportError(
            "unreachable", f"The lead cannot write at {address} ({details}).", "It goes on once it can."
        )
    for area in areas():
        if details in area.REASONS:
            return area(details, f"The lead refuses: {area.REASONS[details]}.")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "larger than max" in details:
            return TransportError("too_large", "A message is larger than the lead or this site takes.")
        return TransportError("rate_limited", "The lead is busy.", "Try again in a moment.")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return TransportError("protocol", "The lead does not know this call.", "Compare both versions.")
    return TransportError("refused", f"The lead at {address} refuses the call.")
