"""Four sites set up by docs/operations.md: a plan over the budget of one, and a lead that is killed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloister.client.site.folder import SiteFolder
from tests.by_hand import ByHand
from tests.hands import hands, until

pytestmark = pytest.mark.slow

SITES = ("north", "south", "west", "coast")
ROUNDS = 30
BUDGETS = {"north": 8.0, "south": 8.0, "west": 8.0, "coast": 4.0}


@dataclass
class Newcomer(ByHand):
    """Types what the document says, but gives the site coast half of the budget."""

    def _do(self, words: list[str]) -> str:
        if words[:3] == ["site", "data", "add"]:
            at = words.index("--epsilon") + 1
            words = [*words[:at], f"{BUDGETS[words[words.index('--dir') + 1]]:g}", *words[at + 1 :]]
        return super()._do(words)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Newcomer]:
    place = tmp_path_factory.mktemp("newcomer")
    with hands(place) as person:
        found = Newcomer(person, model, place / "outside.txt", SITES)
        found.follow(until="cloister lead propose")
        yield found


def test_one_site_refuses_a_plan_over_its_budget_and_says_why(newcomer: Newcomer) -> None:
    run, do = newcomer.hands.run, newcomer.hands.do
    job = newcomer.propose("--epsilon", "8", "--rounds", "4")
    for name in ("north", "south", "west"):
        do("site", "approve", job[7:19], "--dir", name)
    refused = run("site", "approve", job[7:19], "--dir", "coast")
    assert (refused.code, refused.out) == (1, "")
    reached, budget = re.search(r"would reach epsilon ([\d.]+) of ([\d.]+) for notes", refused.line).groups()
    assert float(reached) > float(budget) == BUDGETS["coast"]
    assert refused.line.endswith("[budget_exceeded]")
    do("site", "refuse", job[7:19], "--dir", "coast", "--reason", "budget_exceeded")
    entry = newcomer.ended(job)
    assert (entry["state"], entry["reason"]) == ("refused", "coast refuses: budget_exceeded")
    for name in SITES:
        assert budget_of(newcomer, name)["rows"] == []


def test_a_lead_that_is_killed_goes_on_and_every_ledger_is_right(newcomer: Newcomer) -> None:
    job = newcomer.propose("--epsilon", "4", "--rounds", str(ROUNDS))
    newcomer.approve(job)
    progress = newcomer.hands.place / "lead" / "jobs" / job[7:23] / "progress.json"
    until(lambda: progress.exists() and json.loads(progress.read_bytes())["round"] >= 2, "two rounds")
    newcomer.sites["south"].pause()  # the round stays open
    assert newcomer.lead is not None
    newcomer.lead.kill()
    newcomer.sites["south"].go_on()
    newcomer.lead = newcomer.hands.start("lead", "lead", "up", "--dir", "lead")
    newcomer.lead.hear("from round")
    entry = newcomer.ended(job)
    assert (entry["state"], entry["reason"]) == ("finished", "")
    assert entry["progress"]["round"] == ROUNDS
    for name in SITES:
        found = budget_of(newcomer, name)
        kinds = Counter((row["round"], row["kind"]) for row in found["rows"])
        assert {row["job"] for row in found["rows"]} == {job}
        assert all(count == 1 for (_, kind), count in kinds.items() if kind == "reserved")
        sent = sent_by(newcomer, job, name)
        assert {number for number, kind in kinds if kind == "reserved"} == set(sent)
        assert len(sent) == len(set(sent))
        assert (3.9 if len(sent) == ROUNDS else 0.0) < found["spent"] <= 4.0
        assert found["epsilon"] == BUDGETS[name]
        assert "the chain, the tree and the signed head hold." in newcomer.hands.do(
            "site", "log", "--dir", name, "--last", "1"
        )


def budget_of(newcomer: Newcomer, name: str) -> Any:
    """What `site ledger` says of a site's only dataset."""
    (budget,) = newcomer.hands.json("site", "ledger", "--dir", name)["budgets"]
    return budget


def sent_by(newcomer: Newcomer, job: str, name: str) -> list[int]:
    """The rounds for which a site's log says that an update left."""
    log = SiteFolder.open(newcomer.hands.place / name).log.entries()
    return [e.round for e in log if e.job == job and e.type == "update.sent" and e.round is not None]
