"""A simulated job as a folder: plan, terms, the keys of the lead, one folder a site, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cloister.client.participation import Participant
from cloister.privacy import durable
from cloister.privacy.errors import StateError
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.simulations.cluster.site import Rows, SimulatedSite
from cloister.simulations.cluster.terms import Terms
from cloister.simulations.engine.plans import LEAD

MODELS, OUTCOME, LOG = "models.npy", "outcome.json", "flower.log"
"""What came out: the model after each round; the error or the end; what Flower and Ray said."""
_PLAN = "plan.json"


@dataclass(frozen=True)
class Job:
    """The folder of a job; every machine of a cluster must see it under the same path.

    Attributes:
        path: its own.
    """

    path: Path

    def write(
        self,
        plan: Plan,
        terms: Terms,
        identities: Mapping[str, PrivateIdentity],
        rows: Mapping[str, Rows],
        seeds: Mapping[str, bytes],
    ) -> None:
        """Makes the folder.

        Args:
            plan: the job.
            terms: what the plan does not say.
            identities: everybody's keys, the lead's as ``LEAD``.
            rows: site name -> its rows: records where the terms name a base model, else features.
            seeds: site name -> seed of its sampling and noise.

        Raises:
            StateError: ``state_unwritable``, ``disk_full``.
        """
        durable.private_folder(self.path)
        durable.private_folder(self.path / "sites")
        durable.write(self.path / _PLAN, plan.to_bytes())
        terms.save(self.path)
        identities[LEAD].save(self.path / LEAD)
        for name, own in rows.items():
            self.site(name).write(identities[name], own, seeds[name])

    def site(self, name: str) -> SimulatedSite:
        """The folder of a site."""
        return SimulatedSite(self.path / "sites" / name)

    @cached_property
    def plan(self) -> Plan:
        """The job.

        Raises:
            StateError: ``state_missing``, also where this machine does not see the folder.
            PlanError: ``plan_malformed``.
        """
        try:
            return Plan.from_bytes((self.path / _PLAN).read_bytes())
        except OSError as error:
            raise StateError(
                "state_missing",
                f"There is no {self.path / _PLAN} on this machine.",
                "All machines of a cluster must see the same folder.",
            ) from error

    @cached_property
    def terms(self) -> Terms:
        """What the plan does not say; see ``Terms.load``."""
        return Terms.load(self.path)

    @cached_property
    def start(self) -> Vector:
        """The model before round 1; see ``Terms.start``."""
        return self.terms.start(self.plan)

    @property
    def lead(self) -> PrivateIdentity:
        """The keys of the lead."""
        return PrivateIdentity.load(self.path / LEAD)

    def participant(self, name: str) -> Participant:
        """The real code of a site, opened from its folder; see ``SimulatedSite.participant``."""
        self.plan.site(name)  # before a name from a message becomes a path
        return self.site(name).participant(self.plan, self.terms.roster.lead, self.terms, self.start)
