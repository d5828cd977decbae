"""Bundles of jobs that really ran, in one process: real participants, aggregator, ledgers and sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import software, timekeeping
from cloister.privacy.consent import DECISION_CONTEXT, PLAN_CONTEXT, approval
from cloister.privacy.errors import LogError
from cloister.privacy.evidence.bundle import Bundle, Contents
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import Verdict, verify
from cloister.privacy.evidence.derive import Said, composed, derived
from cloister.privacy.evidence.part import Part
from cloister.privacy.wire import messages, sums
from cloister.privacy.wire.messages import model_digest
from cloister.privacy.wire.signed import Signed
from tests.parties import Consortium, tasked
from tests.plans import plan_json
from tests.server.test_sums import Weather

pytestmark = pytest.mark.job

FOUR = ("north", "south", "west", "east")
SECURE = {"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 3, "colluding": 1}
JOINT = plan_json()["privacy"] | {"mode": "joint"}
STEPS = plan_json()["training"] | {"rounds": 3, "steps": 1}
OFF = plan_json()["privacy"] | {"mode": "off", "noise_multiplier": 0.0, "epsilon": 0.0, "delta": 0.0}
SAID = Said("2999-01-01T00:00:00Z", "1.0")


def ran(consortium: Consortium, *, present: Callable[[], list[str]] | None = None, **grid: Any) -> Bundle:
    """Approves, runs and ends a job as sites and lead do, and makes its bundle."""
    plan, job = consortium.plan, consortium.plan.digest
    about: dict[str, Any] = {"job": job, "subject": job, "stage": "start", "role": "administrator"}
    members = (consortium.lead.public, *(key.public for key in consortium.keys.values()))
    for name, site in consortium.sites.items():
        for other in members:
            if other.name != name:
                site.log.append("key.confirmed", party=other.name, identity=other.digest(), method="words")
        site.log.append("approval.granted", **about)
        consortium.log.append("job.accepted", job=job, site=name)
    federation = consortium.federation(**({"present": present} if present else {}))
    model = model_digest(federation.resume.model)
    logs = {"lead": consortium.log, **{name: site.log for name, site in consortium.sites.items()}}
    for party in (plan.lead, *plan.sites):
        clock, ran = timekeeping.state().fields(), {**software.running().fields(), "code": party.code}
        logs[party.name].append("clock.status", job=job, occasion="job", **clock)
        logs[party.name].append("software.recorded", job=job, **ran)
    consortium.log.append("job.started", job=job, model=model, code=plan.lead.code)
    end = federation.run(consortium.grid(**grid))
    final = model_digest(end.model)
    for name in consortium.sites:
        moved = {"bytes_up": federation.up[name], "bytes_down": federation.down[name]}
        consortium.log.append("traffic.counted", job=job, site=name, **moved)
    consortium.log.append("job.finished", job=job, model=final, rounds=end.round)
    parts = [Part.make(consortium.log, consortium.lead, plan)]
    parts += [Part.make(site.log, consortium.keys[name], plan) for name, site in consortium.sites.items()]
    logs = {part.writer: part.events for part in parts}
    heads = {part.writer: part.newest for part in parts}
    approvals = {"lead": Signed.make(plan.to_bytes(), consortium.lead, PLAN_CONTEXT)}
    for name, key in consortium.keys.items():
        approvals[name] = Signed.make(approval(plan, name).to_bytes(), key, DECISION_CONTEXT)
    evidence = composed(derived(plan, members, logs, heads), SAID)
    return Contents(plan, members, tuple(parts), approvals, evidence).bundle(consortium.lead)


def checked(consortium: Consortium, bundle: Bundle) -> Verdict:
    members = (consortium.lead.public, *(key.public for key in consortium.keys.values()))
    return verify(bundle, {member.name: member.digest() for member in members})


def lines(verdict: Verdict) -> list[str]:
    return [finding.line() for finding in verdict.findings]


def test_a_plain_job_verifies(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    verdict = checked(consortium, ran(consortium))
    assert lines(verdict) == []
    assert verdict.result is Result.VERIFIED


def test_a_job_with_secure_sums_verifies(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, FOUR, aggregation=SECURE)
    assert lines(checked(consortium, ran(consortium))) == []


@pytest.mark.parametrize("kind", [sums.SURVIVE, sums.OPEN])
def test_a_job_verifies_whose_site_went_away_after_its_upload_and_came_back(
    tmp_path: Path, kind: str
) -> None:
    consortium = Consortium(tmp_path, FOUR, aggregation=SECURE)
    weather = Weather(("west", kind), back=messages.TASK)
    bundle = ran(consortium, present=lambda: [n for n in FOUR if n not in weather.away], fault=weather)
    assert [event.body["site"] for event in consortium.log.entries() if event.type == "site.lost"] == ["west"]
    assert lines(checked(consortium, bundle)) == []


@pytest.mark.parametrize("kind", ["sum.signed", "sum.opened"])
def test_a_job_verifies_of_whose_site_a_log_was_full_once(tmp_path: Path, kind: str) -> None:
    """What it signed or opened was on its disk; what it answers later, it has written down by then."""
    consortium = Consortium(tmp_path, FOUR, aggregation=SECURE)
    north = consortium.sites["north"]
    append, handle, full = north.log.append, north.handle, list[str]()

    def failing(type: str, **fields: Any) -> Any:
        if type == kind and not full:
            full.append(type)
            raise LogError("log_unwritable", "full")
        return append(type, **fields)

    def again(data: bytes) -> bytes:
        try:
            return handle(data)
        except LogError:
            return handle(data)

    north.log.append, north.handle = failing, again  # type: ignore[method-assign]
    bundle = ran(consortium)
    assert full == [kind]
    told = [event.round for event in north.log.entries() if event.type == kind]
    assert told == [*range(1, consortium.plan.training.rounds + 1)]
    assert lines(checked(consortium, bundle)) == []


@pytest.mark.slow
def test_a_job_with_joint_steps_verifies(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, FOUR, aggregation=SECURE, privacy=JOINT, training=STEPS)
    assert lines(checked(consortium, ran(consortium))) == []


@pytest.mark.slow
def test_a_job_that_takes_surplus_noise_back_verifies(tmp_path: Path) -> None:
    consortium = taking_back(tmp_path)
    assert lines(checked(consortium, ran(consortium))) == []


def taking_back(folder: Path) -> Consortium:
    how = SECURE | {"surplus": True}
    return Consortium(folder, FOUR, aggregation=how, privacy=JOINT, training=STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"noise_left": 1.6}, "the noise left is 1.5, not 1.6"),
        ({"noise_left": 1.2}, "less noise is left than the plan's 1.5"),
        ({"survivors": ["north", "south", "west"]}, "for another survivor set than it had signed"),
    ],
)
def test_a_site_that_says_otherwise_of_its_surplus_noise_is_found(
    tmp_path: Path, body: dict[str, Any], says: str
) -> None:
    consortium = taking_back(tmp_path)
    log = consortium.sites["west"].log
    real = log.append

    def lying(type: str, **fields: Any) -> Any:
        return real(type, **fields | (body if type == "surplus.given" else {}))

    log.append = lying  # type: ignore[method-assign]
    assert any(says in line for line in lines(checked(consortium, ran(consortium))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "body", "says"),
    [
        (1, {"survivors": ["north", "south", "west"]}, "over other survivors than those of the sum"),
        (1, None, "no event says what became of the surplus noise"),
    ],
)
def test_a_lead_that_says_otherwise_of_surplus_noise_is_found(
    tmp_path: Path, step: int, body: dict[str, Any] | None, says: str
) -> None:
    consortium = taking_back(tmp_path)
    real = consortium.log.note

    def lying(type: str, **fields: Any) -> Any:
        if type == "sum.closed" and fields["step"] == step:
            return real(type, **fields | body) if body else None
        return real(type, **fields)

    consortium.log.note = lying  # type: ignore[method-assign]
    assert any(says in line for line in lines(checked(consortium, ran(consortium))))


@pytest.mark.slow
def test_a_job_without_privacy_verifies(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, privacy=OFF)
    assert lines(checked(consortium, ran(consortium))) == []


def test_a_site_that_refused_is_in_the_report_and_nothing_contradicts_it(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    site = consortium.sites["west"]

    def broken(model: Any, header: Any) -> Any:
        raise LogError("event_altered", "made up")

    site.learner.train = broken  # type: ignore[method-assign]
    bundle = ran(consortium)
    assert lines(checked(consortium, bundle)) == []
    assert b"event_altered" in bundle.files["evidence.json"]


def test_a_crash_between_storing_and_logging_leaves_no_contradiction(tmp_path: Path) -> None:
    """The log gets its event when the stored reply is sent again."""
    consortium = Consortium(tmp_path)
    site = consortium.sites["west"]
    real, crashed = site.log.append, []

    def once(type: str, **fields: Any) -> Any:
        if type == "update.sent" and not crashed:
            crashed.append(type)
            raise LogError("log_unwritable", "the power went")
        return real(type, **fields)

    site.log.append = once  # type: ignore[method-assign]
    federation = consortium.federation()
    stage = federation._stage(federation.resume, 1)
    task = tasked(federation, stage, "west")
    with pytest.raises(LogError):
        site.handle(task)
    sealed = site.handle(task)
    site.handle(task)
    assert crashed
    sent = [event for event in site.log.entries() if event.type == "update.sent"]
    assert len(sent) == 1
    assert sent[0].body["bytes"] == len(sealed)


@pytest.mark.slow
def test_what_ran_differently_from_the_plan_is_found(tmp_path: Path) -> None:
    """The same job, with one site whose steps say less noise than the plan asks for."""
    consortium = Consortium(tmp_path)
    site = consortium.sites["north"]
    real = site.log.note

    def lying(type: str, **fields: Any) -> Any:
        if type == "dp.step_summary":
            fields["noise_multiplier"] = fields["noise_multiplier"] / 2
        return real(type, **fields)

    site.log.note = lying  # type: ignore[method-assign]
    verdict = checked(consortium, ran(consortium))
    assert verdict.result is Result.NOT_REPRODUCIBLE
    assert {finding.check for finding in verdict.findings} == {"epsilon"}
    assert replace(verdict, findings=()).result is Result.VERIFIED
