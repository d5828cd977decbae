"""What a process writes that keeps a log: gaps, heartbeats, and the clock of its machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import software, timekeeping
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.keeping import BEAT_S, Keeping
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.timekeeping import ClockState, span, told

KEYS = PrivateIdentity.generate("north", "site")
GOOD = ClockState("synchronised", "service", "100ms")
JOB = "sha256:" + "ab" * 32


class Machine:
    """A machine whose clocks and processes do what a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wall, self.steady = folder, datetime(2026, 1, 31, 12, tzinfo=UTC), 1000.0
        self.state, self.busy = GOOD, False

    def start(self) -> tuple[EventLog, Keeping]:
        """A process that opens the log and comes."""
        log = EventLog.open(self.folder / "log", KEYS, clock=lambda: self.wall)
        keeping = Keeping(log, lambda: self.busy, lambda: self.state, lambda: self.wall, lambda: self.steady)
        return log, keeping

    def passes(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.steady += seconds


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def told_by(log: EventLog) -> list[tuple[str, dict[str, Any]]]:
    return [(event.type, dict(event.body)) for event in log.entries()][1:]


START = ("clock.status", {"occasion": "start", **GOOD.fields()})


def gap(reason: str, lasted: str) -> tuple[str, dict[str, str]]:
    return ("log.gap", {"reason": reason, "lasted": lasted})


def test_the_first_process_tells_of_its_clock_and_of_no_gap(machine: Machine) -> None:
    log, keeping = machine.start()
    keeping.come()
    assert told_by(log) == [START]


@pytest.mark.parametrize(
    ("away", "lasted"), [(5, "seconds"), (600, "minutes"), (8000, "hours"), (1e6, "days")]
)
def test_a_process_that_ended_as_it_should_leaves_a_restart(
    machine: Machine, away: float, lasted: str
) -> None:
    log, keeping = machine.start()
    keeping.come()
    keeping.leave()
    machine.passes(away)
    log, keeping = machine.start()
    keeping.come()
    assert told_by(log) == [START, ("log.stopped", {}), gap("restart", lasted), START]


def test_a_process_that_was_killed_leaves_an_unclean_stop(machine: Machine) -> None:
    log, keeping = machine.start()
    keeping.come()
    keeping.begin(JOB)
    machine.passes(7200)
    log, keeping = machine.start()
    machine.passes(60)  # while it connects
    log.append("channel.refused", route="consortium", reason="refused")
    keeping.come()
    assert told_by(log)[4:] == [gap("unclean", "hours"), START]
    assert told_by(log)[1] == ("clock.status", {"occasion": "job", **GOOD.fields()})
    assert told_by(log)[2] == ("software.recorded", software.running().fields())


def test_a_gap_is_as_long_as_the_clock_says_although_it_was_set_back(machine: Machine) -> None:
    log, keeping = machine.start()
    keeping.come()
    machine.wall -= timedelta(days=400)
    log, keeping = machine.start()
    keeping.come()
    stepped = ("clock.stepped", {"way": "back", "by": "days"})
    assert told_by(log) == [START, stepped, gap("unclean", "days"), START]


def test_a_log_under_new_keys_goes_on_after_a_gap(machine: Machine) -> None:
    EventLog.open(machine.folder / "log", KEYS, clock=lambda: machine.wall, previous=JOB)
    machine.passes(120)
    log, keeping = machine.start()
    keeping.come()
    assert told_by(log) == [gap("restart", "minutes"), START]


def test_silence_while_a_job_runs_is_a_heartbeat(machine: Machine) -> None:
    log, keeping = machine.start()
    keeping.come()
    for _ in range(int(BEAT_S) + 20):
        machine.passes(1)
        keeping.look()
    assert told_by(log) == [START]  # nothing runs
    machine.busy = True
    for _ in range(2 * int(BEAT_S)):
        machine.passes(1)
        keeping.look()
    assert told_by(log) == [START] + [("log.heartbeat", {})] * 2


def test_a_machine_that_slept_leaves_a_gap(machine: Machine) -> None:
    log, keeping = machine.start()
    keeping.come()
    machine.passes(4000)
    keeping.look()
    keeping.look()
    assert told_by(log) == [START, gap("paused", "hours")]


def forward(machine: Machine) -> None:
    machine.wall += timedelta(hours=2)


def back(machine: Machine) -> None:
    machine.wall -= timedelta(minutes=2)


def slewed(machine: Machine) -> None:
    machine.wall += timedelta(seconds=0.5)


def lost(machine: Machine) -> None:
    machine.state = ClockState("not-synchronised", "none", "unknown")


def wider(machine: Machine) -> None:
    machine.state = ClockState("synchronised", "service", "1s")


def test_a_clock_that_was_set_back_is_told_once_though_log_and_process_notice_it(machine: Machine) -> None:
    log, keeping = machine.start()
    keeping.come()
    machine.passes(200)
    keeping.look()
    log.append("log.heartbeat")
    back(machine)
    log.append("log.heartbeat")
    machine.passes(8)
    keeping.look()
    assert [kind for kind, _ in told_by(log)[1:]] == ["log.heartbeat", "clock.stepped", "log.heartbeat"]
    machine.passes(300)
    keeping.look()
    back(machine)  # a second time, and nothing is written before the process looks
    machine.passes(8)
    keeping.look()
    assert [kind for kind, _ in told_by(log)[4:]] == ["clock.stepped"]


@pytest.mark.parametrize(
    ("change", "written"),
    [
        (forward, [("clock.stepped", {"way": "forward", "by": "hours"})]),
        (back, [("clock.stepped", {"way": "back", "by": "minutes"})]),
        (slewed, []),
        (lost, [("clock.status", {"occasion": "change", "error": "unknown", "state": "not-synchronised"})]),
        (wider, []),
    ],
)
def test_a_clock_that_changes_is_written_down(
    machine: Machine, change: Callable[[Machine], None], written: list[tuple[str, dict[str, str]]]
) -> None:
    log, keeping = machine.start()
    keeping.come()
    machine.passes(200)
    keeping.look()
    change(machine)
    keeping.look()
    keeping.look()
    found = [(kind, {k: v for k, v in body.items() if k != "source"}) for kind, body in told_by(log)[1:]]
    assert found == written


def test_a_log_that_cannot_be_written_ends_the_thread(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, keeping = machine.start()
    monkeypatch.setattr("cloister.privacy.evidence.keeping.LOOK_S", 0.0)
    (log.folder / "events.jsonl").unlink()
    machine.busy = True
    machine.passes(2000)
    keeping.start()
    keeping.join(30)
    assert not keeping.is_alive()
    assert keeping.failure is not None
    assert keeping.failure.id == "log_unwritable"


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (0x2001, 5_000, ClockState("synchronised", "service", "10ms")),
        (0x0001, 500_000, ClockState("synchronised", "service", "1s")),
        (0x0100, 10_000_001, ClockState("synchronised", "pulse", "more")),
        (0x0040, 16_000_000, ClockState("not-synchronised", "none", "unknown")),
        (0x0041, 1, ClockState("not-synchronised", "none", "unknown")),
    ],
)
def test_what_status_bits_say(status: int, error: int, said: ClockState) -> None:
    assert told(status, error) == said


def test_the_kernel_of_this_machine_says_something_that_an_event_may_hold(machine: Machine) -> None:
    log, _ = machine.start()
    log.append("clock.status", occasion="job", job=JOB, **timekeeping.state().fields())
    (event,) = [event for event in log.entries() if event.type == "clock.status"]
    assert isinstance(event, Event)


def test_spans() -> None:
    assert [span(s) for s in (0, -59.9, 60, 3599, 3600, 86_399, 86_400, -1e9)] == [
        *("seconds", "seconds", "minutes", "minutes", "hours", "hours", "days", "days")
    ]
