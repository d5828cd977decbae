"""The policy in a site's folder, and every policy that was in force before.

==========================  =====================================================================
``policy.yaml``             the site's own, as a person wrote it
``consortium-policy.yaml``  the consortium's, where there is one; the strictest of both is in force
``policy/HEX.json``         every policy that was ever in force, canonical, by its digest
``policy/current``          the digest of the one that was in force last
``policy/rejected``         the digest of the file that was rejected last
==========================  =====================================================================

A policy is in force as soon as its file is there: it is read again at every decision and before every round.
A file that is missing, that others can write, or that cannot be read refuses everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical, durable, folder
from cloister.privacy.errors import PolicyError, StateError
from cloister.privacy.policy.reading import LARGEST, read
from cloister.privacy.policy.strictest import diff, overall, strictest
from cloister.privacy.policy.terms import Policy

_MISSING = (
    "Write one: `cloister site policy template > policy.yaml`, then `cloister site policy set policy.yaml`."
)


@lru_cache(maxsize=16)
def _parsed(texts: tuple[bytes, ...]) -> Policy:
    policies = [read(text) for text in texts]
    return policies[0] if len(policies) == 1 else strictest(*policies)


@dataclass(frozen=True)
class Policies:
    """The policies of a site."""

    site: SiteFolder

    @property
    def own(self) -> Path:
        """Where the site's own policy is."""
        return self.site.path / "policy.yaml"

    @property
    def shared(self) -> Path:
        """Where the consortium's policy is, if there is one."""
        return self.site.path / "consortium-policy.yaml"

    @property
    def _folder(self) -> Path:
        return self.site.path / "policy"

    def current(self) -> Policy:
        """The policy in force; one that was not seen before is kept and noted in the event log first.

        Raises:
            PolicyError: ``policy_missing`` or ``policy_malformed``.
            StateError: ``permissions``, others could change it; or the state cannot be written.
        """
        texts = self._texts()
        try:
            policy = _parsed(texts)
        except PolicyError as error:
            self._reject(canonical.digest(b"".join(texts)), error)
            raise
        if self._note("current") != policy.digest:
            with self._editing():
                self._enforce(policy)
        return policy

    def put(self, data: bytes, *, shared: bool = False) -> Policy:
        """Replaces the site's own policy, or the consortium's; one that cannot be read replaces nothing.

        Returns:
            The policy in force now.

        Raises:
            PolicyError: ``policy_malformed``.
        """
        try:
            read(data)
        except PolicyError as error:
            self._reject(canonical.digest(data), error)
            raise
        durable.write(self.shared if shared else self.own, data)
        return self.current()

    def kept(self, digest: str) -> Policy:
        """A policy that was once in force.

        Raises:
            PolicyError: ``policy_missing``, there was none of this digest.
            StateError: ``state_damaged``, it is not what its name says.
        """
        path = self._path(digest)
        if not path.is_file():
            raise PolicyError("policy_missing", f"No policy {digest[:19]} was ever in force here.")
        policy = Policy.from_bytes(path.read_bytes())
        if policy.digest != digest:
            raise StateError("state_damaged", f"{path} is damaged.", "Restore it from a backup.")
        return policy

    def all(self) -> dict[str, bytes]:
        """Digest -> the canonical bytes of every policy that was in force, to be shown to an auditor."""
        names = [path.stem for path in sorted(self._folder.glob("*.json"))]
        return {f"sha256:{name}": self.kept(f"sha256:{name}").to_bytes() for name in names}

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}.json"

    def _texts(self) -> tuple[bytes, ...]:
        if not self.own.is_file():
            raise PolicyError("policy_missing", f"{self.site.path} has no policy.yaml.", _MISSING)
        return tuple(_text(path) for path in (self.own, self.shared) if path.exists())

    def _note(self, name: str) -> str:
        path = self._folder / name
        return path.read_text() if path.exists() else ""

    @contextmanager
    def _editing(self) -> Iterator[None]:
        durable.private_folder(self._folder)
        with folder.edit(self._folder / "lock"):
            yield

    def _enforce(self, policy: Policy) -> None:
        """Keeps a policy and notes that it is in force, once, whoever sees it first."""
        before = self._note("current")
        if before == policy.digest:
            return
        durable.write(self._path(policy.digest), policy.to_bytes())
        if before:
            change = overall(diff(self.kept(before), policy))
            self.site.log.append("policy.changed", policy=policy.digest, previous=before, change=change)
        else:
            self.site.log.append("policy.loaded", policy=policy.digest)
        durable.write(self._folder / "current", policy.digest.encode())

    def _reject(self, file: str, error: PolicyError) -> None:
        if self._note("rejected") == file:
            return
        with self._editing():
            self.site.log.append("policy.rejected", policy=file, reason=error.id)
            durable.write(self._folder / "rejected", file.encode())


def _text(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o022:
            raise StateError("permissions", f"Others can write {path}.", f"Run: chmod 600 {path}")
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise StateError("state_missing", f"{path} cannot be read: {error.strerror}.") from error
