"""What the rounds of one job are charged at a site: before training, at release, once a sum is open."""

from __future__ import annotations

from dataclasses import dataclass

from cloister.client.site.entries import Reservation
from cloister.client.site.ledger import Ledger
from cloister.privacy.plan import Plan
from cloister.privacy.update import Sealed
from cloister.privacy.wire.envelope import Header


@dataclass(frozen=True)
class Charges:
    """One job's entries in a site's ledger; without privacy there are none.

    Attributes:
        plan: of the job.
        site: whose data is charged.
        ledger: the site's.
    """

    plan: Plan
    site: str
    ledger: Ledger

    def of(self, header: Header) -> Reservation | None:
        """What a round is charged under; None without privacy."""
        mechanism = self.plan.round_mechanism
        if mechanism is None:
            return None
        dataset = self.plan.site(self.site).dataset
        return Reservation(dataset, self.plan.digest, header.round, header.attempt, mechanism)

    def reserve(self, header: Header) -> Reservation | None:
        """Charges a round; the same round and attempt once.

        Raises:
            BudgetError: the dataset's budget does not reach, or the round was reserved otherwise before.
        """
        wanted = self.of(header)
        if wanted is None:
            return None
        return self.ledger.reserve(wanted.dataset, wanted.job, wanted.round, wanted.attempt, wanted.mechanism)

    def release(self, header: Header, sealed: Sealed) -> None:
        """Notes which bytes leave under a round's reserve; the same ones again have no effect."""
        if reservation := self.of(header):
            self.ledger.release(reservation, sealed.digest, shared=self.plan.joint)

    def settle(self, header: Header, survivors: int) -> None:
        """Notes what a joint step came to, before this site opens its part of the sum."""
        if self.plan.joint and (reservation := self.of(header)):
            grid, rate = self.plan.grid_in(header.round), self.plan.training.rate
            self.ledger.settle(reservation, grid.settled(rate, survivors))
