"""Who belongs to a consortium: invites, certificates and the roster, in one file of the lead.

The file (``server.membership``) is written whole, so an invite is used, a certificate issued and a member
added in one step or not at all. The command line and the running lead both change it, each under a lock of
its own file.

A request to join is refused unless all of this holds:

1. it came under the certificate of a known invite, and names that invite and this consortium;
2. it is signed by the keys that it brings, and brings the name that the invite is for;
3. the invite is unused and not past its date, or was used by exactly these keys: then the answer that
   may have been lost is given again;
4. neither the name nor any key belongs to another member.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from cloister.privacy import canonical
from cloister.privacy.channel.certificates import Authority, fingerprint
from cloister.privacy.errors import ChannelError, CloisterError, EnrolmentError, IdentityError
from cloister.privacy.evidence.log import EventLog, now
from cloister.privacy.identity import NAME, PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.plan import Plan
from cloister.privacy.wire.joining import (
    Invite,
    Membership,
    Request,
    moment,
    parse,
    sign_roster,
)
from cloister.privacy.wire.signed import Signed
from cloister.privacy.wire.succession import Handover
from cloister.server.membership import (
    GRACE_DAYS,
    Caller,
    Former,
    Issued,
    Members,
    MembersFile,
    Ticket,
)

CERTIFICATE_DAYS = 90
NAME_RULE = "Use 1 to 40 of a-z, 0-9 and hyphen, starting with a letter."


@dataclass(frozen=True)
class Addresses:
    """Where sites reach the lead: ``host:port`` of the consortium service and of Flower's fleet API."""

    service: str
    fleet: str


