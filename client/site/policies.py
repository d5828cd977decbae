"""The policy in a site's folder, and every policy that was in force before.

==========================  =====================================================================
``policy.yaml``             the site's own, as a person wrote it
``consortium-policy.yaml``  one that was agreed in the consortium and holds here for every plan, if there is
                            one; the strictest of both is in force
``policy/``                 every policy that was ever in force (``privacy.policy.shelf``)
==========================  =====================================================================

A policy is in force as soon as its file is there: it is read again at every decision and before every round.
A file that is missing, that others can write, or that cannot be read refuses everything. A plan may name
one more policy, the consortium's of its day (``client.rulings``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical, durable
from cloister.privacy.errors import PolicyError
from cloister.privacy.policy.reading import read
from cloister.privacy.policy.shelf import Shelf, text
from cloister.privacy.policy.strictest import strictest
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
    def _shelf(self) -> Shelf:
        return Shelf(self.site.path / "policy", self.site.log)

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
            self._shelf.reject(canonical.digest(b"".join(texts)), error)
            raise
        self._shelf.enforce(policy)
        return policy

    def glance(self) -> Policy:
        """The policy in force as ``current`` gives it, without a note of it anywhere."""
        return _parsed(self._texts())

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
            self._shelf.reject(canonical.digest(data), error)
            raise
        durable.write(self.shared if shared else self.own, data)
        return self.current()

    def kept(self, digest: str) -> Policy:
        """A policy that was once in force.

        Raises:
            PolicyError: ``policy_missing``, there was none of this digest.
            StateError: ``state_damaged``, it is not what its name says.
        """
        return self._shelf.kept(digest)

    def all(self) -> dict[str, bytes]:
        """Digest -> the canonical bytes of every policy that was in force, to be shown to an auditor."""
        return self._shelf.all()

    def _texts(self) -> tuple[bytes, ...]:
        if not self.own.is_file():
            raise PolicyError("policy_missing", f"{self.site.path} has no policy.yaml.", _MISSING)
        return tuple(text(path) for path in (self.own, self.shared) if path.exists())
