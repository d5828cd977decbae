"""What sites and lead tell each other around a run: offers, proposals, decisions, withdrawals; all signed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.clauses import Digest, Name, Sized
from cloister.privacy.errors import PlanError
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan, malformed

PLAN_CONTEXT = "cloister/plan/1"
OFFER_CONTEXT = "cloister/offer/1"
DECISION_CONTEXT = "cloister/decision/1"
WITHDRAWAL_CONTEXT = "cloister/withdrawal/1"


class Offer(Sized):
    """What a site says of itself so that a plan can name it: a dataset's bands and its code's digest.

    With ``persons`` the site offers its dataset at person level only, without at record level only.
    """

    site: Name
    dataset: Name
    code: Digest

    def to_bytes(self) -> bytes:
        """The canonical bytes that the site signs."""
        return canonical.encode(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def from_bytes(cls, data: bytes) -> Offer:
        """Raises ``PlanError`` ``plan_malformed`` for anything else."""
        try:
            offer = cls.model_validate(canonical.decode(data))
        except ValidationError as error:
            raise malformed(error) from error
        if offer.to_bytes() != data:  # "persons":null is a second spelling of the same offer
            raise PlanError("plan_malformed", "The offer is not in its one canonical form.")
        return offer


class Decision(Part):
    """A site's word on a plan.

    Attributes:
        site: who decides.
        plan: the digest of the plan.
        approve: whether the site takes part.
        reason: the id of the reason of a refusal, "" for an approval.
    """

    site: Name
    plan: Digest
    approve: bool
    reason: Annotated[str, Field(pattern=r"^[a-z_]{0,40}$")] = ""

    def to_bytes(self) -> bytes:
        """The canonical bytes that the site signs."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Decision:
        """Raises ``PlanError`` ``plan_malformed`` for anything else."""
        try:
            return cls.model_validate(canonical.decode(data))
        except ValidationError as error:
            raise malformed(error) from error


class Withdrawal(Part):
    """A site's word that it leaves.

    Attributes:
        site: who leaves.
        plan: the digest of the job that it leaves; "" for all of them, and the consortium.
        reason: ``withdrawn``, or ``state_restored``: it lost what it needs to go on.
    """

    site: Name
    plan: Digest | Literal[""]
    reason: Literal["withdrawn", "state_restored"] = "withdrawn"

    def to_bytes(self) -> bytes:
        """The canonical bytes that the site signs."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Withdrawal:
        """Raises ``PlanError`` ``plan_malformed`` for anything else."""
        try:
            return cls.model_validate(canonical.decode(data))
        except ValidationError as error:
            raise malformed(error) from error


def approval(plan: Plan, site: str) -> Decision:
    """A site's approval of a plan."""
    return Decision(site=site, plan=plan.digest, approve=True)
