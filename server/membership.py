"""The members' file of a lead: roster, certificates and invites, written whole and read when it changed.

``server.enrolment`` changes it, under a lock of its own file; the gate in front of Flower, another process,
only reads it (``Admitted``).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from cloister.privacy import canonical, durable, folder
from cloister.privacy.channel.certificates import fingerprint
from cloister.privacy.clauses import Digest, Name
from cloister.privacy.errors import IdentityError, StateError
from cloister.privacy.frozen import Part
from cloister.privacy.identity import PublicIdentity, Roster
from cloister.privacy.wire.joining import InviteId, Moment, Pem, parse

GRACE_DAYS = 1
"""So much longer than its invite is a bootstrap certificate valid: a late site is told why it is refused."""

_FOREVER = datetime.max.replace(tzinfo=UTC)

Stamp = tuple[int, int, int]
"""Inode, time and size of the file: another one has replaced it where they differ."""


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


class Former(Part):
    """Keys that a member had before: its certificate may repeat the change of keys, and nothing else."""

    identity: dict[str, str]
    certificate: Pem


class State(Part):
    """The whole file.

    Attributes:
        roster: all members.
        tickets: every invite.
        certificates: the members' newest.
        former: digest of an identity that was replaced -> what was known of it.
        leads: digest of an identity that the lead had before -> the identity.
        handovers: every change of keys, oldest first (``privacy.wire.succession``).
        revoked: digest of a revoked identity -> the identity.
    """

    version: Literal[1] = 1
    roster: dict[str, Any]
    tickets: dict[InviteId, Ticket]
    certificates: dict[Name, Issued]
    former: dict[Digest, Former] = Field(default_factory=dict)
    leads: dict[Digest, dict[str, str]] = Field(default_factory=dict)
    handovers: list[dict[str, Any]] = Field(default_factory=list)
    revoked: dict[Digest, dict[str, str]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Caller:
    """Who holds a certificate.

    Attributes:
        name: the site.
        certificate: fingerprint.
        invite: id of the invite if the certificate is that of an invite, else "".
        identity: the member's public identity, None for the holder of an invite.
        former: the keys that the certificate is of were replaced; ``identity`` is None then, too.
    """

    name: str
    certificate: str
    invite: str = ""
    identity: PublicIdentity | None = None
    former: PublicIdentity | None = None


@dataclass(frozen=True)
class Members:
    """The file as it was when it had a stamp.

    Attributes:
        stamp: then.
        state: what is in it.
        roster: of it.
        callers: fingerprint of a certificate -> whose it is, and how long it is valid.
    """

    stamp: Stamp
    state: State
    roster: Roster
    callers: dict[str, tuple[Caller, datetime]]

    @classmethod
    def read(cls, path: Path, stamp: Stamp) -> Members:
        """The content of the file.

        Raises:
            StateError: ``state_damaged``.
        """
        value = folder.read_json(path)
        try:
            state = State.model_validate(value)
            roster = Roster.from_json(state.roster)
        except (ValidationError, IdentityError) as error:
            raise StateError("state_damaged", f"{path} is damaged.", "Restore it from a backup.") from error
        callers = {}
        for invite, ticket in state.tickets.items():
            # A little beyond the invite's own date: the lead then tells a late site why it is refused.
            ends = parse(ticket.not_after) + timedelta(days=GRACE_DAYS)
            callers[ticket.certificate] = (Caller(ticket.site, ticket.certificate, invite), ends)
        for former in state.former.values():
            mark = fingerprint(former.certificate)
            old = PublicIdentity.from_json(former.identity)
            callers[mark] = (Caller(old.name, mark, former=old), _FOREVER)
        for name, issued in state.certificates.items():
            mark = fingerprint(issued.certificate)
            callers[mark] = (Caller(name, mark, identity=roster.member(name)), parse(issued.not_after))
        return cls(stamp, state, roster, callers)


class MembersFile:
    """The file of one consortium.

    Args:
        path: of it; ``found`` makes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Members | None = None

    @staticmethod
    def found(path: Path, consortium: str, lead: PublicIdentity) -> None:
        """Writes the file of a consortium that has no site yet."""
        state = State(roster=Roster(consortium, (lead,)).to_json(), tickets={}, certificates={})
        durable.write(path, canonical.encode(state.model_dump(mode="json")))

    def edit(self) -> AbstractContextManager[None]:
        """Held by whoever changes the file, in this process or another."""
        return folder.edit(self._path.with_suffix(".lock"))

    def read(self) -> Members:
        """The content, read again whenever another process has replaced it.

        Raises:
            StateError: ``state_missing``, ``state_damaged``.
        """
        try:
            found = self._path.stat()
        except OSError as error:
            raise StateError(
                "state_missing", f"{self._path} cannot be read.", "Run `cloister lead init`."
            ) from error
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        seen = self._seen
        if seen is None or seen.stamp != stamp:
            seen = self._seen = Members.read(self._path, stamp)
        return seen

    def write(self, state: State, **changes: Any) -> None:
        """Replaces the file by a state with changes in it."""
        new = State(**{**{name: getattr(state, name) for name in State.model_fields}, **changes})
        durable.write(self._path, canonical.encode(new.model_dump(mode="json")))


class Admitted:
    """The fingerprints of the certificates that members use now, for another process of the lead.

    Args:
        path: the file, which is read again whenever it was replaced.
    """

    def __init__(self, path: Path) -> None:
        self._file = MembersFile(path)

    def __call__(self) -> frozenset[str]:
        """The fingerprints; none where the file cannot be read."""
        try:
            callers = self._file.read().callers
        except (OSError, StateError):
            return frozenset()
        return frozenset(mark for mark, (caller, _) in callers.items() if caller.identity)
