"""Whole jobs of other tasks than classes of texts: real records, models, envelopes, ledgers and logs.

Models are tiny and random: what is shown is that the machinery carries the task, and no accuracy.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from cloister.client.app import client_app
from cloister.client.following import Following
from cloister.client.learn.learner import SiteLearner
from cloister.client.learn.tasks import require_base
from cloister.client.participation import Participant
from cloister.client.replies import Replies
from cloister.client.site.datasets import Datasets
from cloister.client.sums import SecureSums
from cloister.privacy import canonical, code
from cloister.privacy.descent import Descent
from cloister.privacy.dp import accounting
from cloister.privacy.entropy import FixedEntropy, Ratchet
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.layout import initial
from cloister.privacy.model import BaseModel, describe
from cloister.privacy.plan import Plan
from cloister.privacy.task import TaskKind
from cloister.privacy.update import Vector
from cloister.server.app import Federation
from cloister.server.checkpoint import Checkpoint
from cloister.server.post import Pace
from cloister.server.proposal import draft
from cloister.server.terms import Rates, Terms
from cloister.simulations.transport import LocalGrid
from tests import models
from tests.known_draws import known_draws  # noqa: F401  # a fixture
from tests.site_keys import keyed_site

pytestmark = pytest.mark.job

MEDQUAD = Path(__file__).parents[2] / "../shared/data/medquad/train.jsonl.gz"
NCBI = Path(__file__).parents[2] / "../shared/data/ncbi_disease/train.jsonl.gz"
QUICK = Pace(answer=60.0, absence=0.05, resend=60.0, join=0.2, poll=0.001, look=0.0)
FOUR = ("north", "south", "west", "coast")
TAGS = ("O", "B-Disease", "I-Disease")
Rows: TypeAlias = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A task with the columns of its rows."""

    kind: TaskKind
    columns: tuple[str, str]
    labels: tuple[str, ...] = ()
    pair: str | None = None

    def terms(self, **more: Any) -> Terms:
        plain = Terms("a test", self.labels, task=self.kind, pair=self.pair is not None)
        usual: dict[str, Any] = {"rounds": 2, "steps": 2, "rate": 0.5, "max_tokens": 32, "secure": True}
        return replace(plain, **(usual | more))


PAIRS = Case("sequence-classification", ("claim", "verdict"), ("same", "other"), "evidence")
ANSWERS = Case("causal-lm", ("question", "answer"))
ENTITIES = Case("token-classification", ("tokens", "tags"), TAGS)


def pairs(site: str) -> Rows:
    random = np.random.default_rng(len(site))
    words = ("chest", "pain", "head", "card", "monday")
    rows = []
    for number in range(60):
        first, second = random.choice(words, 2)
        verdict = "same" if first == second else "other"
        rows.append({"claim": f"{first} since {number}", "evidence": second, "verdict": verdict})
    return rows


def answers(site: str) -> Rows:
    return [{"question": f"what helps case {n} at {site}", "answer": f"rest {n % 3} days"} for n in range(60)]


def entities(site: str) -> Rows:
    words = ("chest", "pain", "of", "monday")
    rows = []
    for number in range(60):
        tags = ["B-Disease", "I-Disease", "O", "O"]
        rows.append({"tokens": [*words, site, str(number)], "tags": [*tags, "O", "O"]})
    return rows


@dataclass(frozen=True, eq=False)
class Job:
    """A finished job."""

    plan: Plan
    start: Vector
    end: Checkpoint
    sites: dict[str, Datasets]

    def progress(self, name: str) -> list[dict[str, Any]]:
        lines = (self.sites[name].site.path / "job" / "progress.jsonl").read_bytes().splitlines()
        return [canonical.decode(line) for line in lines]


def registered(path: Path, case: Case, rows: Rows) -> Datasets:
    site = keyed_site(path)
    with (path / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    datasets = Datasets(site)
    source = path / "rows.jsonl"
    datasets.register(source, "rows", case.columns, (20.0, 1e-5), task=case.kind, pair=case.pair)
    return datasets


def participant(
    plan: Plan, roster: Roster, datasets: Datasets, base: BaseModel, start: Vector
) -> Participant:
    """A site's part in a job, put together as its agent does."""
    site, folder = datasets.site, datasets.site.path / "job"
    folder.mkdir(mode=0o700)
    entropy = Ratchet(folder / "ratchet.key", plan.digest)
    order = require_base(plan, base)
    learner = SiteLearner(plan, site.name, base, datasets.open("rows", plan.digest), entropy, folder)
    terms = plan.sum_terms
    peers = {member.name: member for member in roster.sites}
    return Participant(
        plan=plan,
        identity=site.identity,
        lead=roster.lead,
        learner=learner,
        ledger=datasets.ledger,
        entropy=entropy,
        log=site.log,
        replies=Replies(folder / "replies"),
        secure=SecureSums(terms, site.identity, peers, folder / "sums.json") if terms else None,
        following=Following(Descent.of(plan, order), start) if plan.joint else None,
    )


def run(place: Path, base: BaseModel, case: Case, rows: dict[str, Rows], **more: Any) -> Job:
    """A job from rows in files to its last model."""
    lead = PrivateIdentity.generate("lead", "lead")
    sites = {name: registered(place / name, case, own) for name, own in rows.items()}
    identities = (lead.public, *(datasets.site.identity.public for datasets in sites.values()))
    roster = Roster("hospitals", identities)
    offers = {name: datasets.offer("rows") for name, datasets in sites.items()}
    plan, start = draft(case.terms(**more), roster, offers, base, code.installed())
    assert Plan.from_bytes(plan.to_bytes()) == plan
    members = {name: participant(plan, roster, own, base, start) for name, own in sites.items()}
    order = require_base(plan, base)
    np.testing.assert_array_equal(start, initial(order, plan.adapter.seed))
    federation = Federation(
        plan=plan,
        identity=lead,
        roster=roster,
        log=EventLog.open(place / "log", lead),
        resume=Checkpoint(plan.digest, 0, start, {}, {}),
        save=lambda _: None,
        present=lambda: tuple(members),
        descent=Descent.of(plan, order) if plan.joint else None,
        pace=QUICK,
    )
    grid = LocalGrid({name: client_app({plan.digest: member}) for name, member in members.items()})
    return Job(plan, start, federation.run(grid), sites)


def check(job: Job) -> None:
    """Every round came to its end with every site, something was learnt, and it was paid for."""
    assert job.end.round == job.plan.training.rounds
    assert job.end.excluded == {}
    assert np.isfinite(job.end.model).all()
    assert not np.array_equal(job.end.model, job.start)
    mechanism = job.plan.round_mechanism
    assert mechanism is not None
    whole = accounting.epsilon([mechanism] * job.plan.training.rounds, job.plan.privacy.delta)
    for datasets in job.sites.values():
        assert 0 < datasets.ledger.epsilon("rows") <= whole + 1e-9
        audit = [e.body for e in datasets.site.log.entries() if e.type == "audit.result"]
        assert [body["failed"] for body in audit] == [False]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write(tmp_path_factory.mktemp("reader")))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write_writer(tmp_path_factory.mktemp("writer")))


