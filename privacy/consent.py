"""What sites and lead tell each other before a run: offers, proposals and decisions, all signed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from cloister.privacy import canonical
from cloister.privacy.plan import Digest, Name, Part, Plan, Rows, malformed

PLAN_CONTEXT = "cloister/plan/1"
OFFER_CONTEXT = "cloister/offer/1"
DECISION_CONTEXT = "cloister/decision/1"


class Offer(Part):
    """What a site says of itself so that a plan can name it: a dataset's band and its code's digest."""

    site: Name
    dataset: Name
    rows: Rows
    code: Digest

    def to_bytes(self) -> bytes:
        """The canonical bytes that the site signs."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Offer:
        """Raises ``PlanError`` ``plan_malformed`` for anything else."""
        try:
            return cls.model_validate(canonical.decode(data))
        except ValidationError as error:
            raise malformed(error) from error


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


def approval(plan: Plan, site: str) -> Decision:
    """A site's approval of a plan."""
    return Decision(site=site, plan=plan.digest, approve=True)
