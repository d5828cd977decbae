"""Two folders of one hospital that share a ledger, with real logs and plans and without any network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloister.client import reconciliation
from cloister.client.jobs import Job, Jobs
from cloister.client.site import sharing
from cloister.client.site.datasets import Datasets
from cloister.client.site.entries import Reservation
from cloister.client.site.folder import SiteFolder
from cloister.client.site.ledger import Ledger
from cloister.privacy import canonical
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.evidence.events import Event
from cloister.privacy.plan import Plan
from tests.plans import plan_json

DELTA = 1e-5
COLUMNS = ("text", "label")
ROUNDS = 4


class Unsigned:
    """In the place of the lead's signature under a plan."""

    def to_json(self) -> dict[str, str]:
        return {}


def plan_of(number: int, dataset: str = "notes", **changes: Any) -> Plan:
    """One of several plans that differ in nothing but their digests."""
    value = plan_json(("north", "south", "west"), **changes)
    value["nonce"] = f"{number:032x}"
    value["training"] |= {"rounds": ROUNDS}
    for site in value["sites"]:
        site["dataset"] = dataset
    return Plan.from_bytes(canonical.encode(value))


def mechanism(plan: Plan) -> GaussianSteps:
    """What a round of it costs."""
    found = plan.round_mechanism
    assert found is not None
    return found


def cost(rounds: int) -> float:
    """Epsilon of so many rounds."""
    return accounting.epsilon([mechanism(plan_of(0))] * rounds, DELTA)


def folders(place: Path, budget: float = 50.0) -> tuple[SiteFolder, SiteFolder]:
    """The owner of a ledger with a budget for ``notes``, and a folder that shares it."""
    owner = SiteFolder.create(place / "north", "north")
    Datasets(owner).ledger.open_budget("notes", "record", budget, DELTA)
    other = SiteFolder.create(place / "north-in-europe", "north")
    reconciliation.share(other, owner)
    return SiteFolder.open(owner.path), SiteFolder.open(other.path)


def ledger(site: SiteFolder) -> Ledger:
    """The ledger that a folder charges."""
    return Datasets(site).ledger


def keep(site: SiteFolder, plan: Plan) -> Job:
    """Has a plan in a folder."""
    return Jobs(site).keep(plan, Unsigned())  # type: ignore[arg-type]


def reserve(site: SiteFolder, plan: Plan, round: int) -> Reservation:
    """Charges a round of a plan, as a participant does."""
    keep(site, plan)
    return ledger(site).reserve("notes", plan.digest, round, 1, mechanism(plan))


def charged(site: SiteFolder) -> list[tuple[str, int]]:
    """The charges in the ledger, of whatever folder: (digest of the plan, round)."""
    rows = ledger(site).rows()
    return [(row.reservation.job, row.reservation.round) for row in rows if row.kind == "reserved"]


def said(site: SiteFolder, type_: str) -> list[Event]:
    """Events of a type in a folder's log."""
    return [event for event in site.log.entries() if event.type == type_]


def doubtful(site: SiteFolder) -> list[str]:
    """Names of the folders that have not compared their logs with a doubted ledger."""
    return [Path(one.path).name for one in sharing.sharers(site) if not one.settled]
