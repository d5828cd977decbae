"""The policy at a site: what is in force, what it does to plans that wait, are approved, and run."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.client.agent import Agent
from cloister.client.approvals import Voice
from cloister.client.guard import Guard, Tolerance
from cloister.client.jobs import APPROVED, REFUSED, WAITING, Job, Jobs
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import Peer, SiteFolder
from cloister.client.site.people import People
from cloister.client.site.policies import Policies
from cloister.privacy import canonical, code, durable
from cloister.privacy.cli import main
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence.checks.decisions import decided_again, hidden_decisions
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.part import Part, Shown
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.plan import Plan
from cloister.privacy.wire.signed import Signed
from tests.plans import DIGEST, plan_json
from tests.policies import allow, policy, policy_json


class Site:
    """A site with a dataset and a lead, a clock that a test turns, and nobody between them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = SiteFolder.create(path / "north", "north")
        self.lead = PrivateIdentity.generate("lead", "lead")
        self.roster = Roster("hospitals", (self.lead.public, self.folder.identity.public))
        monkeypatch.setattr(SiteFolder, "roster", self.roster)
        peers = tuple(
            Peer(member, confirmed=True, own=member.name == "north") for member in self.roster.members
        )
        monkeypatch.setattr(SiteFolder, "peers", lambda _: peers)
        file = path / "notes.csv"
        file.write_text("text,label\n" + "".join(f"note {k},{'abc'[k % 3]}\n" for k in range(200)))
        Datasets(self.folder).register(file, "notes", ("text", "label"), (100.0, 1e-5))
        self.time = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
        self.jobs = Jobs(self.folder, lambda: self.time)

    def propose(self, nonce: int = 0, under: str | None = None, **privacy: Any) -> Job:
        value = plan_json(("north",), roster=self.roster.digest(), nonce=f"{nonce:032x}")
        value |= {"policy": under} if under else {}
        for party in (value["lead"], *value["sites"]):
            party |= {"identity": self.roster.member(party["name"]).digest(), "code": code.installed()}
        value["aggregation"]["minimum_sites"] = 1
        value["privacy"] |= privacy
        plan = Plan.from_bytes(canonical.encode(value))
        return self.jobs.keep(plan, Signed.make(plan.to_bytes(), self.lead, "cloister/plan/1"))

    def later(self, **time: float) -> None:
        self.time += timedelta(**time)

    def refusal(self, act: Any) -> CloisterError:
        with pytest.raises(CloisterError) as caught:
            act()
        assert "\n" not in caught.value.line()
        return caught.value

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.body) for event in self.folder.log.entries() if event.type.startswith(kind)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


# What is in force


def test_a_new_site_has_a_policy_that_refuses_what_is_not_private_and_not_secure(site: Site) -> None:
    job = site.propose(mode="off", noise_multiplier=0, epsilon=0, delta=0)
    said = site.refusal(lambda: Jobs(site.folder).approve(job))
    assert said.id == "policy_refused"
    assert "privacy.modes: off, where the policy has one of joint, local" in said.what
    assert "aggregation.secure: no, where the policy has required yes" in said.what
    assert job.state == WAITING


@pytest.mark.parametrize(
    ("rules", "suggested"),
    [
        ({"privacy__epsilon": 2.5}, "--epsilon 2.5."),
        ({"privacy__epsilon": 2.5, "training__rounds": 1}, "--epsilon 2.5 --rounds 1."),
        ({"privacy__epsilon": 0}, ""),
        ({"privacy__epsilon": 2.5, "privacy__modes": ["joint"]}, ""),
    ],
)
def test_numbers_that_are_too_much_come_back_as_the_nearest_that_are_not(
    site: Site, rules: dict[str, Any], suggested: str
) -> None:
    job = site.propose()
    allow(site.folder, **rules)
    said = site.refusal(lambda: site.jobs.approve(job))
    assert said.id == "policy_refused"
    assert ("The nearest plan" in said.do, suggested in said.do) == (bool(suggested), True)
    if suggested:
        near = site.propose(nonce=1, epsilon=2.5, noise_multiplier=4.0)
        limits = {name: value for name, value in rules.items() if name == "privacy__epsilon"}
        allow(site.folder, **limits)
        assert site.jobs.approve(near) is not None


