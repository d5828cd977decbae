"""Who belongs to a consortium: invites, certificates and the roster, in one file of the lead.

The file is written whole, so an invite is used, a certificate issued and a member added in one step or
not at all. The command line and the running lead both change it, each under a lock of its own file.

A request to join is refused unless all of this holds:

1. it came under the certificate of a known invite, and names that invite and this consortium;
2. it is signed by the keys that it brings, and brings the name that the invite is for;
3. the invite is unused and not past its date, or was used by exactly these keys: then the answer that
   may have been lost is given again;
4. neither the name nor any key belongs to another member.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from pydantic import ValidationError

from cloister.privacy import canonical, durable, folder
from cloister.privacy.channel.certificates import Authority, fingerprint
from cloister.privacy.errors import ChannelError, CloisterError, EnrolmentError, IdentityError, StateError
from cloister.privacy.evidence.log import EventLog, now
from cloister.privacy.identity import NAME, PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.plan import Digest, Name, Part
from cloister.privacy.wire.joining import (
    Invite,
    InviteId,
    Membership,
    Moment,
    Pem,
    Request,
    moment,
    parse,
    sign_roster,
)
from cloister.privacy.wire.signed import Signed

CERTIFICATE_DAYS = 90
NAME_RULE = "Use 1 to 40 of a-z, 0-9 and hyphen, starting with a letter."
_GRACE_DAYS = 1
"""So much longer than its invite is a bootstrap certificate valid: a late site is told why it is refused."""


class Ticket(Part):
    """An invite as the lead remembers it: without its key."""

    site: Name
    certificate: Digest
    not_after: Moment
    used_by: Digest | Literal[""] = ""


class Issued(Part):
    """A member's certificate."""

    certificate: Pem
    not_after: Moment


class State(Part):
    """The whole file."""

    version: Literal[1] = 1
    roster: dict[str, Any]
    tickets: dict[InviteId, Ticket]
    certificates: dict[Name, Issued]


@dataclass(frozen=True)
class Caller:
    """Who holds a certificate.

    Attributes:
        name: the site.
        certificate: fingerprint.
        invite: id of the invite if the certificate is that of an invite, else "".
        identity: the member's public identity, None for the holder of an invite.
    """

    name: str
    certificate: str
    invite: str = ""
    identity: PublicIdentity | None = None


@dataclass(frozen=True)
class _Members:
    """The file as it was when its inode had ``stamp``."""

    stamp: tuple[int, int, int]
    state: State
    roster: Roster
    callers: dict[str, tuple[Caller, datetime]]


@dataclass(frozen=True)
class Addresses:
    """Where sites reach the lead: ``host:port`` of the consortium service and of Flower's fleet API."""

    service: str
    fleet: str


