"""Whole jobs on rows of a table: real records, features, engines, envelopes, ledgers and logs.

The real hospitals are those of heart_disease: all patients with their empty cells (``train.csv``). FLamby's
split of them keeps one class only at Switzerland, and there such a site is refused.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.client.app import client_app
from cloister.client.attacks import NO_CANARIES, ModelAudit
from cloister.client.following import Following
from cloister.client.jobs import Job as SiteJob
from cloister.client.learn import scoring
from cloister.client.learn.learner import SiteLearner
from cloister.client.learn.tasks import require_base
from cloister.client.participation import Participant
from cloister.client.replies import Replies
from cloister.client.site.datasets import Datasets
from cloister.client.site.records import load
from cloister.client.sums import SecureSums
from cloister.privacy import canonical, code, durable
from cloister.privacy.cli import main
from cloister.privacy.descent import steps_of
from cloister.privacy.dp import accounting
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import InputError
from cloister.privacy.evidence.card import loading_code
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.layout import initial
from cloister.privacy.model import Columns
from cloister.privacy.plan import Plan
from cloister.privacy.table import Table, parsed
from cloister.privacy.update import Vector
from cloister.server.analytic import Choice
from cloister.server.app import Federation
from cloister.server.checkpoint import Checkpoint
from cloister.server.post import Pace
from cloister.server.proposal import draft
from cloister.server.terms import Terms
from cloister.simulations.transport import LocalGrid
from tests import tables
from tests.site_keys import keyed_site

pytestmark = pytest.mark.job

HEART = Path(__file__).parents[2] / "../shared/data/heart_disease"
QUICK = Pace(answer=60.0, absence=0.05, resend=60.0, join=0.2, poll=0.001, look=0.0)
PATIENTS = parsed(
    b"""\
[label]
column = "label"
classes = [0, 1]

[columns]
age = { low = 25, high = 85 }
trestbps = { low = 70, high = 190, empty = [0], missing = "flag" }
chol = { low = 100, high = 460, empty = [0], missing = "flag" }
thalach = { low = 65, high = 215, missing = "flag" }
oldpeak = { low = -2, high = 4, missing = "flag" }
ca = { low = 0, high = 3, missing = "flag" }
sex = { values = [0, 1] }
fbs = { values = [0, 1], missing = "flag" }
exang = { values = [0, 1], missing = "flag" }
cp = { values = [1, 2, 3, 4] }
restecg = { values = [0, 1, 2], missing = "flag" }
slope = { values = [1, 2, 3], empty = [0], missing = "flag" }
thal = { values = [3, 6, 7], empty = [0], missing = "flag" }
"""
)


@dataclass(frozen=True, eq=False)
class Job:
    """A finished job."""

    plan: Plan
    end: Checkpoint
    sites: Mapping[str, Datasets]
    place: Path

    def accuracy(self, test: Path) -> float:
        """Of the model that a site keeps, used without torch, on rows of a file."""
        model = scoring.load(self.place / next(iter(self.sites)) / "job" / "model")
        rows = load(test, text="", label="", table=model.table)
        return float(np.mean(np.array(model.predict(rows.cells())) == np.array(rows.labels)))


def participant(plan: Plan, roster: Roster, datasets: Datasets, start: Vector) -> Participant:
    """A site's part in a job, put together as its agent does."""
    site, folder = datasets.site, datasets.site.path / "job"
    folder.mkdir(mode=0o700)
    assert plan.task.table is not None
    base, entropy = Columns.of(plan.task.table), FixedEntropy(b"tables", job=site.name)
    order, terms = require_base(plan, base), plan.sum_terms
    steps = steps_of(plan, order) if plan.joint else None
    datasets["rows"].require(plan.task)
    return Participant(
        plan=plan,
        identity=site.identity,
        lead=roster.lead,
        learner=SiteLearner(plan, site.name, base, datasets.open("rows", plan.digest), entropy, folder),
        ledger=datasets.ledger,
        entropy=entropy,
        log=site.log,
        replies=Replies(folder / "replies"),
        secure=SecureSums(terms, site.identity, {m.name: m for m in roster.sites}, folder / "sums.json")
        if terms
        else None,
        following=Following(steps, start) if steps else None,
    )


def run(place: Path, files: Mapping[str, Path], table: Table, **more: Any) -> Job:
    """A job from files to its last model."""
    lead, sites = PrivateIdentity.generate("lead", "lead"), {}
    for name, path in files.items():
        sites[name] = fixed(Datasets(keyed_site(place / name)))
        sites[name].register(path, "rows", table, (20.0, 1e-5))
    roster = Roster("hospitals", (lead.public, *(one.site.identity.public for one in sites.values())))
    offers = {name: datasets.offer("rows") for name, datasets in sites.items()}
    terms = Terms("a test", table.classes, task="tabular-classification", table=table, secure=True)
    base = Columns.of(table)
    plan, start = draft(replace(terms, **more), roster, offers, base, code.installed())
    np.testing.assert_array_equal(start, initial(require_base(plan, base), plan.adapter.seed))
    seeded = plan.adapter.model_copy(update={"seed": canonical.digest(b"tables")})
    plan = Plan(**{name: getattr(plan, name) for name in Plan.model_fields} | {"adapter": seeded})
    start = initial(require_base(plan, base), plan.adapter.seed)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    members = {name: participant(plan, roster, own, start) for name, own in sites.items()}
    federation = Federation(
        plan=plan,
        identity=lead,
        roster=roster,
        log=EventLog.open(place / "log", lead),
        resume=Checkpoint(plan.digest, 0, start, {}, {}),
        save=lambda _: None,
        present=lambda: tuple(members),
        descent=steps_of(plan, require_base(plan, base)),
        pace=QUICK,
    )
    grid = LocalGrid({name: client_app({plan.digest: member}) for name, member in members.items()})
    return Job(plan, federation.run(grid), sites, place)


