"""A simulated site as a folder that every machine of a cluster sees.

Ray's actors keep nothing between messages, and each message may go to another one. So a site is opened from
its folder for every message, as its agent does after a restart: keys, ledger, event log, stored replies and
the state of secure sums are on disk before an answer leaves. Only rows, which never change, stay in memory.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from cloister.client.contribution import Learner
from cloister.client.following import Following
from cloister.client.participation import Participant
from cloister.client.replies import Replies
from cloister.client.site.ledger import Ledger
from cloister.client.site.records import Records
from cloister.client.sums import SecureSums
from cloister.privacy import durable
from cloister.privacy.descent import steps_of
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import StateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.simulations.cluster.pupil import SimulatedPupil
from cloister.simulations.cluster.terms import Terms
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.plans import DATASET

Rows: TypeAlias = Holding | Records
"""What a site trains on: cached features, or texts that a base model reads."""
_ROWS, _RECORDS, _SEED, _LEDGER = "rows.npz", "records.json", "seed", "ledger.sqlite"


@dataclass(frozen=True)
class SimulatedSite:
    """The folder of one simulated site.

    Attributes:
        path: its own.
    """

    path: Path

    @property
    def ledger(self) -> Path:
        """The file of its ledger."""
        return self.path / _LEDGER

    def write(self, identity: PrivateIdentity, rows: Rows, seed: bytes) -> None:
        """Makes the folder.

        Args:
            identity: the site's keys.
            rows: its rows.
            seed: of its sampling and noise.

        Raises:
            StateError: ``state_unwritable``, ``disk_full``.
        """
        identity.save(self.path)
        durable.write(self.path / _SEED, seed)
        if isinstance(rows, Records):
            durable.write(self.path / _RECORDS, json.dumps(asdict(rows)).encode())
            return
        held: dict[str, Any] = {"features": rows.features, "labels": rows.labels}
        if rows.units is not None:
            held["units"] = rows.units
        try:
            with (self.path / _ROWS).open("wb") as file:
                np.savez(file, **held)
        except OSError as error:
            raise durable.unwritable(self.path / _ROWS, error) from error

    def participant(self, plan: Plan, lead: PublicIdentity, terms: Terms, start: Vector) -> Participant:
        """The real code of a site in the job of a plan.

        Args:
            plan: the job.
            lead: its lead.
            terms: what the plan does not say.
            start: the model before round 1.

        Raises:
            StateError, LogError, IdentityError: the folder cannot be read or written.
            BudgetError: ``budget_conflict``.
        """
        identity = PrivateIdentity.load(self.path)
        log = EventLog.open(self.path / "log", identity)
        ledger = Ledger(self.ledger, log)
        if plan.privacy.mode != "off":
            ledger.open_budget(DATASET, plan.privacy.unit, terms.epsilon, terms.delta)
        entropy = FixedEntropy((self.path / _SEED).read_bytes())
        steps = steps_of(plan, terms.layout(plan)) if plan.joint else None
        name = identity.public.name
        if terms.base:
            from cloister.simulations.cluster import texts

            learner: Learner = texts.learner(plan, name, terms.base, self.path / _RECORDS, entropy)
        else:
            learner = SimulatedPupil(plan, name, _rows(self.path / _ROWS), entropy, terms)
        return Participant(
            plan=plan,
            identity=identity,
            lead=lead,
            learner=learner,
            ledger=ledger,
            entropy=entropy,
            log=log,
            replies=Replies(self.path / "replies"),
            secure=self._secure(plan, identity, terms),
            following=Following(steps, start) if steps else None,
            complain=lambda line: print(line, file=sys.stderr),
        )

    def _secure(self, plan: Plan, identity: PrivateIdentity, terms: Terms) -> SecureSums | None:
        sums = plan.sum_terms
        if sums is None:
            return None
        peers = {name: terms.roster.member(name) for name in sums.sites}
        return SecureSums(sums, identity, peers, self.path / "sums.json")


@cache
def _rows(path: Path) -> Holding:
    """The rows of a file, read once by each process.

    Raises:
        StateError: ``state_damaged``.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            return Holding(found["features"], found["labels"], found.get("units"))
    except (OSError, ValueError, KeyError) as error:
        raise StateError(
            "state_damaged",
            f"{path} does not hold a site's rows.",
            "All machines of a cluster must see the same folder.",
        ) from error
