"""What binds a site's audits in one job: coins are in the log before a step sees them, results after."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloister.client.site.canaries import Canaries
from cloister.client.site.ledger import Ledger
from cloister.privacy.dp import accounting
from cloister.privacy.dp.audit import Audit
from cloister.privacy.errors import StateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.plan import Plan

_COMMITTED, _PLANTED = "audit.committed", "audit.planted"


@dataclass
class Pledges:
    """The commitments of one job at one site.

    Attributes:
        plan: of the job.
        log: the site's event log.
        canaries: those that stand among the site's records; None where the plan has none.
    """

    plan: Plan
    log: EventLog
    canaries: Canaries | None = None
    _given: bool = field(default=False, init=False)

    def give(self, audit: Audit | None) -> None:
        """Binds the site to the coins of its audits before the first step that they take part in.

        Args:
            audit: of the private steps; None where there are none.

        Raises:
            StateError: ``state_damaged``, the log is bound to other coins, or to none after steps were seen.
        """
        canaries = self.canaries
        if self._given:
            return
        if audit is not None:
            numbers = {"phantoms": audit.phantoms, "guesses": audit.guesses}
            self._bind(_COMMITTED, audit.commitment, numbers, new=not audit.tally.steps)
        if canaries is not None:
            numbers = {"canaries": len(canaries), "guesses": canaries.guesses}
            self._bind(_PLANTED, canaries.commitment, numbers, new=not self._trained())
        self._given = True

    def _bind(self, kind: str, commitment: str, numbers: dict[str, int], *, new: bool) -> None:
        """Writes down a commitment once, or finds it in the log."""
        job = self.plan.digest
        known = [e.body["commitment"] for e in self.log.entries() if (e.type, e.job) == (kind, job)]
        if not known and new:
            self.log.append(kind, job=job, commitment=commitment, **numbers)
        elif known != [commitment]:
            raise StateError(
                "state_damaged", "The audit of this job is not the one that the event log is bound to."
            )

    def _trained(self) -> bool:
        """Whether a round of this job was begun here before."""
        begun = ("budget.reserved", "update.sent")
        return any(e.job == self.plan.digest and e.type in begun for e in self.log.entries())

    def conclude(self, audit: Audit | None, site: str, ledger: Ledger) -> None:
        """Writes down what the audit of the private steps found, beside what the ledger's rounds claim."""
        each = self.plan.site_mechanism
        if audit is None or each is None or not (audit.tally.steps or audit.failed):
            return
        job, dataset, delta = self.plan.digest, self.plan.site(site).dataset, self.plan.privacy.delta
        rounds = sum(row.kind == "reserved" and row.reservation.job == job for row in ledger.rows(dataset))
        result = audit.result(delta)
        self.log.append(
            "audit.result",
            job=job,
            commitment=audit.commitment,
            correct=result.correct,
            claimed=accounting.epsilon([each] * rounds, delta),
            bound=result.bound,
            delta=delta,
            failed=bool(audit.failed),
        )
