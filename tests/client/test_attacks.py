"""Attacks on a finished model at a site: what they find, what they refuse, and that they are told once."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloister.client.attacks import (
    CANARIES,
    EXTRACTION,
    MEMBERSHIP,
    NOT_BOUND,
    NOT_BUILT,
    Attacked,
    ModelAudit,
)
from cloister.client.cli import app
from cloister.client.deposition import Deposition
from cloister.client.jobs import Job
from cloister.client.learn.learner import SiteLearner
from cloister.client.participation import Participant
from cloister.client.replies import Replies
from cloister.client.rulings import job_folder
from cloister.client.site.canaries import Canaries, canaries_of
from cloister.client.site.datasets import Datasets
from cloister.privacy import canonical, code, durable
from cloister.privacy.dp.membership import guesses_of
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import EvidenceError, InputError, ModelError, StateError, UsageError
from cloister.privacy.evidence import derive
from cloister.privacy.evidence.evidence import Attack
from cloister.privacy.evidence.extraction import Extraction
from cloister.privacy.evidence.opening import Opening
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.task import TaskKind
from cloister.privacy.wire.envelope import Header
from cloister.privacy.wire.messages import TASK, model_digest
from cloister.server.proposal import draft
from cloister.server.terms import Rates, Terms
from tests import models
from tests.known_draws import known_draws  # noqa: F401  # a fixture
from tests.site_keys import keyed_site

pytestmark = pytest.mark.job

LABELS = ("chest", "head")
PRIVATE = Terms(
    "notes to wards", LABELS, rounds=2, steps=2, rate=0.5, epsilon=2.0, max_tokens=32, canaries=64
)
LEAKY = replace(
    PRIVATE,
    mode="off",
    rounds=1,
    steps=150,
    rate=1.0,
    rates=Rates("adam", 0.1, 0.03),
    canaries=128,
)


LEAKY_WRITER = replace(
    LEAKY,
    labels=(),
    task="causal-lm",
    steps=200,
    rates=Rates("adam", 0.01, 0.01),
    rank=16,
    top_layers=2,
    canaries=96,
)
PRIVATE_WRITER = replace(LEAKY_WRITER, mode="local", rounds=2, steps=2, rate=0.5, epsilon=2.0, rates=None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write_letters(tmp_path_factory.mktemp("tiny")))


def opened(path: Path, rows: int = 180, task: TaskKind = "sequence-classification") -> Datasets:
    """A site with notes that all differ."""
    site = keyed_site(path)
    with (path / "notes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        table.writerows((f"{LABELS[row % 2]} pain {row}", LABELS[row % 2]) for row in range(rows))
    datasets = Datasets(site)
    datasets.register(path / "notes.csv", "notes", ("text", "label"), (8.0, 1e-5), task=task)
    return datasets


def finished(
    path: Path, base: BaseModel, terms: Terms, rows: int = 180, *, by_heart: bool = False
) -> ModelAudit:
    """A job that a site trained alone, as the agent does, to its end; or on its canaries alone."""
    datasets = opened(path, rows, terms.task)
    site = datasets.site
    lead = PrivateIdentity.generate("lead", "lead")
    roster = Roster("hospitals", (lead.public, site.identity.public))
    plan, model = draft(terms, roster, {site.name: datasets.offer("notes")}, base, code.installed())
    folder = job_folder(site, plan)
    durable.private_folder(folder)
    durable.write(folder / "plan.json", plan.to_bytes())
    planted = canaries_of(plan, folder, site.vault)
    train, held = datasets.open("notes", plan.digest)
    assert planted is not None
    learner = SiteLearner(
        plan,
        site.name,
        base,
        (planted.among(train.take([]) if by_heart else train), held),
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
        participant.pledges.give(learner.audit)
        participant.charges.reserve(header)
        model = model + learner.train(model, header).values
    learner.release(model)
    site.log.append("model.received", job=plan.digest, model=model_digest(model))
    job = Job(folder, plan)
    job.close()
    return ModelAudit(site, job, base)


def told(audited: ModelAudit) -> dict[str, dict[str, Any]]:
    return {one.attack: one.body for one in audited.run()[0]}


@pytest.mark.slow
@pytest.mark.usefixtures("known_draws")
def test_a_model_that_learnt_its_canaries_by_heart_refutes_a_small_epsilon(
    tmp_path: Path, base: BaseModel
) -> None:
    audited = finished(tmp_path / "north", base, LEAKY, rows=400, by_heart=True)
    found = told(audited)[CANARIES]
    # Ten runs with draws of their own gave bounds of 1.00 to 1.84 and areas of 0.76 to 0.93; about 0 and 0.5
    # are those of a model that learnt nothing.
    assert found["bound"] > 0.4
    assert found["auc"] > 0.65
    assert found["covered"] is False  # there is no epsilon that covers anything
    audited.release(Attacked(found))
    stated = {"site": "north", "epsilon": "0.100", "outside": None}  # as a false claim would have it
    (one,) = derive.attacked(audited.job.plan, stated, list(audited.site.log.entries()))
    assert Attack(**one).refuted


def drawn_from(path: Path, terms: Terms, *, by_heart: bool) -> tuple[ModelAudit, dict[str, Any]]:
    """A job of a model that writes, and what came out of it."""
    writer = describe(models.write_reciter(path / "reciter"))
    audited = finished(path / "north", writer, terms, rows=250, by_heart=by_heart)
    found, missing = audited.run()
    assert missing == [NOT_BUILT]
    bodies = {one.attack: one.body for one in found}
    assert set(bodies) == {CANARIES, EXTRACTION, MEMBERSHIP}
    for one in found:
        assert audited.release(one)
        audited.open(one)
    opening = Opening.from_bytes(Deposition(audited.site).part(audited.job).files["openings/north.json"])
    body = bodies[EXTRACTION]
    assert (opening.drawn(trained=True), opening.drawn(trained=False)) == (body["extracted"], body["guessed"])
    assert body["trained"] + body["others"] == terms.canaries
    return audited, bodies


def told_of(audited: ModelAudit) -> Extraction:
    (one,) = derive.extracted(audited.job.plan, "north", list(audited.site.log.entries()))
    return Extraction(**one)


@pytest.mark.slow
@pytest.mark.usefixtures("known_draws")
def test_a_model_that_learnt_answers_by_heart_gives_them_away(tmp_path: Path) -> None:
    audited, bodies = drawn_from(tmp_path, LEAKY_WRITER, by_heart=True)
    body = bodies[EXTRACTION]
    assert body["extracted"] > 0.8 * body["trained"]
    assert (body["guessed"], body["before"], body["covered"]) == (0, 0, False)
    assert bodies[CANARIES]["bound"] > 2.5  # every guess that it makes is right, or nearly
    assert told_of(audited).found


@pytest.mark.usefixtures("known_draws")
def test_a_private_model_that_writes_gives_nothing_away(tmp_path: Path) -> None:
    audited, bodies = drawn_from(tmp_path, PRIVATE_WRITER, by_heart=False)
    body = bodies[EXTRACTION]
    assert (body["extracted"], body["guessed"], body["covered"]) == (0, 0, True)
    assert bodies[CANARIES]["bound"] <= PRIVATE_WRITER.epsilon
    assert not told_of(audited).found
    assert float(told_of(audited).at_most) < 0.1


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> ModelAudit:
    return finished(tmp_path_factory.mktemp("private") / "north", base, PRIVATE)


def events(audited: ModelAudit, kind: str) -> list[Any]:
    return [event for event in audited.site.log.entries() if event.type == kind]


def command(audited: ModelAudit, *options: str) -> Any:
    given = ["audit", audited.job.plan.digest[7:19], "--dir", str(audited.site.path)]
    return CliRunner().invoke(app, [*given, "--model", str(audited.base.path), *options])


def test_canaries_are_bound_before_anything_is_charged_and_never_again(private: ModelAudit) -> None:
    (planted,), charged = events(private, "audit.planted"), events(private, "budget.reserved")
    assert planted.seq < charged[0].seq
    site, job = private.site, private.job
    others = Participant(
        *(job.plan, site.identity, site.identity.public, Silent(), Datasets(site).ledger),
        *(FixedEntropy(b""), site.log, Replies(job.folder / "replies")),
        canaries=Canaries.make(job.plan),
    )
    with pytest.raises(StateError) as caught:
        others.pledges.give(None)
    assert caught.value.id == "state_damaged"


class Silent:
    """A learner of a plan without private steps."""

    audit = None


def test_a_private_model_stays_below_its_claim_and_is_told_once(private: ModelAudit) -> None:
    found = told(private)
    assert set(found) == {CANARIES, MEMBERSHIP}
    for body in found.values():
        assert body["guesses"] == guesses_of(body["trials"])
        assert body["bound"] <= PRIVATE.epsilon
    assert (found[CANARIES]["covered"], found[MEMBERSHIP]["covered"]) == (True, False)
    assert told(private) == found  # however often it is run
    shown = command(private)
    assert shown.exit_code == 0, shown.output
    assert "NOT covered by epsilon" in shown.stdout
    assert "Not run: extraction of texts: does not apply" in shown.stdout
    assert "Nothing of it leaves this site" in shown.stdout
    assert events(private, "audit.model") == []
    assert "Released." in command(private, "--release").stdout
    assert "Released before." in command(private, "--release").stdout
    assert [dict(event.body) for event in events(private, "audit.model")] == [*found.values()]


def test_other_figures_than_those_released_are_refused(private: ModelAudit) -> None:
    (first, *_), _ = private.run()
    private.release(first)
    with pytest.raises(EvidenceError) as caught:
        private.release(replace(first, body=first.body | {"correct": 0}))
    assert caught.value.id == "claim_not_reproducible"


def test_canaries_are_opened_with_what_is_released_and_only_then(private: ModelAudit) -> None:
    refused = command(private, "--open")
    assert isinstance(refused.exception, UsageError)
    assert "Add --release" in refused.exception.do
    assert "The canaries are opened" in command(private, "--release", "--open").stdout
    command(private, "--release", "--open")
    (event,), (told_of, *_) = events(private, "audit.opened"), events(private, "audit.model")
    shown = Deposition(private.site).part(private.job).files["openings/north.json"]
    assert event.body["opening"] == canonical.digest(shown)
    found, (planted,) = Opening.from_bytes(shown), events(private, "audit.planted")
    assert found.commitment == event.body["commitment"] == planted.body["commitment"]
    assert found.correct == told_of.body["correct"]
    assert private.site.name == "north"


def test_other_guesses_than_those_opened_are_refused(private: ModelAudit) -> None:
    (first, second), _ = private.run()
    assert first.opening is not None
    assert not private.open(second)  # real units are never opened
    other = first.opening.model_copy(
        update={"told_in": first.opening.told_out, "told_out": first.opening.told_in}
    )
    with pytest.raises(EvidenceError) as caught:
        private.open(replace(first, opening=other))
    assert caught.value.id == "claim_not_reproducible"


def test_a_job_that_is_not_over_is_not_attacked(private: ModelAudit) -> None:
    (private.job.folder / "done").rename(private.job.folder / "undone")
    try:
        shown = command(private)
    finally:
        (private.job.folder / "undone").rename(private.job.folder / "done")
    assert shown.exit_code != 0
    assert isinstance(shown.exception, EvidenceError)


def test_another_model_is_not_attacked(private: ModelAudit) -> None:
    path = private.job.folder / "model" / "head.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        with pytest.raises(ModelError) as caught:
            private.run()
    finally:
        path.write_bytes(before)
    assert caught.value.id == "model_mismatch"


def test_without_the_canaries_it_says_so_and_attacks_units_alone(private: ModelAudit) -> None:
    path = private.job.folder / "canaries.json"
    path.rename(path.with_suffix(".away"))
    try:
        found, missing = private.run()
    finally:
        path.with_suffix(".away").rename(path)
    assert [one.attack for one in found] == [MEMBERSHIP]
    assert NOT_BOUND in missing


def test_data_that_changed_since_are_refused(private: ModelAudit) -> None:
    """The last test of this job: the event log keeps that other data were seen."""
    path = private.site.path / "notes.csv"
    path.write_text(path.read_text() + "chest pain again,chest\n")
    with pytest.raises(InputError) as caught:
        private.run()
    assert caught.value.id == "data_changed"
