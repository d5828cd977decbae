"""The lead's jobs: one folder each, named by the plan's digest, in which every file is written whole.

==================  =====================================================================
``plan.json``       the canonical plan
``plan.signed``     the same under the lead's signatures
``decisions/``      each site's signed approval or refusal
``left/``           each site's signed word that it has left the job
``state.json``      proposed, approved, running, finished, failed, refused or stopped
``progress.json``   the round, who answered, bytes moved: what ``lead status`` shows
``checkpoint``      the global model and what the next round needs
``versions/``       the newest models before it (``server.versions``)
``stop``            its presence asks the run to stop
==================  =====================================================================

The command line and the running lead are separate processes: they meet in these files only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloister.privacy import canonical, durable
from cloister.privacy.consent import PLAN_CONTEXT, Decision, Withdrawal
from cloister.privacy.descent import Steps, steps_of
from cloister.privacy.errors import PlanError, StateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, Signature
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan, parsed
from cloister.privacy.update import Vector
from cloister.privacy.vault import CLEAR, Vault
from cloister.privacy.wire.messages import model_digest
from cloister.privacy.wire.signed import Signed
from cloister.server.checkpoint import Checkpoint
from cloister.server.versions import Versions

_LAYOUT, _GIVE_UP = "layout.json", "give-up"

PROPOSED, APPROVED, RUNNING = "proposed", "approved", "running"
FINISHED, FAILED, REFUSED, STOPPED = "finished", "failed", "refused", "stopped"
OPEN = (PROPOSED, APPROVED, RUNNING)


@dataclass(frozen=True)
class Job:
    """One job of the lead, backed by its folder."""

    folder: Path
    plan: Plan

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.exists():
            return {}
        value = canonical.decode(
            path.read_bytes(), otherwise=StateError("state_damaged", f"{path} is damaged.")
        )
        return dict(value)

    @property
    def state(self) -> str:
        """Where the job stands."""
        return str(self._read("state.json").get("state", PROPOSED))

    @property
    def reason(self) -> str:
        """One line on why the job stands where it does; empty while all is well."""
        return str(self._read("state.json").get("reason", ""))

    def move(self, state: str, reason: str = "") -> None:
        """Notes a new state, with the line that an operator sees."""
        durable.write(self.folder / "state.json", canonical.encode({"state": state, "reason": reason}))

    @property
    def signed(self) -> Signed:
        """The plan under the lead's signatures."""
        return Signed.from_json(self._read("plan.signed"))

    @property
    def descent(self) -> Steps | None:
        """The steps of a joint job, or of an analytic one; None in any other.

        Raises:
            ModelError: ``adapter_invalid``, the order of its parameters is not here.
        """
        if not self.plan.stepped:
            return None
        path = self.folder / _LAYOUT
        data = path.read_bytes() if path.exists() else b""
        return steps_of(self.plan, Layout.from_bytes(data, self.plan.adapter.layout))

    @property
    def progress(self) -> dict[str, Any]:
        """The last progress of the run, {} before it started."""
        return self._read("progress.json")

    def note(self, progress: dict[str, Any]) -> None:
        """Writes the progress that ``lead status`` shows."""
        durable.write(self.folder / "progress.json", canonical.encode(progress), sync=False)

    # Decisions of the sites

    def decisions(self) -> dict[str, Decision]:
        """Site name -> its decision."""
        return {name: Decision.from_bytes(s.content) for name, s in self.signed_decisions().items()}

    def signed_decisions(self) -> dict[str, Signed]:
        """Site name -> its decision under its signatures."""
        paths = (self.folder / "decisions").glob("*.signed")
        return {p.stem: Signed.from_json(self._read(f"decisions/{p.name}")) for p in sorted(paths)}

    def decide(self, decision: Decision, signature: Signature) -> None:
        """Keeps a site's verified decision; one that comes after the start changes nothing.

        Raises:
            PlanError: ``plan_unknown``, the site is not in the plan.
        """
        self.plan.site(decision.site)
        if self.state == PROPOSED:
            signed = Signed(decision.to_bytes(), signature)
            durable.private_folder(self.folder / "decisions")
            path = self.folder / "decisions" / f"{decision.site}.signed"
            durable.write(path, canonical.encode(signed.to_json()))
            self._settle()

    def _settle(self) -> None:
        """Approved when every site approves; refused as soon as one refuses."""
        decisions = self.decisions()
        for decision in decisions.values():
            if not decision.approve:
                self.move(REFUSED, f"{decision.site} refuses: {decision.reason}")
                return
        if {site.name for site in self.plan.sites} <= set(decisions):
            self.move(APPROVED)

    # Sites that leave

    def left(self) -> dict[str, str]:
        """Site name -> id of the reason why it has left."""
        signed = (self._read(f"left/{path.name}") for path in (self.folder / "left").glob("*.signed"))
        found = [Withdrawal.from_bytes(Signed.from_json(value).content) for value in signed]
        return {withdrawal.site: withdrawal.reason for withdrawal in found}

    def withdraw(self, withdrawal: Withdrawal, signature: Signature) -> bool:
        """Keeps a site's verified word that it leaves; whether that is news to a job that is not over.

        Raises:
            PlanError: ``plan_unknown``, the site is not in the plan.
        """
        self.plan.site(withdrawal.site)
        path = self.folder / "left" / f"{withdrawal.site}.signed"
        if path.exists() or self.state in (FINISHED, REFUSED):
            return False
        durable.private_folder(path.parent)
        durable.write(path, canonical.encode(Signed(withdrawal.to_bytes(), signature).to_json()))
        if self.state == PROPOSED:
            self.move(REFUSED, f"{withdrawal.site} has left before it began: {withdrawal.reason}")
        return True

    # The operator's wish

    def stop(self) -> None:
        """Asks the run to stop after the answer it is waiting for."""
        durable.write(self.folder / "stop", b"")

    def stopping(self) -> bool:
        """Whether the run is asked to stop."""
        return (self.folder / "stop").exists()

    def resume(self, *, give_up: bool = False) -> None:
        """Lets a stopped or failed job go on from its checkpoint.

        Args:
            give_up: without the round whose sum was begun and not opened.

        Raises:
            PlanError: ``plan_not_approved``, the job is not one that can go on.
        """
        if self.state not in (STOPPED, FAILED):
            raise PlanError(
                "plan_not_approved", f"The job is {self.state}; only a stopped or failed one resumes."
            )
        (self.folder / "stop").unlink(missing_ok=True)
        if give_up:
            durable.write(self.folder / _GIVE_UP, b"")
        self.move(APPROVED)

    def roll_back(self, round: int, vault: Vault, log: EventLog) -> Checkpoint:
        """Goes back to the global model after an earlier round; the job goes on from it when it is resumed.

        Rounds are never repeated: one that was begun is over, and stays charged at the sites that answered.

        Args:
            round: after which the wanted model stood.
            vault: how the lead's folder keeps secrets.
            log: the lead's event log.

        Returns:
            The new checkpoint.

        Raises:
            PlanError: ``plan_not_approved``, the job is not stopped; ``plan_conflict``, it is a joint one.
            ModelError: ``version_missing``.
        """
        if self.state not in (STOPPED, FAILED):
            raise PlanError(
                "plan_not_approved",
                f"The job is {self.state}; only a stopped or failed one goes back to an earlier model.",
                "`cloister lead stop` it first.",
            )
        if self.plan.joint:
            raise PlanError(
                "plan_conflict",
                "The sites of a joint job follow every step and refuse a model that no step leads to.",
                "Propose a new plan.",
            )
        wanted, digest = Versions(self.folder, self.plan, vault).load(round), self.plan.digest
        state = Checkpoint.load(self.folder / "checkpoint", digest, vault)
        begun = any(
            (e.type, e.job, e.round) == ("round.opened", digest, state.round + 1) for e in log.entries()
        )
        if begun:
            log.append("round.aborted", job=digest, round=state.round + 1, reason="stopped")
        log.append("model.rolled_back", job=digest, model=model_digest(wanted.model), version=round)
        # What an optimizer and a codec remembered led away from this model: they start anew.
        after = replace(state, round=state.round + begun, model=wanted.model, survivors=(), moments=())
        after = replace(after, sent=None, holders=(), rest=None)
        after.save(self.folder / "checkpoint", vault)
        return after

    def take_give_up(self) -> bool:
        """Whether the round under way is to be given up; said once."""
        said = (self.folder / _GIVE_UP).exists()
        (self.folder / _GIVE_UP).unlink(missing_ok=True)
        return said


