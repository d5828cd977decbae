from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.errors import PlanError
from cloister.privacy.plan import Plan
from tests.plans import persons_json, plan, plan_json

PRIVACY_OFF = {
    "mode": "off",
    "unit": "record",
    "relation": "add-remove",
    "bound": 1.0,
    "noise_multiplier": 0.0,
    "epsilon": 0.0,
    "delta": 0.0,
}


def test_a_plan_survives_its_bytes_and_keeps_its_digest() -> None:
    value = plan()
    again = Plan.from_bytes(value.to_bytes())
    assert again == value
    assert again.digest == value.digest == canonical.digest(value.to_bytes())


def test_known_digest() -> None:
    """A change of this digest is a change of the wire format: old approvals stop to hold."""
    assert plan().digest == "sha256:c4f2daded39bba0af1cdde1a891b3c75c6d30ffe832c97f585c5c43d5dfc795c"


def test_equal_terms_with_another_nonce_are_another_job() -> None:
    assert plan().digest != plan(nonce="1" * 32).digest


def test_a_licence_is_declared_in_few_words_or_absent() -> None:
    value = plan_json()
    assert b"licence" not in Plan.from_bytes(canonical.encode(value)).to_bytes()
    value["base"]["licence"] = "Apache-2.0 OR MIT"
    assert Plan.from_bytes(canonical.encode(value)).base.licence == "Apache-2.0 OR MIT"
    for wrong in ("", " mit", "<b>mit</b>", "mit\n", "x" * 101):
        value["base"]["licence"] = wrong
        with pytest.raises(PlanError, match="licence"):
            Plan.from_bytes(canonical.encode(value))


def test_weights_are_public_and_add_up_to_one() -> None:
    value = plan_json()
    value["sites"][0]["rows"] = {"low": 512, "high": 1023}
    read = Plan.from_bytes(canonical.encode(value))
    assert read.weight("north") == pytest.approx(512 / 768)
    assert math.fsum(read.weight(site.name) for site in read.sites) == pytest.approx(1)


def test_without_privacy_a_round_has_no_mechanism() -> None:
    assert plan(privacy=PRIVACY_OFF).round_mechanism is None
    mechanism = plan().round_mechanism
    assert mechanism is not None
    assert (mechanism.noise_multiplier, mechanism.rate, mechanism.steps) == (1.5, 0.25, 3)


BROKEN: dict[str, tuple[list[Any], Any]] = {
    "another version": (["version"], 2),
    "unknown field": (["surprise"], 1),
    "unknown field inside": (["privacy", "surprise"], 1),
    "name with a slash": (["consortium"], "../x"),
    "text as number": (["training", "rounds"], "2"),
    "no rounds": (["training", "rounds"], 0),
    "rate above 1": (["training", "rate"], 1.5),
    "rate 0": (["training", "rate"], 0),
    "no sites": (["sites"], []),
    "one label": (["task", "labels"], ["a"]),
    "a label twice": (["task", "labels"], ["a", "a"]),
    "minimum above the sites": (["aggregation", "minimum_sites"], 4),
    "secure aggregation without its terms": (["aggregation", "secure"], True),
    "a threshold without secure aggregation": (["aggregation", "threshold"], 3),
    "a threshold that is too low": (
        ["aggregation"],
        {"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 2, "colluding": 1},
    ),
    "two sites behind a sum, one of which colludes": (
        ["aggregation"],
        {"secure": True, "minimum_sites": 2, "range": 4.0, "threshold": 2, "colluding": 1},
    ),
    "no noise under local privacy": (["privacy", "noise_multiplier"], 0),
    "person units at record-level sites": (["privacy", "unit"], "person"),
    "another unit": (["privacy", "unit"], "household"),
    "persons are null": (["sites", 0, "persons"], None),
    "record units at a person-level site": (
        ["sites", 0, "persons"],
        {"low": 64, "high": 127, "most_rows": 8},
    ),
    "short digest": (["roster"], "sha256:00"),
    "lead named like a site": (["lead", "name"], "north"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plans_are_refused_by_name(name: str) -> None:
    path, new = BROKEN[name]
    value = copy.deepcopy(plan_json())
    place: Any = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    with pytest.raises(PlanError) as caught:
        Plan.from_bytes(canonical.encode(value))
    assert caught.value.id == "plan_malformed"


class TestPersonUnits:
    def test_a_plan_survives_its_bytes(self) -> None:
        data = canonical.encode(persons_json())
        value = Plan.from_bytes(data)
        assert value.to_bytes() == data
        assert value.privacy.unit == value.site("north").unit == "person"
        assert value.site("north").units.low == 64

    def test_weights_are_by_persons(self) -> None:
        value = persons_json()
        value["sites"][0]["persons"]["low"] = 32
        value["sites"][0]["rows"] = {"low": 1024, "high": 2047}
        assert Plan.from_bytes(canonical.encode(value)).weight("north") == pytest.approx(32 / 160)

    def test_the_most_rows_of_any_site_are_stated(self) -> None:
        value = persons_json()
        value["sites"][1]["persons"]["most_rows"] = 20
        assert Plan.from_bytes(canonical.encode(value)).most_rows == 20
        assert plan().most_rows == 1

    @pytest.mark.parametrize(
        "persons",
        [
            None,
            {"low": 64, "high": 127},
            {"low": 64, "high": 127, "most_rows": 0},
            {"low": 0, "high": 127, "most_rows": 8},
            {"low": 64, "high": 127, "most_rows": 8, "exact": 100},
            {"low": 64, "high": 127, "most_rows": "8"},
        ],
    )
    def test_a_site_without_a_whole_statement_of_its_persons_is_refused(self, persons: Any) -> None:
        value = persons_json()
        value["sites"][2]["persons"] = persons
        if persons is None:
            del value["sites"][2]["persons"]
        with pytest.raises(PlanError) as caught:
            Plan.from_bytes(canonical.encode(value))
        assert caught.value.id == "plan_malformed"

    @pytest.mark.parametrize("unit", ["record", "household"])
    def test_a_plan_of_another_unit_is_refused(self, unit: str) -> None:
        value = persons_json()
        value["privacy"]["unit"] = unit
        with pytest.raises(PlanError) as caught:
            Plan.from_bytes(canonical.encode(value))
        assert caught.value.id == "plan_malformed"


def test_a_missing_field_is_refused_even_where_it_has_a_default() -> None:
    value = plan_json()
    del value["aggregation"]["range"]
    with pytest.raises(PlanError, match="every field must be written"):
        Plan.from_bytes(canonical.encode(value))


def test_bytes_that_are_not_canonical_are_refused() -> None:
    with pytest.raises(PlanError):
        Plan.from_bytes(plan().to_bytes().replace(b":", b": ", 1))


@given(st.binary(max_size=300))
def test_garbage_gives_a_typed_error(data: bytes) -> None:
    with pytest.raises(PlanError):
        Plan.from_bytes(data)