class Enrolment:
    """The members of one consortium.

    Args:
        path: the file; ``found`` makes it.
        identity: the lead's keys.
        sites: the authority that issues the certificates of members.
        invites: the authority that issues those of invites. It is another one so that whatever trusts
            the members' authority, Flower's listener among it, cannot be reached with an invite.
        log: the lead's event log.
        clock: the time.
    """

    def __init__(
        self,
        path: Path,
        identity: PrivateIdentity,
        *,
        sites: Authority,
        invites: Authority,
        log: EventLog,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._path = path
        self._identity = identity
        self._sites = sites
        self._invites = invites
        self._log = log
        self._clock = clock
        self._seen: _Members | None = None

    @staticmethod
    def found(path: Path, consortium: str, lead: PublicIdentity) -> None:
        """Writes the file of a consortium that has no site yet."""
        state = State(roster=Roster(consortium, (lead,)).to_json(), tickets={}, certificates={})
        durable.write(path, canonical.encode(state.model_dump(mode="json")))

    @property
    def roster(self) -> Roster:
        """All members."""
        return self._members().roster

    def signed_roster(self) -> Signed:
        """All members, under the lead's signatures."""
        return sign_roster(self.roster, self._identity)

    def caller(self, certificate: str) -> Caller:
        """Who holds the certificate of a fingerprint.

        Raises:
            ChannelError: ``certificate_invalid``, the lead knows no such certificate, or it has expired.
        """
        found = self._members().callers.get(certificate)
        if found is None:
            raise ChannelError("certificate_invalid", "The lead issued no such certificate.")
        caller, not_after = found
        if self._clock() > not_after:
            raise ChannelError("certificate_invalid", f"The certificate of {caller.name} has expired.")
        return caller

    # Invites

    def invite(self, site: str, addresses: Addresses, days: float = 7) -> Invite:
        """A new invite for a site.

        Raises:
            EnrolmentError: ``name_taken``, a member has the name.
            IdentityError: ``identity_malformed``, it is no name.
        """
        if not NAME.fullmatch(site):
            raise IdentityError("identity_malformed", f"{site!r} is no name of a site.", NAME_RULE)
        with folder.edit(self._lock):
            members = self._members()
            if any(member.name == site for member in members.roster.members):
                raise EnrolmentError("name_taken", f"{site} is a member already.", "Choose another name.")
            name = secrets.token_hex(16)
            key, certificate = self._invites.client(f"invite:{name}", days + _GRACE_DAYS)
            invite = Invite(
                id=name,
                site=site,
                consortium=members.roster.consortium,
                lead=self._identity.public.to_json(),
                service=addresses.service,
                fleet=addresses.fleet,
                authority=self._sites.certificate_pem.decode(),
                certificate=certificate.decode(),
                key=key.decode(),
                not_after=moment(self._clock() + timedelta(days=days)),
            )
            ticket = Ticket(site=site, certificate=fingerprint(certificate), not_after=invite.not_after)
            self._log.append(
                "invite.issued", party=site, invite=_named(name), not_after=invite.not_after[:10]
            )
            self._write(members.state, tickets={**members.state.tickets, name: ticket})
        return invite

    def enrol(self, caller: Caller, signed: Signed) -> Signed:
        """The membership of the site that sends a request under the certificate of an invite.

        Raises:
            EnrolmentError: ``already_enrolled``, ``invite_unknown``, ``invite_other_site``,
                ``invite_used``, ``invite_expired``, ``request_unsigned`` or ``name_taken``.
            IdentityError: ``identity_malformed`` or ``key_duplicate``.
            ChannelError: ``certificate_invalid``, the signing request is none.
            TransportError: ``protocol``, the request is malformed.
        """
        if not caller.invite:
            raise EnrolmentError("already_enrolled", f"{caller.name} is a member already.")
        try:
            request, site = Request.opened(signed)
            with folder.edit(self._lock):
                certificate = self._admit(caller, request, site)
        except CloisterError as error:
            self._log.append(
                "invite.refused", reason=error.id, party=caller.name, invite=_named(caller.invite)
            )
            raise
        return Membership(
            request=canonical.digest(signed.content),
            certificate=certificate,
            roster=self.signed_roster().to_json(),
        ).signed(self._identity)

    def _admit(self, caller: Caller, request: Request, site: PublicIdentity) -> str:
        members = self._members()
        ticket = members.state.tickets[caller.invite]
        if (request.invite, request.consortium) != (caller.invite, members.roster.consortium):
            raise EnrolmentError("invite_unknown", "A request names another invite than its certificate.")
        if site.name != ticket.site or site.role != "site":
            raise EnrolmentError(
                "invite_other_site", f"The invite is for {ticket.site}, not for {site.name}."
            )
        if ticket.used_by:
            issued = members.state.certificates[ticket.site].certificate
            if ticket.used_by != site.digest() or not _same_key(request.csr, issued):
                raise EnrolmentError("invite_used", f"The invite for {site.name} was used by another key.")
            return issued
        if self._clock() > parse(ticket.not_after):
            raise EnrolmentError("invite_expired", f"The invite for {site.name} ended at {ticket.not_after}.")
        return self._add(members, caller.invite, request, site)

    def _add(self, members: _Members, invite: str, request: Request, site: PublicIdentity) -> str:
        if any(member.name == site.name for member in members.roster.members):
            raise EnrolmentError("name_taken", f"Another member is named {site.name}.")
        roster = Roster(members.roster.consortium, (*members.roster.members, site))
        site.sealing_key  # noqa: B018  # a key that nobody can seal for is refused now, not in a round
        certificate = self._sites.issue(request.csr.encode(), site.name, CERTIFICATE_DAYS).decode()
        ends = moment(self._clock() + timedelta(days=CERTIFICATE_DAYS))
        ticket = members.state.tickets[invite]
        used = Ticket(**{**ticket.model_dump(), "used_by": site.digest()})
        self._record(site, certificate, ends, roster)
        self._write(
            members.state,
            roster=roster.to_json(),
            tickets={**members.state.tickets, invite: used},
            certificates={
                **members.state.certificates,
                site.name: Issued(certificate=certificate, not_after=ends),
            },
        )
        return certificate

    def _record(self, site: PublicIdentity, certificate: str, ends: str, roster: Roster) -> None:
        party: dict[str, Any] = {"party": site.name, "identity": site.digest()}
        names = sorted(member.name for member in roster.members)
        with self._log.batch():
            self._log.append("key.enrolled", **party, role="site")
            self._log.append(
                "certificate.issued",
                party=site.name,
                certificate=fingerprint(certificate),
                use="site",
                not_after=ends[:10],
            )
            self._log.append("site.joined", site=site.name, identity=site.digest())
            self._log.append("roster.changed", roster=roster.digest(), members=names)

    # The file

    @property
    def _lock(self) -> Path:
        return self._path.with_suffix(".lock")

    def _members(self) -> _Members:
        """The file's content, read again whenever another process has replaced it."""
        try:
            found = self._path.stat()
        except OSError as error:
            raise StateError(
                "state_missing", f"{self._path} cannot be read.", "Run `cloister lead init`."
            ) from error
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        seen = self._seen
        if seen is None or seen.stamp != stamp:
            seen = self._seen = _members(stamp, self._path)
        return seen

    def _write(self, state: State, **changes: Any) -> None:
        new = State(**{**{name: getattr(state, name) for name in State.model_fields}, **changes})
        durable.write(self._path, canonical.encode(new.model_dump(mode="json")))


def _members(stamp: tuple[int, int, int], path: Path) -> _Members:
    value = folder.read_json(path)
    try:
        state = State.model_validate(value)
        roster = Roster.from_json(state.roster)
    except (ValidationError, IdentityError) as error:
        raise StateError("state_damaged", f"{path} is damaged.", "Restore it from a backup.") from error
    callers = {}
    for invite, ticket in state.tickets.items():
        # A little beyond the invite's own date: `_admit` then tells a late site why it is refused.
        ends = parse(ticket.not_after) + timedelta(days=_GRACE_DAYS)
        callers[ticket.certificate] = (Caller(ticket.site, ticket.certificate, invite), ends)
    for name, issued in state.certificates.items():
        mark = fingerprint(issued.certificate)
        callers[mark] = (Caller(name, mark, identity=roster.member(name)), parse(issued.not_after))
    return _Members(stamp, state, roster, callers)


def _same_key(csr: str, certificate: str) -> bool:
    try:
        asked = x509.load_pem_x509_csr(csr.encode()).public_key()
    except ValueError:
        return False
    return asked == x509.load_pem_x509_certificate(certificate.encode()).public_key()


def _named(invite: str) -> str:
    """An invite in the log: by the digest of its id."""
    return canonical.digest(invite.encode())
