"""What a policy leaves open, and what in it refuses everything, held against what it decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.policy.decision import decide
from cloister.privacy.policy.request import Request
from cloister.privacy.policy.review import closed, everything, left, unset
from cloister.privacy.policy.terms import Policy
from tests.plans import persons_json
from tests.policies import policy, policy_json
from tests.privacy.policy.test_decision import AT, off, request, secure

DAY, GRANTED = AT[:10], "2026-03-04T10:00:00Z"
PRIVATE = (request(granted=GRANTED), request(persons_json(), granted=GRANTED))
ASKED = (*PRIVATE, request(parts=secure(), granted=GRANTED), request(parts=off(), granted=GRANTED))

# rule, a limit with which it refuses everything, one with which it does not
CLOSED: list[tuple[str, Any, Any]] = [
    ("valid.begins", "2026-03-05", "2026-03-04"),
    ("valid.ends", "2026-03-03", "2026-03-04"),
    ("lead.consortia", [], ["hospitals"]),
    ("lead.identities", [], "any"),
    ("privacy.modes", [], ["off"]),
    ("privacy.units", [], ["person"]),
    ("aggregation.minimum_sites", 1001, 1000),
    ("models.base", [], "any"),
    ("models.parameters", 0, 1),
    ("code.digests", [], "any"),
    ("training.rounds", 0, 1),
    ("training.steps", 0, 1),
    ("training.rate", 0, 0.01),
    ("training.head_rate", 0, 0.01),
    ("training.adapter_rate", 0, 0.01),
    ("approval.roles", [], ["steward"]),
    ("approval.hours", 0, 1),
    ("time.hours", [], ["0-1"]),
    ("time.days", [], ["mon"]),
    ("time.duration", 0, 1),
    ("datasets.purposes", [], ["care"]),
    ("datasets.jobs_per_day", 0, 1),
]


@pytest.mark.parametrize(("rule", "shut", "open_"), CLOSED)
def test_what_refuses_everything_is_named_and_does(rule: str, shut: Any, open_: Any) -> None:
    name = rule.replace("datasets.", "datasets.every dataset.")
    found = policy(**{rule.replace(".", "__"): shut})
    assert [one for one, _ in closed(found, DAY)] == [name]
    assert everything(found, DAY) == (name,)
    assert {decide(found, asked).outcome for asked in ASKED} <= {"refuse", "ask"}
    assert everything(policy(**{rule.replace(".", "__"): open_}), DAY) == ()


@pytest.mark.parametrize("rule", ["privacy.epsilon", "privacy.delta", "datasets.epsilon"])
def test_no_privacy_to_spend_is_everything_where_plans_must_be_private(rule: str) -> None:
    shut = {rule.replace(".", "__"): 0}
    assert everything(policy(**shut), DAY) == ()
    found = policy(**shut, privacy__modes=["joint", "local"])
    assert everything(found, DAY) == (rule.replace("datasets.", "datasets.every dataset."),)
    assert {decide(found, asked).outcome for asked in ASKED} == {"refuse"}


def test_approvals_that_nobody_can_give_are_everything_unless_some_plans_need_none() -> None:
    for shut in ({"approval__roles": []}, {"approval__hours": 0}):
        assert everything(policy(**shut), DAY) != ()
        assert everything(policy(**shut, approval__automatic=8), DAY) == ()


def test_a_dataset_that_is_shut_is_not_everything_while_another_is_open() -> None:
    value = policy_json()
    value["datasets"]["notes"] = value["datasets"]["*"] | {"jobs_per_day": 0}
    found = Policy.of(value)
    assert [one for one, _ in closed(found, DAY)] == ["datasets.notes.jobs_per_day"]
    assert everything(found, DAY) == ()
    del value["datasets"]["*"]
    assert everything(Policy.of(value), DAY) == ("datasets.notes.jobs_per_day",)
    value["datasets"] = {}
    assert everything(Policy.of(value), DAY) == ("datasets",)
    assert {decide(Policy.of(value), asked).outcome for asked in ASKED} == {"refuse"}


LIMITS = {rule: st.sampled_from([shut, open_]) for rule, shut, open_ in CLOSED}


@given(st.sets(st.sampled_from(sorted(LIMITS)), max_size=3), st.data(), st.sampled_from(ASKED))
def test_a_plan_that_a_policy_allows_was_never_said_to_be_impossible(
    rules: set[str], data: st.DataObject, asked: Request
) -> None:
    found = policy(**{rule.replace(".", "__"): data.draw(LIMITS[rule]) for rule in sorted(rules)})
    if everything(found, DAY):
        assert decide(found, asked).outcome != "allow"


def test_what_sets_no_limit_has_its_sentence() -> None:
    found = dict(unset(policy()))
    assert found["models.base"] == "These base models may be trained: all that there are."
    assert found["approval.signed"] == "Approvals must be signed by the person's own key: no."
    assert found["datasets.every dataset.documents"] == "These documents must not have ended: none."
    assert "roster.authorities" not in found  # it is at its strictest
    assert "training.rounds" not in found
    narrow = policy(models__base=[], approval__signed=True, time__hours=["7-9"])
    assert found.keys() - dict(unset(narrow)).keys() == {"models.base", "approval.signed", "time.hours"}


def test_days_that_are_left() -> None:
    found = policy(valid__ends="2026-03-06")
    assert [left(found, day) for day in ("2026-03-04", "2026-03-06", "2026-03-07")] == [2, 0, -1]
