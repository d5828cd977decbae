"""What must hold at this site of a plan, whoever asks for it: first all that can be known without a record.

Code, dataset, budget and base model are compared in this order, and only then are records read: a plan with
another tokenizer, rank or shape, or one that the budget does not bear, is refused before any is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cloister.client.site.datasets import Datasets
from cloister.client.site.entries import Budget
from cloister.client.site.folder import SiteFolder
from cloister.privacy import code
from cloister.privacy.dp import accounting
from cloister.privacy.dp.calibration import target_within
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError, ModelError, PlanError
from cloister.privacy.model import BaseModel, agreed_layout, describe, foundation
from cloister.privacy.plan import Plan


@dataclass(frozen=True)
class Admission:
    """A plan at a site.

    Attributes:
        site: the folder.
        plan: the plan.
        model: where the base model is, if not where the plan's name leads.
    """

    site: SiteFolder
    plan: Plan
    model: str = ""

    def check_terms(self) -> None:
        """Code, dataset and budget, as far as they are known without a look at any record.

        Raises:
            PlanError: ``code_mismatch``, ``plan_conflict``.
            BudgetError: ``budget_missing``, ``budget_conflict``, ``budget_exceeded``, ``ledger_behind``.
            InputError, StateError: there is no such dataset here.
        """
        plan, datasets = self.plan, Datasets(self.site)
        own = plan.site(self.site.name)
        if own.code != code.installed():
            raise PlanError(
                "code_mismatch",
                "The plan names other code than is installed here.",
                "Install the same release.",
            )
        offered = datasets[own.dataset]
        offered.require(plan.task)
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
        self._check_budget(datasets)

    def check_base(self) -> None:
        """Refuses another base model, tokenizer, rank or shape than the plan means; reads no record.

        A model that is not on this machine by the plan's name is compared by the agent, which may know where
        it is, before it takes part.

        Raises:
            ModelError: ``model_mismatch``, ``adapter_invalid``, ``model_unsafe``; ``model_missing`` only of a
                place that somebody named.
            PlanError: ``task_unsupported``.
        """
        if self.plan.task.table:  # there is no model to compare; columns are, with the dataset's
            agreed_layout(self.plan, foundation(self.plan))
            return
        model = self.model or self.plan.base.name
        try:
            base = _described(model, _stamps(model))
        except ModelError as error:
            if error.id == "model_missing" and not self.model:
                return
            raise
        agreed_layout(self.plan, base)

    def check_records(self) -> None:
        """Reads the records, and refuses those that the plan's task cannot be learnt from.

        Raises:
            InputError: as ``Datasets.open`` and ``Records.check``.
        """
        plan = self.plan
        for part in Datasets(self.site).open(plan.site(self.site.name).dataset, plan.digest):
            part.check(plan.task)

    def _check_budget(self, datasets: Datasets) -> None:
        """Refuses a plan that the ledger would refuse half way."""
        plan = self.plan
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
        ledger.require_whole()
        # What this job has spent is part of the whole plan: a site that restarts in the middle may go on.
        others = [row.reservation for row in ledger.rows(dataset) if row.kind == "reserved"]
        spent = [kept.mechanism for kept in others if kept.job != plan.digest]
        total = accounting.epsilon([*spent, *[mechanism] * plan.training.rounds], budget.delta)
        if total > budget.epsilon:
            raise BudgetError(
                "budget_exceeded",
                f"The whole plan would reach epsilon {total:.2f} of {budget.epsilon:.2f} for {dataset}.",
                _nearest(plan, mechanism, budget, spent),
            )


def _nearest(plan: Plan, mechanism: GaussianSteps, budget: Budget, spent: list[GaussianSteps]) -> str:
    """The same plan with the largest target that what is left bears."""
    training, privacy = plan.training, plan.privacy
    steps = training.rounds * mechanism.steps
    limit = (budget.epsilon, budget.delta)
    found = target_within(limit, spent, delta=privacy.delta, rate=mechanism.rate, steps=steps)
    if found is None:
        return "What is left of the budget bears no plan of this length."
    return (
        f"The nearest plan that fits: the same with epsilon {found:g} instead of {privacy.epsilon:g}; ask "
        f"the lead to run `cloister lead propose` again with --epsilon {found:g}."
    )


def _stamps(model: str) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a folder's files; none where there is no folder that can be looked at."""
    try:
        found = [(path.name, path.stat()) for path in sorted(Path(model).iterdir())]
    except OSError:
        return ()
    return tuple((name, about.st_size, about.st_mtime_ns) for name, about in found)


@lru_cache(maxsize=4)
def _described(model: str, _stamps: tuple[tuple[str, int, int], ...]) -> BaseModel:
    """``describe`` for an agent that looks at a waiting plan twice a second: unchanged files are read once.

    It decides what may be approved; what is loaded is described anew.
    """
    return describe(model)
