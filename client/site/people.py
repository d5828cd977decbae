"""The people of a site who may approve: their roles, and the public keys that verify their approvals.

A person's private key is not in the folder; it is an Ed25519 key in a file of the person's own, for example
from ``openssl genpkey -algorithm ed25519``. Whoever can write in the folder can change ``people.json`` too:
the keys guard against commands run under somebody else's name, not against the folder's owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError

from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical, durable, folder
from cloister.privacy.clauses import Name
from cloister.privacy.errors import PolicyError, StateError
from cloister.privacy.frozen import Part
from cloister.privacy.policy.request import Instant, Role

CONTEXT = b"cloister/approval/1\0"
PROPOSE = ("lead", "researcher")
"""Roles whose people propose plans."""
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=128)]
_LARGEST = 1 << 14


class Person(Part):
    """One person; ``key`` is the raw Ed25519 public key in hexadecimal, "" without one."""

    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    key: Hex = ""

    @property
    def fingerprint(self) -> str:
        """The digest of the key, by which events name it; "" without one."""
        return canonical.digest(bytes.fromhex(self.key)) if self.key else ""

    @property
    def proposes(self) -> bool:
        """Whether the person proposes plans in some role."""
        return any(role in PROPOSE for role in self.roles)


class Register(Part):
    """``people.json``."""

    version: Literal[1] = 1
    people: dict[Name, Person]


class Statement(Part):
    """What a person says with an approval; ``site`` is the digest of the site's keys."""

    plan: str
    site: str
    person: Name
    role: Role
    at: Instant

    def to_bytes(self) -> bytes:
        """The bytes that are signed."""
        return CONTEXT + canonical.encode(self.model_dump(mode="json"))


@dataclass(frozen=True)
class People:
    """The register of a site's people."""

    site: SiteFolder

    @property
    def _path(self) -> Path:
        return self.site.path / "people.json"

    def all(self) -> dict[str, Person]:
        """Name -> person; empty where nobody was registered."""
        if not self._path.exists():
            return {}
        try:
            return dict(Register.model_validate_json(canonical.encode(folder.read_json(self._path))).people)
        except ValidationError as error:
            raise StateError(
                "state_damaged", f"{self._path} is damaged.", "Restore it from a backup."
            ) from error

    def add(self, name: str, roles: tuple[Role, ...], key: Path | None) -> Person:
        """Registers a person, or replaces the entry.

        Args:
            name: a-z, 0-9 and hyphen.
            roles: at least one.
            key: PEM file of an Ed25519 public key.

        Raises:
            PolicyError: ``approval_invalid``, the name or the key is none, or the key is another person's.
        """
        known = self.all()
        raw = _public(key) if key else ""
        if raw and any(one.key == raw for other, one in known.items() if other != name):
            raise PolicyError("approval_invalid", "Another person is registered with this key.")
        try:
            person = Person(roles=tuple(sorted(set(roles))), key=raw)
            register = Register(people={**known, name: person})
        except ValidationError as error:
            raise PolicyError(
                "approval_invalid", f"{name} is no name of a person.", "Use a-z, 0-9 and hyphen."
            ) from error
        self._note("person.enrolled", person)
        self._write(register)
        return person

    def remove(self, name: str) -> None:
        """Forgets a person, whose approvals no longer count; raises ``PolicyError`` ``approval_invalid``."""
        known = self.all()
        if name not in known:
            raise PolicyError("approval_invalid", f"No person {name} is registered here.")
        self._note("person.removed", known.pop(name))
        self._write(Register(people=known))

    def _note(self, event: str, person: Person) -> None:
        key: dict[str, Any] = {"key": person.fingerprint} if person.key else {}
        for role in person.roles:
            self.site.log.append(event, role=role, **key)

    def _write(self, register: Register) -> None:
        durable.write(self._path, canonical.encode(register.model_dump(mode="json")))


def sign(statement: Statement, path: Path) -> str:
    """A person's signature, in hexadecimal.

    Args:
        statement: what is signed.
        path: PEM file of the person's Ed25519 private key, not encrypted.

    Raises:
        PolicyError: ``approval_invalid``, it holds no such key.
        StateError: ``permissions``, others can read it; ``state_missing``.
    """
    try:
        key = serialization.load_pem_private_key(folder.read(path, "Name the person's key file."), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return key.sign(statement.to_bytes()).hex()


def verifies(statement: Statement, signature: str, key: str) -> bool:
    """Whether a signature is over a statement, by the key (both in hexadecimal)."""
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        public.verify(bytes.fromhex(signature), statement.to_bytes())
    except (InvalidSignature, ValueError):
        return False
    return True


def _public(path: Path) -> str:
    try:
        with path.open("rb") as file:
            key = serialization.load_pem_public_key(file.read(_LARGEST))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path)
    return key.public_bytes_raw().hex()


def _no_key(path: Path) -> PolicyError:
    return PolicyError(
        "approval_invalid",
        f"{path} is not the PEM file of an Ed25519 key.",
        "Make one with `openssl genpkey -algorithm ed25519 -out KEY`; docs/policy.md says more.",
    )
