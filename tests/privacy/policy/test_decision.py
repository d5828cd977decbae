"""Every rule of the vocabulary with both outcomes, and the laws of decisions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.dp import accounting
from cloister.privacy.errors import PolicyError
from cloister.privacy.plan import Plan
from cloister.privacy.policy.decision import ORDER, Decision, decide, replay
from cloister.privacy.policy.request import BEYOND, Approval, Endorsed, Known, Peer, Request
from cloister.privacy.policy.rules import RULE_IDS, RULES
from cloister.privacy.policy.strictest import diff, overall, strictest
from cloister.privacy.policy.terms import Policy
from cloister.privacy.policy.words import explain
from tests.plans import DIGEST, persons_json, plan_json
from tests.policies import policy, policy_json

OTHER = canonical.digest(b"other bytes")
AT = "2026-03-04T10:30:00Z"  # a Wednesday
YES = Approval(person="dana", role="steward", at=AT, signed=True, proposes=False)


AUTHORITY, IMPOSTOR = (canonical.digest(name) for name in (b"an authority", b"another authority"))
OTHERS = ("lead", "south", "west")
CONFIRMED = tuple(Peer(name=name, identity=DIGEST, confirmed=True) for name in OTHERS)


def known(**changes: Any) -> Known:
    return Known(**({"at": AT, "asked": AT, "approvals": (YES,), "peers": CONFIRMED} | changes))


def vouched(*authorities: str, begins: str = "2026-01-01", ends: str = "2026-12-31") -> tuple[Peer, ...]:
    """What is known of the others where nobody compared the words of west."""
    said = tuple(Endorsed(authority=one, statement=DIGEST, begins=begins, ends=ends) for one in authorities)
    return (*CONFIRMED[:2], Peer(name="west", identity=DIGEST, endorsed=said))


def request(value: dict[str, Any] | None = None, parts: dict[str, Any] | None = None, **more: Any) -> Request:
    """A request for a plan with changed parts; ``more`` is what the site knows."""
    whole = value or plan_json()
    for block, changes in (parts or {}).items():
        whole[block] = whole[block] | changes
    return Request.of(Plan.from_bytes(canonical.encode(whole)), "north", known(**more))


def secure(**changes: Any) -> dict[str, Any]:
    return {"aggregation": {"secure": True, "threshold": 3, "colluding": 1, "minimum_sites": 3} | changes}


def off() -> dict[str, Any]:
    return {"privacy": {"mode": "off", "noise_multiplier": 0, "epsilon": 0, "delta": 0}}


def document(until: str) -> list[dict[str, str]]:
    return [{"digest": DIGEST, "form": "permit", "until": until}]


def said(**changes: Any) -> Request:
    return request(approvals=(YES.model_copy(update=changes),))


PLAIN, PERSONS = request(), request(persons_json())
SECURE, OFF = request(parts=secure()), request(parts=off())

# rule, the limit that lets the request pass, the one that does not, the request, the outcome of the second
TABLE: list[tuple[str, Any, Any, Request, str]] = [
    ("valid.begins", "2026-03-04", "2026-03-05", PLAIN, "refuse"),
    ("valid.ends", "2026-03-04", "2026-03-03", PLAIN, "refuse"),
    ("lead.consortia", ["banks", "hospitals"], ["banks"], PLAIN, "refuse"),
    ("lead.identities", [DIGEST], [OTHER], PLAIN, "refuse"),
    ("roster.authorities", [AUTHORITY], [IMPOSTOR], request(peers=vouched(AUTHORITY)), "refuse"),
    ("roster.authorities", [AUTHORITY], [], request(peers=vouched(IMPOSTOR, AUTHORITY)), "refuse"),
    ("roster.authorities", [], [], PLAIN, "allow"),
    ("datasets.purposes", ["triage notes to departments"], ["triage notes"], PLAIN, "refuse"),
    ("datasets.epsilon", 8, 7.99, PLAIN, "refuse"),
    ("datasets.jobs_per_day", 3, 2, request(jobs=3), "refuse"),
    ("datasets.rows_per_person", 8, 7, PERSONS, "refuse"),
    ("datasets.min_rows", 128, 129, PLAIN, "refuse"),
    ("datasets.min_persons", 64, 65, PERSONS, "refuse"),
    ("datasets.documents", document("2026-03-04"), document("2026-03-03"), PLAIN, "refuse"),
    ("privacy.modes", ["local"], ["joint", "off"], PLAIN, "refuse"),
    ("privacy.modes", ["off"], ["joint", "local"], request(parts=off()), "refuse"),
    ("privacy.modes", ["off"], [], request(parts=off()), "refuse"),
    ("privacy.units", ["record"], ["person"], PLAIN, "refuse"),
    ("privacy.units", ["person"], [], PERSONS, "refuse"),
    ("privacy.epsilon", 8, 7.99, PLAIN, "refuse"),
    ("privacy.delta", 1e-5, 0.99e-5, PLAIN, "refuse"),
    ("privacy.noise_multiplier", 1.5, 1.51, PLAIN, "refuse"),
    ("privacy.bound", 0.5, 0.49, PLAIN, "refuse"),
    ("aggregation.secure", True, True, SECURE, "allow"),
    ("aggregation.secure", False, True, PLAIN, "refuse"),
    ("aggregation.minimum_sites", 2, 3, PLAIN, "refuse"),
    ("aggregation.threshold", 3, 4, SECURE, "refuse"),
    ("aggregation.colluding", 1, 2, SECURE, "refuse"),
    ("models.base", [DIGEST, OTHER], [OTHER], PLAIN, "refuse"),
    ("models.parameters", 5, 4, PLAIN, "refuse"),
    ("code.digests", [DIGEST], [OTHER], PLAIN, "refuse"),
    ("training.rounds", 2, 1, PLAIN, "refuse"),
    ("training.steps", 3, 2, PLAIN, "refuse"),
    ("training.rate", 0.25, 0.24, PLAIN, "refuse"),
    ("training.head_rate", 0.5, 0.49, PLAIN, "refuse"),
    ("training.adapter_rate", 0.01, 0.009, PLAIN, "refuse"),
    ("approval.automatic", 8, 7.99, request(approvals=()), "ask"),
    ("approval.people", 1, 2, PLAIN, "ask"),
    ("approval.roles", ["steward"], ["validator"], PLAIN, "ask"),
    ("approval.separate", False, True, said(proposes=True), "ask"),
    ("approval.signed", False, True, said(signed=False), "ask"),
    ("approval.hours", 3, 2, request(asked="2026-03-04T08:00:00Z", approvals=()), "refuse"),
    ("time.hours", ["8-11", "20-24"], ["11-24", "0-10"], PLAIN, "refuse"),
    ("time.days", ["wed"], ["mon", "thu"], PLAIN, "refuse"),
    ("time.duration", 5, 4, request(granted="2026-03-04T06:00:00Z"), "refuse"),
    ("identifiers.action", "ignore", "warn", PLAIN, "refuse"),
    ("identifiers.action", "warn", "mask", request(identifiers="found"), "refuse"),
    ("identifiers.action", "mask", "refuse", request(identifiers="masked"), "refuse"),
    ("identifiers.action", "refuse", "refuse", request(identifiers="none"), "allow"),
]
SETTINGS = {"held_out.points", "held_out.action"}  # the guard's: tests/client/test_policies.py


def test_the_table_has_every_rule() -> None:
    assert {row[0] for row in TABLE} | SETTINGS | {"datasets.listed"} == RULE_IDS


def keys(value: dict[str, Any]) -> set[str]:
    value = value | {"datasets": value["datasets"]["*"]}
    return {f"{block}.{key}" for block, part in value.items() if block != "version" for key in part}


def test_every_key_of_a_policy_is_a_rule_and_every_rule_a_key() -> None:
    assert keys(policy_json()) == RULE_IDS - {"datasets.listed"}
    assert len(RULES) == len({rule.id for rule in RULES})


@pytest.mark.parametrize(("rule", "passes", "fails", "asked", "outcome"), TABLE)
def test_a_rule_has_both_outcomes(rule: str, passes: Any, fails: Any, asked: Request, outcome: str) -> None:
    name = rule.replace(".", "__")
    fine = decide(policy(**{name: passes}), asked)
    expected = "ask" if rule == "approval.hours" else "allow"
    assert (fine.outcome, fine.deciding if expected == "allow" else ()) == (expected, ())
    decision = decide(policy(**{name: fails}), asked)
    assert decision.outcome == outcome
    if outcome == "ask":
        assert [one.rule for one in decision.deciding] == ["approval.people"]
    elif outcome == "refuse":
        assert [one.rule for one in decision.deciding] == [rule]
        assert rule in decision.deciding[0].line()


def test_a_dataset_without_a_block_is_refused() -> None:
    value = policy_json()
    value["datasets"]["notes"] = value["datasets"]["*"]
    assert decide(Policy.of(value), PLAIN).outcome == "allow"
    value["datasets"] = {"letters": value["datasets"]["*"]}
    decision = decide(Policy.of(value), PLAIN)
    assert [(one.rule, one.value) for one in decision.deciding] == [("datasets.listed", "notes")]
    assert "no block for the dataset notes" in decision.deciding[0].line()


def test_the_block_of_a_dataset_stands_before_that_of_all() -> None:
    value = policy_json()
    value["datasets"]["notes"] = value["datasets"]["*"] | {"epsilon": 1}
    assert decide(Policy.of(value), PLAIN).outcome == "refuse"


def test_epsilon_is_what_the_plan_costs_and_not_what_it_says() -> None:
    lying = request(parts={"privacy": {"epsilon": 0.1}})
    plan = Plan.from_bytes(canonical.encode(plan_json()))
    mechanism = plan.round_mechanism
    assert mechanism is not None
    assert lying.epsilon == pytest.approx(accounting.epsilon([mechanism] * 2, 1e-5))
    assert decide(policy(privacy__epsilon=0.2), lying).outcome == "refuse"


@pytest.mark.parametrize(
    ("peers", "said"),
    [
        (vouched(AUTHORITY, begins="2026-03-04", ends="2026-03-04"), "allow"),
        (vouched(AUTHORITY, begins="2026-03-05"), "west (not confirmed)"),
        (vouched(AUTHORITY, ends="2026-03-03"), "west (not confirmed)"),
        (vouched(IMPOSTOR), f"west (signed by {IMPOSTOR[:19]})"),
        ((*CONFIRMED[:2], Peer(name="west", identity=OTHER, confirmed=True)), "west (not confirmed)"),
        (CONFIRMED[1:], "lead (not confirmed)"),
        ((), "lead (not confirmed), south (not confirmed), west (not confirmed)"),
    ],
)
def test_keys_count_that_were_confirmed_or_that_a_named_authority_signed_for(
    peers: tuple[Peer, ...], said: str
) -> None:
    """Other keys than the plan's, and a party of which nothing is known, do not; nor does another day."""
    decision = decide(policy(roster__authorities=[AUTHORITY]), request(peers=peers))
    if said == "allow":
        assert decision.outcome == "allow"
        return
    (finding,) = decision.deciding
    limit = f"where the policy has signed by one of {AUTHORITY}"
    assert finding.line() == f"roster.authorities: {said}, {limit}"