def test_without_a_policy_everything_is_refused(site: Site) -> None:
    job = site.propose()
    allow(site.folder)
    (site.folder.path / "policy.yaml").unlink()
    for act in (
        lambda: site.jobs.approve(job),
        lambda: site.jobs.settle(job),
        lambda: site.jobs.admit(job.plan),
    ):
        assert site.refusal(act).id == "policy_missing"
    assert job.state == WAITING


def test_a_policy_that_cannot_be_read_refuses_and_is_noted_once(site: Site) -> None:
    allow(site.folder)
    (site.folder.path / "policy.yaml").write_text("version: 1\nsurprise: 2\n")
    for _ in range(2):
        assert "surprise: there is no such key (line 2)" in site.refusal(Policies(site.folder).current).what
    (rejected,) = site.events("policy.rejected")
    assert rejected["reason"] == "policy_malformed"


def test_a_policy_that_others_can_write_is_not_trusted(site: Site) -> None:
    (site.folder.path / "policy.yaml").chmod(0o664)
    assert site.refusal(Policies(site.folder).current).id == "permissions"


def test_what_cannot_be_read_replaces_nothing(site: Site) -> None:
    before = allow(site.folder)
    assert site.refusal(lambda: Policies(site.folder).put(b"version: 3")).id == "policy_malformed"
    assert Policies(site.folder).current() == before


def test_every_policy_in_force_is_kept_and_logged_with_what_changed(site: Site) -> None:
    policies = Policies(site.folder)
    steps = [allow(site.folder), allow(site.folder, training__rounds=5), allow(site.folder)]
    steps.append(allow(site.folder, training__rounds=5, privacy__epsilon=2_000_000))
    assert policies.current() == policies.current() == steps[-1]
    assert [event["policy"] for event in site.events("policy.loaded")] == [steps[0].digest]
    changed = site.events("policy.changed")
    assert [event["change"] for event in changed] == ["tighter", "looser", "mixed"]
    assert [event["previous"] for event in changed] == [one.digest for one in steps[:-1]]
    assert [policies.kept(one.digest) for one in steps] == steps
    path = site.folder.path / "policy" / f"{steps[0].digest[7:]}.json"
    durable.write(path, steps[1].to_bytes())
    assert site.refusal(lambda: policies.kept(steps[0].digest)).id == "state_damaged"
    assert site.refusal(lambda: policies.kept("sha256:../x")).id == "policy_missing"


def test_the_strictest_of_site_and_consortium_is_in_force(site: Site) -> None:
    allow(site.folder, training__rounds=5, privacy__epsilon=1)
    shared = json.dumps(policy_json(training__rounds=3, privacy__epsilon=9)).encode()
    found = Policies(site.folder).put(shared, shared=True)
    assert found == policy(training__rounds=3, privacy__epsilon=1)


# Approvals


def test_an_approval_a_decision_and_its_replay(site: Site) -> None:
    allow(site.folder)
    job = site.propose()
    decision = site.jobs.approve(job)
    assert decision is not None
    assert decision.approve
    assert job.state == APPROVED
    assert [event["outcome"] for event in site.events("policy.decision")] == ["ask", "allow"]
    assert [event["role"] for event in site.events("approval.granted")] == ["administrator"]
    assert site.jobs.rulings.replay(job.folder) == 2
    site.jobs.admit(job.plan)
    record = job.folder / "decisions" / "00001.json"
    data = record.read_bytes()
    for old, new in (
        (b'"outcome":"allow","policy"', b'"outcome":"ask","policy"'),
        (b'"rounds":2', b'"rounds":1'),
    ):
        assert data.count(old) == 1
        durable.write(record, data.replace(old, new))
        assert site.refusal(lambda: site.jobs.rulings.replay(job.folder)).id == "decision_altered"
    durable.write(record, data)
    (job.folder / "decisions" / "00000.json").unlink()
    assert site.jobs.rulings.replay(job.folder) == 1


