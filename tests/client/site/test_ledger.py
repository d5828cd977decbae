"""The ledger of a site, on real files; processes that die or compete are real processes."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.client.site import database
from cloister.client.site.ledger import Ledger
from cloister.privacy import canonical
from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError, LogError, StateError
from cloister.privacy.evidence import events
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity

JOB = canonical.digest(b"a plan")
OTHER_JOB = canonical.digest(b"another plan")
RESULT = canonical.digest(b"sealed bytes")
STEPS = GaussianSteps(2.0, 0.1, 20)
DELTA = 1e-5


@dataclass(frozen=True)
class Written:
    hash: str


@dataclass
class MemoryLog:
    """An event log without a file that refuses what the real one refuses."""

    entries: list[dict] = field(default_factory=list)
    broken: bool = False

    def append(self, type, *, job=None, round=None, **fields):
        if self.broken:
            raise LogError("log_unwritable", "The log cannot be written.")
        events.check(type, job, round, fields)
        self.entries.append({"type": type, "job": job, "round": round, **fields})
        return Written(canonical.digest_of([len(self.entries), type]))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


def opened(path, log=None, epsilon=3.0):
    ledger = Ledger(path, log)
    ledger.open_budget("cohort", "person", epsilon, DELTA)
    return ledger


def refused(reason):
    return pytest.raises(BudgetError, check=lambda error: error.id == reason)


def test_what_was_committed_while_the_ledger_is_held_open_outlives_a_killed_process(path, tmp_path):
    ledger, copy = opened(path), tmp_path / "left behind"
    copy.mkdir()
    log = path.with_name(f"{path.name}-wal")
    with ledger.held():
        for number in range(1, 4):
            ledger.reserve("cohort", JOB, number, 1, replace(STEPS, noise_multiplier=20.0))
        for file in (path, log):  # what SIGKILL leaves; the third file is memory that they share
            shutil.copy(file, copy)
        rows = ledger.rows()
    assert not log.exists()
    assert len(rows) == 3
    assert Ledger(copy / path.name).rows() == Ledger(path).rows() == rows


def test_a_round_is_reserved_spent_and_released(path):
    ledger = opened(path)
    reservation = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    ledger.spend(reservation, [replace(STEPS, steps=1)] * 20)
    ledger.release(reservation, RESULT)
    rows = ledger.rows()
    assert [row.kind for row in rows] == ["reserved", "spent", "released"]
    assert [row.seq for row in rows] == [1, 2, 3]
    assert {row.reservation for row in rows} == {reservation}
    assert [row.result for row in rows] == [None, None, RESULT]
    assert {row.total for row in rows} == {accounting.epsilon([STEPS], DELTA), ledger.epsilon("cohort")}


def test_rounds_compose_over_jobs_and_restarts(path):
    opened(path).reserve("cohort", JOB, 1, 1, STEPS)
    opened(path).reserve("cohort", OTHER_JOB, 1, 1, STEPS)
    ledger = opened(path)
    assert ledger.epsilon("cohort") == accounting.epsilon([STEPS, STEPS], DELTA)
    assert ledger.epsilon("cohort") < 2 * accounting.epsilon([STEPS], DELTA)


def test_the_newest_row_is_that_of_one_job_on_one_dataset(path):
    ledger = opened(path)
    assert ledger.newest("cohort", JOB) is None
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    second = ledger.reserve("cohort", JOB, 2, 1, STEPS)
    ledger.reserve("cohort", OTHER_JOB, 1, 1, STEPS)
    assert ledger.newest("cohort", JOB) == ledger.rows("cohort")[1]
    assert ledger.newest("cohort", JOB).reservation == second
    assert ledger.newest("registry", JOB) is None


def test_datasets_have_their_own_account(path):
    ledger = opened(path)
    ledger.open_budget("registry", "record", 1.0, 1e-6)
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    assert ledger.epsilon("registry") == 0
    assert ledger.rows("registry") == ()
    assert [budget.dataset for budget in ledger.budgets()] == ["cohort", "registry"]


def test_the_refusal_names_the_sum_that_would_be_reached(path):
    ledger = opened(path)
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    before = ledger.rows()
    more = GaussianSteps(2.0, 0.1, 400)
    total = accounting.epsilon([STEPS, more], DELTA)
    with refused("budget_exceeded") as refusal:
        ledger.reserve("cohort", JOB, 2, 1, more)
    assert f"would reach epsilon {total + 0.005:.2f} of 3.00 at delta 1e-05" in refusal.value.what
    assert ledger.rows() == before
    ledger.reserve("cohort", JOB, 2, 1, STEPS)  # less still fits


def test_a_sum_just_above_the_limit_does_not_read_like_the_limit(path):
    exact = accounting.epsilon([STEPS], DELTA)
    ledger = opened(path, epsilon=exact - 1e-7)
    with refused("budget_exceeded") as refusal:
        ledger.reserve("cohort", JOB, 1, 1, STEPS)
    shown, limit = refusal.value.what.split("epsilon ")[1].split(" at")[0].split(" of ")
    assert float(shown) > float(limit)


def test_the_budget_itself_may_be_reached(path):
    ledger = opened(path, epsilon=accounting.epsilon([STEPS], DELTA))
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    with refused("budget_exceeded"):
        ledger.reserve("cohort", JOB, 2, 1, replace(STEPS, steps=1))


def test_the_same_attempt_is_charged_once(path):
    ledger = opened(path)
    first = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    ledger.spend(first, [STEPS])
    assert ledger.reserve("cohort", JOB, 1, 1, STEPS) == first
    ledger.spend(first, [STEPS])
    ledger.release(first, RESULT)
    ledger.release(first, RESULT)
    assert len(ledger.rows()) == 3


def test_the_same_attempt_with_another_mechanism_is_refused(path):
    ledger = opened(path)
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    with refused("reservation_conflict"):
        ledger.reserve("cohort", JOB, 1, 1, replace(STEPS, noise_multiplier=4.0))


def test_another_attempt_costs_anew(path):
    ledger = opened(path)
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    ledger.reserve("cohort", JOB, 1, 2, STEPS)
    assert ledger.epsilon("cohort") == accounting.epsilon([STEPS, STEPS], DELTA)


@pytest.mark.parametrize(
    "done",
    [[], [replace(STEPS, steps=19)], [replace(STEPS, steps=21)], [replace(STEPS, noise_multiplier=9.0)]],
)
def test_what_is_spent_must_be_what_was_reserved(path, done):
    ledger = opened(path)
    reservation = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    with refused("reservation_conflict"):
        ledger.spend(reservation, done)
    assert [row.kind for row in ledger.rows()] == ["reserved"]


def test_an_unknown_reservation_cannot_be_spent_or_released(path):
    ledger = opened(path)
    reservation = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    stranger = replace(reservation, round=2)
    changed = replace(reservation, mechanism=replace(STEPS, noise_multiplier=9.0))
    for wrong in (stranger, changed):
        with refused("reservation_unknown"):
            ledger.spend(wrong, [wrong.mechanism])
        with refused("reservation_unknown"):
            ledger.release(wrong, RESULT)


def test_an_attempt_releases_one_result_and_only_when_spent(path):
    ledger = opened(path)
    reservation = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    with refused("reservation_conflict"):
        ledger.release(reservation, RESULT)
    ledger.spend(reservation, [STEPS])
    ledger.release(reservation, RESULT)
    with refused("reservation_conflict"):
        ledger.release(reservation, canonical.digest(b"fresh noise on the same round"))


def test_shared_noise_is_settled_once_at_no_more_than_was_reserved(path):
    log = MemoryLog()
    ledger = opened(path, log)
    reserved = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    ledger.release(reserved, RESULT, shared=True)
    more_noise = replace(STEPS, noise_multiplier=2.5)
    ledger.settle(reserved, more_noise)
    ledger.settle(reserved, STEPS)
    kinds = [(row.kind, row.reservation.mechanism) for row in ledger.rows()]
    assert kinds == [("reserved", STEPS), ("released", STEPS), ("spent", more_noise)]
    assert ledger.epsilon("cohort") == accounting.epsilon([STEPS], DELTA), "nothing is given back"
    charged = [entry for entry in log.entries if entry["type"].startswith("budget.")][1:]
    assert len({entry["reservation"] for entry in charged}) == 1, "one name ties the three together"
    assert charged[2]["epsilon"] < charged[0]["epsilon"]


def test_a_charge_says_what_the_ledger_stood_at_before_over_all_jobs(path):
    """Nothing of another job is told but the sum, and none of it by what is not a charge."""
    log = MemoryLog()
    ledger = opened(path, log, epsilon=20.0)
    other = canonical.digest(b"another job")
    totals = [0.0]
    for job, number in ((other, 1), (JOB, 1), (other, 2), (JOB, 2)):
        reservation = ledger.reserve("cohort", job, number, 1, STEPS)
        ledger.spend(reservation, [STEPS])
        totals.append(ledger.epsilon("cohort"))
    charges = [entry for entry in log.entries if entry["type"] == "budget.reserved"]
    assert [entry["before"] for entry in charges] == totals[:-1]
    assert [entry["total"] for entry in charges] == totals[1:]
    assert not [entry for entry in log.entries if entry["type"] == "budget.spent" and "before" in entry]


@pytest.mark.parametrize(
    "more",
    [
        replace(STEPS, noise_multiplier=1.9),
        replace(STEPS, rate=0.05),
        replace(STEPS, steps=19),
    ],
)
def test_shared_noise_never_comes_to_more_than_was_reserved(path, more):
    ledger = opened(path)
    reserved = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    with pytest.raises(BudgetError) as caught:
        ledger.settle(reserved, more)
    assert caught.value.id == "reservation_conflict"
    assert len(ledger.rows()) == 1


def test_without_a_budget_nothing_is_charged(path):
    ledger = Ledger(path)
    with refused("budget_missing"):
        ledger.reserve("cohort", JOB, 1, 1, STEPS)
    with refused("budget_missing"):
        ledger.epsilon("cohort")
    assert ledger.rows() == ()


@pytest.mark.parametrize("terms", [("person", 4.0, DELTA), ("record", 3.0, DELTA), ("person", 3.0, 1e-6)])
def test_a_budget_is_set_once(path, terms):
    ledger = opened(path)
    with refused("budget_conflict"):
        ledger.open_budget("cohort", *terms)
    assert ledger.budgets() == (ledger.open_budget("cohort", "person", 3.0, DELTA),)


@pytest.mark.parametrize("terms", [("family", 3.0, DELTA), ("person", 0.0, DELTA), ("person", 3.0, 1.0)])
def test_terms_that_are_no_budget_are_refused(path, terms):
    with refused("budget_conflict"):
        Ledger(path).open_budget("cohort", *terms)


def test_every_row_carries_the_hash_of_its_event(path):
    log = MemoryLog()
    ledger = opened(path, log)
    opened(path, log)
    reservation = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    ledger.spend(reservation, [STEPS])
    ledger.release(reservation, RESULT)
    with refused("budget_exceeded"):
        ledger.reserve("cohort", JOB, 2, 1, replace(STEPS, steps=1000))
    kinds = ["opened", "reserved", "spent", "released", "refused"]
    assert [entry["type"] for entry in log.entries] == [f"budget.{kind}" for kind in kinds]
    hashes = [canonical.digest_of([i, f"budget.{kind}"]) for i, kind in enumerate(kinds, start=1)]
    assert [row.event for row in ledger.rows()] == hashes[1:4]
    assert {entry["reservation"] for entry in log.entries[1:4]} == {reservation.digest}
    assert log.entries[1]["total"] == ledger.epsilon("cohort")
    assert log.entries[4]["limit"] == 3.0
    assert log.entries[4]["epsilon"] > 3.0


def test_the_site_s_own_log_takes_the_events(tmp_path, path):
    log = EventLog.open(tmp_path / "log", PrivateIdentity.generate("north", "site"))
    ledger = opened(path, log)
    reservation = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    ledger.spend(reservation, [STEPS])
    ledger.release(reservation, RESULT)
    with refused("budget_exceeded"):
        ledger.reserve("cohort", JOB, 2, 1, replace(STEPS, steps=1000))
    files = [file.read_bytes() for file in (tmp_path / "log").rglob("*") if file.is_file()]
    lines = [line for line in b"\n".join(files).split(b"\n") if b'"ts"' in line]
    types = {canonical.digest(line): json.loads(line)["type"] for line in lines}
    assert [types[row.event] for row in ledger.rows()] == [f"budget.{row.kind}" for row in ledger.rows()]
    assert "budget.refused" in types.values()


def test_what_cannot_be_logged_does_not_happen(path):
    log = MemoryLog()
    ledger = opened(path, log)
    log.broken = True
    with pytest.raises(LogError):
        ledger.reserve("cohort", JOB, 1, 1, STEPS)
    log.broken = False
    assert ledger.epsilon("cohort") == 0
    ledger.reserve("cohort", JOB, 1, 1, STEPS)


@pytest.mark.parametrize("table", ["budgets", "entries"])
@pytest.mark.parametrize("change", ["UPDATE {} SET dataset = 'x'", "DELETE FROM {}"])
def test_the_database_itself_refuses_changes(path, table, change):
    ledger = opened(path)
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        connection.execute(change.format(table))
    connection.close()


def test_the_ledger_is_written_ahead_with_full_syncs(path):
    opened(path)
    with database.reading(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert path.stat().st_mode & 0o077 == 0


def test_a_full_disk_has_a_name_and_changes_nothing(path, monkeypatch):
    ledger = opened(path)
    ledger.reserve("cohort", JOB, 1, 1, STEPS)
    connect = sqlite3.connect

    def cramped(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    with monkeypatch.context() as patch, pytest.raises(StateError) as failure:
        patch.setattr(sqlite3, "connect", cramped)
        for round_ in range(2, 100):
            ledger.reserve("cohort", JOB, round_, 1, GaussianSteps(1e6, 0.1, 1))
    assert failure.value.id == "disk_full"
    kept = len(ledger.rows())
    assert kept < 99
    ledger.reserve("cohort", JOB, kept + 1, 1, GaussianSteps(1e6, 0.1, 1))
    assert len(ledger.rows()) == kept + 1


def test_a_locked_database_has_a_name(path, monkeypatch):
    ledger = opened(path)
    monkeypatch.setattr(database, "WAIT_S", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError) as failure:
        ledger.reserve("cohort", JOB, 1, 1, STEPS)
    holder.close()
    assert failure.value.id == "state_locked"
    ledger.reserve("cohort", JOB, 1, 1, STEPS)


def test_what_is_no_ledger_has_a_name(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(StateError, check=lambda error: error.id == "state_damaged"):
        Ledger(tmp_path / "text")
    with pytest.raises(StateError, check=lambda error: error.id == "state_unwritable"):
        Ledger(tmp_path / "missing" / "ledger.db")
    newer = sqlite3.connect(tmp_path / "newer")
    newer.execute("PRAGMA user_version = 3")
    newer.close()
    with pytest.raises(StateError, match="version 3"):
        Ledger(tmp_path / "newer")


MECHANISMS = st.builds(
    GaussianSteps, st.sampled_from([1.5, 4.0]), st.sampled_from([0.1, 1.0]), st.integers(1, 9)
)
CALLS = st.tuples(
    st.sampled_from(["reserve", "spend", "release", "restart"]),
    st.integers(1, 3),
    st.integers(1, 2),
    MECHANISMS,
)


@given(st.lists(CALLS, max_size=14))
@settings(max_examples=8, deadline=None)
def test_the_total_never_goes_down_nor_over_the_budget(calls):
    with tempfile.TemporaryDirectory() as folder:
        ledger = opened(Path(folder) / "ledger.db")
        standing = {}
        for call, round_, attempt, mechanism in calls:
            before, rows = ledger.epsilon("cohort"), ledger.rows()
            reservation = standing.get((round_, attempt))
            try:
                if call == "restart":
                    ledger = opened(Path(folder) / "ledger.db")
                elif call == "reserve":
                    made = ledger.reserve("cohort", JOB, round_, attempt, mechanism)
                    standing[round_, attempt] = made
                elif reservation and call == "spend":
                    ledger.spend(reservation, [reservation.mechanism])
                elif reservation:
                    ledger.release(reservation, RESULT)
            except BudgetError:
                assert ledger.rows() == rows
            assert before <= ledger.epsilon("cohort") <= 3.0
            assert ledger.rows()[: len(rows)] == rows
        charged = [reservation.mechanism for reservation in standing.values()]
        assert ledger.epsilon("cohort") == accounting.epsilon(charged, DELTA)


PRELUDE = f"""
import os, signal, sys
from pathlib import Path
from cloister.client.site.ledger import Ledger
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError
ledger = Ledger(Path(sys.argv[1]))
ledger.open_budget("cohort", "person", 3.0, {DELTA})
steps = {STEPS!r}
"""


def run(code, path, *args):
    command = [sys.executable, "-c", PRELUDE + code, str(path), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_process_killed_before_it_spends_leaves_its_reserve(path):
    code = f"ledger.reserve('cohort', {JOB!r}, 1, 1, steps)\nos.kill(os.getpid(), signal.SIGKILL)"
    killed = run(code, path)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    ledger = opened(path)
    assert [row.kind for row in ledger.rows()] == ["reserved"]
    assert ledger.epsilon("cohort") == accounting.epsilon([STEPS], DELTA)
    reservation = ledger.reserve("cohort", JOB, 1, 1, STEPS)
    ledger.spend(reservation, [STEPS])
    assert ledger.epsilon("cohort") == accounting.epsilon([STEPS], DELTA)


@pytest.mark.slow
def test_processes_that_compete_cannot_spend_a_budget_twice(path):
    code = """
