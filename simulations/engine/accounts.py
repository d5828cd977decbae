"""The ledgers of a simulated run: the sites' own, in files, charged before anything leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloister.client.site.entries import Reservation
from cloister.client.site.ledger import Ledger
from cloister.privacy.dp.events import GaussianSteps
from cloister.simulations.engine.plans import DATASET, Promise
from cloister.simulations.engine.rounds import ATTEMPT, Account


@dataclass(frozen=True, eq=False)
class Book:
    """One site's ledger for one method.

    Attributes:
        ledger: in a file.
        job: digest of the plan or the analytic round.
    """

    ledger: Ledger
    job: str

    @classmethod
    def open(cls, path: Path, unit: str, promise: Promise, job: str) -> Book:
        """A new ledger whose budget is the promise.

        Raises:
            StateError: as ``Ledger`` does.
            BudgetError: ``budget_conflict``.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(path)
        ledger.open_budget(DATASET, unit, promise.epsilon, promise.delta)
        return cls(ledger, job)

    @property
    def account(self) -> Account:
        """What a method charges."""
        return Account(self._reserve, self._settle)

    @property
    def epsilon(self) -> float:
        """What was reserved, together."""
        return self.ledger.epsilon(DATASET)

    def _reserve(self, number: int, mechanism: GaussianSteps) -> None:
        self.ledger.reserve(DATASET, self.job, number, ATTEMPT, mechanism)

    def _settle(self, number: int, mechanism: GaussianSteps) -> None:
        reserved = next(
            row.reservation
            for row in self.ledger.rows(DATASET)
            if (row.kind, row.reservation.round) == ("reserved", number)
        )
        self.ledger.settle(Reservation(DATASET, self.job, number, ATTEMPT, reserved.mechanism), mechanism)