@dataclass(frozen=True)
class Jobs:
    """All jobs in the lead's folder.

    Attributes:
        folder: of the jobs.
        vault: how the lead's folder keeps secrets; proposing writes the first checkpoint.
    """

    folder: Path
    vault: Vault = CLEAR

    def propose(self, plan: Plan, start: Vector, lead: PrivateIdentity, order: Layout | None = None) -> Job:
        """Signs a plan and lays it out for the sites; proposing the same plan again changes nothing.

        Args:
            plan: what is proposed.
            start: the global model before round 1, float32, shape (d,).
            lead: whose signature sites expect.
            order: of the trained parameters; the server needs it for the steps of a joint job.
        """
        folder = self.folder / plan.digest.removeprefix("sha256:")[:16]
        job = Job(folder, plan)
        if (folder / "plan.json").exists():
            return job
        durable.private_folder(folder)
        signed = Signed.make(plan.to_bytes(), lead, PLAN_CONTEXT)
        durable.write(folder / "plan.signed", canonical.encode(signed.to_json()))
        Checkpoint(plan.digest, 0, start, {}, {}).save(folder / "checkpoint", self.vault)
        if order is not None:
            durable.write(folder / _LAYOUT, order.to_bytes())
        job.move(PROPOSED)
        durable.write(folder / "plan.json", plan.to_bytes())
        return job

    def __iter__(self) -> Iterator[Job]:
        for path in sorted(self.folder.glob("*/plan.json"), key=lambda p: p.stat().st_mtime):
            yield Job(path.parent, parsed(path.read_bytes()))

    def find(self, name: str) -> Job:
        """The job whose digest starts with ``name`` (with or without ``sha256:``).

        Raises:
            PlanError: ``plan_unknown``.
        """
        wanted = name.removeprefix("sha256:")
        found = [job for job in self if job.plan.digest.removeprefix("sha256:").startswith(wanted)]
        if len(found) != 1:
            raise PlanError("plan_unknown", f"{len(found)} jobs have a name that starts with {name}.")
        return found[0]
