"""An authority's word that certain keys belong to a certain member of a consortium.

A site takes a key of its roster for that of the member when somebody compared words here, or when an
authority that the site's policy names has signed for exactly this key. Rules, checked in this order:

1. both signatures of the authority hold over the canonical bytes, and its keys have the digest that the
   statement names;
2. the statement is for this consortium, for this name and role, and for exactly these keys: the digest is
   that of the whole identity, so a member that changes a single key needs a new statement;
3. the day, in UTC, lies within its first and last day;
4. the policy names the authority.

A change of keys (``privacy.wire.succession``) does not carry a statement over: the authority vouched for the
keys it saw, and whoever stole those could sign a succession, too. There is no list of withdrawn statements:
they end by their date, and a policy may stop to name an authority at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import ValidationError

from cloister.privacy import canonical
from cloister.privacy.authority import Authority, PublicAuthority
from cloister.privacy.clauses import Digest, Name
from cloister.privacy.errors import IdentityError
from cloister.privacy.frozen import Part
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.policy.request import Endorsed
from cloister.privacy.policy.terms import Date
from cloister.privacy.wire.signed import Signed

ENDORSEMENT_CONTEXT = "cloister/endorsement/1"
LARGEST = 64 << 10
"""Bytes of the longest file that is read; one has about 13 KiB."""


class Statement(Part):
    """What an authority signs.

    Attributes:
        authority: the digest of its keys.
        name, role: of the member.
        identity: the digest of the member's name, role and all its keys.
        begins, ends: the first and the last day, in UTC.
    """

    version: Literal[1] = 1
    kind: Literal["cloister-endorsement"] = "cloister-endorsement"
    authority: Digest
    consortium: Name
    name: Name
    role: Literal["lead", "site"]
    identity: Digest
    begins: Date
    ends: Date

    def to_bytes(self) -> bytes:
        """The canonical bytes that are signed."""
        return canonical.encode(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Endorsement:
    """A statement, the public keys of the authority, and its signatures; believed after ``check`` only.

    ``from_bytes`` has verified that these keys signed it, which says nothing: anybody can make keys.
    """

    authority: PublicAuthority
    said: Statement
    signed: Signed

    @classmethod
    def make(
        cls, authority: Authority, consortium: str, member: PublicIdentity, begins: str, ends: str
    ) -> Self:
        """Signs for a member's keys.

        Raises:
            IdentityError: ``endorsement_malformed``, a date or the consortium's name is none, or it ends
                before it begins.
        """
        try:
            said = Statement(
                authority=authority.public.digest(),
                consortium=consortium,
                name=member.name,
                role=member.role,
                identity=member.digest(),
                begins=begins,
                ends=ends,
            )
        except ValidationError as error:
            place = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
            raise _malformed(f"The {place} of a statement cannot be used.") from error
        if said.ends < said.begins:
            raise _malformed("The statement would end before it begins.")
        signed = Signed.make(said.to_bytes(), authority, ENDORSEMENT_CONTEXT)
        return cls(authority.public, said, signed)

    def to_json(self) -> dict[str, Any]:
        """For files and the wire."""
        return {"authority": self.authority.to_json(), "signed": self.signed.to_json()}

    def to_bytes(self) -> bytes:
        """The file: canonical JSON."""
        return canonical.encode(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What ``to_bytes`` gives, its signatures verified.

        Raises:
            IdentityError: ``endorsement_malformed`` or ``identity_malformed``.
            ChannelError: ``signature_invalid``.
        """
        refusal = _malformed("This is not an authority's statement about a member.")
        if len(data) > LARGEST:
            raise refusal
        value = canonical.decode(data, otherwise=refusal)
        if not isinstance(value, dict) or set(value) != {"authority", "signed"}:
            raise refusal
        authority, signed = PublicAuthority.from_json(value["authority"]), Signed.from_json(value["signed"])
        signed.open(authority, ENDORSEMENT_CONTEXT)
        try:
            said = Statement.model_validate(canonical.decode(signed.content, otherwise=refusal))
        except ValidationError as error:
            raise refusal from error
        made = cls(authority, said, signed)
        if said.to_bytes() != signed.content or made.to_bytes() != data or said.ends < said.begins:
            raise refusal
        if said.authority != authority.digest():
            raise _malformed("A statement names another authority than the one whose keys signed it.")
        return made

    @property
    def digest(self) -> str:
        """The digest of the signed bytes: what a record of a decision names."""
        return canonical.digest(self.signed.content)

    def check(self, consortium: str, member: PublicIdentity) -> Endorsed:
        """What a policy compares, once the statement is about this member of this consortium.

        Raises:
            IdentityError: ``endorsement_other``, with what differs.
        """
        said = self.said
        if said.consortium != consortium:
            raise _other(f"{self._whose} is for the consortium {said.consortium}, not for {consortium}.")
        if (said.name, said.role) != (member.name, member.role):
            raise _other(f"{self._whose} is about {said.name} ({said.role}), not {member.name}.")
        if said.identity != member.digest():
            raise _other(f"{self._whose} is about other keys of {member.name} than the roster has.")
        return Endorsed(authority=said.authority, statement=self.digest, begins=said.begins, ends=said.ends)

    @property
    def _whose(self) -> str:
        return f"The statement of the authority {self.authority.name}"

    def standing(self, authorities: tuple[str, ...], today: str) -> None:
        """Whether it counts under a policy that names these authorities, on a day.

        Raises:
            IdentityError: ``authority_unknown`` or ``endorsement_expired``.
        """
        said = self.said
        if said.authority not in authorities:
            raise IdentityError(
                "authority_unknown",
                f"The policy does not name the authority {self.authority.name} ({said.authority[7:19]}).",
                "Name its digest under roster.authorities if this site trusts it.",
            )
        if today < said.begins:
            raise _expired(f"{self._whose} about {said.name} begins on {said.begins}.")
        if today > said.ends:
            raise _expired(f"{self._whose} about {said.name} ended on {said.ends}.")


def _malformed(what: str) -> IdentityError:
    return IdentityError(
        "endorsement_malformed", what, "Ask the authority for it: `cloister authority sign`."
    )


def _other(what: str) -> IdentityError:
    return IdentityError(
        "endorsement_other", what, "Do not rely on it; the authority signs again for other keys."
    )


def _expired(what: str) -> IdentityError:
    return IdentityError("endorsement_expired", what, "Ask for a new one: `cloister authority sign`.")
