"""The privacy ledger of a site: what every dataset may cost, and everything that it has cost so far.

One ledger per site, in one SQLite file, over all jobs and restarts, and over all consortia where the site's
folders share it (``client.site.sharing``). Per dataset there is one budget for
one unit of privacy. Every attempt at a round is a row *reserved* before anything is computed, a row
*spent* when the mechanism was really carried out, and a row *released* before its result leaves.

Rules:

- A reserve that would take the dataset over its budget is refused, with the sum that it would reach.
- The total is that of all reserves ever made, composed by ``privacy.dp.accounting``. It never goes
  down: an unknown outcome keeps its reserve, and nothing is refunded.
- What is spent must be exactly what was reserved; where the noise is shared with other sites, no more than
  that: how many shares there were is known only once the sum is opened. Nothing is given back for it.
- One attempt releases one result: the same bytes may be sent again, others never.
- Rows are added, never changed or deleted, which the database itself enforces.
- Two processes cannot spend the same budget twice: each decides and writes under SQLite's write lock.
- With a log, the event is written first, and the row carries its hash. After a crash between the two
  the log says more than the ledger, never less; ``recover`` adds what only the log says.
- A ledger that several folders share may have lost rows of any of them once one doubts it: nothing new is
  charged until every one has compared its own log with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, Protocol

from cloister.client.site.database import held, reading, writing
from cloister.client.site.entries import Budget, Entries, Reservation, Row
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError, StateError

_LARGEST = 1e9
_EXHAUSTED = 1e-5
"""Delta of a budget that is opened by a charge."""


class Logged(Protocol):
    """What an event log answers."""

    @property
    def hash(self) -> str:
        """The hash of the event that was written."""


class Log(Protocol):
    """Where the ledger reports: the site's event log."""

    def append(self, type: str, *, job: str | None = None, round: int | None = None, **fields: Any) -> Logged:
        """Write one event, durably."""


