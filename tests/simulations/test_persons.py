"""A federation at person level in this process: two sites, real training, real ledgers, no sockets."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.client.app import client_app
from cloister.client.learn.learner import SiteLearner
from cloister.client.participation import Participant
from cloister.client.replies import Replies
from cloister.client.site.datasets import Datasets
from cloister.client.site.persons import PersonColumn
from cloister.privacy import canonical, code
from cloister.privacy.dp import accounting, noise
from cloister.privacy.entropy import FixedEntropy, KeyStream
from cloister.privacy.errors import RoundError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.plan import Plan
from cloister.privacy.update import Clipped, Noised, Vector
from cloister.server.app import Federation
from cloister.server.checkpoint import Checkpoint
from cloister.server.post import Pace
from cloister.server.proposal import draft
from cloister.server.terms import Terms
from cloister.simulations.transport import LocalGrid
from tests import models
from tests.site_keys import keyed_site

pytestmark = pytest.mark.job

TERMS = Terms("notes to wards", ("chest", "head"), rounds=2, steps=2, rate=0.5, epsilon=4.0, max_tokens=16)
QUICK = Pace(answer=60.0, absence=0.05, resend=60.0, join=0.2, poll=0.001, look=0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("tiny")))


def opened(path: Path) -> Datasets:
    """A site with 50 patients of 1 to 5 notes, of whom 3 notes each count."""
    site = keyed_site(path)
    with (path / "notes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label", "patient"))
        for patient in range(50):
            label = TERMS.labels[patient % 2]
            table.writerows((f"{label} pain since monday", label, patient) for _ in range(1 + patient % 5))
    datasets = Datasets(site)
    budget = (TERMS.epsilon, TERMS.delta)
    datasets.register(path / "notes.csv", "notes", ("text", "label"), budget, PersonColumn("patient", 3))
    return datasets


def participant(plan: Plan, lead: PrivateIdentity, datasets: Datasets, base: BaseModel) -> Participant:
    site = datasets.site
    entropy = FixedEntropy(site.name.encode())
    learner = SiteLearner(plan, site.name, base, datasets.open("notes"), entropy, site.path)
    return Participant(
        plan,
        site.identity,
        lead.public,
        learner,
        datasets.ledger,
        entropy,
        site.log,
        Replies(site.path / "replies"),
    )


def run(place: Path, base: BaseModel) -> tuple[Plan, Vector, Checkpoint, dict[str, Datasets]]:
    lead = PrivateIdentity.generate("lead", "lead")
    sites = {name: opened(place / name) for name in ("north", "south")}
    identities = (lead.public, *(datasets.site.identity.public for datasets in sites.values()))
    roster = Roster("hospitals", identities)
    offers = {name: datasets.offer("notes") for name, datasets in sites.items()}
    plan, start = draft(TERMS, roster, offers, base, code.installed())
    members = {name: participant(plan, lead, datasets, base) for name, datasets in sites.items()}
    federation = Federation(
        plan=plan,
        identity=lead,
        roster=roster,
        log=EventLog.open(place / "log", lead),
        resume=Checkpoint(plan.digest, 0, start, {}, {}),
        save=lambda _: None,
        present=lambda: tuple(members),
        pace=QUICK,
    )
    grid = LocalGrid({name: client_app({plan.digest: member}) for name, member in members.items()})
    return plan, start, federation.run(grid), sites


def test_two_sites_train_and_pay_per_person(tmp_path: Path, base: BaseModel) -> None:
    plan, start, end, sites = run(tmp_path, base)
    assert (plan.privacy.unit, plan.most_rows) == ("person", 3)
    assert [site.units.low for site in plan.sites] == [32, 32]
    assert np.isfinite(end.model).all()
    assert not np.array_equal(end.model, start)
    mechanism = plan.round_mechanism
    assert mechanism is not None
    whole = accounting.epsilon([mechanism] * TERMS.rounds, TERMS.delta)
    for datasets in sites.values():
        (budget,) = datasets.ledger.budgets()
        assert budget.unit == "person"
        kinds = [row.kind for row in datasets.ledger.rows("notes")]
        assert kinds == ["reserved", "spent", "released"] * TERMS.rounds
        assert datasets.ledger.epsilon("notes") == pytest.approx(whole)
        assert whole <= TERMS.epsilon
        units = {e.body["unit"] for e in datasets.site.log.entries() if "unit" in e.body}
        assert units == {"person"}


def audits(datasets: Datasets) -> dict[str, tuple[int, Any]]:
    """What a site's log says of its audit: where it stands, and what it says."""
    events = enumerate(datasets.site.log.entries())
    return {e.type: (place, e.body) for place, e in events if e.type.startswith("audit.")}


def test_every_job_is_audited(tmp_path: Path, base: BaseModel) -> None:
    _, _, _, sites = run(tmp_path, base)
    for datasets in sites.values():
        found = audits(datasets)
        first = next(k for k, e in enumerate(datasets.site.log.entries()) if e.type == "budget.reserved")
        assert found["audit.committed"][0] < first
        result = found["audit.result"][1]
        assert result["commitment"] == found["audit.committed"][1]["commitment"]
        assert result["claimed"] == pytest.approx(datasets.ledger.epsilon("notes"))
        assert result["bound"] < result["claimed"]
        assert result["failed"] is False


def test_a_site_whose_noise_fails_sends_nothing_ever_after(
    tmp_path: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaussian = noise.gaussian

    def quiet(clipped: Clipped, sigma: float, stream: KeyStream) -> Noised:
        return replace(gaussian(clipped, sigma / 2, stream), noise_multiplier=sigma)

    monkeypatch.setattr(noise, "gaussian", quiet)
    with pytest.raises(RoundError, match="north: audit_failed, south: audit_failed"):
        run(tmp_path, base)
    assert not list((tmp_path / "north").rglob("*.sealed"))
    file = canonical.decode((tmp_path / "north" / "audit.json").read_bytes())
    assert "scale" in file["failed"]  # a restarted site reads this, and refuses the next attempt, too
