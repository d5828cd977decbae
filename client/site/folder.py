"""The site's folder. Everything in it is for its owner only, and every key in it was made in it.

In a locked folder, the files that ``SECRETS`` names are encrypted (``privacy.vault``).

=====================  ======================================================================
``config.json``        the site's name, and whose ledger it charges if several folders share one
``vault.json``         where the key of a locked folder is (``privacy.keyring``)
``identity/``          the site's keys; the Flower node key is one of them
``tls/site.key``       the key of the site's certificate
``membership.json``    what joining brought: addresses, authority, certificate, the lead's keys
``roster.json``        the newest roster, as the lead signed it
``policy.yaml``        what the site allows (``client.site.policies``)
``identifiers.json``   patterns of identifiers that the site wrote itself, if it did
``confirmed.json``     whose words were compared, by the digest of the identity
``endorsements/``      what authorities signed about members' keys (``privacy.endorsements``)
``known.json``         everybody who was ever in a roster (``client.site.members``)
``log/``               the event log
``witnessed/``         heads of the others' logs (``privacy.evidence.witnessing``)
``retired/``           keys and logs from before a change of keys (``client.site.rotation``)
``next/``              new keys while they are being changed
``restored.json``      the folder is a copy, and what happened since must be charged (``client.restoration``)
``lock``               held by the one process that is the site's agent
=====================  ======================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError

from cloister.client.site.members import Handovers, Known, follow
from cloister.privacy import canonical, durable, folder, keyring
from cloister.privacy.channel import certificates
from cloister.privacy.clauses import Digest, Name
from cloister.privacy.endorsements import Endorsements
from cloister.privacy.errors import ChannelError, EnrolmentError, IdentityError, StateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.frozen import Part
from cloister.privacy.identity import PrivateIdentity, PublicIdentity, Roster
from cloister.privacy.keysource import KeySource
from cloister.privacy.policy.template import template
from cloister.privacy.vault import Vault
from cloister.privacy.wire.endorsement import Endorsement
from cloister.privacy.wire.joining import Address, Invite, InviteId, Pem, open_roster
from cloister.privacy.wire.signed import Signed

_DO = "Run `cloister site init` first, or name the folder with --dir."
_JOIN = "Run `cloister site join INVITE` first."
_P = TypeVar("_P", bound=Part)

SECRETS = (
    "identity/identity.key",
    "retired/*/identity/identity.key",
    "next/identity/identity.key",
    "next/tls.key",
    "tls/site.key",
    "datasets/*.key",
    "jobs/*/ratchet.key",
    "jobs/*/sums.json",
    "jobs/*/audit.json",
    "jobs/*/canaries.json",
    "jobs/*/rests/*.rest",
)
"""Patterns of all secret files of a site."""


class Shared(Part):
    """Which ledger a folder charges, where several folders share one (``client.site.sharing``).

    Attributes:
        folder: the owner's, as an absolute path; "" where the ledger is this folder's own.
        id: what the ledger calls this folder.
    """

    folder: str
    id: Annotated[str, Field(pattern=r"^(owner|[0-9a-f]{32})$")]


class Settings(Part):
    """``config.json``."""

    version: Literal[1] = 1
    name: Name
    ledger: Shared | None = None


class Stored(Part):
    """``membership.json``: the invite's lasting parts and the site's certificate."""

    version: Literal[1] = 1
    invite: InviteId
    consortium: Name
    lead: dict[str, str]
    service: Address
    fleet: Address
    authority: Pem
    certificate: Pem

    @classmethod
    def of(cls, invite: Invite, certificate: str) -> Self:
        """What to keep of an invite and the answer to it."""
        kept = {name: getattr(invite, name) for name in cls.model_fields if name in type(invite).model_fields}
        return cls(**{**kept, "invite": invite.id, "certificate": certificate})

    @property
    def leader(self) -> PublicIdentity:
        """The lead's public identity."""
        return PublicIdentity.from_json(self.lead)


class Confirmations(Part):
    """``confirmed.json``: name -> digest of the identity whose words were compared."""

    version: Literal[1] = 1
    confirmed: dict[Name, Digest]