def fixed(datasets: Datasets) -> Datasets:
    """With a key that decides the same rows to hold out each time: these jobs draw nothing by chance."""
    folder = datasets.site.path / "datasets"
    durable.private_folder(folder)
    datasets.site.vault.write(folder / "held-out.key", b"tables".ljust(32))
    return datasets


def check(job: Job) -> None:
    """Every round came to its end with every site, and it was paid for."""
    assert job.end.round == job.plan.training.rounds
    assert job.end.excluded == {}
    assert np.isfinite(job.end.model).all()
    if (mechanism := job.plan.round_mechanism) is None:
        return
    whole = accounting.epsilon([mechanism] * job.plan.training.rounds, job.plan.privacy.delta)
    for datasets in job.sites.values():
        assert 0 < datasets.ledger.epsilon("rows") <= whole + 1e-9


def by_hospital(place: Path, name: str, but: str = "") -> dict[str, Path]:
    """A file of heart_disease as one of each hospital."""
    with (HEART / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for site in sorted({row["site"] for row in rows} - {but}):
        found[site] = place / f"{site}.csv"
        with found[site].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if row["site"] == site)
    return found


WAYS: list[dict[str, Any]] = [
    {"mode": "off"},
    {"mode": "off", "hidden": 8},
    {"mode": "off", "analytic": Choice("ridge")},
    {"mode": "local"},
    {"mode": "local", "analytic": Choice("ridge")},
    {"mode": "joint", "rounds": 6},
    {"mode": "joint", "rounds": 6, "hidden": 4},
    {"mode": "joint", "analytic": Choice("ridge")},
]


def named(way: dict[str, Any]) -> str:
    return "-".join([way["mode"], *sorted(way.keys() - {"mode", "rounds"})])


@pytest.mark.skipif(not HEART.exists(), reason="heart_disease is not here")
@pytest.mark.parametrize("way", WAYS, ids=named)
def test_four_real_hospitals(tmp_path: Path, way: dict[str, Any]) -> None:
    """Always answering the more frequent class has 0.55. All is drawn from fixed seeds."""
    job = run(tmp_path, by_hospital(tmp_path, "train.csv"), PATIENTS, **way)
    assert sorted(job.sites) == ["cleveland", "hungarian", "switzerland", "va"]
    check(job)
    assert job.accuracy(HEART / "test.csv") > 0.6
    if way["mode"] == "off":
        assert job.accuracy(HEART / "test.csv") > 0.78


@pytest.mark.skipif(not HEART.exists(), reason="heart_disease is not here")
def test_a_hospital_with_one_class_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    complete = tuple(c for c in PATIENTS.columns if c.name not in ("ca", "slope", "thal"))
    table = Table(label=PATIENTS.label, classes=PATIENTS.classes, columns=complete)
    with pytest.raises(InputError) as caught:
        run(tmp_path / "all", by_hospital(tmp_path, "flamby_train.csv"), table, mode="off")
    assert caught.value.id == "one_class"
    three = by_hospital(tmp_path, "flamby_train.csv", but="switzerland")
    job = run(tmp_path / "three", three, table, mode="off", analytic=Choice("ridge"))
    check(job)
    assert job.accuracy(HEART / "flamby_test.csv") > 0.75


@pytest.mark.slow
def test_a_demo_of_real_processes_ends_in_evidence_that_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "columns.toml").write_bytes(tables.COLUMNS)
    data = tables.write(tmp_path / "rows.csv", tables.patients(600, 4))
    out = tmp_path / "out"
    command = ["demo", "--data", str(data), "--columns", str(tmp_path / "columns.toml"), "--split", "iid"]
    assert main([*command, "--sites", "3", "--rounds", "2", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"]["tfidf"] is None
    assert result["secure"]
    assert scoring.load(out / "model").table == tables.TABLE
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert "Sorts rows of a table into 2 classes" in card
    assert "transformers" not in card
    written = loading_code(Evidence.from_json(json.loads((out / "evidence.json").read_bytes())))
    with contextlib.chdir(out / "model"):
        exec(written, {})  # noqa: S102  # what the card tells its reader to run
    assert capsys.readouterr().out.splitlines()[-1] in ("['no']", "['yes']")
    assert "without a base model" in (out / "report.html").read_text(encoding="utf-8")
    assert main(["verify", str(out / "bundle"), "--trust", str(out / "trust.json")]) == 0


def test_made_up_patients_and_the_attack_on_what_they_taught(tmp_path: Path) -> None:
    files = {
        name: tables.write(tmp_path / f"{name}.csv", tables.patients(400, seed, 0.3 + 0.1 * seed))
        for seed, name in enumerate(("north", "south", "west"))
    }
    job = run(tmp_path, files, tables.TABLE, mode="off", hidden=6)
    check(job)
    test = tables.write(tmp_path / "test.csv", tables.patients(300, 9))
    assert job.accuracy(test) > 0.85
    own = job.sites["north"]
    done = SiteJob(own.site.path / "job", job.plan)
    done.close()
    found, missing = ModelAudit(own.site, done, Columns.of(tables.TABLE)).run()
    assert [(one.attack, one.body["covered"]) for one in found] == [("membership", False)]
    assert found[0].body["trials"] >= 32
    assert NO_CANARIES in missing
