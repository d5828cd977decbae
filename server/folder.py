"""The lead's folder. Everything in it is for its owner only.

In a locked folder, the files that ``SECRETS`` names are encrypted (``privacy.vault``).

====================  ======================================================================
``config.json``       the consortium's name, the host and ports that sites reach
``vault.json``        where the key of a locked folder is (``privacy.keyring``)
``identity/``         the lead's keys
``authorities/``      three authorities: ``sites``, ``operator`` and ``invites``
``tls/``              ``server`` (vouched for by ``sites``: what sites connect to), ``operator`` and
                      ``loopback`` (by ``operator``: the operator's client and the listener it talks to)
``roster.json``       members, their certificates and the invites (``server.membership``)
``endorsements/``     what authorities signed about members' keys (``privacy.endorsements``)
``policy.yaml``       the consortium's policy, if there is one (``server.policies``)
``log/``              the event log
``jobs/``             one folder each (``server.jobs``)
``lock``              held by the one process that runs the consortium
====================  ======================================================================

The three authorities keep three doors apart: a certificate of one opens nothing that trusts another.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from cloister.privacy import canonical, durable, folder, keyring
from cloister.privacy.channel.certificates import Authority
from cloister.privacy.clauses import Name
from cloister.privacy.endorsements import Endorsements
from cloister.privacy.errors import StateError, UsageError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.frozen import Part
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.keysource import KeySource
from cloister.privacy.vault import Vault
from cloister.server.enrolment import Addresses, Enrolment
from cloister.server.membership import MembersFile

SITES, OPERATOR, INVITES = "sites", "operator", "invites"
SERVER, LOOPBACK = "server", "loopback"
SECRETS = (
    "identity/identity.key",
    "authorities/*.key",
    "tls/*.key",
    "jobs/*/checkpoint",
    "jobs/*/versions/[0-9]*",
)
"""Patterns of all secret files of a lead."""
_CERTIFICATE_DAYS = 365
_LOCAL = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_DO = "Run `cloister lead init` first, or name the folder with --dir."

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(Part):
    """``config.json``.

    Attributes:
        consortium: its name.
        host: the name or address under which sites reach the lead.
        port_fleet: Flower's fleet API.
        port_consortium: the consortium service.
    """

    version: Literal[1] = 1
    consortium: Name
    host: str = "localhost"
    port_fleet: Port = 8440
    port_consortium: Port = 8441

    @property
    def addresses(self) -> Addresses:
        """Where sites reach the lead."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return Addresses(f"{host}:{self.port_consortium}", f"{host}:{self.port_fleet}")

    @property
    def bind(self) -> str:
        """The address to listen on: a lead that is reached over loopback is reached by nobody else."""
        return "127.0.0.1" if self.host in _LOCAL else "0.0.0.0"  # noqa: S104  # sites are elsewhere


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    key: bytes
    certificate: bytes