def test_a_running_job_asks_again_on_the_day_after_the_last() -> None:
    asked = request(peers=vouched(AUTHORITY, ends="2026-03-04"))
    rules = policy(roster__authorities=[AUTHORITY])
    assert decide(rules, asked).outcome == "allow"
    tomorrow = datetime(2026, 3, 5, tzinfo=UTC)
    assert decide(rules, asked.later(tomorrow)).outcome == "refuse"
    assert decide(rules, asked.later(tomorrow, CONFIRMED)).outcome == "allow"


def under(shared: Policy) -> Request:
    """A request for a plan that names a policy of the consortium."""
    return request(plan_json(policy=shared.digest))


# the site's policy, the consortium's, whose refusal it is
WHOSE: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"training__rounds": 1}, {}, "training.rounds", "site"),
    ({}, {"training__rounds": 1}, "training.rounds", "consortium"),
    ({"training__rounds": 1}, {"training__rounds": 0}, "training.rounds", "both"),
    ({"code__digests": [DIGEST]}, {"code__digests": [OTHER]}, "code.digests", "consortium"),
    ({"approval__roles": ["steward"]}, {"approval__roles": ["validator"]}, "approval.people", "consortium"),
    ({"approval__people": 2}, {"approval__signed": True}, "approval.people", "site"),
]