def test_those_who_ask_at_once_leave_one_record_and_one_event(site: Site) -> None:
    allow(site.folder)
    job, together = site.propose(), threading.Barrier(8)

    def ask(number: int) -> None:
        own = Jobs(site.folder, lambda: site.time + timedelta(seconds=number)).rulings
        together.wait()
        own.decide(job.plan)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    told = [event["request"] for event in site.events("policy.decision")]
    assert told == [record.request.digest for record in site.jobs.rulings.records(job.folder)]
    assert len(told) == 1


@pytest.mark.parametrize("late", [False, True], ids=["before its event", "after it"])
def test_a_decision_that_a_crash_cut_off_is_told_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    allow(site.folder)
    job, append = site.propose(), EventLog.append

    def dying(self: EventLog, type: str, **fields: Any) -> Any:
        if type != "policy.decision":
            return append(self, type, **fields)
        if late:
            append(self, type, **fields)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EventLog, "append", dying)
        site.jobs.rulings.decide(job.plan)
    site.later(minutes=1)
    shown = site.jobs.rulings.evidence(job.plan)
    (told,) = site.events("policy.decision")
    assert told["request"] in shown
    site.jobs.rulings.decide(job.plan)
    assert site.events("policy.decision") == [told]
    assert site.jobs.rulings.replay(job.folder) == 1


def test_papers_that_the_policy_asks_for_are_recorded_once_when_a_plan_is_approved(site: Site) -> None:
    papers = [
        {"digest": DIGEST, "form": "ethics-approval", "until": "2999-06-30"},
        {"digest": DIGEST, "form": "permit", "until": "2999-12-31"},
    ]
    allow(site.folder, datasets__documents=papers, approval__people=2)
    job = site.propose()
    site.jobs.approve(job, Voice("administrator"))
    assert site.events("consent.recorded") == []  # one more person must approve
    site.jobs.approve(job, Voice("steward"))
    assert job.state == APPROVED
    site.jobs.settle(job)
    site.jobs.approve(job, Voice("steward"))
    told = [(body["form"], body["not_after"], body["dataset"]) for body in site.events("consent.recorded")]
    assert told == [("ethics-approval", "2999-06-30", "notes"), ("permit", "2999-12-31", "notes")]
    papers[1] |= {"until": "3999-12-31"}  # renewed, after the approval
    allow(site.folder, datasets__documents=papers, approval__people=2)
    site.jobs.admit(job.plan)
    site.jobs.admit(job.plan)
    told = [(body["form"], body["not_after"]) for body in site.events("consent.recorded")]
    assert told[2:] == [("permit", "3999-12-31")]


def test_a_decision_that_was_made_up_is_not_in_the_log(site: Site) -> None:
    allow(site.folder)
    job = site.propose()
    site.jobs.approve(job)
    made_up = Jobs(site.folder, lambda: site.time + timedelta(hours=1)).rulings
    request = made_up.request(job.plan)
    from cloister.client.rulings import Record
    from cloister.privacy.policy.decision import decide

    record = Record(request, decide(Policies(site.folder).current(), request))
    durable.write(job.folder / "decisions" / "00002.json", record.to_bytes())
    assert "not in the event log" in site.refusal(lambda: made_up.replay(job.folder)).what


def test_two_people_are_two_people(site: Site) -> None:
    allow(site.folder, approval__people=2, approval__roles=["steward", "validator"])
    job = site.propose()
    assert site.jobs.approve(job, Voice("steward", "dana")) is None
    assert site.jobs.approve(job, Voice("validator", "dana")) is None  # one person, however often
    assert site.jobs.approve(job, Voice("administrator", "kim")) is None  # a role that does not count
    assert job.state == WAITING
    assert site.refusal(lambda: site.jobs.admit(job.plan)).id == "policy_waits"
    assert site.jobs.approve(job, Voice("steward", "ada")) is not None
    assert job.state == APPROVED


