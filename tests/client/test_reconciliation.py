"""The ledger is held to the event log: what was removed comes back, what was altered is found."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.client import reconciliation, restoration
from cloister.client.agent import Agent
from cloister.client.consortium import Proposal
from cloister.client.jobs import APPROVED, DONE, Jobs
from cloister.client.reconciliation import reconcile
from cloister.client.site import backup, sharing
from cloister.client.site.entries import Entries
from cloister.client.site.folder import SECRETS, SiteFolder
from cloister.privacy import snapshot
from cloister.privacy.consent import Decision
from cloister.privacy.dp import accounting
from cloister.privacy.errors import BudgetError, CloisterError, LogError
from cloister.privacy.vault import CLEAR
from tests.shared import (
    DELTA,
    ROUNDS,
    Unsigned,
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

HERE, THERE = plan_of(1), plan_of(2)


@pytest.fixture
def alone(tmp_path: Path) -> SiteFolder:
    """A folder that has its ledger to itself, and has worked."""
    site = SiteFolder.create(tmp_path / "site", "north")
    ledger(site).open_budget("notes", "record", 50.0, DELTA)
    work(site, HERE, 1)
    work(site, HERE, 2)
    return site


def work(site: SiteFolder, plan: Any, round_: int) -> None:
    """A whole round."""
    reservation = reserve(site, plan, round_)
    ledger(site).spend(reservation, [mechanism(plan)])
    ledger(site).release(reservation, "sha256:" + f"{round_:064x}")


def tamper(site: SiteFolder, statement: str) -> None:
    """Writes in the ledger as nobody may."""
    with closing(sqlite3.connect(sharing.place(site))) as database, database:
        for table in ("budgets", "entries"):
            for change in ("UPDATE", "DELETE"):
                database.execute(f"DROP TRIGGER {table}_{change}")
        database.execute(statement)


def found(site: SiteFolder) -> reconciliation.Difference:
    return reconciliation.compare(sharing.logged(site), ledger(site).budgets(), ledger(site).rows())


def reason(action: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        action()
    return caught.value.id


def test_a_ledger_that_is_what_the_log_says_is_left_alone(alone: SiteFolder) -> None:
    rows, events = ledger(alone).rows(), len(list(alone.log.entries()))
    assert found(alone) == reconciliation.Difference((), (), (), interrupted=False)
    assert reconcile(alone) == 0
    assert (ledger(alone).rows(), len(list(alone.log.entries()))) == (rows, events)


def test_charges_that_were_removed_are_made_again_as_they_were(alone: SiteFolder) -> None:
    before = [row for row in ledger(alone).rows() if row.kind == "reserved"]
    tamper(alone, "DELETE FROM entries WHERE round = 2")
    assert ledger(alone).epsilon("notes") == cost(1)
    difference = found(alone)
    assert [event.type for event in difference.charges] == ["budget.reserved"]
    assert [event.type for event in difference.notes] == ["budget.spent", "budget.released"]
    assert reconcile(alone) == 1
    after = [row for row in ledger(alone).rows() if row.kind == "reserved"]
    assert [(row.reservation, row.total, row.event) for row in after] == [
        (row.reservation, row.total, row.event) for row in before
    ]
    assert ledger(alone).epsilon("notes") == cost(2)
    assert [event.body["reason"] for event in said(alone, "incident.raised")] == ["ledger_behind"]
    assert reconcile(alone) == 0


def test_a_ledger_that_is_gone_comes_back_from_the_log_with_its_budgets(alone: SiteFolder) -> None:
    budgets = ledger(alone).budgets()
    (alone.path / "ledger.sqlite").unlink()
    assert reconcile(alone) == 3
    assert ledger(alone).budgets() == budgets
    assert ledger(alone).epsilon("notes") == cost(2)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET mechanism = replace(mechanism, '1', '2') WHERE kind = 'reserved' AND round = 1",
        "UPDATE entries SET total = total / 2 WHERE kind = 'spent' AND round = 2",
        "UPDATE entries SET round = 7 WHERE kind = 'released' AND round = 2",
        "UPDATE budgets SET epsilon = 80",
        "UPDATE budgets SET delta = 1e-4",
        "UPDATE budgets SET unit = 'person'",
    ],
)
def test_what_was_altered_is_found_and_nothing_goes_on(alone: SiteFolder, change: str) -> None:
    tamper(alone, change)
    rows = ledger(alone).rows()
    assert reason(lambda: reconcile(alone)) == "ledger_altered"
    assert ledger(alone).rows() == rows


def test_a_row_whose_event_was_hidden_is_found_by_the_attempt(alone: SiteFolder) -> None:
    tamper(alone, "UPDATE entries SET mechanism = replace(mechanism, '1', '2'), event = NULL WHERE seq = 1")
    assert found(alone).altered == ()
    assert reason(lambda: reconcile(alone)) == "ledger_altered"


def test_a_smaller_budget_is_no_alteration(alone: SiteFolder) -> None:
    """A restore exhausts a budget that the copy does not know, with terms of its own."""
    tamper(alone, "UPDATE budgets SET epsilon = 3")
    assert reconcile(alone) == 0


def test_a_crash_between_log_and_ledger_is_no_incident(
    alone: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Entries, "add", crash)
        reserve(alone, HERE, 3)
    assert ledger(alone).epsilon("notes") == cost(2)
    assert found(alone).interrupted
    assert reconcile(alone) == 1
    assert said(alone, "incident.raised") == []
    reserve(alone, HERE, 3)  # computed again, charged once
    assert ledger(alone).epsilon("notes") == cost(3)
    assert len(said(alone, "budget.reserved")) == 3


def test_logs_under_earlier_keys_count(alone: SiteFolder) -> None:
    retired = alone.path / "retired" / "0123456789abcdef"
    retired.mkdir(parents=True)
    (alone.path / "log").rename(retired / "log")
    (alone.path / "log").mkdir(mode=0o700)
    site = SiteFolder.open(alone.path)
    work(site, HERE, 3)
    assert reconcile(site) == 0
    tamper(site, "DELETE FROM entries WHERE round = 1")
    assert reconcile(site) == 1
    assert ledger(site).epsilon("notes") == cost(3)


def test_without_its_plan_a_lost_charge_cannot_be_made_again(alone: SiteFolder) -> None:
    tamper(alone, "DELETE FROM entries WHERE round = 1")
    shutil.rmtree(alone.path / "jobs")
    assert reason(lambda: reconcile(alone)) == "state_damaged"


# A ledger that several folders share


def test_whoever_finds_its_rows_gone_stops_everybody_until_all_have_looked(tmp_path: Path) -> None:
    owner, other = folders(tmp_path, budget=cost(4) * 1.0001)
    shutil.copy(owner.path / "ledger.sqlite", tmp_path / "old")
    work(owner, HERE, 1)
    work(other, THERE, 1)
    shutil.copy(tmp_path / "old", owner.path / "ledger.sqlite")
    assert reconcile(other) == 1
    assert doubtful(other) == ["north"]
    assert reason(lambda: reserve(other, THERE, 2)) == "ledger_behind"
    assert reconcile(owner) == 1
    assert doubtful(other) == []
    assert ledger(other).epsilon("notes") == cost(2)
    reserve(other, THERE, 2)
    reserve(owner, HERE, 2)
    assert reason(lambda: reserve(owner, HERE, 3)) == "budget_exceeded"


def test_rows_of_the_others_are_neither_missed_nor_held_to_this_log(tmp_path: Path) -> None:
    owner, other = folders(tmp_path)
    work(owner, HERE, 1)
    work(other, THERE, 1)
    for site in (owner, other):
        assert found(site) == reconciliation.Difference((), (), (), interrupted=False)
    tamper(owner, "UPDATE entries SET total = total / 2 WHERE job = '" + THERE.digest + "'")
    assert reconcile(owner) == 0, "the owner's log says nothing of it"
    assert reason(lambda: reconcile(other)) == "ledger_altered"


def test_an_agent_looks_again_when_another_folder_asks(tmp_path: Path) -> None:
    owner, other = folders(tmp_path)
    said_, agent = list[str](), Agent(owner, "", lambda line: said_.append(line))
    watch = SimpleNamespace(trouble=None)
    agent._turn(None, watch)  # type: ignore[arg-type]
    work(owner, HERE, 1)
    tamper(owner, "DELETE FROM entries")
    agent._turn(None, watch)  # type: ignore[arg-type]
    assert charged(owner) == [], "it looks at its start, and when it is asked"
    sharing.doubt(other)
    agent._turn(None, watch)  # type: ignore[arg-type]
    assert charged(owner) == [(HERE.digest, 1)]
    assert doubtful(owner) == ["north-in-europe"]
    assert said_[-1:] == ["1 charges stood in the event log only; they are in the ledger again."]


def test_an_agent_that_finds_itself_in_an_old_copy_says_so_in_the_ledger(tmp_path: Path) -> None:
    owner, other = folders(tmp_path)
    agent = Agent(owner, "", lambda _: None)

    class Old:
        def check(self) -> None:
            raise LogError("log_rolled_back", "Others hold a later head.")

    agent._heads = Old()  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(LogError):
            agent._may_begin(threading.Event())
    assert doubtful(other) == ["north", "north-in-europe"]
    assert reconcile(other) == 0
    with pytest.raises(BudgetError, check=lambda error: error.id == "ledger_behind"):
        reserve(other, THERE, 1)


def test_a_folder_that_has_left_its_consortium_is_compared_by_hand(tmp_path: Path) -> None:
    owner, other = folders(tmp_path)
    work(other, THERE, 1)
    (other.path / "membership.json").write_bytes(b"{}")
    sharing.doubt(owner)
    reconciliation.share(other, owner)
    assert doubtful(owner) == ["north", "north-in-europe"], "its agent can still compare it"
    other.log.append("site.withdrew", site="north", reason="withdrawn")
    reconciliation.share(other, owner)
    assert doubtful(owner) == ["north"]


class Hospital:
    """Two folders that share a ledger, their backups, and the truth about what has left under a reserve."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.sites = dict(zip("ab", folders(place, budget=cost(5) * 1.0001), strict=True))
        self.plans = {"a": [plan_of(1), plan_of(2)], "b": [plan_of(3), plan_of(4)]}
        self.proposed: dict[str, set[int]] = {"a": set(), "b": set()}
        self.backups: dict[str, dict[str, bytes]] = {}
        self.truth: set[tuple[str, int]] = set()
        for name in "ab":
            self.back_up(name)

    def approve(self, name: str, number: int) -> None:
        plan, site = self.plans[name][number], self.sites[name]
        self.proposed[name].add(number)
        job = keep(site, plan)
        if job.decision is None:
            Jobs(site)._decide(job, Decision(site="north", plan=plan.digest, approve=True))

    def train(self, name: str, number: int, round_: int) -> None:
        plan, site = self.plans[name][number], self.sites[name]
        if number not in self.proposed[name] or keep(site, plan).state != APPROVED:
            return
        try:
            reserve(site, plan, round_)
        except BudgetError:
            return
        self.truth.add((plan.digest, round_))

    def finish(self, name: str, number: int) -> None:
        if number in self.proposed[name]:
            job = keep(self.sites[name], self.plans[name][number])
            if job.state == APPROVED:
                job.close()

    def start(self, name: str) -> None:
        """An agent's start: the log is whole."""
        reconcile(self.sites[name])

    def back_up(self, name: str) -> None:
        site = self.sites[name]
        names = snapshot.names(site.path, backup.LEFT_OUT, backup.OF_JOBS)
        self.backups[name] = {one: snapshot.content(site.path, one, SECRETS, CLEAR) for one in names}
        self.backups[name][snapshot.LOG] = snapshot.whole_lines(site.path / snapshot.LOG)

    def restore(self, name: str) -> None:
        """What ``restoration.settle`` does, but for what it does with the lead."""
        path = self.sites[name].path
        shutil.rmtree(path)
        snapshot.unpack(path, self.backups[name], SECRETS, CLEAR)
        site = self.sites[name] = SiteFolder.open(path)
        restoration.doubt(site)
        plans = [self.plans[name][number] for number in self.proposed[name]]
        listed = restoration.listed(Jobs(site), [Proposal(plan, Unsigned()) for plan in plans])  # type: ignore[arg-type]
        restoration.account(site, listed)
        restoration.leave(Jobs(site), listed)

    def check(self) -> None:
        """Nothing has left beyond the budget; and once all agents have started, all is charged."""
        true = accounting.epsilon([mechanism(plan_of(0))] * len(self.truth), DELTA)
        assert true <= cost(5) * 1.0001
        if not doubtful(self.sites["a"]):
            assert self.truth <= set(charged(self.sites["a"]))


