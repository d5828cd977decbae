"""The ledger of each site for a job's dataset, from before the job's first charge to after its last one.

Of other jobs nothing is told but the sum: what the ledger stood at before, and that it holds theirs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from cloister.privacy.clauses import Name, Unit
from cloister.privacy.evidence.events import Event, names
from cloister.privacy.evidence.happenings import MOST_CITED, Logs, Names
from cloister.privacy.evidence.kinds import EventId, Number, Whole, rounded_up
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan


class Account(Part):
    """What a site's ledger holds of a job.

    Attributes:
        limit: of the budget; None where it is not shown.
        before: what the ledger stood at before the job's first charge, over all other jobs, rounded up; None
            where the log does not say, or nothing was charged.
        after: what it stood at after the job's last entry, over all jobs; None where nothing was charged. A
            ledger never falls (``checks.accounts``), but a log may say so.
        reserved, spent, released: how many rounds were charged, carried out, and let out.
        unused: rounds that were charged and whose result is not in the model.
        events: the budget, the first charge and the last entry, and charges of ``unused`` rounds.
    """

    site: Name
    dataset: Name
    unit: Unit
    limit: Number | None
    before: Number | None
    after: Number | None
    reserved: Whole
    spent: Whole
    released: Whole
    unused: tuple[Annotated[int, Field(ge=0)], ...]
    events: Annotated[tuple[EventId, ...], Field(max_length=MOST_CITED)]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if (self.after is None) != (self.reserved == "0") or (self.before is not None and self.after is None):
            raise ValueError("a ledger moves where something was charged, and only there")
        if len({*self.unused}) != len(self.unused) or len(self.unused) > int(self.reserved):
            raise ValueError("more rounds are without use than were charged")
        return self


def accounts(plan: Plan, logs: Logs) -> list[dict[str, Any]]:
    """The ledger of each site that a bundle shows, in the plan's order; none without privacy."""
    if plan.privacy.mode == "off":
        return []
    lead = logs.get(plan.lead.name, ())
    closed = {e.round: names(e, "accepted") for e in lead if (e.type, e.job) == ("round.closed", plan.digest)}
    call = Names(logs)
    return [
        _account(plan, site.name, logs[site.name], closed, call) for site in plan.sites if site.name in logs
    ]


def _account(
    plan: Plan, name: str, events: Sequence[Event], closed: dict[int | None, list[str]], call: Names
) -> dict[str, Any]:
    dataset = plan.site(name).dataset
    own = [event for event in events if event.body.get("dataset") == dataset]
    opened = next((event for event in own if event.type == "budget.opened"), None)
    kept = [event for event in own if event.job == plan.digest and event.type in _ENTRIES]
    charges = [event for event in kept if event.type == "budget.reserved"]
    unused = [event for event in charges if name not in closed.get(event.round, ())]
    before: Any = charges[0].body.get("before") if charges else None
    after: Any = kept[-1].body["total"] if charges else None
    cited = [*filter(None, [opened]), *charges[:1], *kept[-1:], *unused]
    return {
        "site": name,
        "dataset": dataset,
        "unit": plan.privacy.unit,
        "limit": None if opened is None else f"{opened.body['epsilon']:g}",
        "before": None if before is None else rounded_up(float(before)),
        "after": None if after is None else rounded_up(float(after)),
        **{kind: str(sum(one.type == f"budget.{kind}" for one in kept)) for kind in _KINDS},
        "unused": sorted({event.round for event in unused if event.round is not None}),
        "events": [*dict.fromkeys(map(call, cited))][:MOST_CITED],
    }


_KINDS = ("reserved", "spent", "released")
_ENTRIES = tuple(f"budget.{kind}" for kind in _KINDS)
