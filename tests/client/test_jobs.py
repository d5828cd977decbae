"""The check before an approval: a plan of another unit of privacy than the dataset's is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from cloister.client.jobs import Jobs
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import Peer, SiteFolder
from cloister.client.site.persons import PersonColumn
from cloister.client.site.records import Records
from cloister.privacy import canonical, code
from cloister.privacy.dp import accounting
from cloister.privacy.errors import CloisterError
from cloister.privacy.identity import PrivateIdentity, Roster
from cloister.privacy.plan import Plan
from tests.plans import persons_json, plan_json
from tests.policies import allow
from tests.site_keys import keyed_site

COLUMNS, BUDGET = ("text", "label"), (100.0, 1e-5)
ROWS, PERSONS = {"low": 128, "high": 255}, {"low": 64, "high": 127, "most_rows": 8}


class Site:
    """A site and a lead whose keys know each other, without a service between them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = keyed_site(path / "north")
        allow(self.folder)
        lead = PrivateIdentity.generate("lead", "lead").public
        self.roster = Roster("hospitals", (lead, self.folder.identity.public))
        monkeypatch.setattr(SiteFolder, "roster", self.roster)
        peers = tuple(
            Peer(member, confirmed=True, own=member.name == "north") for member in self.roster.members
        )
        monkeypatch.setattr(SiteFolder, "peers", lambda _: peers)
        self.file = path / "notes.csv"
        with self.file.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("text", "label", "patient"))
            table.writerows((f"note {k} {p}", "ab"[k % 2], p) for p in range(100) for k in range(2))

    def register(self, *, persons: bool) -> None:
        column = PersonColumn("patient") if persons else None
        found = Datasets(self.folder).register(self.file, "notes", COLUMNS, BUDGET, column)
        assert found.rows.model_dump() == ROWS
        assert found.persons is None or found.persons.model_dump() == PERSONS

    def plan(self, value: dict[str, Any]) -> Plan:
        value["roster"] = self.roster.digest()
        for party in (value["lead"], *value["sites"]):
            party["identity"] = self.roster.member(party["name"]).digest()
            party["code"] = code.installed()
        value["aggregation"]["minimum_sites"] = 1
        return Plan.from_bytes(canonical.encode(value))

    def refusal(self, value: dict[str, Any]) -> str:
        with pytest.raises(CloisterError) as caught:
            Jobs(self.folder).check(self.plan(value))
        return caught.value.id


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.mark.parametrize(("persons", "value"), [(False, plan_json), (True, persons_json)])
def test_a_plan_of_the_datasets_unit_is_fine(site: Site, persons: bool, value: Any) -> None:
    site.register(persons=persons)
    Jobs(site.folder).check(site.plan(value(("north",))))


@pytest.mark.parametrize(("persons", "value"), [(True, plan_json), (False, persons_json)])
def test_a_plan_of_another_unit_is_refused(site: Site, persons: bool, value: Any) -> None:
    site.register(persons=persons)
    assert site.refusal(value(("north",))) == "plan_conflict"


def test_without_privacy_the_unit_must_agree_too(site: Site) -> None:
    site.register(persons=True)
    off = {"mode": "off", "noise_multiplier": 0, "epsilon": 0, "delta": 0}
    value = plan_json(("north",))
    value["privacy"] |= off
    assert site.refusal(value) == "plan_conflict"
    value = persons_json(("north",))
    value["privacy"] |= off
    Jobs(site.folder).check(site.plan(value))


@pytest.mark.parametrize("change", [{"low": 32}, {"high": 255}, {"most_rows": 16}])
def test_other_persons_than_were_offered_are_refused(site: Site, change: dict[str, int]) -> None:
    site.register(persons=True)
    value = persons_json(("north",))
    value["sites"][0]["persons"] |= change
    assert site.refusal(value) == "plan_conflict"


def test_a_budget_of_another_unit_does_not_pay(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a registration and the ledger ever disagree, the ledger's unit decides."""
    site.register(persons=False)
    registered = Datasets(site.folder)["notes"]
    changed = registered.model_copy(
        update={"persons": site.plan(persons_json(("north",))).sites[0].persons, "person": "patient"}
    )

    def opened(self: Datasets, *_: str) -> tuple[Records, Records]:
        split = self.split(changed.selection, changed.selection.raw())
        return split.train, split.held

    monkeypatch.setattr(Datasets, "__getitem__", lambda *_: changed)
    monkeypatch.setattr(Datasets, "open", opened)
    value = persons_json(("north",))
    value["task"]["labels"] = ["a", "b"]
    assert site.refusal(value) == "budget_conflict"


@pytest.mark.parametrize(("own", "refused"), [(True, False), (False, True)])
def test_what_a_job_has_spent_is_part_of_its_plan_and_what_others_have_is_not(
    site: Site, own: bool, refused: bool
) -> None:
    """A site that restarts in the middle checks its plan again, on a budget that bears it just once."""
    value = plan_json(("north",))
    value["privacy"] |= {"noise_multiplier": 0.5}
    plan = site.plan(value)
    mechanism = plan.round_mechanism
    assert mechanism is not None
    whole = accounting.epsilon([mechanism] * plan.training.rounds, BUDGET[1])
    column: Any = None
    Datasets(site.folder).register(site.file, "notes", COLUMNS, (1.01 * whole, BUDGET[1]), column)
    job = plan.digest if own else canonical.digest(b"another job")
    Datasets(site.folder).ledger.reserve("notes", job, 1, 1, mechanism)
    if refused:
        assert site.refusal(value) == "budget_exceeded"
    else:
        Jobs(site.folder).check(plan)