class Ledger:
    """The ledger in a file, which is made if it does not exist. Safe to use from several processes.

    Formal guarantees:
        If nothing leaves the site but under a reservation made here, and every mechanism does what it
        says, then everything that ever left satisfies (epsilon, delta) differential privacy of the
        dataset's budget for one unit added or removed, whatever jobs came and why: the ledger is a
        Rényi filter that refuses at the budget.

    Args:
        path: the SQLite file.
        log: where every change and refusal is reported; None for none.
        make: whether a file that is not there is made.
        permit: raises where nothing new may be charged now.

    Raises:
        StateError: ``state_unwritable``, ``state_damaged``, ``state_locked`` or ``disk_full``; every
            method may raise it, and has then changed nothing. ``ledger_missing``.
    """

    def __init__(
        self,
        path: Path,
        log: Log | None = None,
        *,
        make: bool = True,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._log = log
        self._permit = permit
        if not make and not path.is_file():
            raise missing(path)
        with writing(path) as database:
            entries = Entries(database)
            if not make and entries.version == 0:
                raise missing(path)
            entries.prepare()

    def held(self) -> AbstractContextManager[None]:
        """Keeps the file open, so that each entry costs one sync; for whoever makes many."""
        return held(self._path)

    def open_budget(
        self, dataset: str, unit: str, epsilon: float, delta: float, fingerprint: str = ""
    ) -> Budget:
        """Set the budget of a dataset, once; the same terms again change nothing.

        Args:
            dataset: its name at this site.
            unit: ``person`` or ``record``.
            epsilon: the limit, above 0, over all jobs.
            delta: in (0, 1).
            fingerprint: of its data, so that the same data get no second budget under another name; "" if
                it is not known.

        Raises:
            BudgetError: ``budget_conflict`` for other terms than those set, or terms out of range;
                ``data_twice``; ``ledger_behind``.
        """
        wanted = Budget(dataset, unit, epsilon, delta)
        if unit not in ("person", "record") or not (0 < epsilon <= _LARGEST and 0 < delta < 1):
            raise BudgetError("budget_conflict", "A budget needs a unit, an epsilon and a delta in (0, 1).")
        with writing(self._path) as database:
            entries = Entries(database)
            if (other := entries.dataset_of(fingerprint)) not in (None, dataset):
                raise BudgetError(
                    "data_twice",
                    f"The same data are registered as {other}, with a budget of their own.",
                    f"Register them as {other}.",
                )
            standing = entries.budget(dataset)
            if standing is None:
                self._require_whole(entries)
                entries.add_budget(wanted, self._report("budget.opened", vars(wanted)))
            elif standing != wanted:
                raise BudgetError(
                    "budget_conflict",
                    f"The budget of {dataset} stands at epsilon {standing.epsilon:g}, delta "
                    f"{standing.delta:g} per {standing.unit}.",
                    "A budget is set once.",
                )
            if fingerprint:
                entries.add_print(fingerprint, dataset)
        return wanted

    def reserve(
        self, dataset: str, job: str, round: int, attempt: int, mechanism: GaussianSteps
    ) -> Reservation:
        """Charge one attempt at a round, before anything is computed.

        The same attempt with the same mechanism may be reserved again, after a crash for instance,
        and is charged once.

        Args:
            dataset: what is trained on; its budget must be open.
            job: digest of the plan.
            round: number of the round.
            attempt: number of the attempt at it; each draws fresh noise and costs anew.
            mechanism: what the attempt will do to the data.

        Raises:
            BudgetError: ``budget_exceeded`` (nothing is charged), ``budget_missing``, ``ledger_behind``, or
                ``reservation_conflict`` if the attempt was reserved with another mechanism.
        """
        wanted = Reservation(dataset, job, round, attempt, mechanism)
        with writing(self._path) as database:
            entries = Entries(database)
            budget = _budget(entries, dataset)
            standing = entries.find("reserved", wanted)
            if standing is None:
                self._require_whole(entries)
                total = _total(entries, budget, mechanism)
                if total > budget.epsilon:
                    raise self._refusal(budget, wanted, total)
                self._add(entries, budget, Row("reserved", wanted, total))
            elif standing.reservation != wanted:
                raise BudgetError(
                    "reservation_conflict",
                    f"Round {round}, attempt {attempt}, was reserved with another mechanism.",
                    "Another mechanism needs another attempt.",
                )
        return wanted

    def charge(self, dataset: str, unit: str, job: str, rounds: int, mechanism: GaussianSteps) -> float:
        """Charge a whole plan, whatever the budget says: after a restore, when it may all have been spent.

        What was reserved before is not charged twice. A dataset without a budget, which was registered after
        the backup, gets one that this charge exhausts; it can be given no other.

        Args:
            dataset: what the plan names.
            unit: of privacy, for a dataset without a budget.
            job: digest of the plan.
            rounds: of the plan; each is attempted once.
            mechanism: what a round may cost by the plan.

        Returns:
            The ruling epsilon of the dataset afterwards.
        """
        with writing(self._path) as database:
            entries = Entries(database)
            budget = entries.budget(dataset)
            if budget is None:
                whole = accounting.epsilon([mechanism] * rounds, _EXHAUSTED)
                budget = Budget(dataset, unit, min(whole, _LARGEST), _EXHAUSTED)
                entries.add_budget(budget, self._report("budget.opened", vars(budget)))
            for number in range(1, rounds + 1):
                wanted = Reservation(dataset, job, number, 1, mechanism)
                if entries.find("reserved", wanted) is None:
                    total = min(_total(entries, budget, mechanism), _LARGEST)
                    self._add(entries, budget, Row("reserved", wanted, total))
            return _total(entries, budget)

    def know(self, dataset: str, fingerprint: str) -> None:
        """Notes whose data have a fingerprint; ``open_budget`` refuses them under another name."""
        with writing(self._path) as database:
            Entries(database).add_print(fingerprint, dataset)

    def recover(self, budgets: Iterable[tuple[Budget, str]], charges: Iterable[Row]) -> int:
        """Adds what the event log says and the ledger lacks, whatever the budget says; what is there stays.

        No event is written, for the log has them.

        Args:
            budgets: with the hashes of their events.
            charges: rows ``reserved``, with the totals and the events of the log.

        Returns:
            The number of rows that were added.

        Raises:
            StateError: ``ledger_altered``, an attempt stands with another mechanism than in the log.
        """
        added = 0
        with writing(self._path) as database:
            entries = Entries(database)
            for budget, event in budgets:
                if entries.budget(budget.dataset) is None:
                    entries.add_budget(budget, event)
                    added += 1
            for row in charges:
                standing = entries.find("reserved", row.reservation)
                if standing is None:
                    entries.add(row, row.event)
                    added += 1
                elif standing.reservation != row.reservation:
                    raise altered([standing.seq])
        return added

    def require_whole(self) -> None:
        """Raises ``BudgetError`` ``ledger_behind`` while nothing new may be charged to a shared ledger."""
        with reading(self._path) as database:
            self._require_whole(Entries(database))

    def _require_whole(self, entries: Entries) -> None:
        """Nothing may be missing: neither is the ledger being restored, nor has a sharer still to look."""
        self._permit()
        if behind := [sharer.path for sharer in entries.sharers() if not sharer.settled]:
            raise BudgetError(
                "ledger_behind",
                f"The shared ledger may lack charges of {', '.join(behind)}.",
                "Start the agent of each once: it compares its event log with the ledger.",
            )

    def spend(self, reservation: Reservation, mechanisms: Iterable[GaussianSteps]) -> None:
        """Record that a reserved mechanism was carried out; again for the same attempt has no effect.

        Args:
            reservation: from ``reserve``.
            mechanisms: what the update says was done to the data; together, exactly the reserve.

        Raises:
            BudgetError: ``reservation_unknown``, or ``reservation_conflict`` if something else was done.
        """
        if accounting.merged(mechanisms) != accounting.merged([reservation.mechanism]):
            raise BudgetError(
                "reservation_conflict", "The mechanism that was carried out is not the one that was reserved."
            )
        self._spend(reservation, reservation.mechanism)

    def settle(self, reservation: Reservation, mechanism: GaussianSteps) -> None:
        """Record what a mechanism with shared noise came to; again for the same attempt has no effect.

        Args:
            reservation: from ``reserve``.
            mechanism: the same steps at the same rate, with as much noise or more.

        Raises:
            BudgetError: ``reservation_unknown``, or ``reservation_conflict`` if it is more than was reserved.
        """
        reserved = reservation.mechanism
        same = (mechanism.rate, mechanism.steps) == (reserved.rate, reserved.steps)
        if not same or mechanism.noise_multiplier < reserved.noise_multiplier:
            raise BudgetError("reservation_conflict", "A sum came to more than what was reserved for it.")
        self._spend(reservation, mechanism)

    def _spend(self, reservation: Reservation, mechanism: GaussianSteps) -> None:
        with writing(self._path) as database:
            entries = Entries(database)
            budget = _budget_of(entries, reservation)
            if entries.find("spent", reservation) is None:
                row = Row("spent", replace(reservation, mechanism=mechanism), _total(entries, budget))
                self._add(entries, budget, row, reservation)

    def release(self, reservation: Reservation, result: str, *, shared: bool = False) -> None:
        """Record which result leaves the site, before its first byte does; again has no effect.

        Args:
            reservation: from ``reserve``; it must be spent.
            result: digest of the sealed bytes.
            shared: the noise is shared with other sites, so what is spent shows later (``settle``).

        Raises:
            BudgetError: ``reservation_unknown``, or ``reservation_conflict`` if it is not spent or
                another result was released under it.
        """
        with writing(self._path) as database:
            entries = Entries(database)
            budget = _budget_of(entries, reservation)
            if not shared and entries.find("spent", reservation) is None:
                raise BudgetError("reservation_conflict", "A result cannot be released before it is spent.")
            standing = entries.find("released", reservation)
            if standing is None:
                self._add(entries, budget, Row("released", reservation, _total(entries, budget), result))
            elif standing.result != result:
                raise BudgetError(
                    "reservation_conflict",
                    f"Round {reservation.round}, attempt {reservation.attempt}, has released another result.",
                    "Only the stored bytes may be sent again.",
                )

    def epsilon(self, dataset: str) -> float:
        """The ruling epsilon of everything reserved on a dataset, at its budget's delta.

        Raises:
            BudgetError: ``budget_missing``.
        """
        with reading(self._path) as database:
            entries = Entries(database)
            return _total(entries, _budget(entries, dataset))

    def budgets(self) -> tuple[Budget, ...]:
        """All budgets, by name of the dataset."""
        with reading(self._path) as database:
            return Entries(database).budgets()

    def rows(self, dataset: str | None = None) -> tuple[Row, ...]:
        """The rows of one dataset, or of all, in the order in which they were written."""
        with reading(self._path) as database:
            return Entries(database).rows(dataset)

    def newest(self, dataset: str, job: str) -> Row | None:
        """The last row of a job on a dataset; None before it was charged anything."""
        with reading(self._path) as database:
            return Entries(database).newest(dataset, job)

    def _add(self, entries: Entries, budget: Budget, row: Row, reserved: Reservation | None = None) -> None:
        """Adds a row, of an attempt that may have been reserved with another mechanism than the row's."""
        charged = row.reservation
        ledger = {
            "epsilon": accounting.epsilon([charged.mechanism], budget.delta),
            "reservation": (reserved or charged).digest,
            "accountant": "rdp",
            "total": row.total,
        }
        if row.kind == "reserved":
            ledger["before"] = min(_total(entries, budget), _LARGEST)
        entries.add(row, self._report(f"budget.{row.kind}", {**vars(budget), **ledger}, charged))

    def _refusal(self, budget: Budget, wanted: Reservation, total: float) -> BudgetError:
        reached = {"epsilon": min(total, _LARGEST), "limit": budget.epsilon, "reason": "budget_exceeded"}
        self._report("budget.refused", {**vars(budget), **reached}, wanted)
        # Rounded apart, so that a sum just above the limit never reads like the limit.
        step = Decimal("0.01") if budget.epsilon >= 1 else Decimal("0.0001")
        sum_ = Decimal(str(total)).quantize(step, ROUND_CEILING)
        limit = Decimal(str(budget.epsilon)).quantize(step, ROUND_FLOOR)
        return BudgetError(
            "budget_exceeded",
            f"The ledger of {budget.dataset} would reach epsilon {sum_} of {limit} "
            f"at delta {budget.delta:g}.",
            "Nothing was charged; the job can go on here only with more noise or fewer steps.",
        )

    def _report(self, type_: str, body: dict[str, Any], charged: Reservation | None = None) -> str | None:
        if self._log is None:
            return None
        scope: dict[str, Any] = {"job": charged.job, "round": charged.round} if charged else {}
        return self._log.append(type_, **scope, **body).hash


def altered(rows: Iterable[int]) -> StateError:
    """The error for rows that are not as the event log says, by their places."""
    return StateError(
        "ledger_altered",
        f"Rows of the ledger are not what the event log says: {', '.join(map(str, rows))}.",
        "Nothing is charged to it any longer; find out who wrote in it, and restore it from a backup.",
    )


def missing(path: Path) -> StateError:
    """The error for a ledger that must be there."""
    return StateError(
        "ledger_missing",
        f"There is no ledger in {path.parent}.",
        "Put that folder back where it was (docs/backup.md); a ledger is never made anew.",
    )


def _budget(entries: Entries, dataset: str) -> Budget:
    budget = entries.budget(dataset)
    if budget is None:
        raise BudgetError(
            "budget_missing", f"No budget was set for {dataset}.", "Set one before anything is trained on it."
        )
    return budget


def _budget_of(entries: Entries, reservation: Reservation) -> Budget:
    standing = entries.find("reserved", reservation)
    if standing is None or standing.reservation != reservation:
        raise BudgetError("reservation_unknown", "The attempt was never reserved so in this ledger.")
    return _budget(entries, reservation.dataset)


def _total(entries: Entries, budget: Budget, *more: GaussianSteps) -> float:
    return accounting.epsilon([*entries.charged(budget.dataset), *more], budget.delta)