class Enrolment:
    """The members of one consortium.

    Args:
        path: the members' file (``server.membership``).
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
        self._file = MembersFile(path)
        self._identity = identity
        self._sites = sites
        self._invites = invites
        self._log = log
        self._clock = clock

    @property
    def roster(self) -> Roster:
        """All members."""
        return self._file.read().roster

    def signed_roster(self) -> Signed:
        """All members, under the lead's signatures."""
        return sign_roster(self.roster, self._identity)

    def caller(self, certificate: str) -> Caller:
        """Who holds the certificate of a fingerprint.

        Raises:
            ChannelError: ``certificate_invalid``, the lead knows no such certificate, or it has expired.
        """
        found = self._file.read().callers.get(certificate)
        if found is None:
            raise ChannelError("certificate_invalid", "The lead issued no such certificate.")
        caller, not_after = found
        if self._clock() > not_after:
            raise ChannelError("certificate_invalid", f"The certificate of {caller.name} has expired.")
        return caller

    def roster_of(self, plan: Plan) -> Roster:
        """The parties of a plan under the keys that it names, whether or not they have newer ones by now.

        Raises:
            IdentityError: ``roster_mismatch``, no member ever had one of these keys.
        """
        members = self._file.read()
        state = members.state
        old = [former.identity for former in state.former.values()]
        old += [*state.revoked.values(), *state.leads.values()]
        known = {
            party.digest(): party for party in (*map(PublicIdentity.from_json, old), *members.roster.members)
        }
        wanted = [party.identity for party in (plan.lead, *plan.sites)]
        if not set(wanted) <= set(known):
            raise _never_had()
        return Roster(members.roster.consortium, tuple(known[digest] for digest in wanted))

    def former_lead(self, digest: str) -> PublicIdentity:
        """Keys that the lead had before it was restored.

        Raises:
            IdentityError: ``roster_mismatch``, it never had these.
        """
        found = self._file.read().state.leads.get(digest)
        if found is None:
            raise _never_had()
        return PublicIdentity.from_json(found)

    @property
    def handovers(self) -> tuple[Handover, ...]:
        """Every change of a member's keys, oldest first."""
        return tuple(map(Handover.from_json, self._file.read().state.handovers))

    @property
    def revoked(self) -> Mapping[str, str]:
        """Digest of a revoked identity -> its name."""
        return {digest: one["name"] for digest, one in self._file.read().state.revoked.items()}

    # Changes of keys

    def succeed(self, caller: Caller, handover: Handover) -> Signed:
        """Takes a site's new keys; the same handover again gives the same answer.

        Raises:
            EnrolmentError: ``not_enrolled``.
            TransportError, ChannelError, IdentityError: as ``Handover.opened``, or ``key_duplicate``.
        """
        old = caller.identity or caller.former
        if old is None:
            raise EnrolmentError("not_enrolled", f"{caller.name} is not a member yet.")
        new = handover.opened(old, self.roster.consortium)
        with self._file.edit():
            members = self._file.read()
            if caller.former is None:
                self._replace(members, old, new, handover)
            elif handover.to_json() not in members.state.handovers:
                raise ChannelError("certificate_invalid", f"{caller.name} has newer keys than these.")
        return Membership(
            request=canonical.digest(handover.old.content),
            certificate=self._file.read().state.certificates[new.name].certificate,
            roster=self.signed_roster().to_json(),
        ).signed(self._identity)

    def _replace(
        self, members: Members, old: PublicIdentity, new: PublicIdentity, handover: Handover
    ) -> None:
        state = members.state
        if new.digest() in {*state.former, *state.revoked}:
            raise IdentityError("key_duplicate", f"{new.name} has had these keys before.")
        kept = tuple(new if member.name == new.name else member for member in members.roster.members)
        roster = Roster(members.roster.consortium, kept)
        certificate = self._sites.issue(handover.said.csr.encode(), new.name, CERTIFICATE_DAYS).decode()
        ends = moment(self._clock() + timedelta(days=CERTIFICATE_DAYS))
        with self._log.batch():
            party: dict[str, Any] = {"party": new.name, "identity": new.digest()}
            self._log.append("key.rotated", **party, previous=old.digest())
            self._issued(new.name, certificate, ends)
            self._changed(roster)
        former = Former(identity=old.to_json(), certificate=state.certificates[old.name].certificate)
        self._file.write(
            state,
            roster=roster.to_json(),
            certificates={**state.certificates, new.name: Issued(certificate=certificate, not_after=ends)},
            former={**state.former, old.digest(): former},
            handovers=[*state.handovers, handover.to_json()],
        )

    def become(self, old: PublicIdentity, handover: Handover) -> None:
        """Gives the lead itself new keys; its former ones are still in the roster.

        Raises:
            TransportError, ChannelError, IdentityError: as ``Handover.opened``.
        """
        with self._file.edit():
            members = self._file.read()
            new = handover.opened(old, members.roster.consortium)
            others = (member for member in members.roster.members if member.role != "lead")
            roster = Roster(members.roster.consortium, (new, *others))
            with self._log.batch():
                self._log.append("key.rotated", party=new.name, identity=new.digest(), previous=old.digest())
                self._changed(roster)
            handovers = [*members.state.handovers, handover.to_json()]
            leads = {**members.state.leads, old.digest(): old.to_json()}
            self._file.write(members.state, roster=roster.to_json(), handovers=handovers, leads=leads)

    def revoke(self, name: str, reason: str = "") -> PublicIdentity:
        """Takes a site out of the roster, and its certificates with it; at once at both listeners.

        Args:
            name: the site.
            reason: the id of a reason that is written down, if there is one.

        Raises:
            IdentityError: ``party_unknown``, also for the lead itself.
        """
        with self._file.edit():
            members = self._file.read()
            party = members.roster.member(name)
            if party.role == "lead":
                raise IdentityError("party_unknown", f"{name} is the lead; only sites can be revoked.")
            state = members.state
            past = {
                digest: one.identity for digest, one in state.former.items() if one.identity["name"] == name
            }
            kept = tuple(member for member in members.roster.members if member.name != name)
            roster = Roster(members.roster.consortium, kept)
            with self._log.batch():
                why: dict[str, Any] = {"reason": reason} if reason else {}
                self._log.append("key.revoked", party=name, identity=party.digest(), **why)
                self._changed(roster)
            self._file.write(
                state,
                roster=roster.to_json(),
                certificates={site: one for site, one in state.certificates.items() if site != name},
                former={digest: one for digest, one in state.former.items() if digest not in past},
                revoked={**state.revoked, **past, party.digest(): party.to_json()},
            )
        return party

    def _issued(self, name: str, certificate: str, ends: str) -> None:
        mark = fingerprint(certificate)
        self._log.append("certificate.issued", party=name, certificate=mark, use="site", not_after=ends[:10])

    def _changed(self, roster: Roster) -> None:
        names = sorted(member.name for member in roster.members)
        self._log.append("roster.changed", roster=roster.digest(), members=names)

    # Invites

    def invite(self, site: str, addresses: Addresses, days: float = 7) -> Invite:
        """A new invite for a site.

        Raises:
            EnrolmentError: ``name_taken``, a member has the name.
            IdentityError: ``identity_malformed``, it is no name.
        """
        if not NAME.fullmatch(site):
            raise IdentityError("identity_malformed", f"{site!r} is no name of a site.", NAME_RULE)
        with self._file.edit():
            members = self._file.read()
            if any(member.name == site for member in members.roster.members):
                raise EnrolmentError("name_taken", f"{site} is a member already.", "Choose another name.")
            name = secrets.token_hex(16)
            key, certificate = self._invites.client(f"invite:{name}", days + GRACE_DAYS)
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
            self._file.write(members.state, tickets={**members.state.tickets, name: ticket})
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
            with self._file.edit():
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
        members = self._file.read()
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

    def _add(self, members: Members, invite: str, request: Request, site: PublicIdentity) -> str:
        if any(member.name == site.name for member in members.roster.members):
            raise EnrolmentError("name_taken", f"Another member is named {site.name}.")
        if site.digest() in members.state.revoked:
            raise IdentityError("key_revoked", f"The keys of {site.name} were revoked.")
        roster = Roster(members.roster.consortium, (*members.roster.members, site))
        site.sealing_key  # noqa: B018  # a key that nobody can seal for is refused now, not in a round
        certificate = self._sites.issue(request.csr.encode(), site.name, CERTIFICATE_DAYS).decode()
        ends = moment(self._clock() + timedelta(days=CERTIFICATE_DAYS))
        ticket = members.state.tickets[invite]
        used = Ticket(**{**ticket.model_dump(), "used_by": site.digest()})
        self._record(site, certificate, ends, roster)
        self._file.write(
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
        with self._log.batch():
            self._log.append("key.enrolled", **party, role="site")
            self._issued(site.name, certificate, ends)
            self._log.append("site.joined", site=site.name, identity=site.digest())
            self._changed(roster)


def _same_key(csr: str, certificate: str) -> bool:
    try:
        asked = x509.load_pem_x509_csr(csr.encode()).public_key()
    except ValueError:
        return False
    return asked == x509.load_pem_x509_certificate(certificate.encode()).public_key()


def _named(invite: str) -> str:
    """An invite in the log: by the digest of its id."""
    return canonical.digest(invite.encode())


def _never_had() -> IdentityError:
    return IdentityError("roster_mismatch", "A plan names keys that no member has had.")
