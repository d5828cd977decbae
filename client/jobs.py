"""Plans that were proposed to this site, and its decisions on them.

A plan is checked in full before a person may approve it: the lead's signature, the roster and whether every
key in it was confirmed here, this site's own terms, the code, the base model, the dataset, and whether the
budget bears the whole plan. What fails is refused with its reason; nothing is run half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical, code, durable
from cloister.privacy.consent import Decision
from cloister.privacy.dp import accounting
from cloister.privacy.errors import BudgetError, IdentityError, PlanError
from cloister.privacy.evidence.witnessing import Witness
from cloister.privacy.plan import Plan
from cloister.privacy.wire.signed import Signed

WAITING, APPROVED, REFUSED, DONE = "waiting", "approved", "refused", "done"


@dataclass(frozen=True)
class Job:
    """A proposed plan in the site's folder, and how far the site is with it."""

    folder: Path
    plan: Plan

    @property
    def state(self) -> str:
        """``waiting``, ``approved``, ``refused`` or ``done``."""
        if (self.folder / "done").exists():
            return DONE
        decision = self.decision
        if decision is None:
            return WAITING
        return APPROVED if decision.approve else REFUSED

    @property
    def decision(self) -> Decision | None:
        """This site's word, if it has spoken."""
        path = self.folder / "decision.json"
        return Decision.from_bytes(path.read_bytes()) if path.exists() else None

    def close(self) -> None:
        """Notes that the final model was received and kept."""
        durable.write(self.folder / "done", b"")


@dataclass(frozen=True)
class Jobs:
    """All plans that were proposed to a site."""

    site: SiteFolder

    def keep(self, plan: Plan, signed: Signed) -> Job:
        """Keeps a plan whose signature was verified; the same again changes nothing."""
        place = self.site.path / "jobs" / plan.digest.removeprefix("sha256:")[:16]
        if not (place / "plan.json").exists():
            durable.private_folder(place)
            durable.write(place / "plan.signed", canonical.encode(signed.to_json()))
            durable.write(place / "plan.json", plan.to_bytes())
            self.site.log.append(
                "approval.requested",
                job=plan.digest,
                subject=plan.digest,
                stage="start",
                role="administrator",
            )
        return Job(place, plan)

    def __iter__(self) -> Iterator[Job]:
        for path in sorted((self.site.path / "jobs").glob("*/plan.json"), key=lambda p: p.stat().st_mtime):
            yield Job(path.parent, Plan.from_bytes(path.read_bytes()))

    def find(self, name: str) -> Job:
        """The job whose digest starts with ``name``; raises ``PlanError`` ``plan_unknown``."""
        wanted = name.removeprefix("sha256:")
        found = [p for p in self if p.plan.digest.removeprefix("sha256:").startswith(wanted)]
        if len(found) != 1:
            raise PlanError("plan_unknown", f"{len(found)} plans here have a name that starts with {name}.")
        return found[0]

    def approve(self, job: Job) -> Decision:
        """Checks a plan and approves it.

        Raises:
            IdentityError: ``roster_mismatch`` or ``peer_unconfirmed``.
            PlanError, InputError, ModelError, BudgetError: what the site cannot take part in, and why.
        """
        self.check(job.plan)
        return self._decide(job, Decision(site=self.site.name, plan=job.plan.digest, approve=True))

    def refuse(self, job: Job, reason: str) -> Decision:
        """Refuses, with the id of the reason."""
        decision = Decision(site=self.site.name, plan=job.plan.digest, approve=False, reason=reason)
        return self._decide(job, decision)

    def check(self, plan: Plan) -> None:
        """Everything that must hold before this site may take part; see ``approve``."""
        self._check_roster(plan)
        own = plan.site(self.site.name)
        if own.identity != self.site.identity.public.digest():
            raise IdentityError("roster_mismatch", "The plan names another key for this site.")
        if own.code != code.installed():
            raise PlanError(
                "code_mismatch",
                "The plan names other code than is installed here.",
                "Install the same release.",
            )
        datasets = Datasets(self.site)
        offered = datasets[own.dataset]
        if plan.privacy.unit != offered.unit:
            raise PlanError(
                "plan_conflict",
                f"The plan's unit of privacy is the {plan.privacy.unit}, that of {own.dataset} the "
                f"{offered.unit}.",
                "Ask for a plan with the unit that was offered.",
            )
        if (offered.rows, offered.persons) != (own.rows, own.persons):
            raise PlanError(
                "plan_conflict", f"The plan names another size of {own.dataset} than was offered."
            )
        train, held = datasets.open(own.dataset, plan.digest)
        for part in (train, held):
            part.targets(plan.task.labels)
        self._check_budget(plan, datasets)

    def _check_roster(self, plan: Plan) -> None:
        roster = self.site.roster
        if plan.roster != roster.digest():
            raise IdentityError(
                "roster_mismatch",
                "The plan is for another roster than the newest one here.",
                "Ask for a new plan.",
            )
        for party in (plan.lead, *plan.sites):
            if roster.member(party.name).digest() != party.identity:
                raise IdentityError("roster_mismatch", f"The plan names another key for {party.name}.")
        Witness(self.site.path).refuse_conflicts(roster.members)
        strangers = [peer.identity.name for peer in self.site.peers() if not peer.confirmed]
        if strangers:
            raise IdentityError(
                "peer_unconfirmed",
                f"The keys of {', '.join(strangers)} were never confirmed here.",
                "Compare their words by telephone, then `cloister site peers confirm NAME --words …`.",
            )

    def _check_budget(self, plan: Plan, datasets: Datasets) -> None:
        """Refuses a plan that the ledger would refuse half way."""
        mechanism, dataset = plan.round_mechanism, plan.site(self.site.name).dataset
        if mechanism is None:
            return
        ledger = datasets.ledger
        budget = next((b for b in ledger.budgets() if b.dataset == dataset), None)
        if budget is None:
            raise BudgetError("budget_missing", f"{dataset} has no budget.", "Run `cloister site data add`.")
        if budget.unit != plan.privacy.unit:
            raise BudgetError(
                "budget_conflict", f"The budget of {dataset} is per {budget.unit}, not {plan.privacy.unit}."
            )
        # What this job has spent is part of the whole plan: a site that restarts in the middle may go on.
        others = [row.reservation for row in ledger.rows(dataset) if row.kind == "reserved"]
        spent = [kept.mechanism for kept in others if kept.job != plan.digest]
        total = accounting.epsilon([*spent, *[mechanism] * plan.training.rounds], budget.delta)
        if total > budget.epsilon:
            raise BudgetError(
                "budget_exceeded",
                f"The whole plan would reach epsilon {total:.2f} of {budget.epsilon:.2f} for {dataset}.",
                "Ask for a plan with fewer rounds or a smaller epsilon.",
            )

    def _decide(self, job: Job, decision: Decision) -> Decision:
        plan, reason = job.plan.digest, decision.reason
        fields: dict[str, Any] = {"subject": plan, "stage": "start", "role": "administrator"}
        if decision.approve:
            self.site.log.append("approval.granted", job=plan, **fields)
        else:
            self.site.log.append("approval.denied", job=plan, reason=reason, **fields)
        durable.write(job.folder / "decision.json", decision.to_bytes())
        return decision
