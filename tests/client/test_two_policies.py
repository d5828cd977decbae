"""The consortium's policy beside the site's: what a site does with it, and what a lead cannot do with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.client.agent import Agent
from cloister.client.consortium import Consortium
from cloister.client.jobs import APPROVED, WAITING, Job, Jobs
from cloister.client.site.folder import Peer, SiteFolder
from cloister.privacy import canonical, durable
from cloister.privacy.authority import Authority
from cloister.privacy.cli import main
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence.checks.decisions import decided_again, hidden_decisions, policies
from cloister.privacy.evidence.part import Part, Shown
from cloister.privacy.plan import Plan
from cloister.privacy.policy.terms import Policy
from cloister.privacy.wire.endorsement import Endorsement
from cloister.server.policies import Policies as LeadPolicies
from tests.client.test_policies import Site
from tests.plans import plan_json
from tests.policies import allow, policy
from tests.service import Service


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def under(site: Site, shared: Policy, nonce: int = 0) -> Job:
    """A plan under a policy of the consortium, which has come with it."""
    job = site.propose(nonce, under=shared.digest)
    site.jobs.rulings.keep_shared(job.plan, shared.to_bytes())
    return job


def test_the_strictest_of_both_decides_and_says_whose_it_was(site: Site) -> None:
    allow(site.folder, training__rounds=1)
    loose, strict = policy(), policy(privacy__epsilon=1)
    said = site.refusal(lambda: site.jobs.approve(under(site, strict)))
    assert said.id == "policy_refused"
    assert "privacy.epsilon: 8, where the consortium's policy has at most 1" in said.what
    assert "training.rounds: 2, where the policy has at most 1" in said.what
    allow(site.folder)
    job = under(site, loose, 1)
    assert site.jobs.approve(job) is not None
    assert job.state == APPROVED


def test_a_plan_whose_policy_did_not_come_is_not_approved(site: Site) -> None:
    allow(site.folder, approval__automatic=8)
    shared = policy(approval__automatic=8)
    job = site.propose(under=shared.digest)
    assert site.jobs.lacks_policy(job.plan)
    for act in (
        lambda: site.jobs.approve(job),
        lambda: site.jobs.settle(job),
        lambda: site.jobs.admit(job.plan),
        lambda: site.jobs.running(job.plan),
    ):
        assert site.refusal(act).id == "policy_missing"
    assert job.state == WAITING
    site.jobs.rulings.keep_shared(job.plan, shared.to_bytes())
    assert not site.jobs.lacks_policy(job.plan)
    assert site.jobs.settle(job) is not None


def test_other_bytes_than_the_plan_names_are_refused(site: Site) -> None:
    """A lead that gives one site a looser policy than the others: all sites approve one digest."""
    allow(site.folder)
    job, strict = site.propose(under=policy(privacy__epsilon=1).digest), policy(privacy__epsilon=1)
    for data in (policy().to_bytes(), strict.to_bytes() + b" ", b""):
        refused = site.refusal(lambda data=data: site.jobs.rulings.keep_shared(job.plan, data))
        assert refused.id == "policy_mismatch"
    assert site.jobs.lacks_policy(job.plan)
    durable.write(job.folder / "policy.json", policy().to_bytes())  # by another way
    assert site.refusal(lambda: site.jobs.approve(job)).id == "policy_mismatch"
    assert job.state == WAITING


def test_bytes_that_are_no_policy_are_refused_although_the_plan_names_them(site: Site) -> None:
    data = b'{"version":1}'
    job = site.propose(under=canonical.digest(data))
    assert site.refusal(lambda: site.jobs.rulings.keep_shared(job.plan, data)).id == "policy_malformed"


def test_each_round_asks_both_and_the_guard_obeys_the_stricter(site: Site) -> None:
    allow(site.folder, held_out__points=9, held_out__action="warn")
    shared = policy(time__hours=["10-12"], held_out__points=4, held_out__action="refuse")
    job = under(site, shared)
    site.jobs.approve(job)
    permitted = site.jobs.running(job.plan)
    assert permitted().model_dump() == {"points": 4.0, "action": "refuse"}
    site.later(hours=2)
    said = site.refusal(permitted)
    assert "time.hours: 12, where the consortium's policy has one of 10, 11" in said.what


def test_approvals_count_as_both_ask(site: Site) -> None:
    allow(site.folder, approval__people=1)
    job = under(site, policy(approval__people=2, approval__automatic=8))
    from cloister.client.approvals import Voice

    assert site.jobs.approve(job, Voice("steward", "dana")) is None
    assert site.jobs.approve(job, Voice("validator", "kim")) is not None
    assert site.jobs.rulings.replay(job.folder) == 2


def test_decisions_are_made_again_from_both(site: Site) -> None:
    allow(site.folder)
    job = under(site, policy(privacy__epsilon=20))
    site.jobs.approve(job)
    events = site.events("policy.decision")
    assert [event["shared"] for event in events] == [job.plan.policy] * 2
    assert site.jobs.rulings.replay(job.folder) == 2
    durable.write(job.folder / "policy.json", policy(privacy__epsilon=21).to_bytes())
    assert site.refusal(lambda: site.jobs.rulings.replay(job.folder)).id == "policy_mismatch"
    (job.folder / "policy.json").unlink()
    assert site.refusal(lambda: site.jobs.rulings.replay(job.folder)).id == "policy_missing"


def test_plans_without_one_are_byte_for_byte_what_they_were(site: Site) -> None:
    job = site.propose()
    assert b'"policy"' not in job.plan.to_bytes()
    assert Plan.from_bytes(canonical.encode(plan_json())).policy is None


# The bundle


def part_of(site: Site, job: Job) -> Part:
    shown = site.jobs.rulings.evidence(job.plan)
    return Part.make(site.folder.log, site.folder.identity, job.plan, shown)


def case_of(part: Part, plan: Plan, *lines: Shown) -> Any:
    shown = list(lines) or list(map(Shown.decode, part.files["events/north.jsonl"].splitlines()))
    writer = SimpleNamespace(shown=tuple(shown), events=tuple(one.event for one in shown))
    return SimpleNamespace(
        bundle=SimpleNamespace(files=dict(part.files)), plan=plan, writers={"north": writer}
    )


def test_a_bundle_shows_both_and_whoever_reads_it_decides_again(site: Site) -> None:
    allow(site.folder)
    shared = policy(privacy__epsilon=20)
    job = under(site, shared)
    site.jobs.approve(job)
    part = part_of(site, job)
    assert part.files[f"policies/north@{shared.digest[7:]}.json"] == shared.to_bytes()
    case = case_of(part, job.plan)
    assert list(policies(case)) == []
    assert hidden_decisions(case) == {}
    del case.bundle.files[f"policies/north@{shared.digest[7:]}.json"]
    assert hidden_decisions(case) == {"north": 2}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (policy().digest, "it was decided under another policy of the consortium than the plan's"),
        (None, "it was decided under another policy of the consortium than the plan's"),
    ],
)
def test_a_decision_that_left_the_plans_policy_out_is_found(
    site: Site, told: str | None, reason: str
) -> None:
    allow(site.folder)
    job = under(site, policy(privacy__epsilon=20))
    site.jobs.approve(job)
    part = part_of(site, job)
    lines = map(Shown.decode, part.files["events/north.jsonl"].splitlines())
    *_, last = (one for one in lines if one.event.type == "policy.decision")
    body = {key: value for key, value in last.event.body.items() if key != "shared"}
    changed = replace(last, event=replace(last.event, body=body | ({"shared": told} if told else {})))
    found = [one.reason for one in decided_again(case_of(part, job.plan, changed), "north", changed)]
    assert reason in found


def test_a_policy_in_the_bundle_that_was_swapped_is_found(site: Site) -> None:
    allow(site.folder)
    shared = policy(privacy__epsilon=20)
    job = under(site, shared)
    site.jobs.approve(job)
    case = case_of(part_of(site, job), job.plan)
    case.bundle.files[f"policies/north@{shared.digest[7:]}.json"] = policy(privacy__epsilon=1).to_bytes()
    assert {one.reason for one in policies(case)} >= {
        "it is not the policy that its name says",
        "its policy or its request cannot be read",
    }


# Between lead and site


@pytest.fixture
def service(tmp_path: Path) -> Any:
    with Service(tmp_path / "service") as running:
        yield running


def member_plan(service: Service, north: SiteFolder, shared: Policy) -> Plan:
    roster = service.lead.enrolment.roster
    value = plan_json(("north",), roster=roster.digest(), policy=shared.digest)
    for party in (value["lead"], *value["sites"]):
        party["identity"] = roster.member(party["name"]).digest()
    value["aggregation"]["minimum_sites"] = 1
    return Plan.from_bytes(canonical.encode(value))


def test_the_agent_fetches_it_and_a_wrong_one_leaves_the_plan_waiting(service: Service) -> None:
    north, shared = service.member("north"), policy(privacy__epsilon=20)
    plan = member_plan(service, north, shared)
    service.propose(plan)
    said: list[str] = []
    agent = Agent(north, "", said.append)
    with Consortium(north) as member:
        agent._bring(member)  # the lead does not know such a policy
        assert "[policy_missing]" in said[0]
        service.desk.policies[shared.digest] = policy().to_bytes()
        agent._bring(member)
        assert any("gave another policy" in line and "[policy_mismatch]" in line for line in said)
        (job,) = Jobs(north)
        assert Jobs(north).lacks_policy(job.plan)
        service.desk.policies[shared.digest] = shared.to_bytes()
        agent._bring(member)
    assert not Jobs(north).lacks_policy(plan)
    assert Jobs(north).rulings.shared(plan) == shared


def test_two_sites_of_a_plan_never_hold_different_policies(service: Service) -> None:
    """A lead that tells each site another one: the site that is told the looser one refuses it."""
    shared, loose = policy(privacy__epsilon=1), policy()
    north = service.member("north")
    plan = member_plan(service, north, shared)
    service.propose(plan)
    jobs, held = Jobs(north), {}
    for told in (shared, loose):
        service.desk.policies[shared.digest] = told.to_bytes()
        with Consortium(north) as member:
            (found,) = member.proposals()
            job = jobs.keep(found.plan, found.signed)
            try:
                jobs.rulings.keep_shared(job.plan, member.policy(job.plan))
                held[told.digest] = True
            except CloisterError as error:
                held[told.digest] = error.id
    assert held == {shared.digest: True, loose.digest: "policy_mismatch"}
    assert jobs.rulings.shared(plan) == shared  # what was there stays


# The lead's commands


@pytest.mark.job
def test_a_session_at_the_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(line: str, code: int = 0) -> str:
        assert main(line.split()) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    run("lead init --dir lead --name hospitals")
    assert run("lead policy show --dir lead").startswith("There is none")
    (tmp_path / "shared.yaml").write_text(run("site policy template"))
    said = run("lead policy set shared.yaml --dir lead")
    assert said.startswith("Plans that are proposed from now on name sha256:")
    assert "  Secure aggregation is required: yes.\n" in run("lead policy show --dir lead")
    (tmp_path / "bad.yaml").write_text("version: 1\n")
    assert run("lead policy set bad.yaml --dir lead", code=1).endswith("[policy_malformed]\n")
    assert run("lead policy set none.yaml --dir lead", code=1).endswith("[policy_missing]\n")
    from cloister.server.folder import LeadFolder

    lead = LeadFolder.open(tmp_path / "lead")
    kept = LeadPolicies(lead.path, lead.log)
    first = kept.current()
    assert first is not None
    text = (tmp_path / "lead" / "policy.yaml").read_text()
    (tmp_path / "lead" / "policy.yaml").write_text(text.replace("rounds: 1000", "rounds: 50"))
    second = kept.current()  # a file that somebody edited is in force as it is
    assert second is not None
    assert [event.type for event in lead.log.entries() if event.type.startswith("policy")] == [
        "policy.loaded",
        "policy.changed",
    ]
    assert kept.all().keys() == {first.digest, second.digest}
    (tmp_path / "lead" / "policy.yaml").chmod(0o666)
    with pytest.raises(CloisterError, match="Others can write"):
        kept.current()
    assert run("lead policy remove --dir lead").startswith("Plans that are proposed from now on are under no")
    assert kept.current() is None
    assert kept.kept(first.digest) == first
    for command in ("policy set", "policy show", "policy remove", "endorse"):
        assert f"Example: cloister lead {command}" in " ".join(run(f"lead {command} --help").split())


def test_explain_says_which_of_both_refuses(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    allow(site.folder, training__rounds=1)
    job = under(site, policy(privacy__epsilon=1, training__rounds=1))
    name = job.plan.digest[7:19]
    assert main(["site", "policy", "explain", "--job", name, "--dir", "north"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        f"The strictest of this site's policy and the consortium's {job.plan.policy} says to {name}: refuse"
    )
    assert "  privacy.epsilon: 8, where the consortium's policy has at most 1\n" in told
    assert "  training.rounds: 2, where the policies of site and consortium have at most 1\n" in told
    assert "  A whole plan may spend epsilon 1 at most.\n" in told
    assert main(["site", "policy", "explain", "--job", name, "--dir", "north", "--json"]) == 0
    value = canonical.decode(capsys.readouterr().out.strip().encode())
    assert (value["outcome"], value["shared"]) == ("refuse", job.plan.policy)
    assert {one["rule"]: one["by"] for one in value["deciding"]} == {
        "privacy.epsilon": "consortium",
        "training.rounds": "both",
    }
    alone = site.propose(1).plan.digest[7:19]
    assert main(["site", "policy", "explain", "--job", alone, "--dir", "north"]) == 0
    assert capsys.readouterr().out.startswith(f"This site's policy says to {alone}: refuse.\n")
    assert main(["site", "policy", "explain", "x.yaml", "--job", alone, "--dir", "north"]) == 2


# Keys that an authority signed for


def strangers(site: Site, monkeypatch: pytest.MonkeyPatch, *found: Endorsement) -> None:
    """The lead's keys were never compared here."""
    lead, own = site.roster.members
    peers = (Peer(lead, confirmed=False, own=False, endorsements=found), Peer(own, confirmed=True, own=True))
    monkeypatch.setattr(SiteFolder, "peers", lambda _: peers)