def test_who_proposes_does_not_approve(site: Site) -> None:
    allow(site.folder, approval__separate=True)
    people = People(site.folder)
    people.add("dana", ("steward", "researcher"), None)
    people.add("kim", ("steward",), None)
    job = site.propose()
    assert site.jobs.approve(job, Voice("steward", "dana")) is None
    assert site.refusal(lambda: site.jobs.approve(job, Voice("validator", "kim"))).id == "approval_invalid"
    assert site.refusal(lambda: site.jobs.approve(job, Voice("steward", "eve"))).id == "approval_invalid"
    assert site.refusal(lambda: site.jobs.approve(job)).id == "approval_invalid"
    assert site.jobs.approve(job, Voice("steward", "kim")) is not None


def key_files(path: Path, name: str) -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = path / f"{name}.key", path / f"{name}.pub"
    durable.write(
        private,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    durable.write(
        public,
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
    return private, public


def test_signed_approvals(site: Site, tmp_path: Path) -> None:
    allow(site.folder, approval__signed=True)
    (dana, dana_pub), (other, _) = key_files(tmp_path, "dana"), key_files(tmp_path, "other")
    people = People(site.folder)
    people.add("dana", ("steward",), dana_pub)
    people.add("kim", ("steward",), None)
    assert site.refusal(lambda: people.add("eve", ("steward",), dana_pub)).id == "approval_invalid"
    assert site.refusal(lambda: people.add("eve", ("steward",), dana)).id == "approval_invalid"
    job, second = site.propose(), site.propose(1)
    assert site.jobs.approve(job, Voice("steward", "kim")) is None
    for key in (None, other):
        voice = Voice("steward", "dana", key)
        assert site.refusal(lambda voice=voice: site.jobs.approve(job, voice)).id == "approval_invalid"
    assert site.jobs.approve(job, Voice("steward", "dana", dana)) is not None
    enrolled = [event.get("key") for event in site.events("person.enrolled")]
    assert [event.get("key") for event in site.events("approval.granted")] == [None, enrolled[0]]
    assert enrolled == [people.all()["dana"].fingerprint, None]
    assert "dana" not in str([site.events("approval"), site.events("person")])
    # An approval of one plan is none of another, nor one that was changed afterwards.
    kept = job.folder / "approvals" / "dana.json"
    durable.private_folder(second.folder / "approvals")
    for data in (
        kept.read_bytes(),
        kept.read_bytes().replace(job.plan.digest.encode(), second.plan.digest.encode()),
    ):
        durable.write(second.folder / "approvals" / "dana.json", data)
        assert site.refusal(lambda: site.jobs.settle(second)).id == "approval_invalid"
    people.remove("dana")  # what she approved no longer stands, and a restart asks again
    assert site.refusal(lambda: site.jobs.admit(job.plan)).id == "policy_waits"
    assert [event["role"] for event in site.events("person")] == ["steward"] * 3


def test_a_plan_that_waits_too_long_is_refused(site: Site) -> None:
    allow(site.folder, approval__hours=2)
    job = site.propose()
    assert site.jobs.settle(job) is None
    site.later(hours=1, minutes=59)
    assert site.jobs.settle(job) is None
    site.later(minutes=1)
    assert site.refusal(lambda: site.jobs.approve(job)).id == "policy_refused"
    decision = site.jobs.settle(job)
    assert decision is not None
    assert (decision.approve, decision.reason) == (False, "approval_timeout")
    assert job.state == REFUSED
    assert len(site.events("approval.timeout")) == 1


def test_what_needs_nobody_is_approved_by_the_policy(site: Site) -> None:
    small, large = site.propose(), site.propose(1, epsilon=9.0)
    allow(site.folder, approval__automatic=8)
    assert site.jobs.settle(large) is None
    assert site.jobs.settle(small) is not None
    assert (small.state, large.state) == (APPROVED, WAITING)
    assert [event["role"] for event in site.events("approval.granted")] == ["policy"]


def test_a_plan_that_the_policy_would_approve_is_checked_all_the_same(site: Site) -> None:
    allow(site.folder, approval__automatic=8)
    job = site.propose()
    (site.folder.path.parent / "notes.csv").unlink()
    assert site.refusal(lambda: site.jobs.settle(job)).id == "file_missing"
    assert job.state == WAITING


def test_jobs_of_a_day_are_counted_by_the_day_of_their_approval(site: Site) -> None:
    allow(site.folder, datasets__jobs_per_day=1)
    first, second = site.propose(), site.propose(1)
    site.jobs.approve(first)
    site.later(seconds=1)
    assert "datasets.jobs_per_day: 2" in site.refusal(lambda: site.jobs.approve(second)).what
    site.jobs.admit(first.plan)
    site.later(days=1)
    site.jobs.approve(second)
    site.later(seconds=1)
    for job in (first, second):
        site.jobs.admit(job.plan)  # a restart counts neither against the other


# Rounds


def test_a_job_that_runs_asks_again_before_each_round(site: Site) -> None:
    allow(site.folder, time__hours=["10-12"], held_out__points=7, held_out__action="refuse")
    job = site.propose()
    site.jobs.approve(job)
    permitted = site.jobs.running(job.plan)
    assert permitted().model_dump() == {"points": 7.0, "action": "refuse"}
    site.later(hours=2)
    assert "time.hours: 12" in site.refusal(permitted).what
    site.later(hours=22)
    assert permitted().points == 7
    allow(site.folder, privacy__epsilon=1)  # at once, though the minute is the same
    assert "privacy.epsilon" in site.refusal(permitted).what
    allow(site.folder)
    assert permitted().action == "ignore"
    (site.folder.path / "policy.yaml").unlink()
    assert site.refusal(permitted).id == "policy_missing"
    outcomes = [event["outcome"] for event in site.events("policy.decision")]
    assert outcomes == ["ask", "allow", "refuse", "allow", "refuse", "allow"]
    assert site.jobs.rulings.replay(job.folder) == len(outcomes)


def test_the_guard_puts_up_with_what_the_policy_says(site: Site) -> None:
    job = site.propose()
    agent, guard = Agent(site.folder, "", lambda _: None), Guard()
    agent._jobs = site.jobs
    allow(site.folder, held_out__points=3, held_out__action="refuse")
    site.jobs.approve(job)
    permit = agent._permit(job.plan, guard)
    assert guard.tolerance == Tolerance(3.0, "refuse")
    allow(site.folder, held_out__points=5, held_out__action="warn")
    permit()
    assert guard.tolerance == Tolerance(5.0, "warn")


def test_a_job_ends_after_its_duration(site: Site) -> None:
    allow(site.folder, time__duration=2)
    job = site.propose()
    site.jobs.approve(job)
    permitted = site.jobs.running(job.plan)
    site.later(hours=1, minutes=59)
    permitted()
    site.later(minutes=2)
    assert "time.duration: 3" in site.refusal(permitted).what


# Sessions


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)

    def command(line: str, code: int = 0) -> str:
        assert main(line.split()) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return command


@pytest.mark.job
def test_a_session_with_a_policy(run: Any, tmp_path: Path) -> None:
    run("site init --dir north --name north")
    text = run("site policy template")
    (tmp_path / "new.yaml").write_text(
        text.replace("rounds: 1000", "rounds: 50").replace("bound: 10", "bound: 20")
    )
    assert run("site policy check new.yaml").startswith("new.yaml can be used. Its digest: sha256:")
    changes = "looser   privacy.bound: 10 -> 20\ntighter  training.rounds: 1000 -> 50\n"
    assert run("site policy diff new.yaml --dir north") == f"{changes}In all: mixed\n"
    assert json.loads(run("site policy diff new.yaml --dir north --json"))["change"] == "mixed"
    said = run("site policy set new.yaml --dir north")
    assert said.startswith(f"{changes}In force: sha256:")
    assert said.endswith(" (mixed)\n")
    shown = json.loads(run("site policy show --dir north --json"))
    assert shown["policy"]["training"]["rounds"] == 50
    assert shown["digest"] in run("site policy show --dir north")
    told = run("site policy explain --dir north")
    assert "  A plan may have 50 rounds at most.\n" in told
    assert told.endswith("Whatever one of these sentences does not allow is refused.\n")
    assert json.loads(run("site policy explain new.yaml --json"))["digest"] == shown["digest"]
    (tmp_path / "bad.yaml").write_text(text.replace("rounds:", "round:"))
    for line in (
        "check bad.yaml",
        "set bad.yaml --dir north",
        "diff bad.yaml --dir north",
        "explain bad.yaml",
    ):
        error = run(f"site policy {line}", code=1)
        assert "training.round: there is no such key" in error
        assert error.endswith("[policy_malformed]\n")
    assert run("site policy check none.yaml", code=1).endswith("[policy_missing]\n")
    assert json.loads(run("site policy show --dir north --json")) == shown
    assert run("site policy replay abc --dir north", code=1).endswith("[plan_unknown]\n")
    (tmp_path / "north" / "policy.yaml").unlink()
    assert run("site policy show --dir north", code=1).endswith("[policy_missing]\n")
    assert run("site policy set new.yaml --dir north").endswith(" (new)\n")


@pytest.mark.job
def test_a_session_with_people(run: Any, tmp_path: Path) -> None:
    run("site init --dir north --name north")
    assert "Nobody is registered" in run("site people list --dir north")
    key_files(tmp_path, "dana")
    said = run("site people add dana --role steward --role validator --key dana.pub --dir north")
    assert said == "dana is registered as steward, validator and signs.\n"
    assert run("site people list --dir north") == "dana: steward, validator; signs\n"
    assert json.loads(run("site people list --dir north --json"))["people"]["dana"]["roles"] == [
        "steward",
        "validator",
    ]
    assert run("site people add kim --role boss --dir north", code=2).endswith("[option_invalid]\n")
    assert run("site people add Kim --role steward --dir north", code=1).endswith("[approval_invalid]\n")
    assert run("site people add kim --role steward --key none --dir north", code=1).endswith(
        "[approval_invalid]\n"
    )
    assert run("site people remove dana --dir north") == "dana is not registered any more.\n"
    assert run("site people remove dana --dir north", code=1).endswith("[approval_invalid]\n")


@pytest.mark.job
def test_a_session_with_approvals(site: Site, run: Any) -> None:
    allow(site.folder, approval__people=2)
    job = Jobs(site.folder).keep(site.propose().plan, None).plan.digest[7:19]  # type: ignore[arg-type]
    said = run(f"site approve {job} --as steward --person dana --dir north", code=0)
    assert said.startswith(
        f"Kept. {job} waits for more: approval.people: 1, where the policy has at least 2."
    )
    told = json.loads(run(f"site approve {job} --as steward --person dana --dir north --json"))
    assert told == {
        "job": told["job"],
        "approved": False,
        "waiting": ["approval.people: 1, where the policy has at least 2"],
        "changed": False,
    }
    assert told["job"][7:19] == job
    listed = run("site jobs --dir north")
    assert "  policy: approval.people: 1, where the policy has at least 2\n" in listed
    assert run(f"site approve {job} --as boss --dir north", code=2).endswith("[option_invalid]\n")
    assert run(f"site approve {job} --person ../x --dir north", code=1).endswith("[approval_invalid]\n")
    assert run(f"site approve {job} --as validator --person kim --dir north").startswith(f"Approved {job}.")
    told = json.loads(run(f"site approve {job} --as steward --person ada --dir north --json"))
    assert (told["approved"], told["waiting"]) == (True, [])
    replayed = run(f"site policy replay {job} --dir north").splitlines()
    assert [line.split()[1:] for line in replayed[:-1]] == [["ask", "approval.people"], ["allow"]]
    assert json.loads(run(f"site policy replay {job} --dir north --json"))["outcomes"] == ["ask", "allow"]
    allow(site.folder, approval__people=2, privacy__epsilon=1)
    line = run(f"site approve {job} --as steward --person ada --dir north", code=1)
    assert line.startswith("The policy refuses: privacy.epsilon: 8, where the policy has at most 1.")
    assert line.endswith("[policy_refused]\n")


@pytest.mark.parametrize(
    "command",
    [
        "approve",
        *(f"policy {one}" for one in ("show", "check", "set", "explain", "diff", "template", "replay")),
    ]
    + [f"people {one}" for one in ("add", "remove", "list")],
)
def test_every_command_explains_itself(run: Any, command: str) -> None:
    assert f"Example: cloister site {command}" in " ".join(run(f"site {command} --help").split())


def test_keys_that_openssl_made(site: Site, tmp_path: Path) -> None:
    key, public = tmp_path / "dana.key", tmp_path / "dana.pub"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run([openssl, "pkey", "-in", key, "-pubout", "-out", public], check=True)
    allow(site.folder, approval__signed=True)
    People(site.folder).add("dana", ("steward",), public)
    assert site.jobs.approve(site.propose(), Voice("steward", "dana", key)) is not None


def test_an_auditor_is_shown_every_policy_that_was_in_force(site: Site) -> None:
    job = site.propose()
    policies = [allow(site.folder, training__rounds=9), allow(site.folder)]
    site.jobs.approve(job)
    part = Part.make(site.folder.log, site.folder.identity, job.plan, Policies(site.folder).all())
    shown = {name: data for name, data in part.files.items() if name.startswith("policies/")}
    assert shown == {f"policies/north@{one.digest[7:]}.json": one.to_bytes() for one in policies}


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({}, []),
        ({"outcome": "refuse"}, ["its policy says otherwise to its request"]),
        ({"rules": ["training.rounds"]}, ["its policy says otherwise to its request"]),
    ],
)
def test_whoever_reads_the_bundle_decides_again(
    site: Site, changed: dict[str, Any], reasons: list[str]
) -> None:
    job = site.propose()
    allow(site.folder)
    site.jobs.approve(job)
    shown = site.jobs.rulings.evidence(job.plan)
    part = Part.make(site.folder.log, site.folder.identity, job.plan, shown)
    case: Any = SimpleNamespace(bundle=SimpleNamespace(files=part.files), plan=job.plan)
    lines = map(Shown.decode, part.files["events/north.jsonl"].splitlines())
    *_, last = (one for one in lines if one.event.type == "policy.decision")
    assert last.event.body["outcome"] == "allow"
    told = replace(last, event=replace(last.event, body={**last.event.body, **changed}))
    assert [found.reason for found in decided_again(case, "north", told)] == reasons


