"""``known.json``: every identity that a verified roster has ever named, and what became of it here.

The roster of now says who is a member. This file says who was: a job goes on under the keys that its plan
names although a member has newer ones by now, a key that was revoked never comes back, and new keys that the
confirmed old ones signed need no second telephone call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from cloister.privacy import canonical, durable, folder
from cloister.privacy.clauses import Digest, Name
from cloister.privacy.errors import CloisterError, IdentityError, StateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.frozen import Part
from cloister.privacy.identity import PublicIdentity, Roster
from cloister.privacy.wire.succession import Handover, heir

Handovers = Callable[[], Iterable[Handover]]


class Known(Part):
    """The file.

    Attributes:
        identities: digest -> identity, of everybody who was ever in a roster.
        revoked: digest of a revoked identity -> its name.
        followed: name -> digest of the keys whose successor was taken as confirmed.
        replaced: digest of keys that a member had before -> its name. Should a roster name them again, no
            authority's statement counts for them any longer.
    """

    version: int = 1
    identities: dict[Digest, dict[str, str]] = Field(default_factory=dict)
    revoked: dict[Digest, Name] = Field(default_factory=dict)
    followed: dict[Name, Digest] = Field(default_factory=dict)
    replaced: dict[Digest, Name] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Known:
        """The file, empty where there is none.

        Raises:
            StateError: ``state_damaged`` or ``permissions``.
        """
        if not path.exists():
            return cls()
        try:
            return cls.model_validate(folder.read_json(path))
        except ValidationError as error:
            raise StateError("state_damaged", f"{path} is damaged.", "Restore it from a backup.") from error

    def identity(self, digest: str) -> PublicIdentity:
        """The identity of a digest.

        Raises:
            IdentityError: ``roster_mismatch``, no roster ever named it.
        """
        if digest not in self.identities:
            raise IdentityError("roster_mismatch", "A plan names keys that were in no roster here.")
        return PublicIdentity.from_json(self.identities[digest])

    def seen(self, roster: Roster) -> tuple[Known, tuple[PublicIdentity, ...]]:
        """With a verified roster taken in; and who was revoked by it.

        Raises:
            IdentityError: ``key_revoked``, it names keys that were revoked before.
        """
        now = {member.digest(): member for member in roster.members}
        for digest, member in now.items():
            if digest in self.revoked:
                raise IdentityError(
                    "key_revoked",
                    f"The roster names keys of {member.name} that were revoked.",
                    "Ask the lead; do not approve anything.",
                )
        names = {member.name for member in roster.members}
        gone = tuple(
            PublicIdentity.from_json(value)
            for digest, value in self.identities.items()
            if value["name"] not in names and digest not in self.revoked
        )
        identities = {**self.identities, **{digest: member.to_json() for digest, member in now.items()}}
        revoked = {**self.revoked, **{party.digest(): party.name for party in gone}}
        before = {
            digest: value["name"]
            for digest, value in self.identities.items()
            if value["name"] in names and digest not in now
        }
        changes = {"identities": identities, "revoked": revoked, "replaced": {**self.replaced, **before}}
        return self.model_copy(update=changes), gone

    def keep(self, path: Path) -> None:
        """Writes the file."""
        durable.write(path, canonical.encode(self.model_dump(mode="json")))


def follow(
    confirmed: dict[str, str], known: Known, roster: Roster, handovers: Handovers, log: EventLog
) -> tuple[dict[str, str], Known]:
    """Confirmations after a new roster: new keys count where the confirmed old ones have signed for them.

    Args:
        confirmed: name -> digest of the identity that was confirmed.
        known: with the roster taken in.
        roster: the new one.
        handovers: asked for only where a confirmed member has other keys now.
        log: of the site.
    """
    kept, followed = dict(confirmed), dict(known.followed)
    for member in roster.members:
        digest, before = member.digest(), confirmed.get(member.name)
        if before in (None, digest) or before not in known.identities:
            continue
        fields: dict[str, Any] = {"party": member.name, "identity": digest}
        log.append("key.rotated", **fields, previous=before)
        try:
            signed = heir(known.identity(before), handovers(), roster.consortium).digest() == digest
        except CloisterError:
            signed = False  # then somebody compares words again
        if signed:
            log.append("key.confirmed", **fields, method="signature")
            kept[member.name], followed[member.name] = digest, before
    gone = set(known.revoked.values()) - {member.name for member in roster.members}
    kept = {name: digest for name, digest in kept.items() if name not in gone}
    return kept, known.model_copy(update={"followed": followed})