@pytest.fixture(scope="module")
def chatter(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return describe(models.write_writer(tmp_path_factory.mktemp("chatter"), "llama", models.CHAT))


MODES = [{"mode": "local"}, {"mode": "joint", "steps": None, "rounds": 2}]
TASKS: list[tuple[Case, Callable[[str], Rows], str]] = [
    (PAIRS, pairs, "reader"),
    (ENTITIES, entities, "reader"),
    (ANSWERS, answers, "writer"),
    (ANSWERS, answers, "chatter"),
]


@pytest.mark.parametrize("mode", MODES, ids=["local", "joint"])
@pytest.mark.parametrize(("case", "made", "base"), TASKS, ids=["pairs", "entities", "answers", "chat"])
def test_a_whole_job_in_secret_sums(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    case: Case,
    made: Callable[[str], Rows],
    base: str,
    mode: dict[str, Any],
) -> None:
    rows = {name: made(name) for name in FOUR}
    job = run(tmp_path, request.getfixturevalue(base), case, rows, **mode)
    check(job)
    assert job.plan.aggregation.secure
    heads = [name for name in job.plan.adapter.targets if name == "head"]
    assert heads == []
    last = job.progress("north")[-1]
    assert 0 <= last["accuracy"] <= 1
    assert ("loss" in last) == (case is ANSWERS)
    assert ("entity_f1" in last) == (case is ENTITIES)
    files = {path.name for path in (tmp_path / "north" / "job" / "model").iterdir()}
    assert "adapter_model.safetensors" in files
    assert ("head.safetensors" in files) == (case is not ANSWERS)


@pytest.mark.usefixtures("known_draws")
def test_without_privacy_answers_are_learnt(
    tmp_path: Path, writer: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "Ratchet", lambda path, _: FixedEntropy(path.parents[1].name.encode()))
    rows = {name: answers(name) for name in FOUR}
    rates = Rates("adam", 0.02, 0.02)
    more = {"mode": "off", "rounds": 2, "steps": 15, "rates": rates, "top_layers": 2, "max_tokens": 64}
    job = run(tmp_path, writer, ANSWERS, rows, **more)
    for name in FOUR:
        losses = [line["loss"] for line in job.progress(name)]
        assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("mode", MODES, ids=["local", "joint"])
def test_a_whole_job_in_bfloat16(tmp_path: Path, reader: BaseModel, mode: dict[str, Any]) -> None:
    job = run(tmp_path, reader, PAIRS, {name: pairs(name) for name in FOUR}, precision="bf16", **mode)
    check(job)
    assert job.plan.training.precision == "bf16"
    assert job.end.model.dtype == np.float32


def by_institute(most: int) -> dict[str, Rows]:
    """Rows of medquad at the nine institutes that they are from."""
    found: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(MEDQUAD, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            own = found.setdefault(row["site"].lower(), [])
            if len(own) < most:
                own.append({name: row[name] for name in ("question", "answer")})
    return dict(found)


@pytest.mark.skipif(not MEDQUAD.exists(), reason="medquad is not here")
@pytest.mark.parametrize("mode", MODES, ids=["local", "joint"])
def test_nine_institutes_learn_to_answer(tmp_path: Path, writer: BaseModel, mode: dict[str, Any]) -> None:
    rows = by_institute(40)
    assert len(rows) == 9
    job = run(tmp_path, writer, ANSWERS, rows, max_tokens=64, **mode)
    check(job)
    for name in rows:
        lines = job.progress(name)
        assert all(0 < line["loss"] < 50 for line in lines)


@pytest.mark.skipif(not NCBI.exists(), reason="ncbi_disease is not here")
def test_sites_learn_to_find_diseases(tmp_path: Path, reader: BaseModel) -> None:
    with gzip.open(NCBI, "rt", encoding="utf-8") as file:
        rows = [json.loads(next(file)) for _ in range(240)]
    job = run(tmp_path, reader, ENTITIES, {name: rows[place::4] for place, name in enumerate(FOUR)})
    check(job)
    assert job.plan.task.entities == ("Disease",)