def test_a_decision_about_other_terms_than_the_plans_is_found(site: Site) -> None:
    job, other = site.propose(), site.propose(1, epsilon=4.0)
    allow(site.folder)
    site.jobs.approve(job)
    part = Part.make(site.folder.log, site.folder.identity, job.plan, site.jobs.rulings.evidence(job.plan))
    case: Any = SimpleNamespace(bundle=SimpleNamespace(files=part.files), plan=other.plan)
    lines = map(Shown.decode, part.files["events/north.jsonl"].splitlines())
    decision = next(one for one in lines if one.event.type == "policy.decision")
    assert [found.reason for found in decided_again(case, "north", decision)] == [
        "its request says other things than the plan"
    ]


def test_an_approval_holds_after_a_change_of_keys(site: Site) -> None:
    job = site.propose()
    allow(site.folder)
    site.jobs.approve(job)
    site.folder.__dict__["identity"] = PrivateIdentity.generate("north", "site")  # what a rotation makes
    assert site.jobs.rulings.decide(job.plan).outcome == "allow"


def test_a_decision_whose_request_is_not_shown_is_counted(site: Site) -> None:
    job = site.propose()
    allow(site.folder)
    site.jobs.approve(job)
    parts = [
        Part.make(site.folder.log, site.folder.identity, job.plan, shown)
        for shown in (site.jobs.rulings.evidence(job.plan), Policies(site.folder).all())
    ]
    lines = [Shown.decode(line) for line in parts[0].files["events/north.jsonl"].splitlines()]
    writers = {"north": SimpleNamespace(events=[one.event for one in lines])}
    cases: list[Any] = [
        SimpleNamespace(bundle=SimpleNamespace(files=part.files), writers=writers) for part in parts
    ]
    decisions = sum(one.event.type == "policy.decision" for one in lines)
    assert [hidden_decisions(case) for case in cases] == [{}, {"north": decisions}]
