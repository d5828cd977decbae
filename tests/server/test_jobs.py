from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cloister.privacy import canonical
from cloister.privacy.consent import DECISION_CONTEXT, PLAN_CONTEXT, Decision, approval
from cloister.privacy.errors import PlanError, PolicyError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity
from cloister.server.desk import FolderDesk
from cloister.server.jobs import APPROVED, FAILED, PROPOSED, REFUSED, RUNNING, Job, Jobs
from tests.plans import DIGEST, plan
from tests.policies import policy_json

PLAN = plan()
START = np.zeros(5, dtype=np.float32)
LEAD = PrivateIdentity.generate("lead", "lead")
SITES = {name: PrivateIdentity.generate(name, "site") for name in ("north", "south", "west")}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Jobs(tmp_path).propose(PLAN, START, LEAD)


def say(job: Job, decision: Decision) -> None:
    job.decide(decision, SITES[decision.site].sign(decision.to_bytes(), DECISION_CONTEXT))


def test_a_proposal_is_kept_under_the_leads_signature(job: Job, tmp_path: Path) -> None:
    assert job.state == PROPOSED
    assert job.signed.open(LEAD.public, PLAN_CONTEXT) == PLAN.to_bytes()
    assert [found.plan for found in Jobs(tmp_path)] == [PLAN]


def test_proposing_again_changes_nothing(job: Job, tmp_path: Path) -> None:
    before = job.signed
    say(job, approval(PLAN, "north"))
    again = Jobs(tmp_path).propose(PLAN, START, LEAD)
    assert again.signed == before
    assert set(again.decisions()) == {"north"}


def test_a_job_starts_when_every_site_has_approved(job: Job) -> None:
    for name in ("north", "south"):
        say(job, approval(PLAN, name))
    assert job.state == PROPOSED
    say(job, approval(PLAN, "west"))
    assert job.state == APPROVED


def test_one_refusal_ends_it_and_names_site_and_reason(job: Job) -> None:
    say(job, Decision(site="south", plan=PLAN.digest, approve=False, reason="budget_exceeded"))
    assert (job.state, job.reason) == (REFUSED, "south refuses: budget_exceeded")


def test_a_decision_after_the_start_changes_nothing(job: Job) -> None:
    job.move(RUNNING)
    say(job, Decision(site="south", plan=PLAN.digest, approve=False, reason="budget_exceeded"))
    assert job.state == RUNNING
    assert not job.decisions()


def test_a_stranger_cannot_decide(job: Job) -> None:
    decision = Decision(site="east", plan=PLAN.digest, approve=True)
    with pytest.raises(PlanError) as caught:
        job.decide(decision, SITES["north"].sign(decision.to_bytes(), DECISION_CONTEXT))
    assert caught.value.id == "plan_unknown"


def test_stop_and_resume(job: Job) -> None:
    with pytest.raises(PlanError):
        job.resume()
    job.stop()
    assert job.stopping()
    job.move(FAILED, "below the minimum")
    job.resume()
    assert job.state == APPROVED
    assert not job.stopping()
    assert not job.take_give_up()


def test_a_round_is_given_up_once_if_somebody_says_so(job: Job) -> None:
    job.move(FAILED, "a survivor stays away")
    job.resume(give_up=True)
    assert [job.take_give_up() for _ in range(2)] == [True, False]


def test_a_job_is_found_by_the_first_digits_of_its_digest(job: Job, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    assert jobs.find(PLAN.digest).plan == PLAN
    assert jobs.find(PLAN.digest[7:12]).plan == PLAN
    with pytest.raises(PlanError):
        jobs.find("zz")


def test_the_desk_shows_a_plan_to_its_own_sites_only(tmp_path: Path) -> None:
    desk = FolderDesk(tmp_path, log=None)
    job = desk.jobs.propose(PLAN, START, LEAD)
    assert [signed.content for signed in desk.proposals("north")] == [PLAN.to_bytes()]
    assert list(desk.proposals("east")) == []
    assert desk.status("north") == {PLAN.digest: PROPOSED}
    job.move(REFUSED, "south refuses")
    assert list(desk.proposals("north")) == []


def test_the_desk_gives_a_policy_to_sites_whose_plans_name_it(tmp_path: Path) -> None:
    lead = PrivateIdentity.generate("lead", "lead")
    desk = FolderDesk(tmp_path, EventLog.open(tmp_path / "log", lead))
    named = desk.policies.put(json.dumps(policy_json(privacy__epsilon=4)).encode())
    later = desk.policies.put(json.dumps(policy_json()).encode())
    under = plan(("north", "south"), policy=named.digest)
    desk.propose(under, np.zeros(5, dtype=np.float32), lead)
    assert desk.policy(named.digest, "north") == named.to_bytes()
    assert canonical.digest(named.to_bytes()) == under.policy
    for digest, site in ((named.digest, "west"), (later.digest, "north"), (DIGEST, "north")):
        with pytest.raises(PolicyError) as caught:
            desk.policy(digest, site)
        assert caught.value.id == "policy_missing"
