"""New keys for a member: one statement under the signatures of the old keys and of the new ones.

Rules, which lead and sites check alike:

1. both signatures hold over the same canonical bytes;
2. the statement names the old identity by digest, and brings the new one with the same name and role;
3. the new identity is another one.

Who had confirmed the old keys may take the new ones as confirmed: only the holder of the old ones could
sign. Whoever stole the old keys can do the same, which is why revocation is another thing and the lead's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import ValidationError

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest, Name
from cloister.privacy.errors import ChannelError, IdentityError, TransportError
from cloister.privacy.frozen import Part
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.wire.joining import Pem
from cloister.privacy.wire.signed import Signed

SUCCESSION_CONTEXT = "cloister/succession/1"


class Succession(Part):
    """The statement.

    Attributes:
        previous: digest of the old identity.
        identity: the new public identity, as JSON.
        csr: PEM of a request for a certificate over a new TLS key.
        reason: ``rotated``, or ``restored`` from a backup: the log of the old keys is then not whole.
    """

    version: Literal[1] = 1
    kind: Literal["cloister-succession"] = "cloister-succession"
    consortium: Name
    previous: Digest
    identity: dict[str, str]
    csr: Pem
    reason: Literal["rotated", "restored"] = "rotated"


@dataclass(frozen=True)
class Handover:
    """A succession under the signatures of the old and the new keys; not verified before ``opened``."""

    old: Signed
    new: Signed

    @classmethod
    def make(cls, succession: Succession, old: PrivateIdentity, new: PrivateIdentity) -> Self:
        """Signs twice."""
        content = canonical.encode(succession.model_dump(mode="json"))
        return cls(
            Signed.make(content, old, SUCCESSION_CONTEXT), Signed.make(content, new, SUCCESSION_CONTEXT)
        )

    @property
    def said(self) -> Succession:
        """What is stated; raises ``TransportError`` ``protocol``."""
        refusal = TransportError("protocol", "A change of keys is not of the protocol.")
        if self.old.content != self.new.content:
            raise refusal
        value = canonical.decode(self.old.content, otherwise=refusal)
        try:
            return Succession.model_validate(value)
        except ValidationError as error:
            raise refusal from error

    def opened(self, old: PublicIdentity, consortium: str) -> PublicIdentity:
        """The new identity, once everything holds.

        Raises:
            TransportError: ``protocol``.
            ChannelError: ``signature_invalid``, or ``wrong_context``: other old keys, or another consortium.
            IdentityError: ``identity_malformed``; ``roster_mismatch``: another name or role, or no new keys.
        """
        said = self.said
        if (said.previous, said.consortium) != (old.digest(), consortium):
            raise ChannelError("wrong_context", "A change of keys names other old keys.")
        new = PublicIdentity.from_json(said.identity)
        self.old.open(old, SUCCESSION_CONTEXT)
        self.new.open(new, SUCCESSION_CONTEXT)
        if (new.name, new.role) != (old.name, old.role) or new.digest() == old.digest():
            raise IdentityError("roster_mismatch", "A change of keys is not from a member to itself.")
        new.sealing_key  # noqa: B018  # a key that nobody can seal for is refused now
        return new

    def to_json(self) -> dict[str, Any]:
        """For files and the wire."""
        return {"old": self.old.to_json(), "new": self.new.to_json()}

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.to_json())

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ``TransportError`` ``protocol`` or ``ChannelError`` for anything else."""
        if not isinstance(value, dict) or set(value) != {"old", "new"}:
            raise TransportError("protocol", "A change of keys is not of the protocol.")
        return cls(Signed.from_json(value["old"]), Signed.from_json(value["new"]))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """As ``from_json``."""
        refusal = TransportError("protocol", "A change of keys is not of the protocol.")
        return cls.from_json(canonical.decode(data, otherwise=refusal))


def heir(old: PublicIdentity, handovers: Iterable[Handover], consortium: str) -> PublicIdentity:
    """Whoever an identity has become by a chain of handovers; itself where there is none.

    Raises:
        as ``Handover.opened``, for a link of the chain that does not hold.
    """
    links = {link.said.previous: link for link in handovers}
    while (link := links.pop(old.digest(), None)) is not None:
        old = link.opened(old, consortium)
    return old
