"""What a running site says of its budget: at the first charge, at most every half minute, and at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.client.site.ledger import Ledger
from cloister.client.spending import EVERY_S, Spending
from cloister.privacy.plan import Plan
from tests.plans import plan


class Site:
    """A ledger with a budget, and a clock that a test moves."""

    def __init__(self, path: Path, the_plan: Plan) -> None:
        self.plan, self.at = the_plan, 100.0
        self.ledger = Ledger(path / "ledger.db")
        self.ledger.open_budget("notes", "record", 50.0, 1e-5)
        self.spending = Spending(self.ledger, lambda: self.at)

    def charge(self, number: int) -> float:
        mechanism = self.plan.round_mechanism
        assert mechanism is not None
        self.ledger.reserve("notes", self.plan.digest, number, 1, mechanism)
        return self.ledger.epsilon("notes")

    def line(self, *, ended: bool = False) -> str | None:
        return self.spending.line(self.plan, "notes", ended=ended)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, plan())


def test_it_is_said_at_the_first_charge_then_every_half_minute_and_at_the_end(site: Site) -> None:
    assert site.line() is None
    spent = site.charge(1)
    said = site.line()
    assert said is not None
    assert said.startswith(f"{site.plan.digest[7:19]}: charged up to round 1 of ")
    (told,) = (float(word) for word in said.split() if word.replace(".", "").isdigit() and "." in word)
    assert spent <= told < spent + 0.001  # rounded up
    assert said.endswith("of 50 is spent on notes.")
    site.charge(2)
    assert site.line() is None
    site.at += EVERY_S
    assert "up to round 2 of" in (site.line() or "")
    site.at += EVERY_S
    assert site.line() is None  # nothing new
    site.charge(3)
    assert "up to round 3 of" in (site.line(ended=True) or "")
    assert site.line(ended=True) is None


def test_of_a_job_that_was_over_before_nothing_is_said(site: Site) -> None:
    site.charge(1)
    assert site.line(ended=True) is None


def test_without_privacy_there_is_nothing_to_say(tmp_path: Path) -> None:
    off = {"mode": "off", "noise_multiplier": 0.0, "epsilon": 0.0, "delta": 0.0}
    open_ = plan(privacy={"unit": "record", "relation": "add-remove", "bound": 1.0, **off})
    assert Site(tmp_path, open_).line() is None
