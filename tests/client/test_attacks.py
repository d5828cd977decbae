"""Attacks on a finished model at a site: what they find, what they refuse, and that they are told once."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client.attacks import CANARIES, MEMBERSHIP, ModelAudit
from cloister.client.jobs import Job
from cloister.client.learn.learner import SiteLearner
from cloister.client.participation import Participant, Replies
from cloister.client.rulings import job_folder
from cloister.client.site.canaries import canaries_of
from cloister.client.site.datasets import Datasets
from cloister.privacy import code, durable
from cloister.privacy.dp.membership import guesses_of
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.wire.envelope import Header
from cloister.privacy.wire.messages import TASK, model_digest
from cloister.server.proposal import Rates, Terms, draft
from tests import models
from tests.site_keys import keyed_site

LABELS = ("chest", "head")
PRIVATE = Terms(
    "notes to wards", LABELS, rounds=2, steps=2, rate=0.5, epsilon=2.0, max_tokens=32, canaries=64
)
LEAKY = replace(PRIVATE, mode="off", rounds=1, steps=60, rate=1.0, rates=Rates("adam", 0.1, 0.03))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write_letters(tmp_path_factory.mktemp("tiny")))


def opened(path: Path, rows: int = 180) -> Datasets:
    """A site with notes that all differ."""
    site = keyed_site(path)
    with (path / "notes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        table.writerows((f"{LABELS[row % 2]} pain {row}", LABELS[row % 2]) for row in range(rows))
    datasets = Datasets(site)
    datasets.register(path / "notes.csv", "notes", ("text", "label"), (8.0, 1e-5))
    return datasets


def finished(path: Path, base: BaseModel, terms: Terms, rows: int = 180) -> ModelAudit:
    """A job that a site trained alone, as the agent does it, to its end."""
    datasets = opened(path, rows)
    site = datasets.site
    lead = PrivateIdentity.generate("lead", "lead")
    roster = Roster("hospitals", (lead.public, site.identity.public))
    plan, model = draft(terms, roster, {site.name: datasets.offer("notes")}, base, code.installed())
    folder = job_folder(site, plan)
    durable.private_folder(folder)
    durable.write(folder / "plan.json", plan.to_bytes())
    planted = canaries_of(plan, folder, site.vault)
    train, held = datasets.open("notes", plan.digest)
    learner = SiteLearner(
        plan,
        site.name,
        base,
        (planted.among(train) if planted else train, held),
        entropy := FixedEntropy(b"a job"),
        folder,
    )
    participant = Participant(
        *(plan, site.identity, lead.public, learner, datasets.ledger, entropy, site.log),
        Replies(folder / "replies"),
        canaries=planted,
    )
    for number in range(1, plan.training.rounds + 1):
        header = Header(
            kind=TASK,
            consortium=plan.consortium,
            plan=plan.digest,
            round=number,
            step=0,
            attempt=1,
            sender="lead",
            recipient=site.name,
            model=model_digest(model),
        )
        participant._commit()
        participant._reserve(header)
        model = model + learner.train(model, header).values
    learner.release(model)
    site.log.append("model.received", job=plan.digest, model=model_digest(model))
    job = Job(folder, plan)
    job.close()
    return ModelAudit(site, job, base)


def told(audited: ModelAudit) -> dict[str, dict[str, Any]]:
    return {one.attack: one.body for one in audited.run()[0]}


def test_a_model_that_learnt_its_canaries_by_heart_refutes_a_small_epsilon(
    tmp_path: Path, base: BaseModel
) -> None:
    audited = finished(tmp_path / "north", base, LEAKY, rows=80)
    found = told(audited)[CANARIES]
    assert found["bound"] > 0.5
    assert found["auc"] > 0.8
    assert found["covered"] is False  # there is no epsilon that covers anything


def test_a_private_model_stays_below_its_claim(tmp_path: Path, base: BaseModel) -> None:
    audited = finished(tmp_path / "north", base, PRIVATE)
    found = told(audited)
    assert set(found) == {CANARIES, MEMBERSHIP}
    for body in found.values():
        assert body["guesses"] == guesses_of(body["trials"])
        assert body["bound"] <= PRIVATE.epsilon
    assert (found[CANARIES]["covered"], found[MEMBERSHIP]["covered"]) == (True, False)
