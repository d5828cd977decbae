"""What becomes of a site's folder that is a copy: from a backup, or one that was put back by other means.

The folder does not know what happened after the copy was made. The others' heads say that something did, and
the lead has the plans. So, in this order, each step safe to repeat:

1. ``restored.json`` says that the folder is a copy; nothing else can be done in it until the end;
2. the newest head of this site's log that others hold, and the plans of the lead, are fetched;
3. the site gets new keys, signed by the old ones: the old log is not whole, so nothing may be added to it
   under the old keys, which would contradict the head that others hold. The new log goes on from it, and
   says so: how much of the old one is here, and how much of it others held (``log.restored``);
4. every plan that may have been worked on since is charged in full, and the incident is written down; a
   ledger that other folders share is doubted first, for it may be as old (``client.site.sharing``), and gets
   what the copy's own log has of jobs that are over;
5. every job that was open is left: the copy has no ratchet and no pair keys, and must not make new ones.

Formal guarantees:
    If the lead lists every plan that this site has ever approved, the ledger afterwards holds at least what
    was ever reserved in it: a job that the copy knows as over was complete in the copy's ledger, and every
    other one is charged for all its rounds. A lead that hides a plan is not found by this; the sizes of both
    heads, which are written down, show how much of the log is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.client.consortium import Consortium, Proposal
from cloister.client.jobs import DONE, LEFT, REFUSED, Job, Jobs
from cloister.client.reconciliation import reconcile
from cloister.client.site import backup, rotation, sharing
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import RESTORED, SiteFolder
from cloister.client.witnessing import Heads
from cloister.privacy import canonical, durable, folder
from cloister.privacy.consent import Withdrawal
from cloister.privacy.errors import StateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.keysource import KeySource


@dataclass(frozen=True)
class Restored:
    """What a restore came to.

    Attributes:
        had: events of the log in the copy.
        held: events of the newest head that others hold; 0 if they hold none.
        charged: plan digest -> epsilon of its dataset afterwards.
        left: digests of the plans that the site has left.
    """

    had: int
    held: int
    charged: dict[str, float]
    left: tuple[str, ...]


def from_backup(path: Path, root: Path, source: KeySource | None) -> SiteFolder:
    """A new folder from a backup, which must not be used before ``settle``.

    Raises:
        UsageError, StateError: as ``backup.unpack``.
    """
    return backup.unpack(path, root, source, {RESTORED: canonical.encode({"version": 1})})


def mark(site: SiteFolder) -> None:
    """Says that a folder is a copy."""
    if not (site.path / RESTORED).exists():
        durable.write(site.path / RESTORED, canonical.encode({"version": 1}))


def settle(path: Path) -> Restored:
    """Brings a copy to where it may be used again; see the head of this module.

    Raises:
        StateError: ``state_locked``, an agent runs in it; ``state_missing``, nothing says that it is a copy;
            ``ledger_missing`` or ``ledger_foreign``, the ledger that it shares is not there, or this copy of
            it is where nobody else looks for it.
        TransportError: the lead cannot be reached; try again.
        CloisterError: the lead refuses this site: its keys were changed or revoked since.
    """
    if not (path / RESTORED).exists():
        raise StateError("state_missing", f"{path} is not a restored folder.", "Name it, or use --here.")
    with folder.hold(path / "lock"):
        site = rotation.settle(path)
        doubt(site)
        site, facts = _renew(site)
        with Consortium(site) as member:
            member.roster()
            plans = listed(Jobs(site), member.proposals())
            charged = account(site, plans)
            left = leave(Jobs(site), plans)
            for job in left:
                member.withdraw(Withdrawal(site=site.name, plan=job.plan.digest, reason="state_restored"))
        (path / RESTORED).unlink()
        durable.sync_folder(path)
        rotation.forget(site, set())
    return Restored(facts["had"], facts["held"], charged, tuple(job.plan.digest for job in left))


def doubt(site: SiteFolder) -> None:
    """Stops what is new at all folders that share the ledger, until each has compared its log with it.

    Raises:
        StateError: ``ledger_missing`` or ``ledger_foreign``.
    """
    sharing.opened(site)
    sharing.require_place(site)
    sharing.doubt(site)


def _renew(site: SiteFolder) -> tuple[SiteFolder, dict[str, Any]]:
    """New keys and a new log; what the copy lacks is written down before and after."""
    path = site.path / RESTORED
    facts: dict[str, Any] = folder.read_json(path)
    own = site.identity.public.digest()
    if facts.get("keys", own) == own:
        with Consortium(site) as member:
            held, had = Heads(site, member).newest(), sum(1 for _ in site.log.entries())
            facts = {"version": 1, "had": had, "held": held, "keys": own}
            durable.write(path, canonical.encode(facts))
            site = rotation.answered(site, member.succeed(rotation.prepare(site, "restored")))
    said = {event.type for event in site.log.entries()}
    if "log.restored" not in said:
        site.log.append("log.restored", **_begun_anew(site, facts))
    if "incident.raised" not in said:
        reason = "log_rolled_back" if facts["held"] > facts["had"] else "state_restored"
        site.log.append("incident.raised", reason=reason, severity="high", party=site.name)
    return site, facts


def _begun_anew(site: SiteFolder, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Which log the new one follows: its keys, the end of the copy, and how much of it others held.

    The old keys sign that end, of which more was seen: evidence of jobs under these keys needs a head.
    """
    old: str = facts["keys"]
    head = EventLog.open(rotation.place(site, old) / "log", site.identity_of(old)).head()
    root = f"sha256:{head.root.hex()}"
    return {"previous": old, "size": head.size, "root": root, "held": facts["held"]}


def listed(jobs: Jobs, proposals: Iterable[Proposal]) -> tuple[Job, ...]:
    """Every job that the lead lists or the copy knows, but for those that the copy knows to be over."""
    for found in proposals:
        jobs.keep(found.plan, found.signed)
    return tuple(
        job for job in jobs if job.state not in (DONE, REFUSED, LEFT) or job.leaving == "state_restored"
    )


def account(site: SiteFolder, jobs: Iterable[Job]) -> dict[str, float]:
    """Charges whole plans, then what only the copy's own log has: of jobs that are over, where the ledger is
    older than the copy. Plan digest -> epsilon of its dataset once its plan was charged.
    """
    charged = charge(site, jobs)
    reconcile(site)
    return charged


def charge(site: SiteFolder, jobs: Iterable[Job]) -> dict[str, float]:
    """Charges whole plans; plan digest -> epsilon of its dataset afterwards."""
    ledger, charged = Datasets(site).ledger, dict[str, float]()
    for job in jobs:
        plan, mechanism = job.plan, job.plan.round_mechanism
        if mechanism is not None:
            dataset = plan.site(site.name).dataset
            charged[plan.digest] = ledger.charge(
                dataset, plan.privacy.unit, plan.digest, plan.training.rounds, mechanism
            )
    return charged


def leave(jobs: Jobs, left: Iterable[Job]) -> tuple[Job, ...]:
    """Leaves jobs, and writes it down."""
    gone = tuple(left)
    for job in gone:
        if not job.leaving:
            jobs.site.log.append(
                "site.withdrew", job=job.plan.digest, site=jobs.site.name, reason="state_restored"
            )
        job.leave("state_restored")
    return gone