@pytest.mark.parametrize(("site", "consortium", "rule", "by"), WHOSE)
def test_a_decision_says_whose_policy_refuses(
    site: dict[str, Any], consortium: dict[str, Any], rule: str, by: str
) -> None:
    shared = policy(**consortium)
    decision = decide(policy(**site), under(shared), shared)
    (finding,) = decision.deciding
    assert (finding.rule, finding.by) == (rule, by)
    assert {"site": "the policy has", "consortium": "the consortium's policy has"}.get(
        by, "the policies of site and consortium have"
    ) in finding.line()


def test_what_only_both_together_refuse_is_said_of_both() -> None:
    site, shared = policy(time__hours=["10-11", "20-24"]), policy(time__hours=["9-11"])
    assert decide(site, under(shared), shared).outcome == "allow"
    value, other = policy_json(), policy_json()
    value["datasets"] = {"notes": value["datasets"]["*"]}
    other["datasets"] = {"letters": other["datasets"]["*"]}
    kept = Policy.of(other)
    (finding,) = decide(Policy.of(value), under(kept), kept).deciding
    assert (finding.rule, finding.by) == ("datasets.listed", "consortium")
    twice = (YES, YES.model_copy(update={"person": "kim", "role": "validator"}))
    stewards, validators = (policy(approval__roles=[role]) for role in ("steward", "validator"))
    asked = Request.of(
        Plan.from_bytes(canonical.encode(plan_json(policy=validators.digest))),
        "north",
        known(approvals=twice),
    )
    (together,) = decide(stewards, asked, validators).deciding
    assert (together.rule, together.by) == ("approval.people", "both")


