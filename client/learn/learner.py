"""A site's learner in one job: the warm model over its own records, behind the participant's seam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloister.client.guard import Score
from cloister.client.learn import analytic, export, tasks
from cloister.client.learn.adapters import Adapted, set_flat
from cloister.client.learn.documents import Labelled
from cloister.client.learn.training import LocalTrainer, Moment, Settings
from cloister.client.site import persons
from cloister.client.site.records import Records
from cloister.privacy import canonical, durable, heap
from cloister.privacy.dp.audit import Audit, Pipeline
from cloister.privacy.entropy import Entropy
from cloister.privacy.errors import PlanError
from cloister.privacy.model import BaseModel, agreed_layout
from cloister.privacy.plan import Plan
from cloister.privacy.update import Delta, Encoded, Share, Surplus, Vector
from cloister.privacy.vault import CLEAR, Vault
from cloister.privacy.wire.envelope import Header

_AUDIT, _PROGRESS = "audit.json", "progress.jsonl"


def require_unit(plan: Plan, site: str, train: Records) -> None:
    """Refuses records that are not of the plan's unit of privacy, whatever was approved before.

    Raises:
        PlanError: ``plan_conflict``, only one of the two knows persons, or a person has more rows than
            the plan says.
    """
    persons_there = plan.site(site).persons
    counts = Counter(train.persons or ())
    if (train.persons is None) != (plan.privacy.unit == "record"):
        raise PlanError(
            "plan_conflict", f"The plan's unit is the {plan.privacy.unit}, that of the records not."
        )
    if persons_there is not None and max(counts.values(), default=0) > persons_there.most_rows:
        raise PlanError(
            "plan_conflict",
            f"The plan says that at most {persons_there.most_rows} rows of a person count.",
            "Register the dataset as it was offered.",
        )


def audit_of(plan: Plan, path: Path, vault: Vault = CLEAR) -> Audit | None:
    """The audit of a job, from its file or begun there; None where the plan has no privacy.

    None of an analytic plan either: phantoms take part in steps, and it has none.

    Raises:
        StateError: the file cannot be used or written.
    """
    if plan.training.analytic or (mechanism := plan.site_mechanism) is None:
        return None
    pipeline = Pipeline(mechanism.noise_multiplier, mechanism.rate, mechanism.steps)
    if path.exists():
        return Audit.from_bytes(vault.read(path), plan.digest, pipeline)
    audit = Audit.begin(plan.digest, pipeline)
    vault.write(path, audit.to_bytes())
    return audit


_SCORED = 4
"""Models that are scored in a joint job, beside the first."""


def _scored(round: int, rounds: int) -> bool:
    """Whether the model after a round of a joint job is scored: the first, the last and some between."""
    return round == 0 or round * _SCORED // rounds > (round - 1) * _SCORED // rounds


def _moment(header: Header) -> Moment:
    return Moment(header.round, header.attempt, header.model)


class SiteLearner:
    """Trains for one plan at one site.

    Args:
        plan: the approved plan.
        site: this site's name in it.
        base: the base model on this machine.
        records: those that are trained on, and those kept back for evaluation at the site.
        entropy: the job's source of randomness.
        folder: where the audit, progress and the final model are kept.
        device: where the model trains, as torch names it; what leaves the site is drawn and rounded on the
            CPU in any case.
        vault: how the folder keeps secrets: the audit is one.

    Attributes:
        layout: the order of the trained parameters.

    Raises:
        PlanError: ``plan_conflict``, the records are of another unit of privacy than the plan.
        StateError: the file of the audit cannot be used.
        ModelError, InputError: the model is not the plan's, or the records are not its task's, or the
            device has not its precision.
    """

    def __init__(
        self,
        plan: Plan,
        site: str,
        base: BaseModel,
        records: tuple[Records, Records],
        entropy: Entropy,
        folder: Path,
        device: str = "cpu",
        vault: Vault = CLEAR,
    ) -> None:
        train, held = records
        require_unit(plan, site, train)
        self._plan, self._entropy = plan, entropy
        self._stem = base.stem if plan.task.kind == "causal-lm" else ""
        self._folder, self._vault = folder, vault
        self._settings = Settings.of(plan, site)
        self.layout = agreed_layout(plan, base)
        self.model: Adapted = tasks.placed(plan, base, self.layout, device)
        self.audit = audit_of(plan, folder / _AUDIT, vault)
        self._rows, self._units = tasks.documents(plan, base, self.model, train), persons.numbers(train)
        precision = plan.training.precision
        self._trainer = LocalTrainer(self.model, self._rows, self._units, self.audit, precision)
        self._held = tasks.documents(plan, base, self.model, held) if len(held) else None

    def train(self, model: Vector, header: Header) -> Delta:
        """One round's local steps from ``model``; see ``LocalTrainer.train``.

        What the audit saw is on disk when this returns, also where it failed.
        """
        with self._audited():
            return self._trainer.train(model, self._settings, self._entropy, _moment(header))

    def share(self, model: Vector, header: Header) -> Share:
        """This site's part of one joint step from ``model``; see ``LocalTrainer.share`` and ``train``."""
        plan = self._plan
        with self._audited():
            return self._trainer.share(model, plan.grid, plan.training.rate, self._entropy, _moment(header))

    def sums(self, header: Header) -> Encoded:
        """This site's part of the one sum of an analytic plan; see ``analytic.sums``."""
        rows, at = self._rows, _moment(header)
        if not isinstance(rows, Labelled):
            raise PlanError("plan_conflict", "An analytic round is on rows with one class each.")
        stream = self._entropy.stream("noise", round=at.round, step=1, attempt=at.attempt, model=at.model)
        return analytic.sums(self._plan, rows.features, rows.labels, self._units, stream)

    def surplus(self, header: Header, survivors: int) -> Surplus:
        """What of this site's noise in a round a sum over so many survivors does not need."""
        return self._trainer.surplus(self._plan.grid, survivors, self._entropy, _moment(header))

    @contextmanager
    def _audited(self) -> Iterator[None]:
        """What the audit saw is on disk at the end, also where it failed."""
        try:
            yield
        finally:
            if self.audit:
                self._vault.write(self._folder / _AUDIT, self.audit.to_bytes())
        heap.trim()

    def keep(self, model: Vector, round: int) -> Score | None:
        """Scores a global model on the held-out records and adds a line to the site's own progress.

        In joint mode, where a round is one short step, a few models on the way are scored.

        Returns:
            The score; None if the model was not scored.
        """
        if self._plan.joint and not _scored(round, self._plan.training.rounds):
            return None
        found, told = None, dict[str, canonical.Json](accuracy=None)
        if self._held is not None:
            set_flat(self.model, model)
            worth = self._held.worth()
            found = Score(worth.accuracy, worth.rows)
            more = {"loss": worth.loss, "entity_f1": worth.f1}
            told["accuracy"] = worth.accuracy
            told.update((name, value) for name, value in more.items() if value is not None)
        line = canonical.encode({"round": round, **told}) + b"\n"
        path = self._folder / _PROGRESS
        known = path.read_bytes() if path.exists() else b""
        if line not in known:
            durable.write(path, known + line, sync=False)
        return found

    @property
    def best(self) -> Score | None:
        """The best score of a global model of this job so far, also before a restart."""
        path = self._folder / _PROGRESS
        lines = path.read_bytes().splitlines() if path.exists() else []
        known = [canonical.decode(line)["accuracy"] for line in lines]
        accuracies = [float(value) for value in known if value is not None]
        return Score(max(accuracies), len(self._held.lengths)) if accuracies and self._held else None

    def release(self, model: Vector) -> None:
        """Keeps the final model in PEFT format."""
        export.save(self._folder / "model", self.layout, self._plan, model, self._stem)
