"""A consortium that fine-tunes in one process, from records to a model, without a socket or a second model.

    played = Consortium(base, {"north": records, "south": records, "west": records})
    plan, start = played.draft(Terms("notes", labels, mode="local", secure=True))
    shared = played.model(plan)
    trained = played.run(shared, start, played.seats(shared), masked=True)

The plan is drafted by the lead's own code from the sites' own offers. Nothing that comes out is evidence of
anything: one program owns all records and all keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from cloister.client.site.records import Records, rows_band
from cloister.privacy import code
from cloister.privacy.clauses import Persons, Rows
from cloister.privacy.consent import Offer
from cloister.privacy.entropy import Entropy, FixedEntropy
from cloister.privacy.errors import PlanError
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.model import BaseModel
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.server.proposal import draft
from cloister.server.terms import Terms
from cloister.simulations.engine import rounds
from cloister.simulations.engine.adapters import SharedModel
from cloister.simulations.engine.plans import DATASET, LEAD
from cloister.simulations.engine.rounds import FREE, Account, Seat, Trained, Watch, unwatched
from cloister.simulations.engine.sums import MaskedSums, OpenSums, Sums

Entropies = Callable[[str], Entropy]
Accounts = Callable[[str], Account]


@dataclass(frozen=True, eq=False)
class Consortium:
    """Sites with records and with keys that were made for this simulation.

    Attributes:
        base: the base model on this machine.
        records: site name -> what it trains on.
        seed: of all sampling and noise.
    """

    base: BaseModel
    records: Mapping[str, Records]
    seed: int = 0
    identities: dict[str, PrivateIdentity] = field(init=False)

    def __post_init__(self) -> None:
        made = {name: PrivateIdentity.generate(name, "site") for name in self.records}
        object.__setattr__(self, "identities", {LEAD: PrivateIdentity.generate(LEAD, "lead"), **made})

    @cached_property
    def roster(self) -> Roster:
        """Everybody's public keys."""
        return Roster("simulation", tuple(identity.public for identity in self.identities.values()))

    def draft(self, terms: Terms) -> tuple[Plan, Vector]:
        """The plan of these terms, and the start of training.

        Raises:
            PlanError, BudgetError, ModelError: as the lead's ``draft``.
            InputError: ``site_empty``.
        """
        digest = code.installed()
        offers = {name: _offer(name, records, digest) for name, records in self.records.items()}
        return draft(terms, self.roster, offers, self.base, digest)

    def model(self, plan: Plan) -> SharedModel:
        """The one model that all sites of a plan train on."""
        return SharedModel(plan, self.base)

    def entropy(self, name: str) -> Entropy:
        """A site's randomness: the same again for the same seed."""
        return FixedEntropy(f"{self.seed}/{name}".encode())

    def seats(
        self, shared: SharedModel, accounts: Accounts = lambda _: FREE, entropies: Entropies | None = None
    ) -> dict[str, Seat]:
        """The sites of a job.

        Args:
            shared: the model of its plan.
            accounts: opens each site's account.
            entropies: each site's randomness; None for that of the seed.

        Raises:
            PlanError, InputError, ModelError: as ``SharedModel.learners``.
        """
        drawn = entropies or self.entropy
        return {
            name: Seat(learner, drawn(name), accounts(name))
            for name, learner in shared.learners(self.records).items()
        }

    def run(
        self,
        shared: SharedModel,
        start: Vector,
        seats: Mapping[str, Seat],
        *,
        masked: bool,
        watch: Watch = unwatched,
    ) -> Trained:
        """Runs a plan to its end.

        Args:
            shared: the model of the plan.
            start: the model before round 1.
            seats: as ``seats`` gives them.
            masked: whether sums go through real keys and masks; without, they are the same bit for bit.
            watch: told after each round.

        Raises:
            PlanError: ``plan_conflict``, masks are asked for where the plan has none, or the plan has few
                bits a parameter.
            UpdateError, AggregationError, BudgetError, RoundError: as each part does.
        """
        plan, sums = shared.plan, self._sums(shared.plan, seats, masked=masked)
        if plan.joint and sums is not None:
            return rounds.joint(plan, shared.layout, seats, sums, start, watch)
        return rounds.local(plan, seats, sums, start, watch)

    def _sums(self, plan: Plan, seats: Mapping[str, Seat], *, masked: bool) -> Sums | None:
        terms = plan.sum_terms
        if terms is None:
            if masked:
                raise PlanError("plan_conflict", "The plan has no secure aggregation, so nothing is masked.")
            return None
        if not masked:
            return OpenSums(terms.sites)
        return MaskedSums(terms, self.identities, {name: seat.entropy for name, seat in seats.items()})


def _offer(name: str, records: Records, digest: str) -> Offer:
    low, high = rows_band(len(records))
    whom = None
    if records.persons is not None:
        counts = Counter(records.persons)
        least, most = rows_band(len(counts))
        whom = Persons(low=least, high=most, most_rows=max(counts.values()))
    return Offer(site=name, dataset=DATASET, code=digest, rows=Rows(low=low, high=high), persons=whom)
