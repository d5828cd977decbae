"""A simulated plan as a whole job: the engine's model, bit for bit, and evidence that verifies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloister.privacy import canonical
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.derive import Said
from cloister.privacy.plan import Plan
from cloister.simulations.engine import job, methods
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.started import StartedSteps
from cloister.simulations.engine.sums import OpenSums
from cloister.simulations.engine.ways import HeadSteps, OneRound, Way
from cloister.simulations.scenarios.evidence import planned

pytestmark = pytest.mark.job

SITES = ("north", "south", "west", "east")
TRAINED = HeadSteps(Course(3, 1, 1.0))
STARTED = StartedSteps(OneRound(constant=0.3, ridge=1.0, weight=0.5, noise_share=0.5), Course(2, 1, 1.0))
ROUNDS = OneRound(constant=0.3, ridge=1.0, weight=0.5, noise_share=0.5)


def rows(seed: int, persons: int = 60) -> Holding:
    """Rows of three classes, two of each person."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, 2 * persons)
    features = np.eye(6)[labels] + 0.2 * draw.normal(size=(2 * persons, 6))
    return Holding(
        features / np.linalg.norm(features, axis=1, keepdims=True), labels, np.repeat(np.arange(persons), 2)
    )


@pytest.fixture(scope="module")
def parties() -> Parties:
    held = {name: rows(place) for place, name in enumerate(SITES)}
    return Parties(held, ("a", "b", "c"), ("tiny", canonical.digest(b"tiny")))


def entropies() -> dict[str, FixedEntropy]:
    return {name: FixedEntropy(name.encode()) for name in SITES}


def seats(parties: Parties, folder: Path) -> job.Seats:
    own = {name: rows(100 + place) for place, name in enumerate(SITES)}
    return job.Seats(parties, own, entropies(), (8.0, 1e-5), folder)


@pytest.mark.parametrize("way", [TRAINED, ROUNDS, STARTED], ids=["steps", "one round", "started"])
@pytest.mark.parametrize("mode", ["local", "joint"])
def test_its_evidence_verifies(parties: Parties, tmp_path: Path, mode: str, way: Way) -> None:
    plan = planned(way, parties, Promise(mode, 8.0, 1e-5), "a try")  # type: ignore[arg-type]
    ran = job.run(plan, seats(parties, tmp_path))
    bundle = ran.job.bundle(Said("2026-12-01T00:00:00Z", "1.0", scores=ran.accuracies))
    verdict = verify(bundle, ran.job.trust)
    assert [finding.line() for finding in verdict.findings] == []
    assert verdict.notes == ()  # everybody countersigned everybody
    assert verify(bundle, {**ran.job.trust, "north": ran.job.trust["south"]}).result.word == "untrusted-key"
    assert job.accuracy(plan, ran.model, rows(7)) > 0.5
    assert {site for site, _ in ran.accuracies} == set(SITES)


@pytest.mark.parametrize("way", [TRAINED, STARTED], ids=["steps", "started"])
@pytest.mark.parametrize("mode", ["local", "joint"])
def test_its_model_is_that_of_the_engine(parties: Parties, tmp_path: Path, mode: str, way: Way) -> None:
    plan = planned(way, parties, Promise(mode, 8.0, 1e-5), "a try")  # type: ignore[arg-type]
    members = {
        name: methods.Member(held, entropy)
        for (name, held), entropy in zip(parties.holdings.items(), entropies().values(), strict=True)
    }
    engine = methods.joint if plan.joint else methods.local
    expected = engine(plan, members, OpenSums(SITES)).model
    ran = job.run(plan, seats(parties, tmp_path))
    np.testing.assert_array_equal(ran.model, expected)


def test_joint_steps_by_adam_are_the_same_in_the_engine_and_their_evidence_verifies(
    parties: Parties, tmp_path: Path
) -> None:
    value = planned(TRAINED, parties, Promise("joint", 8.0, 1e-5), "a try").model_dump(
        mode="json", exclude_none=True
    )
    value["training"] |= {"optimizer": "adam", "head_rate": 0.1, "momentum": 0.8}
    plan = Plan.from_bytes(canonical.encode(value))
    members = {
        name: methods.Member(held, entropy)
        for (name, held), entropy in zip(parties.holdings.items(), entropies().values(), strict=True)
    }
    expected = methods.joint(plan, members, OpenSums(SITES)).model
    assert np.abs(expected).max() > 0.1
    ran = job.run(plan, seats(parties, tmp_path))
    np.testing.assert_array_equal(ran.model, expected)
    bundle = ran.job.bundle(Said("2026-12-01T00:00:00Z", "1.0", scores=ran.accuracies))
    verdict = verify(bundle, ran.job.trust)
    assert [finding.line() for finding in verdict.findings] == []
    assert b"optimiser adam" in bundle.files["report.html"]


def test_a_plan_without_privacy_has_nothing_to_charge(parties: Parties, tmp_path: Path) -> None:
    plan = planned(TRAINED, parties, Promise("off"), "a try")
    with pytest.raises(PlanError, match="private"):
        job.run(plan, seats(parties, tmp_path))


def test_a_way_of_ones_own_makes_no_plan(parties: Parties) -> None:
    class Odd:
        words = "something else"

    with pytest.raises(PlanError, match="something else"):
        planned(Odd(), parties, Promise("local", 8.0, 1e-5), "a try")  # type: ignore[arg-type]


def test_cosines_stand_beside_the_features_of_a_head(parties: Parties) -> None:
    way = replace(ROUNDS, cosines=5, scale=0.5)
    plan = planned(way, parties, Promise("local", 8.0, 1e-5), "a try")
    analytic = plan.training.analytic
    assert analytic is not None
    features = rows(3).features
    lifted = analytic.lift(cut=False).rows(features)
    found = job._features(plan, features)
    np.testing.assert_array_equal(found[:, :6], features)
    np.testing.assert_array_equal(found[:, 6:], lifted[:, 6:-1])
