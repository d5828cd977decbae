"""Every policy that was ever in force in a folder, by its digest, and the events that say so.

==============  ==================================================================
``HEX.json``    a policy, canonical
``current``     the digest of the one that was in force last
``rejected``    the digest of the file that was rejected last
==============  ==================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloister.privacy import durable, folder
from cloister.privacy.errors import PolicyError, StateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.policy.reading import LARGEST
from cloister.privacy.policy.strictest import diff, overall
from cloister.privacy.policy.terms import Policy


@dataclass(frozen=True)
class Shelf:
    """The policies of one party.

    Attributes:
        path: the folder; it need not be there yet.
        log: the party's event log.
    """

    path: Path
    log: EventLog

    def kept(self, digest: str) -> Policy:
        """A policy that was once in force.

        Raises:
            PolicyError: ``policy_missing``, there was none of this digest.
            StateError: ``state_damaged``, it is not what its name says.
        """
        path = self._place(digest)
        if not path.is_file():
            raise PolicyError("policy_missing", f"No policy {digest[:19]} was ever in force here.")
        policy = Policy.from_bytes(path.read_bytes())
        if policy.digest != digest:
            raise StateError("state_damaged", f"{path} is damaged.", "Restore it from a backup.")
        return policy

    def all(self) -> dict[str, bytes]:
        """Digest -> the canonical bytes of every policy that was in force, to be shown to an auditor."""
        names = [path.stem for path in sorted(self.path.glob("*.json"))]
        return {f"sha256:{name}": self.kept(f"sha256:{name}").to_bytes() for name in names}

    def enforce(self, policy: Policy) -> None:
        """Keeps a policy and notes that it is in force, once, whoever sees it first.

        Raises:
            StateError, LogError: the state cannot be written.
        """
        if self._note("current") == policy.digest:
            return
        with self._editing():
            self._enforce(policy)

    def _enforce(self, policy: Policy) -> None:
        before = self._note("current")
        if before == policy.digest:
            return
        durable.write(self._place(policy.digest), policy.to_bytes())
        if before:
            change = overall(diff(self.kept(before), policy))
            self.log.append("policy.changed", policy=policy.digest, previous=before, change=change)
        else:
            self.log.append("policy.loaded", policy=policy.digest)
        durable.write(self.path / "current", policy.digest.encode())

    def reject(self, file: str, error: PolicyError) -> None:
        """Notes once that a file, by its digest, cannot be used."""
        if self._note("rejected") == file:
            return
        with self._editing():
            self.log.append("policy.rejected", policy=file, reason=error.id)
            durable.write(self.path / "rejected", file.encode())

    def _place(self, digest: str) -> Path:
        return self.path / f"{digest.removeprefix('sha256:')}.json"

    def _note(self, name: str) -> str:
        path = self.path / name
        return path.read_text() if path.exists() else ""

    @contextmanager
    def _editing(self) -> Iterator[None]:
        durable.private_folder(self.path)
        with folder.edit(self.path / "lock"):
            yield


def text(path: Path) -> bytes:
    """The bytes of a policy's file.

    Raises:
        StateError: ``permissions``, others could change it; ``state_missing``, it cannot be read.
    """
    try:
        if path.stat().st_mode & 0o022:
            raise StateError("permissions", f"Others can write {path}.", f"Run: chmod 600 {path}")
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise StateError("state_missing", f"{path} cannot be read: {error.strerror}.") from error