@dataclass(frozen=True)
class LeadFolder:
    """The folder of a lead that was made by ``create``."""

    path: Path

    @classmethod
    def create(
        cls, path: Path, settings: Settings, name: str = "lead", source: KeySource | None = None
    ) -> Self:
        """Makes the folder: keys, authorities, certificates and a roster with nobody but the lead.

        Args:
            path: a folder that does not exist or is empty.
            settings: what ``config.json`` says.
            name: the lead's own name among the members.
            source: where the key is under which all secrets are encrypted; None leaves them in clear.

        Raises:
            UsageError: ``folder_in_use``, or ``option_invalid`` for a host that is none.
            IdentityError: ``identity_malformed``, a name is none.
            StateError: ``state_unwritable``, ``disk_full``, ``state_sealed`` or ``permissions``.
        """
        _check_host(settings.host)
        identity = PrivateIdentity.generate(name, "lead")
        folder.claim(path)
        vault = keyring.create(path, source)
        identity.save(path / "identity", vault)
        authorities, tls = path / "authorities", path / "tls"
        for part in (authorities, tls, path / "jobs", path / "log"):
            durable.private_folder(part)
        made = {
            door: Authority.create(f"{settings.consortium} {door}") for door in (SITES, OPERATOR, INVITES)
        }
        for door, authority in made.items():
            authority.save(authorities, door, vault)
        hosts = tuple(dict.fromkeys((settings.host, *_LOCAL)))
        pairs = {
            SERVER: made[SITES].server(settings.host, hosts, days=_CERTIFICATE_DAYS),
            LOOPBACK: made[OPERATOR].server("localhost", _LOCAL, days=_CERTIFICATE_DAYS),
            OPERATOR: made[OPERATOR].client("operator", days=_CERTIFICATE_DAYS),
        }
        for door, (key, certificate) in pairs.items():
            vault.write(tls / f"{door}.key", key)
            durable.write(tls / f"{door}.pem", certificate)
        MembersFile.found(path / "roster.json", settings.consortium, identity.public)
        durable.write(path / "config.json", canonical.encode(settings.model_dump(mode="json")))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """A folder that is there.

        Raises:
            StateError: ``state_missing``.
        """
        if not (path / "config.json").is_file():
            raise StateError("state_missing", f"{path} is not a lead's folder.", _DO)
        return cls(path)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Held by the process that runs the consortium.

        Raises:
            StateError: ``state_locked``, another one does.
        """
        with folder.hold(self.path / "lock"):
            keyring.settle(self.path, SECRETS)
            yield

    @property
    def is_running(self) -> bool:
        """Whether a process runs the consortium now."""
        try:
            with folder.hold(self.path / "lock"):
                return False
        except StateError as error:
            if error.id != "state_locked":
                raise
            return True

    def change_key(self, source: KeySource) -> None:
        """Encrypts all secrets under a new key; see ``keyring.change``.

        Raises:
            StateError: ``state_locked``, the lead runs; or as ``keyring.change``.
        """
        with folder.hold(self.path / "lock"):
            keyring.change(self.path, source, SECRETS)

    @cached_property
    def vault(self) -> Vault:
        """How the folder keeps its secrets."""
        return keyring.open_vault(self.path)

    @cached_property
    def settings(self) -> Settings:
        """``config.json``; raises ``StateError`` ``state_damaged``."""
        try:
            return Settings.model_validate(folder.read_json(self.path / "config.json"))
        except ValidationError as error:
            raise StateError("state_damaged", f"{self.path / 'config.json'} is damaged.") from error

    @cached_property
    def identity(self) -> PrivateIdentity:
        """The lead's keys."""
        return PrivateIdentity.load(self.path / "identity", self.vault)

    @cached_property
    def log(self) -> EventLog:
        """The lead's event log."""
        return EventLog.open(self.path / "log", self.identity)

    @cached_property
    def enrolment(self) -> Enrolment:
        """Members, certificates and invites."""
        return Enrolment(
            self.path / "roster.json",
            self.identity,
            sites=self.authority(SITES),
            invites=self.authority(INVITES),
            log=self.log,
        )

    @property
    def jobs(self) -> Path:
        """The folder of jobs."""
        return self.path / "jobs"

    @property
    def endorsements(self) -> Endorsements:
        """What authorities have signed about members' keys, as far as it was handed in."""
        return Endorsements(self.path / "endorsements")

    def authority(self, door: str) -> Authority:
        """One of the authorities ``sites``, ``operator`` and ``invites``.

        Raises:
            StateError: ``state_missing``, ``state_damaged``, ``state_sealed`` or ``permissions``.
        """
        return Authority.load(self.path / "authorities", door, self.vault)

    def tls(self, name: str) -> Pair:
        """One of the certificates ``server``, ``loopback`` and ``operator``."""
        tls = self.path / "tls"
        return Pair(self.vault.read(tls / f"{name}.key"), folder.read(tls / f"{name}.pem"))


def _check_host(host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        if not _HOST.fullmatch(host):
            raise UsageError(
                "option_invalid", f"{host!r} is no host name.", "Name the host that sites can reach."
            ) from error