@dataclass(frozen=True)
class Peer:
    """A member of the roster as this site sees it.

    Attributes:
        identity: its public identity.
        confirmed: its words were compared here, and its keys are still the same.
        own: it is this site itself.
        followed: its new keys count as confirmed because the confirmed old ones have signed for them.
        endorsements: what authorities, whichever, have signed for exactly these keys.
    """

    identity: PublicIdentity
    confirmed: bool
    own: bool
    followed: bool = False
    endorsements: tuple[Endorsement, ...] = ()

    def doubts(self, authorities: tuple[str, ...], today: str) -> tuple[str, ...] | None:
        """Why its keys do not count under a policy that names these authorities, on a day: what is wrong with
        each statement, () where there is none. None: they count.
        """
        if self.confirmed or self.own or self.vouched(authorities, today):
            return None
        return tuple(_doubt(one, authorities, today) for one in self.endorsements)

    def vouched(self, authorities: tuple[str, ...], today: str) -> tuple[Endorsement, ...]:
        """The statements that count under a policy that names these authorities, on a day."""
        return tuple(one for one in self.endorsements if not _doubt(one, authorities, today))


def _doubt(found: Endorsement, authorities: tuple[str, ...], today: str) -> str:
    """Why a statement does not count; "" if it does."""
    try:
        found.standing(authorities, today)
    except IdentityError as error:
        return error.what
    return ""