@pytest.mark.parametrize("other", [None, policy(privacy__epsilon=9)])
def test_another_policy_of_the_consortium_than_the_plans_decides_nothing(other: Policy | None) -> None:
    with pytest.raises(PolicyError) as caught:
        decide(policy(), under(policy()), other)
    assert caught.value.id == "policy_mismatch"
    with pytest.raises(PolicyError) as given:
        decide(policy(), PLAIN, policy())  # nor does one that the plan does not name
    assert given.value.id == "policy_mismatch"


def test_an_epsilon_beyond_all_numbers_is_refused_by_every_policy() -> None:
    hard = {"privacy": {"noise_multiplier": 1e-3}, "training": {"rounds": 10_000, "steps": 100_000}}
    asked = request(parts=hard)
    assert asked.epsilon == BEYOND
    found = decide(policy(privacy__epsilon=1e9, datasets__epsilon=1e9), asked)
    assert [one.rule for one in found.deciding] == ["datasets.epsilon", "privacy.epsilon"]


def test_what_a_lead_wrote_is_read_out_on_one_line() -> None:
    asked = request(plan_json(purpose="cancer\n\x1b[2Jcare"))
    (finding,) = decide(policy(datasets__purposes=["care"]), asked).deciding
    assert finding.line() == "datasets.purposes: cancer??[2Jcare, where the policy has one of care"


def test_one_person_counts_once_and_a_late_approval_not_at_all() -> None:
    twice = (YES, YES.model_copy(update={"role": "validator"}))
    assert decide(policy(approval__people=2), request(approvals=twice)).outcome == "ask"
    both = (YES, YES.model_copy(update={"person": "kim"}))
    assert decide(policy(approval__people=2), request(approvals=both)).outcome == "allow"
    late = request(asked="2026-03-04T08:00:00Z")
    assert decide(policy(approval__hours=2), late).outcome == "refuse"
    early = request(asked="2026-03-04T12:00:00Z")  # before the plan was here: the clock went back
    assert decide(policy(), early).outcome == "ask"


def test_a_plan_without_privacy_is_never_approved_automatically() -> None:
    asked = request(parts=off(), approvals=())
    assert decide(policy(approval__automatic=1000), asked).outcome == "ask"


# The laws

