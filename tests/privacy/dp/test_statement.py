import json

import pytest

from cloister.privacy import canonical
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.statement import HAZARDS, NOT_COVERED, Statement, Terms, statement
from cloister.privacy.errors import BudgetError, PlanError

LOCAL = {
    "mode": "local",
    "unit": "record",
    "bound": 0.5,
    "noise_multiplier": 1.0,
    "rate": 0.01,
    "steps": 1000,
    "delta": 1e-5,
}
PERSON = LOCAL | {"unit": "person", "rows_per_person": 8}
JOINT = PERSON | {"mode": "joint", "colluders": 1, "rate": 1.0, "steps": 10, "noise_multiplier": 9.0}
OFF = LOCAL | {"mode": "off", "bound": 0.0, "noise_multiplier": 0.0, "delta": 0.0}
FIELDS = {
    *("version", "mode", "guarantee", "unit", "neighbours", "contributions", "mechanism", "sampler"),
    *("composition", "accountants", "trust", "hazards_checked", "hazards_not_checked", "not_covered"),
}


def text(terms, *given):
    return "\n".join(statement(Terms(**terms), *given).lines())


@pytest.mark.parametrize("terms", [LOCAL, PERSON, JOINT])
def test_every_part_of_a_claim_is_there(terms):
    made = statement(Terms(**terms), ["key_reuse"], {"pld": 1.8283})
    value = json.loads(canonical.encode(made.to_json()))
    assert value.keys() == FIELDS
    assert value["neighbours"] == "add-remove"
    assert value["guarantee"]["epsilon"] == value["accountants"]["rdp"]
    assert value["accountants"]["pld"] == 1.8283
    assert value["unit"] == terms["unit"]
    assert {*value["hazards_checked"], *value["hazards_not_checked"]} == HAZARDS.keys()
    assert set(value["not_covered"]) <= NOT_COVERED.keys()
    assert {"timing", "test_metrics", "dishonest_site"} <= set(value["not_covered"])


def test_the_ruling_number_is_computed_from_the_terms():
    block = GaussianSteps(1.0, 0.01, 1000)
    assert statement(Terms(**LOCAL)).epsilon == accounting.epsilon([block], 1e-5)
    assert "Epsilon 2.1014 at delta 1e-05, for one record added or removed." in text(LOCAL)


def test_nothing_counts_as_checked_that_was_not_named():
    made = statement(Terms(**LOCAL), ["reserve_first", "shared_seed"])
    assert made.checked == ("shared_seed", "reserve_first")
    assert made.to_json()["hazards_checked"] == ["shared_seed", "reserve_first"]
    words = "\n".join(made.lines())
    assert words.count("Checked: ") == 2
    assert words.count("Not checked: that ") == len(HAZARDS) - 2
    assert "Checked: " not in text(LOCAL)


def test_full_batch_claims_no_sampling():
    assert statement(Terms(**JOINT)).to_json()["sampler"] == {"name": "full-batch", "rate": 1.0}
    assert "Sampler: none. Every step uses the full batch, and no amplification" in text(JOINT)
    assert "Poisson" not in text(JOINT, ["shared_seed"])
    assert "Sampler: Poisson" in text(LOCAL)


def test_record_level_says_whom_it_does_not_cover():
    assert "many_rows" in statement(Terms(**LOCAL)).not_covered
    assert "a person may have many records" in text(LOCAL)
    assert "many_rows" not in statement(Terms(**PERSON)).not_covered
    assert "Each person, with at most 8 rows" in text(PERSON)


def test_each_mode_states_its_trust_and_its_noise():
    assert "Trust: the site alone" in text(LOCAL)
    assert "float_sampler" in statement(Terms(**LOCAL)).not_covered
    joint = statement(Terms(**JOINT))
    assert joint.to_json()["trust"] == {"against": "everybody-outside-and-colluding-sites", "colluders": 1}
    assert joint.to_json()["mechanism"]["name"] == "discrete-gaussian-shares"
    assert "float_sampler" not in joint.not_covered
    assert "more_colluders" in joint.not_covered


def test_without_privacy_nothing_is_promised():
    made = statement(Terms(**OFF))
    assert made.epsilon is None
    assert made.to_json() == {"version": 1, "mode": "off", "guarantee": None}
    assert made.lines() == ("No differential privacy: nothing is promised about any person or record.",)
    with pytest.raises(PlanError):
        statement(Terms(**OFF), ["key_reuse"])
    with pytest.raises(PlanError):
        statement(Terms(**OFF), (), {"pld": 1.0})


def test_odds_are_in_plain_words_and_numbers_are_not_rounded_down():
    words = text(LOCAL, (), {"pld": 1.82824})
    assert "An attacker who was 50 % sure that a record was used becomes at most 89.11 % sure" in words
    assert "Beside it, PLD says 1.8283." in words


@pytest.mark.parametrize(
    "terms",
    [
        LOCAL | {"mode": "central"},
        LOCAL | {"unit": "site"},
        LOCAL | {"unit": "person"},
        LOCAL | {"rows_per_person": 3},
        LOCAL | {"colluders": 1},
        LOCAL | {"bound": 0.0},
        JOINT | {"colluders": 0},
        OFF | {"delta": 1e-5},
    ],
)
def test_terms_that_contradict_each_other_are_refused(terms):
    with pytest.raises(PlanError) as refusal:
        Terms(**terms)
    assert refusal.value.id == "plan_malformed"


@pytest.mark.parametrize("change", [{"noise_multiplier": 0.0}, {"rate": 1.5}, {"steps": 0}, {"delta": 1.0}])
def test_terms_without_an_account_are_refused(change):
    with pytest.raises(BudgetError):
        Terms(**LOCAL | change)


def test_a_private_job_without_delta_is_refused():
    with pytest.raises(PlanError):
        Terms(**LOCAL | {"delta": 0.0})


def test_hazards_that_no_table_knows_are_refused():
    with pytest.raises(PlanError):
        statement(Terms(**LOCAL), ["all_of_them"])
    with pytest.raises(PlanError):
        Statement(Terms(**LOCAL), ("reserve_first", "shared_seed"))
