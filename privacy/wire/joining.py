"""How a site becomes a member: the invite (a file), the request and the membership (signed messages).

The invite is a secret until it is used: it holds the key of a certificate that may call ``Enrol`` and
nothing else, so that mutual TLS holds from the first byte. It names the site it is for and carries the
lead's public keys; whether these are the lead's is for the words to say (``cloister site peers``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest, Name
from cloister.privacy.errors import ChannelError, CloisterError, EnrolmentError, IdentityError, TransportError
from cloister.privacy.frozen import Part
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.wire.signed import Signed

REQUEST_CONTEXT = "cloister/join/1"
MEMBERSHIP_CONTEXT = "cloister/membership/1"
ROSTER_CONTEXT = "cloister/roster/1"
INVITE_LIMIT = 64 << 10
"""Largest invite file in bytes."""

InviteId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-\[\]:]{1,255}:[1-9][0-9]{0,4}$")]
Moment = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"), AfterValidator(lambda text: moment(parse(text)))
]
Pem = Annotated[str, Field(pattern=r"^-----BEGIN ", max_length=16 << 10)]
_P = TypeVar("_P", bound=Part)
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class Invite(Part):
    """What the lead hands to a site.

    Attributes:
        id: 32 hexadecimal digits.
        site: the name that the site will have.
        lead: the lead's public identity, as JSON.
        service: host and port of the consortium service.
        fleet: host and port of Flower's fleet API.
        authority: PEM of the authority that vouches for the lead's server and the sites.
        certificate, key: PEM of the certificate that may call ``Enrol`` only.
        not_after: the invite's last moment, UTC.
    """

    version: Literal[1] = 1
    kind: Literal["cloister-invite"] = "cloister-invite"
    id: InviteId
    site: Name
    consortium: Name
    lead: dict[str, str]
    service: Address
    fleet: Address
    authority: Pem
    certificate: Pem
    key: Pem
    not_after: Moment

    def to_bytes(self) -> bytes:
        """The invite file: canonical JSON."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The invite of a file.

        Raises:
            EnrolmentError: ``invite_malformed``.
        """
        refusal = EnrolmentError(
            "invite_malformed",
            "This file is not an invite.",
            "Ask the lead for a new one: `cloister lead invite`.",
        )
        invite = _parsed(cls, data, refusal) if len(data) <= INVITE_LIMIT else None
        if invite is None:
            raise refusal
        try:
            PublicIdentity.from_json(invite.lead)
        except IdentityError as error:
            raise refusal from error
        return invite

    @property
    def leader(self) -> PublicIdentity:
        """The lead's public identity."""
        return PublicIdentity.from_json(self.lead)

    def refuse_expired(self, now: datetime) -> None:
        """Raises ``EnrolmentError`` ``invite_expired`` after the invite's last moment."""
        if now > parse(self.not_after):
            raise EnrolmentError(
                "invite_expired",
                f"The invite for {self.site} ended at {self.not_after}.",
                "Ask the lead for a new one: `cloister lead invite`.",
            )


class Request(Part):
    """A site's wish to join: its keys and a signing request for its own TLS key.

    Attributes:
        invite: the id of the invite.
        identity: the site's public identity, as JSON; the Flower node key is part of it.
        csr: PEM of the certificate signing request.
    """

    version: Literal[1] = 1
    kind: Literal["cloister-join"] = "cloister-join"
    consortium: Name
    invite: InviteId
    identity: dict[str, str]
    csr: Pem

    def signed(self, site: PrivateIdentity) -> Signed:
        """The request under the site's signatures."""
        return Signed.make(canonical.encode(self.model_dump(mode="json")), site, REQUEST_CONTEXT)

    @classmethod
    def opened(cls, signed: Signed) -> tuple[Self, PublicIdentity]:
        """The request and the identity that it brings, which has signed it.

        Raises:
            TransportError: ``protocol``, it is not a request.
            IdentityError: ``identity_malformed``.
            EnrolmentError: ``request_unsigned``.
        """
        request = _parsed(cls, signed.content, TransportError("protocol", "A request to join is malformed."))
        site = PublicIdentity.from_json(request.identity)
        try:
            signed.open(site, REQUEST_CONTEXT)
        except ChannelError as error:
            raise EnrolmentError(
                "request_unsigned", "A request to join is not signed by the keys that it brings."
            ) from error
        return request, site


class Membership(Part):
    """The lead's answer.

    Attributes:
        request: digest of the content of the request.
        certificate: PEM of the site's certificate.
        roster: the signed roster, as JSON.
    """

    version: Literal[1] = 1
    kind: Literal["cloister-membership"] = "cloister-membership"
    request: Digest
    certificate: Pem
    roster: dict[str, str]

    def signed(self, lead: PrivateIdentity) -> Signed:
        """The membership under the lead's signatures."""
        return Signed.make(canonical.encode(self.model_dump(mode="json")), lead, MEMBERSHIP_CONTEXT)

    @classmethod
    def opened(cls, signed: Signed, lead: PublicIdentity, request: Signed) -> Self:
        """The membership that answers a request.

        Raises:
            ChannelError: ``signature_invalid``, or ``wrong_context`` for an answer to something else.
            TransportError: ``protocol``, it is not a membership.
        """
        content = signed.open(lead, MEMBERSHIP_CONTEXT)
        membership = _parsed(cls, content, TransportError("protocol", "The lead's answer is malformed."))
        if membership.request != canonical.digest(request.content):
            raise ChannelError("wrong_context", "The lead answered another request to join.")
        return membership


def sign_roster(roster: Roster, lead: PrivateIdentity) -> Signed:
    """The roster under the lead's signatures."""
    return Signed.make(canonical.encode(roster.to_json()), lead, ROSTER_CONTEXT)


def open_roster(signed: Signed, lead: PublicIdentity, consortium: str) -> Roster:
    """The roster of a consortium, signed by the lead that is known here.

    Raises:
        ChannelError: ``signature_invalid``.
        IdentityError: ``roster_mismatch``, it names another lead or consortium; or it is malformed.
    """
    refusal = IdentityError("identity_malformed", "A roster is not canonical JSON.")
    roster = Roster.from_json(canonical.decode(signed.open(lead, ROSTER_CONTEXT), otherwise=refusal))
    if roster.consortium != consortium or roster.lead.digest() != lead.digest():
        raise IdentityError("roster_mismatch", "The roster is of another consortium or names another lead.")
    return roster


def moment(when: datetime) -> str:
    """A moment with a time zone as UTC, in whole seconds."""
    return when.astimezone(UTC).strftime(_FORMAT)


def parse(text: str) -> datetime:
    """The moment of a text that ``moment`` wrote.

    Raises:
        ValueError: it is no moment.
    """
    return datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)


def _parsed(kind: type[_P], data: bytes, refusal: CloisterError) -> _P:
    value: Any = canonical.decode(data, otherwise=refusal)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise refusal from error
