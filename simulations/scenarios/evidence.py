"""The bundle of a simulation: the private way that a comparison recommends, once more as a whole job.

The comparison keeps accuracies and ledgers. Here the way with which the best private method was trained goes
through envelopes, event logs and countersigned heads (``engine.job``), from the same rows and, where the
method trains by steps, the same noise: so its model is the one of the first noise seed. The plan says that it
is a simulation, and so every page of the bundle does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloister.privacy.errors import PlanError
from cloister.privacy.evidence.bundle import Bundle
from cloister.privacy.evidence.derive import Said
from cloister.privacy.evidence.log import now
from cloister.privacy.identity import PublicIdentity
from cloister.privacy.plan import Plan
from cloister.server.analytic import SEED
from cloister.simulations.engine import job
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.job import Ran
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.started import StartedSteps
from cloister.simulations.engine.ways import HeadSteps, OneRound, Way
from cloister.simulations.scenarios.advice import best
from cloister.simulations.scenarios.comparison import Contest
from cloister.simulations.scenarios.figures import Comparison

TFIDF = "TF-IDF and logistic regression"


@dataclass(frozen=True, eq=False)
class Reported:
    """A bundle, and the keys that it is under.

    Attributes:
        bundle: signed by everybody, and verified.
        keys: of all parties.
    """

    bundle: Bundle
    keys: tuple[PublicIdentity, ...]


def report(title: str, contest: Contest, found: Comparison) -> Reported:
    """Runs the recommended private way as a job, and makes the bundle of it.

    Args:
        title: of the scenario, which becomes the purpose of the plan.
        contest: a comparison that was made.
        found: what it came to.

    Raises:
        PlanError: the way makes no plan of a federation.
        EvidenceError: ``bundle_altered``, the bundle does not verify: a bug, which must not be hidden.
        CloisterError: as ``engine.job.run``.
    """
    method = best(found)
    way, parties, entropies = contest.chosen(method)
    promise = Promise("joint" if method == "federated_joint" else "local", contest.epsilon, contest.delta)
    plan = planned(way, parties, promise, title)
    material, started = contest.material, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        budget = (contest.epsilon, contest.delta)
        ran = job.run(plan, job.Seats(parties, material.own, entropies, budget, Path(folder)))
        said = Said(
            created=now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=f"{time.monotonic() - started:.1f}",
            accuracy=_accuracy(plan, ran, found, material.test, material.own),
            scores=ran.accuracies,
        )
        return Reported(ran.job.bundle(said), ran.job.keys)


def planned(way: Way, parties: Parties, promise: Promise, purpose: str) -> Plan:
    """The plan of a federation that trains in a way, marked as a simulation.

    Raises:
        PlanError: ``plan_conflict``, the way makes no plan, or its terms cannot be kept.
    """
    if isinstance(way, HeadSteps):
        return parties.plan(purpose, replace(promise, bound=way.bound), way.course, rehearsal="simulation")
    if isinstance(way, StartedSteps):
        return way.plan(parties, promise, purpose, "simulation")
    if not isinstance(way, OneRound):
        raise PlanError("plan_conflict", f"A way of {way.words} makes no plan of a federation.")
    constants = way.constants(parties.inputs, SEED)
    promised, once = replace(promise, bound=way.bound), Course(1, 1, 1.0, momentum=0.0)
    return parties.plan(purpose, promised, once, analytic=constants, rehearsal="simulation")


def _accuracy(
    plan: Plan, ran: Ran, found: Comparison, test: Holding, own: Mapping[str, Holding]
) -> dict[str, Any]:
    methods = found.methods
    alone, alone_private = methods["local_only"], methods["local_only_private"]
    federated = job.accuracy(plan, ran.model, test)
    served = {name: job.accuracy(plan, ran.model, rows) for name, rows in own.items()}
    worst = min(served, key=lambda name: served[name])
    value, model = found.simple
    return {
        "test_rows": str(len(test)),
        "federated": federated,
        "pooled": methods["pooled"].accuracy,
        "pooled_private": methods["pooled_private"].accuracy,
        "tfidf": value if model == TFIDF else None,
        "worst_site": {"name": worst, "accuracy": served[worst]},
        "sites": [
            {
                "name": name,
                "local_only": alone.common[name],
                "local_only_private": alone_private.common[name],
                "federated": federated,
                "test_rows": None,
            }
            for name in own
        ],
    }
