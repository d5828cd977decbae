"""What machines read: each line one object, every event of the log, nothing of other libraries' texts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloister.privacy import canonical
from cloister.privacy.errors import LogError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.journal import Journal, line
from tests.known import party

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
JOB = canonical.digest(b"plan")


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog.open(tmp_path / "log", party("north"))


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """The loggers of this process as they were."""
    before = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = before


def test_a_sentence_is_an_object_with_the_id_of_its_error() -> None:
    assert json.loads(line("All is well.", NOON)) == {
        "level": "info",
        "text": "All is well.",
        "time": "2026-01-02T12:00:00.000Z",
    }
    found = json.loads(line("It does not answer. Try later. [unreachable] It goes on.", NOON))
    assert (found["level"], found["error"]) == ("warning", "unreachable")


def test_people_get_the_sentences_and_no_events(log: EventLog) -> None:
    lines: list[str] = []
    with Journal(lines.append, log, machine=False) as journal:
        journal.say("north is up")
        log.append("job.finished", job=JOB, model=JOB, rounds=2)
    assert lines == ["north is up"]


def test_machines_get_every_new_event_once_and_in_order(log: EventLog) -> None:
    log.append("job.started", job=JOB, model=JOB, code=JOB)  # before this process began
    lines: list[str] = []
    with Journal(lines.append, log, machine=True) as journal:
        for number in range(1, 5):
            log.append(
                "round.aborted", job=JOB, round=number, reason="stopped", accepted=[], refused=[], lost=[]
            )
        journal.say("done")
    found = [json.loads(one) for one in lines]
    events = [one["event"] for one in found if "event" in one]
    assert [(one["type"], one["round"], one["job"]) for one in events] == [
        ("round.aborted", number, JOB) for number in range(1, 5)
    ]
    assert [one["seq"] for one in events] == sorted({one["seq"] for one in events})
    assert events[0]["body"]["reason"] == "stopped"
    assert [one["text"] for one in found if "text" in one] == ["done"]


def test_of_other_libraries_only_level_and_logger_pass(log: EventLog) -> None:
    lines: list[str] = []
    with Journal(lines.append, log, machine=True):
        logging.getLogger("elsewhere.files").warning("cannot read /patients/anna.csv")
        logging.getLogger("cloister.client.node").warning("It does not answer. [unreachable]")
    theirs, ours = (json.loads(one) for one in lines if "logger" in one)
    assert theirs.keys() == {"level", "logger", "time"}
    assert (theirs["level"], theirs["logger"]) == ("warning", "elsewhere.files")
    assert (ours["text"], ours["error"]) == ("It does not answer. [unreachable]", "unreachable")


def test_a_log_that_cannot_be_read_for_a_while_is_said_once_and_no_event_is_lost(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def unreadable(_: int) -> object:
        raise LogError("log_unwritable", "It cannot be read.")

    with Journal(lines.append, log, machine=True) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(log, "since", unreadable)
            journal._show()
            journal._show()
        log.append("job.finished", job=JOB, model=JOB, rounds=2)
    found = [json.loads(one) for one in lines]
    assert [one.get("error") for one in found if "text" in one] == ["log_unwritable"]
    assert [one["event"]["type"] for one in found if "event" in one][-1] == "job.finished"
