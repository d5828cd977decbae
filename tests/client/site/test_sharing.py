"""Folders of one site that share a ledger: one budget, the same data, and nothing where the ledger is not."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister.client import reconciliation
from cloister.client.site import entries, sharing
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import RESTORED, Shared, SiteFolder
from cloister.client.site.ledger import Ledger
from cloister.client.site.persons import PersonColumn
from cloister.privacy import keyring
from cloister.privacy.dp import accounting
from cloister.privacy.errors import CloisterError
from cloister.privacy.keysource import KeySource
from tests.notes import notes
from tests.shared import (
    COLUMNS,
    DELTA,
    charged,
    cost,
    doubtful,
    folders,
    keep,
    ledger,
    mechanism,
    plan_of,
    reserve,
    said,
)

PERSON = PersonColumn("patient", most_rows=2)
HERE, THERE = plan_of(1), plan_of(2)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[SiteFolder, SiteFolder]:
    return folders(tmp_path, budget=cost(3) * 1.0001)


def reason(action: Callable[[], object]) -> str:
    with pytest.raises(CloisterError) as caught:
        action()
    return caught.value.id


# One budget


def test_what_one_folder_has_spent_the_other_cannot_spend(pair: tuple[SiteFolder, SiteFolder]) -> None:
    owner, other = pair
    reserve(owner, HERE, 1)
    reserve(other, THERE, 1)
    reserve(owner, HERE, 2)
    assert ledger(owner).epsilon("notes") == ledger(other).epsilon("notes") == cost(3)
    for site, plan in ((owner, HERE), (other, THERE)):
        assert reason(lambda site=site, plan=plan: reserve(site, plan, 3)) == "budget_exceeded"
    assert not (other.path / "ledger.sqlite").exists()


def test_each_log_has_the_events_of_its_own_jobs_and_no_others(pair: tuple[SiteFolder, SiteFolder]) -> None:
    owner, other = pair
    for site, plan in ((owner, HERE), (other, THERE)):
        reservation = reserve(site, plan, 1)
        ledger(site).spend(reservation, [mechanism(plan)])
    for site, plan in ((owner, HERE), (other, THERE)):
        assert {event.job for event in site.log.entries() if event.job} == {plan.digest}
        assert len(said(site, "budget.reserved")) == len(said(site, "budget.spent")) == 1
    assert THERE.digest.encode() not in (owner.path / "log" / "events.jsonl").read_bytes()


def test_a_third_folder_shares_with_whoever_shares(
    pair: tuple[SiteFolder, SiteFolder], tmp_path: Path
) -> None:
    owner, other = pair
    third = SiteFolder.create(tmp_path / "third", "north")
    assert reconciliation.share(third, other).path.resolve() == owner.path.resolve()
    assert len(sharing.sharers(third)) == 3
    reserve(third, HERE, 1)
    assert ledger(owner).epsilon("notes") == cost(1)


WORK = """
import sys
from pathlib import Path
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError
ledger = Datasets(SiteFolder.open(Path(sys.argv[1]))).ledger
made, job = 0, "sha256:" + sys.argv[2] * 64
print("ready", flush=True)
sys.stdin.readline()
for number in range(1, 60):
    try:
        ledger.reserve("notes", job, number, 1, {steps!r})
        made += 1
    except BudgetError as refusal:
        print(made, refusal.id)
        break