@contextmanager
def hospital() -> Iterator[Hospital]:
    place = Path(tempfile.mkdtemp(prefix="hospital"))
    try:
        yield Hospital(place)
    finally:
        shutil.rmtree(place)


NAMES, NUMBERS = st.sampled_from("ab"), st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("approve"), NAMES, NUMBERS),
        st.tuples(st.just("train"), NAMES, NUMBERS, st.integers(1, ROUNDS)),
        st.tuples(st.just("train"), NAMES, NUMBERS, st.integers(1, ROUNDS)),
        st.tuples(st.just("finish"), NAMES, NUMBERS),
        st.tuples(st.just("start"), NAMES),
        st.tuples(st.just("back_up"), NAMES),
        st.tuples(st.just("restore"), NAMES),
    ),
    min_size=5,
    max_size=25,
)


@pytest.mark.job
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_nothing_leaves_beyond_the_budget_whatever_is_restored(steps: list[tuple[Any, ...]]) -> None:
    with hospital() as site:
        for number in range(2):
            for name in "ab":
                site.approve(name, number)
        for name, *of in steps:
            getattr(site, name)(*of)
            site.check()


def test_without_the_doubt_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above can fail: the owner's ledger is put back, and the other's charges are lost in it."""
    with hospital() as site:
        site.approve("b", 0)
        for number in (1, 2, 3):
            site.train("b", 0, number)
        monkeypatch.setattr(restoration, "doubt", lambda _: None)
        monkeypatch.setattr(sharing, "doubt", lambda _: None)
        site.restore("a")
        site.approve("a", 0)
        for number in (1, 2, 3):
            site.train("a", 0, number)
        with pytest.raises(AssertionError):
            site.check()


def test_a_job_that_a_copy_knows_to_be_over_is_in_the_ledger_though_that_is_older(tmp_path: Path) -> None:
    """Both folders are put back, the ledger from before: what only the other copy's log has, it has again."""
    with hospital() as site:
        site.approve("b", 0)
        for number in (1, 2):
            site.train("b", 0, number)
        site.finish("b", 0)
        site.back_up("b")
        site.restore("a")
        site.restore("b")
        (job,) = (one for one in Jobs(site.sites["b"]) if one.state == DONE)
        assert set(charged(site.sites["a"])) >= {(job.plan.digest, 1), (job.plan.digest, 2)}
        site.start("a")
        site.check()
        assert doubtful(site.sites["b"]) == []
