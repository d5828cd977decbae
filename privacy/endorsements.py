"""The statements of authorities that a folder holds: one file for each pair of keys and authority.

They are public and prove themselves, so whoever has them may hand them on. Those that are kept were verified
under the keys that they bring; whether anybody trusts these is for a policy to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cloister.privacy import durable, folder
from cloister.privacy.errors import CloisterError, IdentityError, StateError
from cloister.privacy.identity import PublicIdentity, Roster
from cloister.privacy.wire.endorsement import LARGEST, Endorsement

MOST = 16
"""Statements that are kept about the same keys; a lead could make any number of authorities."""
_SHORT = slice(7, 39)


def handed_in(file: Path) -> Endorsement:
    """The statement in a file that somebody was given.

    Raises:
        IdentityError: ``endorsement_malformed``, it cannot be read or is none.
    """
    try:
        with file.open("rb") as opened:
            return Endorsement.from_bytes(opened.read(LARGEST + 1))
    except OSError as error:
        raise IdentityError("endorsement_malformed", f"{file} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True)
class Endorsements:
    """All that a folder holds.

    Attributes:
        path: the folder; it need not be there yet.
    """

    path: Path

    def keep(self, found: Endorsement, roster: Roster) -> PublicIdentity:
        """Keeps a statement about a member, in the place of one that ends earlier.

        Returns:
            The member.

        Raises:
            IdentityError: ``party_unknown``; ``endorsement_other``, it is not about the keys of the roster or
                not of this consortium; ``endorsement_malformed``, there are too many about these keys.
            StateError: ``disk_full``, ``state_unwritable``.
        """
        member = roster.member(found.said.name)
        found.check(roster.consortium, member)
        path = self._place(found)
        if not path.exists() and len([*self.path.glob(f"{_named(member)}-*.json")]) >= MOST:
            raise IdentityError(
                "endorsement_malformed", f"{MOST} authorities have signed for the keys of {member.name}."
            )
        durable.private_folder(self.path)
        with folder.edit(self.path / "lock"):
            if not path.exists() or self._read(path).said.ends < found.said.ends:
                durable.write(path, found.to_bytes())
        return member

    def of(self, member: PublicIdentity) -> tuple[Endorsement, ...]:
        """What is kept about exactly these keys.

        Raises:
            StateError: ``state_damaged``.
        """
        return tuple(self._all(f"{_named(member)}-*.json"))

    def about(self, roster: Roster) -> Iterator[Endorsement]:
        """What is kept about the members of a roster, by their keys of now."""
        for member in roster.members:
            yield from self.of(member)

    def forget(self, members: Iterable[PublicIdentity]) -> None:
        """Removes what is about other keys than these."""
        names = {_named(member) for member in members}
        for path in self.path.glob("*.json"):
            if path.name.partition("-")[0] not in names:
                path.unlink(missing_ok=True)

    def _all(self, pattern: str) -> Iterator[Endorsement]:
        for path in sorted(self.path.glob(pattern)):
            yield self._read(path)

    def _read(self, path: Path) -> Endorsement:
        try:
            found = Endorsement.from_bytes(folder.read(path))
            if self._place(found) != path:
                raise IdentityError("endorsement_malformed", "It is another one than its name says.")
        except StateError:
            raise
        except CloisterError as error:
            raise StateError(
                "state_damaged", f"{path} is damaged.", "Delete it and hand it in again."
            ) from error
        return found

    def _place(self, found: Endorsement) -> Path:
        return self.path / f"{found.said.identity[_SHORT]}-{found.said.authority[_SHORT]}.json"


def _named(member: PublicIdentity) -> str:
    return member.digest()[_SHORT]
