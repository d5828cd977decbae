"""Whether a ledger holds what a folder's event logs say, and what becomes of it where it does not.

The log is written before the ledger, so after a crash it may say one thing more; it never says less, unless
the folder is an old copy, which the heads that others hold show first. So the log is right:

- a budget or a charge that only the log knows is added to the ledger, whatever the budget then says;
- a row that is not what its event says is nothing that can be mended: the site refuses to go on.

In a ledger that several folders share, rows of one that are gone may mean that rows of all are: it is doubted
(``client.site.sharing``), and each folder does the same for its own part.

What was spent and released, beside what was reserved, costs nothing more; it is missed, and not made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cloister.client.jobs import Jobs
from cloister.client.site import sharing
from cloister.client.site.datasets import Datasets
from cloister.client.site.entries import Budget, Reservation, Row
from cloister.client.site.folder import RESTORED, SiteFolder
from cloister.client.site.ledger import Ledger, altered
from cloister.privacy import canonical
from cloister.privacy.errors import StateError
from cloister.privacy.evidence.events import Event

_CHARGED = ("budget.opened", "budget.reserved")
_KINDS = ("budget.reserved", "budget.spent", "budget.released")


@dataclass(frozen=True)
class Difference:
    """How a ledger differs from what a folder's logs say of it.

    Attributes:
        charges: events of budgets and reserves that the ledger lacks.
        notes: those of what was spent or released.
        altered: places of rows that are not what their event says, and 0 for a budget that is looser.
        interrupted: nothing is missing but what the newest event says, as after a crash.
    """

    charges: tuple[Event, ...]
    notes: tuple[Event, ...]
    altered: tuple[int, ...]
    interrupted: bool


def compare(events: Sequence[Event], budgets: Iterable[Budget], rows: Iterable[Row]) -> Difference:
    """Holds the rows of a ledger to the events that a folder's logs have of it; decides nothing.

    Args:
        events: as ``sharing.logged`` gives them.
        budgets: of the ledger.
        rows: of the ledger, those of other folders among them.
    """
    rows, standing = tuple(rows), {budget.dataset: budget for budget in budgets}
    named = {_attempt(row): row.reservation.digest for row in rows if row.kind == "reserved"}
    there = {(f"budget.{row.kind}", named.get(_attempt(row))) for row in rows}
    missing = [
        event
        for event in events
        if (event.type == "budget.opened" and event.body["dataset"] not in standing)
        or (event.type in _KINDS and (event.type, event.body["reservation"]) not in there)
    ]
    by_hash = {_hash(event): event for event in events if event.type in _KINDS}
    wrong = [row.seq for row in rows if row.event in by_hash and not _agrees(row, by_hash[row.event])]
    looser = any(_looser(standing[b.dataset], b) for b in _budgets(events) if b.dataset in standing)
    return Difference(
        charges=tuple(event for event in missing if event.type in _CHARGED),
        notes=tuple(event for event in missing if event.type not in _CHARGED),
        altered=(*wrong, *([0] if looser else ())),
        interrupted=missing == list(events[-1:]),
    )


def reconcile(site: SiteFolder) -> int:
    """Adds to the ledger what only the folder's logs say, and settles a shared one that was doubted.

    The log must be known to be whole: others hold no later head of it, or it has come to its end.

    Returns:
        The number of budgets and charges that were added.

    Raises:
        StateError: ``ledger_altered``; ``state_damaged``, the plan of a charge is not kept here; or as
            ``sharing.opened``.
    """
    ledger, events = sharing.opened(site), sharing.logged(site)
    found = compare(events, ledger.budgets(), ledger.rows())
    if found.altered:
        raise altered(found.altered)
    added = 0
    if found.charges:
        sharing.doubt(site)
        if not found.interrupted:
            site.log.append("incident.raised", reason="ledger_behind", severity="high", party=site.name)
        opened = [(_budget(e), _hash(e)) for e in found.charges if e.type == "budget.opened"]
        added = ledger.recover(opened, _reserved(site, found.charges))
    if sharing.behind(site):
        sharing.settle(site)
    return added


def share(site: SiteFolder, other: SiteFolder) -> SiteFolder:
    """Has a folder charge the ledger of another from now on; see ``sharing.share``.

    Raises:
        CloisterError: as ``sharing.share`` and ``reconcile``.
    """
    owner = sharing.share(site, other)
    ledger = Ledger(sharing.place(site), make=False)
    for dataset in Datasets(owner).all():  # also of those that were registered before it noted fingerprints
        ledger.know(dataset.name, dataset.fingerprint)
    if _over(site):
        reconcile(site)
    return owner


def _over(site: SiteFolder) -> bool:
    """Whether no agent will ever compare the folder's log, and nothing can come to it any longer."""
    if (site.path / RESTORED).exists():
        return False
    left = (event.job is None for event in site.log.entries() if event.type == "site.withdrew")
    return not site.joined or any(left)


def _reserved(site: SiteFolder, events: Iterable[Event]) -> Iterator[Row]:
    """The rows that were lost, made again from the plans; the events' digests show that they are the same."""
    plans = {job.plan.digest: job.plan for job in Jobs(site)}
    for event in events:
        if event.type != "budget.reserved":
            continue
        plan, number = plans.get(str(event.job)), event.round
        mechanism = plan.round_mechanism if plan else None
        if plan is not None and mechanism is not None and number is not None:
            made = Reservation(plan.site(site.name).dataset, plan.digest, number, 1, mechanism)
            if made.digest == event.body["reservation"]:
                yield Row("reserved", made, float(str(event.body["total"])), event=_hash(event))
                continue
        raise StateError(
            "state_damaged",
            f"The ledger lacks a charge of job {str(event.job)[7:19]}, and the plan of that is gone.",
            "Put jobs/ back from a backup.",
        )


def _attempt(row: Row) -> tuple[str, str, int, int]:
    charged = row.reservation
    return charged.dataset, charged.job, charged.round, charged.attempt


def _agrees(row: Row, event: Event) -> bool:
    """Whether a row is what its event says; what a sum came to is in the event in another form."""
    charged, body = row.reservation, event.body
    if (f"budget.{row.kind}", charged.job, charged.round) != (event.type, event.job, event.round):
        return False
    same = row.kind == "spent" or charged.digest == body["reservation"]
    return same and (charged.dataset, row.total) == (body["dataset"], body["total"])


def _budgets(events: Iterable[Event]) -> Iterator[Budget]:
    return (_budget(event) for event in events if event.type == "budget.opened")


def _budget(event: Event) -> Budget:
    body = event.body
    terms = float(str(body["epsilon"])), float(str(body["delta"]))
    return Budget(str(body["dataset"]), str(body["unit"]), *terms)


def _looser(standing: Budget, logged: Budget) -> bool:
    """Whether a budget allows more than was set; one that a restore has exhausted never does."""
    terms = (standing.epsilon, standing.delta), (logged.epsilon, logged.delta)
    more = all(a >= b for a, b in zip(*terms, strict=True)) and terms[0] != terms[1]
    return more or standing.unit != logged.unit


def _hash(event: Event) -> str:
    return canonical.digest(event.encode())