"""


@pytest.mark.slow
def test_two_processes_cannot_spend_the_same_budget(tmp_path: Path) -> None:
    steps = mechanism(HERE)
    owner, other = folders(tmp_path, budget=cost(15) * 1.0001)
    code = WORK.format(steps=steps)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(site.path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for site, name in ((owner, "a"), (other, "b"))
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in processes]
    assert [answer[1] for answer in answers] == ["budget_exceeded"] * 2
    made = [int(answer[0]) for answer in answers]
    assert sum(made) == len(charged(owner)) == 15
    assert ledger(other).epsilon("notes") == accounting.epsilon([steps] * 15, DELTA)
    assert [len(said(site, "budget.reserved")) for site in (owner, other)] == made


# The same data


def test_the_same_rows_are_held_out_and_count_in_both(tmp_path: Path) -> None:
    owner, file = SiteFolder.create(tmp_path / "north", "north"), notes(tmp_path / "notes.csv")
    Datasets(owner).register(file, "notes", COLUMNS, (8.0, DELTA), PERSON)
    other = SiteFolder.create(tmp_path / "other", "north")
    reconciliation.share(other, owner)
    Datasets(other).register(file, "notes", COLUMNS, (8.0, DELTA), PERSON)
    assert Datasets(owner).open("notes") == Datasets(other).open("notes")
    assert Datasets(owner)["notes"] == Datasets(other)["notes"]
    assert not list((other.path / "datasets").glob("*.key"))
    apart = SiteFolder.create(tmp_path / "apart", "north")
    Datasets(apart).register(file, "notes", COLUMNS, (8.0, DELTA), PERSON)
    assert Datasets(apart).open("notes") != Datasets(other).open("notes")


def test_keys_of_data_sets_are_under_the_owner_s_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_COST", 1 << 14)
    (tmp_path / "pass").write_text("a passphrase of some length\n")
    (tmp_path / "pass").chmod(0o600)
    source = KeySource.parse(f"passphrase-file:{tmp_path / 'pass'}")
    owner, file = SiteFolder.create(tmp_path / "north", "north", source), notes(tmp_path / "notes.csv")
    Datasets(owner).register(file, "notes", COLUMNS, (8.0, DELTA))
    other = SiteFolder.create(tmp_path / "other", "north")
    reconciliation.share(other, owner)
    Datasets(other).register(file, "notes", COLUMNS, (8.0, DELTA))
    assert Datasets(owner).open("notes") == Datasets(other).open("notes")
    for key in (owner.path / "datasets").glob("*.key"):
        assert key.read_bytes().startswith(b"cloister-vault/1\n")
    (tmp_path / "pass").unlink()
    assert reason(lambda: Datasets(SiteFolder.open(other.path)).open("notes")) == "state_sealed"


def test_the_budget_is_in_the_log_of_each_once(tmp_path: Path) -> None:
    owner, file = SiteFolder.create(tmp_path / "north", "north"), notes(tmp_path / "notes.csv")
    Datasets(owner).register(file, "notes", COLUMNS, (8.0, DELTA))
    other = SiteFolder.create(tmp_path / "other", "north")
    reconciliation.share(other, owner)
    for _ in range(2):
        Datasets(other).register(file, "notes", COLUMNS, (8.0, DELTA))
    for site in (owner, other):
        (opened,) = said(site, "budget.opened")
        assert dict(opened.body) == {"dataset": "notes", "unit": "record", "epsilon": 8, "delta": DELTA}
    assert reason(lambda: Datasets(other).register(file, "notes", COLUMNS, (9.0, DELTA))) == "budget_conflict"


@pytest.mark.parametrize("where", ["there", "here"])
def test_the_same_data_get_no_second_budget_under_another_name(tmp_path: Path, where: str) -> None:
    owner, file = SiteFolder.create(tmp_path / "north", "north"), notes(tmp_path / "notes.csv")
    Datasets(owner).register(file, "notes", COLUMNS, (8.0, DELTA))
    site = owner
    if where == "there":
        site = SiteFolder.create(tmp_path / "other", "north")
        reconciliation.share(site, owner)
    assert reason(lambda: Datasets(site).register(file, "letters", COLUMNS, (8.0, DELTA))) == "data_twice"
    assert [budget.dataset for budget in ledger(site).budgets()] == ["notes"]
    assert [found.name for found in Datasets(site).all()] == (["notes"] if where == "here" else [])
    Datasets(site).register(notes(tmp_path / "more.csv", 61), "letters", COLUMNS, (8.0, DELTA))


def test_data_that_were_registered_before_fingerprints_were_noted_are_known(tmp_path: Path) -> None:
    owner, file = SiteFolder.create(tmp_path / "north", "north"), notes(tmp_path / "notes.csv")
    Datasets(owner).register(file, "notes", COLUMNS, (8.0, DELTA))
    with sqlite3.connect(owner.path / "ledger.sqlite") as database:
        database.execute("DROP TRIGGER prints_DELETE")
        database.execute("DELETE FROM prints")
    database.close()
    other = SiteFolder.create(tmp_path / "other", "north")
    reconciliation.share(other, owner)
    assert reason(lambda: Datasets(other).register(file, "letters", COLUMNS, (8.0, DELTA))) == "data_twice"


# What is refused


def test_a_folder_with_a_budget_of_its_own_shares_nobody_else_s(tmp_path: Path) -> None:
    owner = SiteFolder.create(tmp_path / "north", "north")
    site = SiteFolder.create(tmp_path / "site", "north")
    for one in (owner, site):
        ledger(one).open_budget("notes", "record", 8.0, DELTA)
    assert reason(lambda: reconciliation.share(site, owner)) == "ledger_foreign"
    (site.path / "ledger.sqlite").unlink()  # its log still has it
    assert reason(lambda: reconciliation.share(site, owner)) == "ledger_foreign"
    assert (site.ledger, owner.ledger) == (None, None)


def test_the_owner_shares_nobody_else_s(pair: tuple[SiteFolder, SiteFolder], tmp_path: Path) -> None:
    owner, other = pair
    for site in (owner, other):
        assert reason(lambda site=site: reconciliation.share(owner, site)) == "option_invalid"
    stranger = SiteFolder.create(tmp_path / "stranger", "south")
    ledger(stranger).open_budget("notes", "record", 8.0, DELTA)
    assert reason(lambda: reconciliation.share(owner, stranger)) == "ledger_foreign"


def test_what_is_no_ledger_is_not_shared(tmp_path: Path) -> None:
    owner = SiteFolder.create(tmp_path / "north", "north")
    site = SiteFolder.create(tmp_path / "site", "north")
    assert reason(lambda: reconciliation.share(site, owner)) == "ledger_missing"
    (owner.path / "ledger.sqlite").touch()
    assert reason(lambda: reconciliation.share(site, owner)) == "ledger_missing"
    (owner.path / "ledger.sqlite").write_text("no database, but long enough to be looked at as one" * 20)
    assert reason(lambda: reconciliation.share(site, owner)) == "state_damaged"
    assert site.ledger is None
    assert ledger(site).budgets() == ()


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_a_ledger_that_is_gone_is_not_made_anew(pair: tuple[SiteFolder, SiteFolder], gone: str) -> None:
    owner, other = pair
    if gone == "folder":
        owner.path.rename(owner.path.with_name("moved"))
    else:
        (owner.path / "ledger.sqlite").unlink()
        assert reason(lambda: ledger(owner)) == "ledger_missing"
    for look in (lambda: ledger(other), lambda: sharing.behind(other), lambda: reserve(other, THERE, 1)):
        assert reason(look) == "ledger_missing"
    assert not (owner.path / "ledger.sqlite").exists()


def test_a_ledger_that_vanishes_under_a_running_agent_charges_nothing(
    pair: tuple[SiteFolder, SiteFolder],
) -> None:
    owner, other = pair
    book = ledger(other)
    (owner.path / "ledger.sqlite").unlink()
    keep(other, THERE)
    assert reason(lambda: book.reserve("notes", THERE.digest, 1, 1, mechanism(THERE))) == "state_unwritable"
    assert reason(lambda: ledger(other)) == reason(lambda: ledger(owner)) == "ledger_missing"


def test_another_ledger_in_its_place_is_refused(pair: tuple[SiteFolder, SiteFolder], tmp_path: Path) -> None:
    owner, other = pair
    stranger = SiteFolder.create(tmp_path / "stranger", "south")
    ledger(stranger).open_budget("notes", "record", 100.0, DELTA)
    shutil.copy(stranger.path / "ledger.sqlite", owner.path / "ledger.sqlite")
    assert reason(lambda: ledger(other)) == reason(lambda: ledger(owner)) == "ledger_foreign"


def test_a_folder_that_is_known_and_has_a_ledger_beside_it_is_refused(
    pair: tuple[SiteFolder, SiteFolder],
) -> None:
    owner, other = pair
    Ledger(other.path / "ledger.sqlite").open_budget(
        "notes", "record", 8.0, DELTA
    )  # as an older release would
    assert reason(lambda: ledger(other)) == "ledger_foreign"
    assert reason(lambda: reconciliation.share(other, owner)) == "ledger_foreign"


def test_a_copy_of_the_owner_is_not_taken_for_it(pair: tuple[SiteFolder, SiteFolder], tmp_path: Path) -> None:
    owner, other = pair
    shutil.copytree(owner.path, tmp_path / "copy")
    copy = SiteFolder.open(tmp_path / "copy")
    assert reason(lambda: reconciliation.share(other, copy)) == "ledger_foreign"
    shutil.rmtree(owner.path)  # then it was moved
    reconciliation.share(other, copy)
    reserve(other, THERE, 1)
    assert charged(copy) == [(THERE.digest, 1)]
    assert [Path(one.path).name for one in sharing.sharers(other)] == ["copy", "north-in-europe"]


def test_what_was_cut_off_fails_closed_and_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, other = SiteFolder.create(tmp_path / "a", "north"), SiteFolder.create(tmp_path / "b", "north")
    ledger(owner).open_budget("notes", "record", 8.0, DELTA)
    real = SiteFolder.charge_to

    def cut(*_: object) -> None:
        raise OSError("cut off")

    def cut_at_owner(site: SiteFolder, shared: Shared) -> None:
        real(site, shared) if shared.folder else cut()

    with monkeypatch.context() as patch, pytest.raises(OSError, match="cut off"):
        patch.setattr(sharing, "_enter", cut)
        reconciliation.share(other, owner)
    assert reason(lambda: ledger(other)) == "ledger_foreign"
    with monkeypatch.context() as patch, pytest.raises(OSError, match="cut off"):
        patch.setattr(SiteFolder, "charge_to", cut_at_owner)
        reconciliation.share(other, owner)
    reconciliation.share(other, owner)
    assert len(sharing.sharers(owner)) == 2
    reserve(other, THERE, 1)
    reserve(owner, HERE, 1)


# Doubt


def test_nothing_new_is_charged_while_a_folder_has_not_looked(pair: tuple[SiteFolder, SiteFolder]) -> None:
    owner, other = pair
    reserve(owner, HERE, 1)
    sharing.doubt(other)
    assert doubtful(owner) == ["north", "north-in-europe"]
    assert reason(lambda: reserve(owner, HERE, 2)) == "ledger_behind"
    assert reason(lambda: ledger(owner).open_budget("letters", "record", 1.0, DELTA)) == "ledger_behind"
    reserve(owner, HERE, 1)  # what stands is charged already
    sharing.settle(owner)
    for site in pair:
        assert reason(lambda site=site: reserve(site, HERE, 2)) == "ledger_behind"
    sharing.settle(other)
    reserve(owner, HERE, 2)
    assert len(said(owner, "budget.reserved")) == 2, "a refusal writes no charge into the log"


def test_nothing_is_charged_while_the_owner_is_being_restored(pair: tuple[SiteFolder, SiteFolder]) -> None:
    owner, other = pair
    book = ledger(other)
    (owner.path / RESTORED).write_bytes(b"{}")
    keep(other, THERE)
    assert reason(lambda: book.reserve("notes", THERE.digest, 1, 1, mechanism(THERE))) == "state_restored"
    assert reason(lambda: reconciliation.share(other, owner)) == "state_restored"
    assert charged(other) == []


def test_a_folder_that_comes_back_to_a_ledger_from_before_doubts_it(
    pair: tuple[SiteFolder, SiteFolder], tmp_path: Path
) -> None:
    """The copy knows neither that it was shared nor what was charged; the logs do."""
    owner, other = pair
    before = tmp_path / "before"
    alone = SiteFolder.create(before, "north")
    ledger(alone).open_budget("notes", "record", cost(3) * 1.0001, DELTA)
    reserve(owner, HERE, 1)
    reserve(other, THERE, 1)
    shutil.copy(before / "ledger.sqlite", owner.path / "ledger.sqlite")
    assert reason(lambda: ledger(other)) == "ledger_foreign"
    (other.path / "membership.json").write_bytes(b"{}")  # it has joined, so its agent compares its log
    reconciliation.share(other, owner)
    assert doubtful(owner) == ["north", "north-in-europe"]
    assert reason(lambda: reserve(owner, HERE, 2)) == "ledger_behind"
    reconciliation.reconcile(other)
    assert charged(other) == [(THERE.digest, 1)]
    reconciliation.reconcile(owner)
    assert doubtful(owner) == []
    assert sorted(charged(owner)) == sorted([(HERE.digest, 1), (THERE.digest, 1)])


def test_a_ledger_of_the_first_version_is_brought_on(tmp_path: Path) -> None:
    owner, other = SiteFolder.create(tmp_path / "a", "north"), SiteFolder.create(tmp_path / "b", "north")
    with sqlite3.connect(owner.path / "ledger.sqlite") as database:
        for statement in entries._FIRST:
            database.execute(statement)
        database.execute("INSERT INTO budgets VALUES ('notes', 'record', 'add-remove', 8.0, 1e-5, NULL)")
        database.execute("PRAGMA user_version = 1")
    database.close()
    reconciliation.share(other, owner)
    assert [budget.epsilon for budget in ledger(other).budgets()] == [8.0]
    reserve(other, THERE, 1)
    assert charged(owner) == [(THERE.digest, 1)]


@pytest.mark.parametrize("table", ["prints", "sharing"])
@pytest.mark.parametrize("change", ["UPDATE {} SET rowid = 9", "DELETE FROM {}"])
def test_who_shares_is_never_changed_either(
    pair: tuple[SiteFolder, SiteFolder], table: str, change: str
) -> None:
    owner, _ = pair
    ledger(owner).know("notes", "sha256:" + "0" * 64)
    database = sqlite3.connect(owner.path / "ledger.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        database.execute(change.format(table))
    database.close()


def test_a_folder_says_in_its_config_whose_ledger_it_charges(pair: tuple[SiteFolder, SiteFolder]) -> None:
    owner, other = pair
    assert owner.ledger == Shared(folder="", id="owner")
    assert other.ledger is not None
    assert Path(other.ledger.folder) == owner.path.resolve()
    assert owner.name == other.name == "north"


def test_an_owner_in_which_nothing_was_registered_has_none_to_share_yet(tmp_path: Path) -> None:
    owner, site = (SiteFolder.create(tmp_path / name, "north") for name in ("one", "two"))
    with pytest.raises(CloisterError) as caught:
        sharing.share(site, owner)
    assert (caught.value.id, site.ledger) == ("ledger_missing", None)
    assert "site data add" in caught.value.line()
