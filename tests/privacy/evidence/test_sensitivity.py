"""Epsilon of the same steps with another noise: that of the account that rules, and more noise costs less."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.reading import even_odds
from cloister.privacy.evidence.sensitivity import FACTORS, strengths
from tests.privacy.evidence.test_render import page, section
from tests.reports import evidence, jointly, replanned, without_privacy


def stated(noise: float = 0.84, rate: float = 0.05) -> dict[str, Any]:
    """The evidence of a run under a plan with these terms, whose first site's epsilon is the account's."""
    plan = evidence()["plan"]
    terms = {"privacy": plan["privacy"] | {"noise_multiplier": noise, "epsilon": 1e6}}
    value = replanned(**terms, training=plan["training"] | {"rate": rate})
    (first, *rest) = value["privacy"]
    first |= {"noise_multiplier": f"{noise:g}", "rate": f"{rate:g}"}
    found = exact(noise, rate, int(first["steps"]))
    first["epsilon"] = f"{math.ceil(found * 1000) / 1000:.3f}"
    value["privacy"] = [first, *(one | {"epsilon": "0.001"} for one in rest)]
    return value


def exact(noise: float, rate: float, steps: int) -> float:
    return accounting.epsilon([GaussianSteps(noise, rate, steps)], 1e-5)


@pytest.mark.parametrize(("noise", "rate"), [(0.84, 0.05), (0.7881099417573617, 0.1710124100180742)])
def test_it_is_what_the_account_says_of_that_noise(noise: float, rate: float) -> None:
    """Of the plan's numbers, of which the page has six digits: of those it would be less."""
    value = stated(noise, rate)
    (first, *_) = value["privacy"]
    found = strengths(Evidence.from_json(value))
    assert [float(one.factor) for one in found] == [*FACTORS]
    for one in found:
        least = exact(noise * float(one.factor), rate, int(first["steps"]))
        assert least <= float(one.epsilon or 0) < least + 0.0011
        assert one.odds == even_odds(float(one.epsilon or 0), 1e-5)
        assert one.site == "hill-clinic"
    assert found[FACTORS.index(1)].epsilon == first["epsilon"]
    assert sorted(found, key=lambda one: -float(one.epsilon or 0)) == found


def test_it_is_about_the_site_with_the_largest_epsilon() -> None:
    value = stated()
    value["privacy"][2] |= {"epsilon": "99.000", "noise_multiplier": "0.6"}
    assert {one.site for one in strengths(Evidence.from_json(value))} == {"river-practice"}


def test_noise_beyond_the_account_has_no_epsilon() -> None:
    found = strengths(Evidence.from_json(stated(0.0015)))
    assert [one.factor for one in found if one.epsilon is None] == ["0.5"]
    value = stated(0.0015)
    assert "none can be stated" in section(page(value), 12).text()


def test_without_privacy_or_without_a_step_there_is_none() -> None:
    assert strengths(Evidence.from_json(without_privacy())) == []
    value = evidence()
    value["privacy"] = [one | {"steps": "0", "epsilon": "0.000"} for one in value["privacy"]]
    assert strengths(Evidence.from_json(value)) == []


@pytest.mark.parametrize("make", [stated, jointly])
def test_the_page_has_a_row_for_every_noise_and_says_what_was_not_measured(make: Any) -> None:
    shown = section(page(make()), 12)
    (table,) = shown.tags("table")
    rows = table.tags("tbody")[0].tags("tr")
    assert [row.grades() for row in rows] == [["Derived"]] * len(FACTORS)
    assert all(row.tags("a") for row in rows)
    for row, one in zip(rows, strengths(Evidence.from_json(make())), strict=True):
        assert str(one.epsilon) in row.text()
    assert "how accuracy changes with epsilon was not measured in this job" in shown.text()
    assert section(page(without_privacy()), 12).tags("table") == []
