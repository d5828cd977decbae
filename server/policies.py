"""The consortium's policy: what its people agreed that every site applies beside its own.

==================  =====================================================================
``policy.yaml``     as a person wrote it; plans that are proposed from now on name its digest
``policy/``         every policy that was ever in force (``privacy.policy.shelf``)
==================  =====================================================================

It binds by its digest, which is part of the plan: all sites of a plan approve the same one, and one that is
given other bytes refuses them. It can only forbid: a site decides by the strictest of it and its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloister.privacy import canonical, durable
from cloister.privacy.errors import PolicyError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.policy.reading import read
from cloister.privacy.policy.shelf import Shelf, text
from cloister.privacy.policy.terms import Policy


@dataclass(frozen=True)
class Policies:
    """The policies of a consortium.

    Attributes:
        path: the lead's folder.
        log: the lead's event log.
    """

    path: Path
    log: EventLog

    @property
    def file(self) -> Path:
        """Where the one is that new plans are under."""
        return self.path / "policy.yaml"

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self.path / "policy", self.log)

    def current(self) -> Policy | None:
        """The policy that new plans are under, kept and noted in the event log; None where there is none.

        Raises:
            PolicyError: ``policy_malformed``; then nothing is proposed.
            StateError: ``permissions``, others could change it; or the state cannot be written.
        """
        if not self.file.exists():
            return None
        data = text(self.file)
        try:
            policy = read(data)
        except PolicyError as error:
            self._shelf.reject(canonical.digest(data), error)
            raise
        self._shelf.enforce(policy)
        return policy

    def put(self, data: bytes) -> Policy:
        """Replaces the policy; one that cannot be read replaces nothing. Plans from before keep theirs.

        Raises:
            PolicyError: ``policy_malformed``.
            StateError: the state cannot be written.
        """
        policy = read(data)
        durable.write(self.file, data)
        self._shelf.enforce(policy)
        return policy

    def remove(self) -> None:
        """Plans that are proposed from now on are under no policy but the sites' own."""
        self.file.unlink(missing_ok=True)
        durable.sync_folder(self.path)

    def kept(self, digest: str) -> Policy:
        """One that was once in force; raises ``PolicyError`` ``policy_missing``, or as ``Shelf.kept``."""
        return self._shelf.kept(digest)

    def all(self) -> dict[str, bytes]:
        """Digest -> the canonical bytes of every policy that was in force, to be shown to an auditor."""
        return self._shelf.all()
