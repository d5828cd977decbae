"""The approvals of one job: who agreed, in which role, when, and whether a key of that person signed it.

Roles are claimed by whoever runs the command, as long as nobody is registered. Where people are
(``client.site.people``), only they may approve, in their own roles, and whoever has a key must sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from cloister.client.site.people import People, Person, Statement, sign, verifies
from cloister.privacy import canonical, durable, folder
from cloister.privacy.errors import PolicyError, StateError
from cloister.privacy.frozen import Part
from cloister.privacy.policy.request import Approval, Role, instant
from cloister.privacy.policy.terms import APPROVERS


class Stored(Part):
    """``approvals/PERSON.json``; ``signature`` is "" where none was given."""

    statement: Statement
    signature: str


@dataclass(frozen=True)
class Voice:
    """Who speaks.

    Attributes:
        role: in which role.
        person: who; "" for one who is known by the role only.
        key: PEM file of the person's private key, or None.
    """

    role: Role = "administrator"
    person: str = ""
    key: Path | None = None

    @property
    def name(self) -> str:
        """The person, or the role where no person is named."""
        return self.person or self.role


@dataclass(frozen=True)
class Approvals:
    """All approvals of a job at a site.

    Attributes:
        path: the job's folder.
        plan: the digest of its plan.
        site: the digest of the keys that the plan names for this site, which may have new ones by now.
        people: who may speak here.
    """

    path: Path
    plan: str
    site: str
    people: People

    def given(self) -> tuple[Approval, ...]:
        """All approvals that stand; one of a person who is not registered any more, or not in that role,
        does not.

        Raises:
            PolicyError: ``approval_invalid``, a signature is wrong.
            StateError: ``state_damaged``.
        """
        known = self.people.all()
        found = (self._approval(self._read(path), known) for path in sorted(self._folder.glob("*.json")))
        return tuple(one for one in found if one is not None)

    def give(self, voice: Voice, at: datetime) -> bool:
        """Keeps an approval; the same again changes nothing.

        Returns:
            Whether it is new.

        Raises:
            PolicyError: ``approval_invalid``, this person may not say this, or not without a signature.
        """
        try:
            statement = Statement(
                plan=self.plan,
                site=self.site,
                person=voice.name,
                role=voice.role,
                at=instant(at),
            )
        except ValidationError as error:
            raise PolicyError(
                "approval_invalid", "That is no name of a person.", "Use a-z, 0-9 and hyphen."
            ) from error
        signature = sign(statement, voice.key) if voice.key else ""
        _refuse_role(voice.role)
        _check(statement, signature, self.people.all())
        path = self._folder / f"{voice.name}.json"
        if path.exists() and self._same(path, statement, signature):
            return False
        durable.private_folder(self._folder)
        kept = Stored(statement=statement, signature=signature)
        durable.write(path, canonical.encode(kept.model_dump(mode="json")))
        return True

    def key(self, voice: Voice) -> str:
        """The fingerprint of the key that must sign what somebody says; "" where none is registered."""
        person = self.people.all().get(voice.name)
        return person.fingerprint if person else ""

    def _same(self, path: Path, statement: Statement, signature: str) -> bool:
        """Whether what is kept says as much already."""
        kept = self._read(path)
        return kept.statement.role == statement.role and bool(kept.signature) >= bool(signature)

    @property
    def _folder(self) -> Path:
        return self.path / "approvals"

    def _read(self, path: Path) -> Stored:
        try:
            return Stored.model_validate_json(canonical.encode(folder.read_json(path)))
        except ValidationError as error:
            raise StateError(
                "state_damaged", f"{path} is damaged.", "Delete it and approve again."
            ) from error

    def _approval(self, kept: Stored, known: dict[str, Person]) -> Approval | None:
        statement = kept.statement
        person = known.get(statement.person)
        if known and (person is None or statement.role not in person.roles):
            return None
        if (statement.plan, statement.site) != (self.plan, self.site):
            raise _invalid(f"The approval of {statement.person} is for another plan or site.")
        key = person.key if person else ""
        if key and not verifies(statement, kept.signature, key):
            raise _invalid(f"The approval of {statement.person} is not signed by the key registered here.")
        return Approval(
            person=statement.person,
            role=statement.role,
            at=statement.at,
            signed=bool(key),
            proposes=bool(person and person.proposes),
        )


_OTHERWISE: Mapping[Role, str] = {
    "lead": "A lead proposes plans and approves none",
    "researcher": "A researcher proposes plans and approves none",
    "auditor": "An auditor looks at what was done and approves nothing",
}
"""Roles that no policy lets approve, and what they do instead."""


def _refuse_role(role: Role) -> None:
    """Says at once what would otherwise be kept and never counted."""
    if role not in APPROVERS:
        raise _invalid(f"{_OTHERWISE[role]}; these do: {', '.join(APPROVERS)}.")


def _check(statement: Statement, signature: str, known: dict[str, Person]) -> None:
    """Whether a person may say this at all; whether it counts is for the policy."""
    if not known:
        if signature:
            raise _invalid("Nobody is registered here, so no key is known.")
        return
    person = known.get(statement.person)
    if person is None:
        raise _invalid(f"No person {statement.person} is registered here.")
    if statement.role not in person.roles:
        raise _invalid(f"{statement.person} is not registered as {statement.role}.")
    if person.key and not verifies(statement, signature, person.key):
        raise _invalid(f"{statement.person} must sign with the key that is registered here.")
    if signature and not person.key:
        raise _invalid(f"No key of {statement.person} is registered here.")


def _invalid(what: str) -> PolicyError:
    return PolicyError("approval_invalid", what, "See `cloister site people` and --person, --as, --sign.")