LIMITS = {
    "valid__begins": st.sampled_from(["2026-01-01", "2026-03-04", "2026-03-05"]),
    "valid__ends": st.sampled_from(["2026-03-03", "2026-03-04", "2027-01-01"]),
    "lead__consortia": st.sampled_from(["any", [], ["hospitals"], ["banks"], ["banks", "hospitals"]]),
    "roster__authorities": st.sampled_from([[], [AUTHORITY], [IMPOSTOR], [AUTHORITY, IMPOSTOR]]),
    "datasets__epsilon": st.sampled_from([1, 8, 9.5]),
    "datasets__documents": st.sampled_from([[], document("2026-03-04"), document("2026-03-01")]),
    "privacy__modes": st.sampled_from([["local"], ["joint", "local"], ["off"], []]),
    "privacy__noise_multiplier": st.sampled_from([0, 1.5, 2]),
    "aggregation__secure": st.booleans(),
    "code__digests": st.sampled_from(["any", [DIGEST], [OTHER], [DIGEST, OTHER]]),
    "training__rounds": st.integers(0, 4),
    "approval__automatic": st.sampled_from([0, 8, 9]),
    "approval__people": st.integers(1, 3),
    "approval__roles": st.sampled_from([["steward"], ["steward", "validator"], ["administrator"], []]),
    "approval__separate": st.booleans(),
    "approval__signed": st.booleans(),
    "approval__hours": st.integers(0, 6),
    "time__hours": st.sampled_from(["any", ["9-12"], ["10-11", "20-24"], ["0-6"], []]),
    "time__duration": st.integers(0, 6),
    "identifiers__action": st.sampled_from(["ignore", "warn", "mask", "refuse"]),
    "held_out__points": st.integers(0, 9),
    "held_out__action": st.sampled_from(["ignore", "warn", "refuse"]),
}


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    chosen = draw(st.sets(st.sampled_from(sorted(LIMITS)), max_size=6))
    value = policy_json(**{name: draw(LIMITS[name]) for name in chosen})
    every = value["datasets"]["*"]
    blocks = draw(st.sampled_from([("*",), ("notes",), ("*", "notes"), ("letters",), ()]))
    value["datasets"] = {name: every | {"jobs_per_day": draw(st.integers(0, 3))} for name in blocks}
    return Policy.of(value)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    approval = st.builds(
        Approval,
        person=st.sampled_from(["dana", "kim"]),
        role=st.sampled_from(["steward", "validator", "administrator", "lead"]),
        at=st.sampled_from(["2026-03-04T07:00:00Z", AT]),
        signed=st.booleans(),
        proposes=st.booleans(),
    )
    facts = known(
        asked=draw(st.sampled_from(["2026-03-04T06:00:00Z", AT])),
        granted=draw(st.sampled_from([None, "2026-03-04T07:00:00Z"])),
        jobs=draw(st.integers(1, 3)),
        identifiers=draw(st.sampled_from(["unscanned", "none", "found", "masked"])),
        approvals=tuple(draw(st.lists(approval, max_size=3))),
        peers=draw(st.sampled_from([CONFIRMED, vouched(AUTHORITY), vouched(IMPOSTOR), vouched()])),
    )
    plain = draw(st.sampled_from([PLAIN, SECURE, OFF]))
    return Request(**{name: getattr(plain, name) for name in Request.model_fields} | {"known": facts})


@given(policies(), policies(), requests())
def test_the_strictest_of_two_allows_nothing_that_one_refuses(a: Policy, b: Policy, asked: Request) -> None:
    """To tighten is to take the strictest of two policies: a refusal never becomes an acceptance."""
    outcomes = [ORDER.index(decide(each, asked).outcome) for each in (a, b)]
    assert ORDER.index(decide(strictest(a, b), asked).outcome) <= min(outcomes)


@given(policies(), policies(), requests())
def test_a_consortiums_policy_never_turns_a_refusal_into_an_acceptance(
    site: Policy, consortium: Policy, asked: Request
) -> None:
    """What is in force beside the site's policy decides as the strictest of both, and says whose it was."""
    under = Request(**{**dict(asked), "shared": consortium.digest})
    decision, alone = decide(site, under, consortium), decide(site, asked)
    assert ORDER.index(decision.outcome) <= ORDER.index(alone.outcome)
    assert decision.outcome == decide(strictest(site, consortium), asked).outcome
    found = {one.rule: one.outcome for one in alone.findings}
    for one in decision.deciding:
        if one.by in ("site", "consortium"):
            assert (found.get(one.rule) == one.outcome) == (one.by == "site")
    replay(site, under, decision, consortium)
    with pytest.raises(PolicyError):
        replay(site, under, decision)