@dataclass(frozen=True)
class SiteFolder:
    """The folder of a site that was made by ``create``."""

    path: Path

    @classmethod
    def create(cls, path: Path, name: str, source: KeySource | None = None) -> Self:
        """Makes the folder, its policy and the site's keys; with a ``source``, no secret is in clear.

        Raises:
            UsageError: ``folder_in_use``.
            IdentityError: ``identity_malformed``, the name is none.
            StateError: ``state_unwritable``, ``disk_full``, ``state_sealed`` or ``permissions``.
        """
        identity = PrivateIdentity.generate(name, "site")
        folder.claim(path)
        vault = keyring.create(path, source)
        identity.save(path / "identity", vault)
        for part in (path / "tls", path / "log"):
            durable.private_folder(part)
        vault.write(path / "tls" / "site.key", certificates.key_pem(certificates.new_tls_key()))
        durable.write(path / "policy.yaml", template(datetime.now(UTC).date()).encode())
        _write(path / "config.json", Settings(name=name))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """A folder that is there.

        Raises:
            StateError: ``state_missing``.
        """
        if not (path / "config.json").is_file():
            raise StateError("state_missing", f"{path} is not a site's folder.", _DO)
        return cls(path)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Held by the site's agent.

        Raises:
            StateError: ``state_locked``, another one runs.
        """
        with folder.hold(self.path / "lock"):
            keyring.settle(self.path, SECRETS)
            if (self.path / "next" / "handover.json").exists():
                raise StateError(
                    "rotation_unfinished",
                    f"A change of keys in {self.path} was interrupted.",
                    f"Run: cloister site rotate --dir {self.path}",
                )
            yield

    def change_key(self, source: KeySource) -> None:
        """Encrypts all secrets under a new key; see ``keyring.change``.

        Raises:
            StateError: ``state_locked``, the agent runs; or as ``keyring.change``.
        """
        with folder.hold(self.path / "lock"):
            keyring.change(self.path, source, SECRETS)

    @cached_property
    def vault(self) -> Vault:
        """How the folder keeps its secrets."""
        return keyring.open_vault(self.path)

    @cached_property
    def identity(self) -> PrivateIdentity:
        """The site's keys."""
        return PrivateIdentity.load(self.path / "identity", self.vault)

    @cached_property
    def log(self) -> EventLog:
        """The site's event log."""
        return EventLog.open(self.path / "log", self.identity)

    @property
    def ledger(self) -> Shared | None:
        """Which ledger it charges; None where it has one to itself.

        Raises:
            StateError: ``state_damaged``, ``permissions`` or ``state_missing``.
        """
        return _read(self.path / "config.json", Settings).ledger

    def charge_to(self, ledger: Shared) -> None:
        """Keeps which ledger it charges."""
        settings = _read(self.path / "config.json", Settings)
        _write(self.path / "config.json", settings.model_copy(update={"ledger": ledger}))

    @property
    def name(self) -> str:
        """The site's name."""
        return self.identity.public.name

    @property
    def tls_key(self) -> bytes:
        """PEM of the key of the site's certificate."""
        return self.vault.read(self.path / "tls" / "site.key")

    def signing_request(self) -> str:
        """PEM of a request for a certificate over that key."""
        return certificates.signing_request(self._tls_key(), self.name).decode()

    def _tls_key(self) -> ec.EllipticCurvePrivateKey:
        damaged = StateError("state_damaged", f"The TLS key in {self.path} is damaged.")
        try:
            key = serialization.load_pem_private_key(self.tls_key, password=None)
        except ValueError as error:
            raise damaged from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise damaged
        return key

    # Membership

    @property
    def joined(self) -> bool:
        """Whether the site is a member."""
        return (self.path / "membership.json").exists()

    @property
    def membership(self) -> Stored:
        """What joining brought.

        Raises:
            EnrolmentError: ``not_enrolled``.
            StateError: ``state_damaged`` or ``permissions``.
        """
        if not self.joined:
            raise EnrolmentError("not_enrolled", "This site is not a member of a consortium yet.", _JOIN)
        return _read(self.path / "membership.json", Stored)

    def become_member(self, membership: Stored, roster: Signed) -> None:
        """Keeps what joining brought; the roster first, so that a member always has one.

        Raises:
            ChannelError: ``certificate_invalid``, the certificate is not over this site's key; or as
                ``keep_roster``.
        """
        certificates.fingerprint(membership.certificate)  # it is a certificate
        key = x509.load_pem_x509_certificate(membership.certificate.encode()).public_key()
        if key != self._tls_key().public_key():
            raise ChannelError("certificate_invalid", "The lead issued a certificate over another key.")
        self.keep_roster(roster, membership)
        _write(self.path / "membership.json", membership)

    def follow_lead(self, new: PublicIdentity) -> None:
        """Takes on new keys of the lead, for which its old ones have signed: they count from now on."""
        member = self.membership
        self.log.append("key.rotated", party=new.name, identity=new.digest(), previous=member.leader.digest())
        _write(self.path / "membership.json", member.model_copy(update={"lead": new.to_json()}))

    # Roster and confirmations

    def keep_roster(
        self, signed: Signed, membership: Stored | None = None, handovers: Handovers = tuple
    ) -> Roster:
        """Verifies a roster under the lead's keys and keeps it.

        Args:
            signed: the roster.
            membership: what joining brings, before it is kept.
            handovers: gives every change of a member's keys; asked only where one is needed.

        Raises:
            ChannelError: ``signature_invalid``.
            IdentityError: ``roster_mismatch``: another lead or consortium, or this site is not in it
                with its own keys; ``key_revoked``: it names keys that were revoked before.
        """
        member = membership or self.membership
        roster = open_roster(signed, member.leader, member.consortium)
        own = [site.digest() for site in roster.sites if site.name == self.name]
        if own != [self.identity.public.digest()]:
            raise IdentityError("roster_mismatch", "The roster does not hold this site with its own keys.")
        path = self.path / "roster.json"
        if self._known_path.exists() and Signed.from_json(folder.read_json(path)).content == signed.content:
            return roster
        known, gone = Known.read(self._known_path).seen(roster)
        for party in gone:
            self.log.append("key.revoked", party=party.name, identity=party.digest())
        confirmed, known = follow(self._confirmations().confirmed, known, roster, handovers, self.log)
        known.keep(self._known_path)
        _write(self.path / "confirmed.json", Confirmations(confirmed=confirmed))
        durable.write(path, canonical.encode(signed.to_json()))
        return roster

    @property
    def _known_path(self) -> Path:
        return self.path / "known.json"

    @property
    def known(self) -> Known:
        """Everybody who was ever in a roster."""
        found = Known.read(self._known_path)
        return found if found.identities else found.seen(self.roster)[0]

    def identity_of(self, digest: str) -> PrivateIdentity:
        """This site's keys of a digest: those of now, or those of before that a running job still needs.

        Raises:
            IdentityError: ``roster_mismatch``, or ``identity_missing``: they are not kept any longer.
        """
        if digest == self.identity.public.digest():
            return self.identity
        place = self.path / "retired" / digest.removeprefix("sha256:")[:16] / "identity"
        if not place.exists():
            raise IdentityError("roster_mismatch", "A plan names keys that this site does not have.")
        return PrivateIdentity.load(place, self.vault)

    @property
    def roster(self) -> Roster:
        """The newest roster that is kept here, verified again.

        Raises:
            EnrolmentError: ``not_enrolled``.
            ChannelError, IdentityError, StateError: it was altered.
        """
        member = self.membership
        signed = Signed.from_json(folder.read_json(self.path / "roster.json"))
        return open_roster(signed, member.leader, member.consortium)

    def peers(self) -> tuple[Peer, ...]:
        """Every member of the roster, and whether its keys were confirmed here."""
        confirmed, known = self._confirmations().confirmed, self.known
        return tuple(
            Peer(
                member,
                confirmed=member.name == self.name or confirmed.get(member.name) == member.digest(),
                own=member.name == self.name,
                followed=member.name in known.followed and confirmed.get(member.name) == member.digest(),
                # Keys that were replaced are nobody's, whatever an authority once signed.
                endorsements=() if member.digest() in known.replaced else self.endorsements.of(member),
            )
            for member in self.roster.members
        )

    @property
    def endorsements(self) -> Endorsements:
        """What authorities have signed about members' keys, as far as it came here."""
        return Endorsements(self.path / "endorsements")

    def keep_endorsements(self, told: Iterable[bytes]) -> None:
        """Keeps what the lead hands over of authorities' statements; those about nobody here are left out.

        Raises:
            IdentityError, ChannelError: one is none, or its signatures do not hold.
        """
        roster, kept = self.roster, self.endorsements
        current = {member.digest() for member in roster.members}
        kept.forget(roster.members)
        for data in told:
            found = Endorsement.from_bytes(data)
            if found.said.identity in current:
                kept.keep(found, roster)

    def confirm(self, name: str, words: str) -> PublicIdentity:
        """Compares the words that a member read out with those of its keys, and keeps that they agree.

        Args:
            name: the member.
            words: 12 words; case, commas and spacing do not matter.

        Raises:
            IdentityError: ``party_unknown``, or ``fingerprint_mismatch``.
        """
        member = self.roster.member(name)
        if tuple(words.replace(",", " ").lower().split()) != member.words():
            raise IdentityError(
                "fingerprint_mismatch",
                f"These are not the words of {name}'s keys in the roster.",
                "If they were read out right, the lead lists other keys: do not approve anything.",
            )
        self.log.append("key.confirmed", party=name, identity=member.digest(), method="words")
        confirmed = {**self._confirmations().confirmed, name: member.digest()}
        _write(self.path / "confirmed.json", Confirmations(confirmed=confirmed))
        return member

    def _confirmations(self) -> Confirmations:
        path = self.path / "confirmed.json"
        return _read(path, Confirmations) if path.exists() else Confirmations(confirmed={})


RESTORED = "restored.json"


def refuse_restored(site: SiteFolder) -> None:
    """Raises ``StateError`` ``state_restored`` until what happened since the backup has been charged."""
    if (site.path / RESTORED).exists():
        raise StateError(
            "state_restored",
            f"{site.path} was restored, and what happened since the backup is not charged yet.",
            f"Run: cloister site restore --here --dir {site.path}",
        )


def _write(path: Path, value: Part) -> None:
    durable.write(path, canonical.encode(value.model_dump(mode="json")))


def _read(path: Path, kind: type[_P]) -> _P:
    try:
        return kind.model_validate(folder.read_json(path))
    except ValidationError as error:
        raise StateError("state_damaged", f"{path} is damaged.", "Restore it from a backup.") from error
