"""The lead keeps the newest global models of a job and goes back to one; rounds are never repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cloister.client.guard import Guard, Score, Tolerance
from cloister.privacy import canonical
from cloister.privacy.errors import ModelError, PlanError, RoundError, StateError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.plan import Plan
from cloister.privacy.vault import CLEAR
from cloister.privacy.wire.messages import model_digest
from cloister.server.checkpoint import Checkpoint
from cloister.server.cli import app
from cloister.server.folder import LeadFolder, Settings
from cloister.server.jobs import FAILED, RUNNING, STOPPED, Job, Jobs
from cloister.server.versions import KEPT, Versions
from tests.parties import Consortium, start
from tests.plans import plan, plan_json
from tests.server.test_joint import FOUR, changes

PLAN = plan()
D = PLAN.adapter.parameters


def after(number: int, length: float = 1.0, made: Plan = PLAN) -> Checkpoint:
    """The checkpoint after a round; each round moves the first parameter by ``length``."""
    model = np.zeros(D, dtype=np.float32)
    model[0] = number * length
    return Checkpoint(made.digest, number, model, {}, {})


def kept(folder: Path, *rounds: int) -> Versions:
    versions = Versions(folder, PLAN)
    for number in rounds:
        versions.keep(after(number - 1).model, after(number))
    return versions


def test_the_newest_models_are_kept_and_all_are_listed(tmp_path: Path) -> None:
    versions = kept(tmp_path, *range(1, KEPT + 4))
    assert [version.round for version in versions.all()] == list(range(1, KEPT + 4))
    assert [version.round for version in versions.all() if versions.has(version.round)] == list(
        range(4, KEPT + 4)
    )
    assert versions.load(KEPT).model[0] == KEPT
    with pytest.raises(ModelError, match="after round 3 is not kept") as caught:
        versions.load(3)
    assert caught.value.id == "version_missing"


def test_a_round_is_noted_once(tmp_path: Path) -> None:
    versions = kept(tmp_path, 1, 2)
    assert versions.keep(after(1).model, after(2)) is None
    assert len(versions.all()) == 2


def test_the_list_goes_on_where_an_earlier_process_left_it(tmp_path: Path) -> None:
    kept(tmp_path, 1, 2)
    versions = kept(tmp_path, 2, 3, 4)
    assert [version.round for version in versions.all()] == [1, 2, 3, 4]
    assert versions.all() == kept(tmp_path / "again", 1, 2, 3, 4).all()


@pytest.mark.parametrize(("length", "jumped"), [(2.9, False), (3.1, True)])
def test_a_change_far_beyond_those_before_is_named(tmp_path: Path, length: float, jumped: bool) -> None:
    versions, before = kept(tmp_path, 1, 2, 3), after(3).model
    far = before.copy()
    far[1] = length
    made = versions.keep(before, Checkpoint(PLAN.digest, 4, far, {}, {}))
    assert made is not None
    assert made.norm == pytest.approx(length)
    assert made.jumped is jumped


def test_too_few_rounds_say_nothing(tmp_path: Path) -> None:
    versions = kept(tmp_path, 1, 2)
    made = versions.keep(after(2).model, after(3, length=100))
    assert made is not None
    assert not made.jumped


def test_a_list_that_was_altered_is_refused(tmp_path: Path) -> None:
    versions = kept(tmp_path, 1)
    (tmp_path / "versions.jsonl").write_bytes(b'{"round":1}\n')
    with pytest.raises(StateError, match="damaged"):
        versions.all()


@pytest.fixture
def lead(tmp_path: Path) -> LeadFolder:
    return LeadFolder.create(tmp_path / "lead", Settings(consortium="hospitals", host="localhost"))


def at_round(lead: LeadFolder, last: int, made: Plan = PLAN) -> Job:
    """A job that was stopped after some rounds."""
    job = Jobs(lead.jobs).propose(made, np.zeros(D, dtype=np.float32), lead.identity)
    versions = Versions(job.folder, made)
    for number in range(1, last + 1):
        versions.keep(after(number - 1, made=made).model, after(number, made=made))
        after(number, made=made).save(job.folder / "checkpoint")
    job.move(STOPPED)
    return job


def events(log: EventLog) -> list[tuple[str, int | None]]:
    return [(e.type, e.round) for e in log.entries() if e.job == PLAN.digest]


def test_going_back_takes_the_model_and_no_round(lead: LeadFolder) -> None:
    job = at_round(lead, 3)
    state = job.roll_back(1, CLEAR, lead.log)
    assert (state.round, state.model[0]) == (3, 1.0)
    stored = Checkpoint.load(job.folder / "checkpoint", PLAN.digest)
    assert (stored.round, stored.model[0]) == (3, 1.0)
    assert events(lead.log) == [("model.rolled_back", None)]


def test_a_round_that_was_begun_is_over(lead: LeadFolder) -> None:
    job = at_round(lead, 2)
    lead.log.append("round.opened", job=PLAN.digest, round=3, model=model_digest(after(2).model))
    assert job.roll_back(1, CLEAR, lead.log).round == 3
    assert events(lead.log)[1:] == [("round.aborted", 3), ("model.rolled_back", None)]


def test_a_job_that_runs_does_not_go_back(lead: LeadFolder) -> None:
    job = at_round(lead, 2)
    job.move(RUNNING)
    with pytest.raises(PlanError, match="is running") as caught:
        job.roll_back(1, CLEAR, lead.log)
    assert caught.value.id == "plan_not_approved"


def test_a_joint_job_never_goes_back(lead: LeadFolder) -> None:
    made = plan(FOUR, **changes())
    job = at_round(lead, 2, made)
    assert [version.round for version in Versions(job.folder, made).all()] == [1, 2]
    assert not Versions(job.folder, made).has(2)
    with pytest.raises(PlanError, match="follow every step"):
        job.roll_back(1, CLEAR, lead.log)


def test_after_a_model_that_sites_refuse_the_job_ends_from_an_earlier_one(tmp_path: Path) -> None:
    """The next round has a new number, so no site sees a replay, and each charges what it took part in."""
    made = Consortium(tmp_path, training=plan_json()["training"] | {"rounds": 4})
    for site in made.sites.values():
        site.guard = Guard(Tolerance(10, "refuse"), Score(0.8, 10_000))
        site.learner.scores = {2: Score(0.2, 10_000)}
    job = Jobs(tmp_path / "jobs").propose(made.plan, start(made.plan), made.lead)
    versions, before = Versions(job.folder, made.plan), [start(made.plan)]

    def save(state: Checkpoint) -> None:
        state.save(job.folder / "checkpoint")
        versions.keep(before[-1], state)
        before.append(state.model)

    with pytest.raises(RoundError, match="model_fell"):
        made.federation(save=save).run(made.grid())
    job.move(FAILED)
    state = job.roll_back(1, CLEAR, made.log)
    assert state.round == 3
    made.federation(save=save, resume=state).run(made.grid())
    for site in made.sites.values():
        models = dict(site.learner.kept)
        assert np.array_equal(models[3], models[1])
        rounds = {row.reservation.round for row in site.ledger.rows() if row.kind == "reserved"}
        assert rounds == {1, 2, 4}
        assert len(site.learner.released) == 1


def session(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands_show_versions_and_go_back(lead: LeadFolder) -> None:
    job = at_round(lead, 12)
    job.move(FAILED)
    name, place = PLAN.digest[7:19], str(lead.path)
    shown = session("versions", name, "--dir", place).splitlines()
    assert shown[0].endswith("moved 1; not kept")
    assert shown[-2] == f"round   12  {model_digest(after(12).model)[7:19]}  moved 1"
    assert shown[-1].startswith(PLAN.aggregation.visibility)
    told = canonical.decode(session("versions", name, "--dir", place, "--json").strip().encode())
    assert [version["kept"] for version in told["versions"]] == [False] * 2 + [True] * 10
    said = session("rollback", name, "--to", "11", "--dir", place)
    assert f"The model is {model_digest(after(11).model)[7:19]} again" in said
    assert "Nothing charged is given back" in said