@given(policies(), policies(), requests())
def test_a_change_that_is_called_tighter_is(a: Policy, b: Policy, asked: Request) -> None:
    for old, new in ((a, b), (a, strictest(a, b)), (strictest(a, b), a)):
        change = overall(diff(old, new))
        before, after = (ORDER.index(decide(each, asked).outcome) for each in (old, new))
        if change in ("tighter", "same"):
            assert after <= before
        if change in ("looser", "same"):
            assert after >= before
    assert overall(diff(a, strictest(a, b))) in ("tighter", "same")


@given(policies(), policies(), policies())
def test_strictest_is_a_meet(a: Policy, b: Policy, c: Policy) -> None:
    assert strictest(a, a) == a
    assert strictest(a, b) == strictest(b, a)
    assert strictest(strictest(a, b), c) == strictest(a, strictest(b, c))


@given(policies(), requests())
def test_a_decision_is_replayed_from_its_bytes(rules: Policy, asked: Request) -> None:
    decision = decide(rules, asked)
    read = (
        Policy.from_bytes(rules.to_bytes()),
        Request.from_json(json.loads(canonical.encode(asked.to_json()))),
        Decision.from_json(json.loads(canonical.encode(decision.to_json()))),
    )
    assert read == (rules, asked, decision)
    replay(*read)


def altered(value: Any) -> list[Any]:
    """Every value that differs in one place."""
    if isinstance(value, dict):
        return [value | {key: one} for key in value for one in altered(value[key])]
    if isinstance(value, list):
        changed = [[*value[:k], one, *value[k + 1 :]] for k in range(len(value)) for one in altered(value[k])]
        return [*changed, *([value[:-1]] if value else [])]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1]
    return [f"{value}x", "allow"] if isinstance(value, str) and value != "allow" else ["refuse"]


def test_no_altered_record_is_replayed() -> None:
    rules, asked = policy(privacy__epsilon=5), request(persons_json())
    decision = decide(rules, asked)
    replay(rules, asked, decision)
    records = [
        *((asked.to_json(), one) for one in altered(decision.to_json())),
        *((one, decision.to_json()) for one in altered(json.loads(canonical.encode(asked.to_json())))),
    ]
    assert len(records) > 150
    for told, found in records:
        with pytest.raises(PolicyError) as refusal:
            replay(rules, Request.from_json(told), Decision.from_json(found))
        assert refusal.value.id == "decision_altered"
    with pytest.raises(PolicyError):
        replay(policy(privacy__epsilon=6), asked, decision)


def test_a_request_at_a_later_time_differs_in_nothing_else() -> None:
    later = PLAIN.later(datetime(2026, 3, 5, tzinfo=UTC))
    assert later.known.at == "2026-03-05T00:00:00Z"
    assert later.model_dump() | {"known": None} == PLAIN.model_dump() | {"known": None}


def test_explain_has_a_sentence_for_every_rule() -> None:
    lines = list(explain(policy(privacy__modes=["local"], time__hours=["7-9"])))
    assert sum(line.startswith("  ") for line in lines) == len(RULES)
    assert "  Privacy must be one of: local." in lines
    assert "  The site takes part in these hours of the day (UTC): 7, 8." in lines
    value = policy_json()
    value["datasets"] = {"notes": value["datasets"]["*"]}
    assert list(explain(Policy.of(value)))[-2:] == ["Any other dataset", "  It may not be used at all."]


def test_diff_names_each_rule() -> None:
    value = policy_json(training__rounds=5, time__days=["mon", "tue"])
    value["datasets"]["notes"] = value["datasets"]["*"] | {"epsilon": 2}
    new = policy(training__rounds=6, time__days=["tue", "wed"])
    assert [(one.rule, one.change) for one in diff(Policy.of(value), new)] == [
        ("training.rounds", "looser"),
        ("time.days", "mixed"),
        ("datasets.notes.epsilon", "looser"),
    ]
    assert overall(diff(new, new)) == "same"