job, made = "sha256:" + sys.argv[2] * 64, 0
for number in range(1, 40):
    try:
        ledger.reserve("cohort", job, number, 1, steps)
        made += 1
    except BudgetError as refusal:
        print(made, refusal.id)
        break
"""
    processes = [run(code, path, name) for name in "abc"]
    answers = [process.communicate()[0].split() for process in processes]
    assert {answer[1] for answer in answers} == {"budget_exceeded"}
    ledger = opened(path)
    made = sum(int(answer[0]) for answer in answers)
    assert len(ledger.rows()) == made
    assert accounting.epsilon([STEPS] * made, DELTA) == ledger.epsilon("cohort") <= 3.0
    assert accounting.would_exceed([STEPS] * (made + 1), DELTA, 3.0)


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing_that_was_answered(path):
    code = f"""
for number in range(1, 1000):
    ledger.reserve("cohort", {JOB!r}, number, 1, GaussianSteps(1e5, 0.1, 1))
    print(number, flush=True)
"""
    writer = run(code, path)
    for _ in range(5):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    answered = 5 + len(writer.communicate()[0].split())
    kept = [row.reservation.round for row in opened(path).rows()]
    assert kept == list(range(1, len(kept) + 1))
    assert answered <= len(kept) <= answered + 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="handles are counted where Linux lists them")
def test_handles_do_not_grow_while_the_file_is_held(path):
    ledger = Ledger(path)
    ledger.open_budget("notes", "record", 8.0, 1e-5)
    with ledger.held():
        ledger.epsilon("notes")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(50):
            ledger.epsilon("notes")
        assert len(list(Path("/proc/self/fd").iterdir())) <= before