MINISTRY = Authority.generate("ministry")
NAMED = [MINISTRY.public.digest()]


def vouch(site: Site, ends: str = "2026-03-31") -> Endorsement:
    return Endorsement.make(MINISTRY, "hospitals", site.lead.public, "2026-01-01", ends)


def test_a_plan_is_approvable_with_keys_that_a_named_authority_signed_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = site.propose()
    strangers(site, monkeypatch)
    allow(site.folder, roster__authorities=NAMED)
    assert site.refusal(lambda: site.jobs.approve(job)).id == "peer_unconfirmed"
    strangers(site, monkeypatch, vouch(site))
    allow(site.folder)
    said = site.refusal(lambda: site.jobs.approve(job))
    assert (said.id, "does not name the authority ministry" in said.what) == ("peer_unconfirmed", True)
    assert site.events("key.confirmed") == []
    allow(site.folder, roster__authorities=NAMED)
    assert site.jobs.approve(job) is not None
    (noted,) = site.events("key.confirmed")
    assert (noted["party"], noted["method"]) == ("lead", "authority")
    site.jobs.admit(job.plan)
    assert site.jobs.rulings.replay(job.folder) > 0
    assert [found.reason for found in policies(case_of(part_of(site, job), job.plan))] == []


def test_the_consortiums_policy_can_forbid_authorities(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    strangers(site, monkeypatch, vouch(site))
    allow(site.folder, roster__authorities=NAMED)
    assert site.refusal(lambda: site.jobs.approve(under(site, policy()))).id == "peer_unconfirmed"


def test_a_job_stops_when_the_statement_ends_or_the_authority_is_no_longer_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers(site, monkeypatch, vouch(site, ends="2026-03-04"))
    allow(site.folder, roster__authorities=NAMED)
    job = site.propose()
    site.jobs.approve(job)
    permitted = site.jobs.running(job.plan)
    permitted()
    allow(site.folder)
    assert "roster.authorities: lead (signed by" in site.refusal(permitted).what
    allow(site.folder, roster__authorities=NAMED)
    permitted()
    site.later(days=1)
    assert "roster.authorities: lead (not confirmed)" in site.refusal(permitted).what
    strangers(site, monkeypatch, vouch(site, ends="2026-04-04"))  # a new one is seen without a restart
    site.later(minutes=1)
    permitted()


def test_a_job_goes_on_when_a_confirmed_member_has_new_keys(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(site.folder)
    job = site.propose()
    site.jobs.approve(job)
    monkeypatch.setattr(SiteFolder, "peers", lambda _: ())  # as if the roster had newer keys
    site.jobs.admit(job.plan)
    site.jobs.running(job.plan)()


def test_a_request_that_says_less_of_peers_than_the_plan_is_found(site: Site) -> None:
    allow(site.folder)
    job = site.propose()
    site.jobs.approve(job)
    part = part_of(site, job)
    lines = map(Shown.decode, part.files["events/north.jsonl"].splitlines())
    *_, last = (one for one in lines if one.event.type == "policy.decision")
    place = f"policies/north@{last.event.body['request'][7:]}.json"
    value = canonical.decode(part.files[place])
    value["known"]["peers"] = []
    case = case_of(part, job.plan)
    case.bundle.files[place] = canonical.encode(value)
    assert "its request says other things than the plan" in [
        one.reason for one in decided_again(case, "north", last)
    ]
