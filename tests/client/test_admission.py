"""What a plan asks of a site is compared before any record is read: here the records are gone by then."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client import reconciliation
from cloister.client.jobs import Jobs
from cloister.client.site import sharing
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy import canonical, code
from cloister.privacy.dp import accounting
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import CloisterError
from cloister.privacy.model import Columns, describe
from cloister.privacy.plan import Plan
from cloister.privacy.table import parsed
from cloister.server.proposal import draft
from cloister.server.terms import Terms
from tests import models, tables
from tests.client.test_jobs import Site

TERMS = Terms("notes to departments", ("a", "b"), minimum_sites=1, max_tokens=32)
SPENT = GaussianSteps(2.0, 0.25, 40)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose model is at hand and whose records have been taken away since they were registered."""
    found = Site(tmp_path, monkeypatch)
    models.write(tmp_path / "tiny")
    Datasets(found.folder).register(found.file, "notes", ("text", "label"), (10.0, 1e-5))
    found.file.rename(tmp_path / "away.csv")
    return found


def proposed(site: Site, **terms: Any) -> Plan:
    offers = {"north": Datasets(site.folder).offer("notes")}
    base = describe(site.file.parent / "tiny")
    return draft(replace(TERMS, **terms), site.roster, offers, base, code.installed())[0]


def altered(plan: Plan, *path: str | int, to: Any) -> Plan:
    value = canonical.decode(plan.to_bytes())
    place: Any = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return Plan.from_bytes(canonical.encode(value))


def refusal(site: Site, plan: Plan, model: Path | None = None) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        Jobs(site.folder, model=str(model or site.file.parent / "tiny")).check(plan)
    assert "\n" not in caught.value.line()
    return caught.value


def opened(site: Site) -> bool:
    return any(event.type == "dataset.opened" for event in site.folder.log.entries())


@pytest.mark.parametrize(
    ("path", "to", "id_"),
    [
        (("base", "digest"), "sha256:" + "0" * 64, "model_mismatch"),
        (("adapter", "rank"), 4, "adapter_invalid"),
        (("adapter", "parameters"), 7, "adapter_invalid"),
        (("adapter", "layout"), "sha256:" + "0" * 64, "adapter_invalid"),
        (("task", "labels"), ["a", "b", "c"], "adapter_invalid"),
        (("task", "pair"), True, "plan_conflict"),
        (("sites", 0, "rows"), {"low": 64, "high": 127}, "plan_conflict"),
        (("sites", 0, "code"), "sha256:" + "0" * 64, "code_mismatch"),
        (("privacy", "noise_multiplier"), 0.3, "budget_exceeded"),
    ],
)
def test_what_differs_is_refused_before_any_record_is_read(
    site: Site, path: tuple[str | int, ...], to: Any, id_: str
) -> None:
    assert refusal(site, altered(proposed(site), *path, to=to)).id == id_
    assert not opened(site)


def test_another_tokenizer_is_another_model(site: Site) -> None:
    plan, folder = proposed(site), site.file.parent / "tiny"
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert refusal(site, plan).id == "model_mismatch"
    assert not opened(site)


def test_a_model_that_somebody_names_must_be_there_and_one_by_the_plans_name_may_be_elsewhere(
    site: Site,
) -> None:
    plan = proposed(site)
    assert refusal(site, plan, site.file.parent / "nowhere").id == "model_missing"
    (site.file.parent / "away.csv").rename(site.file)
    Jobs(site.folder).check(plan)


def test_what_agrees_is_read_last(site: Site) -> None:
    assert refusal(site, proposed(site)).id == "file_missing"
    (site.file.parent / "away.csv").rename(site.file)
    Jobs(site.folder, model=str(site.file.parent / "tiny")).check(proposed(site))
    assert opened(site)


@pytest.mark.parametrize("rounds", [3, 20])
def test_what_the_budget_does_not_bear_is_refused_with_the_nearest_plan_that_it_does(
    site: Site, rounds: int
) -> None:
    Datasets(site.folder).ledger.reserve("notes", canonical.digest(b"before"), 1, 1, SPENT)
    error = refusal(site, proposed(site, epsilon=9.5, rounds=rounds))
    assert error.id == "budget_exceeded"
    (named,) = re.findall(r"--epsilon ([0-9.]+)\.$", error.do)
    nearest = float(named)
    assert refusal(site, proposed(site, epsilon=nearest, rounds=rounds)).id == "file_missing"
    assert refusal(site, proposed(site, epsilon=nearest + 0.01, rounds=rounds)).id == "budget_exceeded"
    steps = GaussianSteps(noise_multiplier(nearest, 1e-5, 0.2, 3 * rounds), 0.2, 3 * rounds)
    assert 9.9 < accounting.epsilon([SPENT, steps], 1e-5) <= 10.0


def test_what_another_folder_has_charged_to_a_shared_ledger_counts(site: Site, tmp_path: Path) -> None:
    other, plan = SiteFolder.create(tmp_path / "other", "north"), proposed(site, epsilon=9.5)
    reconciliation.share(other, site.folder)
    assert refusal(site, plan).id == "file_missing"
    Datasets(other).ledger.reserve("notes", canonical.digest(b"elsewhere"), 1, 1, SPENT)
    assert refusal(site, plan).id == "budget_exceeded"
    sharing.doubt(other)
    assert refusal(site, proposed(site, epsilon=0.5)).id == "ledger_behind"
    assert not opened(site)


def test_where_nothing_is_left_nothing_is_suggested(site: Site) -> None:
    least, most = 0.5, 5.0
    for _ in range(60):  # the least noise that the budget bears, to the last digits
        middle = (least + most) / 2
        over = accounting.would_exceed([GaussianSteps(middle, 0.25, 40)], 1e-5, 10.0)
        least, most = (middle, most) if over else (least, middle)
    whole = GaussianSteps(most, 0.25, 40)
    Datasets(site.folder).ledger.reserve("notes", canonical.digest(b"before"), 1, 1, whole)
    error = refusal(site, proposed(site))
    assert error.id == "budget_exceeded"
    assert error.do == "What is left of the budget bears no plan of this length."


def test_a_table_needs_no_base_model_but_its_columns_and_shapes_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Site(tmp_path, monkeypatch)
    source = tables.write(tmp_path / "rows.csv", tables.patients(200, 1))
    Datasets(found.folder).register(source, "notes", tables.TABLE, (10.0, 1e-5))
    offers = {"north": Datasets(found.folder).offer("notes")}
    terms = replace(TERMS, task="tabular-classification", labels=tables.TABLE.classes, table=tables.TABLE)
    base = Columns.of(tables.TABLE)
    plan = draft(replace(terms, hidden=4), found.roster, offers, base, code.installed())[0]
    Jobs(found.folder, model="nowhere").check(plan)  # what is loaded for texts has no part in it
    assert opened(found)
    source.unlink()
    wider = parsed(tables.COLUMNS.replace(b"low = 20", b"low = 0"))
    other = canonical.decode(wider.to_bytes())
    value = canonical.decode(plan.to_bytes())
    value["base"]["digest"], value["task"]["table"] = wider.digest, other
    moved = Plan.from_bytes(canonical.encode(value))
    assert refusal(found, moved, tmp_path / "nowhere").id == "plan_conflict"
    for path, to in ((("adapter", "hidden"), 5), (("adapter", "parameters"), 7)):
        assert refusal(found, altered(plan, *path, to=to), tmp_path / "nowhere").id == "adapter_invalid"
