"""Figures for TensorBoard and MLflow: what the log says and nothing else, in files of this machine."""

from __future__ import annotations

import importlib.util
import re
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from cloister.privacy import canonical
from cloister.privacy.errors import InputError, UsageError
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.vocabulary import FAMILIES
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.tracking import figures, local, tracking

JOB = canonical.digest(b"job")
LEDGER = {"dataset": "notes", "unit": "record", "epsilon": 0.5, "delta": 1e-5, "accountant": "rdp"}
CLOSED = {"model": JOB, "accepted": ["east", "north"], "refused": ["west"], "lost": []}


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog.open(tmp_path / "log", PrivateIdentity.generate("north", "site"))


def event(kind: str, round: int | None, **body: Any) -> Event:
    return Event("north", 3, "2026-01-31T12:00:00.000Z", kind, JOB, round, body, JOB)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (
            event("round.closed", 2, **CLOSED),
            {"sites/accepted": 2.0, "sites/refused": 1.0, "sites/lost": 0.0, "rounds/aborted": 0.0},
        ),
        (
            event("round.aborted", 2, reason="deadline", accepted=[], refused=[], lost=["east"]),
            {"sites/accepted": 0.0, "sites/refused": 0.0, "sites/lost": 1.0, "rounds/aborted": 1.0},
        ),
        (event("budget.reserved", 2, total=1.25), {"epsilon/charged": 1.25}),
        (event("update.sent", 2, bytes=60_000), {"bytes/sent": 60_000.0}),
        (event("budget.reserved", None, total=1.25), {}),
        (event("job.finished", None, model=JOB), {}),
    ],
)
def test_a_figure_is_a_number_of_an_event(said: Event, found: dict[str, float]) -> None:
    assert figures(said) == found


def test_every_other_event_gives_none() -> None:
    known = {"round.closed", "round.aborted", "budget.reserved", "update.sent"}
    assert known <= FAMILIES.keys()
    assert all(figures(event(kind, 1)) == {} for kind in FAMILIES.keys() - known)


@pytest.mark.parametrize(
    "folder", ["http://tracker", "https://h/x", "s3://bucket/x", "databricks", "file:///x"]
)
def test_an_address_is_no_folder(log: EventLog, folder: str) -> None:
    with pytest.raises(UsageError, match="no folder of this machine"):
        local(folder)
    assert local("runs/mine") == Path("runs/mine")


def test_nothing_is_loaded_where_none_is_asked_for(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with tracking(log, "north", print):
        log.append("round.opened", job=JOB, round=1, model=JOB, invited=["east"])


@pytest.mark.parametrize("tracker", ["mlflow", "tensorboard"])
def test_where_it_is_not_installed_the_error_says_how(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    for name in [name for name in sys.modules if name.startswith(f"{tracker}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError) as caught, tracking(log, "north", print, **{tracker: str(tmp_path)}):  # type: ignore[arg-type]
        pass
    assert (caught.value.id, "cloister[trackers]" in caught.value.do) == ("extra_missing", True)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whatever is looked for outside of this machine."""
    asked: list[Any] = []

    def refuse(*about: Any, **_: Any) -> Any:
        asked.append(about)
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def rounds(log: EventLog) -> None:
    for number in (1, 2):
        log.append("round.closed", job=JOB, round=number, **CLOSED)


def records(data: bytes) -> list[bytes]:
    """The records of a file of TensorBoard: length, its checksum, data, its checksum."""
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


@pytest.mark.skipif(not has("tensorboard"), reason="tensorboard, of the extra trackers, is not installed")
def test_tensorboard_reads_what_was_written(log: EventLog, tmp_path: Path, offline: list[Any]) -> None:
    from tensorboard.compat.proto import event_pb2

    log.append("round.closed", job=JOB, round=7, **CLOSED)  # before anybody looked on
    with tracking(log, "north", print, tensorboard=str(tmp_path / "runs")):
        rounds(log)
    (file,) = (tmp_path / "runs" / JOB[7:23]).iterdir()
    assert re.fullmatch(r"events\.out\.tfevents\.\d+\.cloister", file.name)  # and not the name of the machine
    first, *events = map(event_pb2.Event.FromString, records(file.read_bytes()))
    assert first.file_version == "brain.Event:2"
    shown = [(one.step, value.tag, value.simple_value) for one in events for value in one.summary.value]
    assert [(step, number) for step, tag, number in shown if tag == "sites/accepted"] == [(1, 2.0), (2, 2.0)]
    assert len(shown) == 8
    assert offline == []


@pytest.mark.skipif(not has("mlflow"), reason="MLflow, of the extra trackers, is not installed")
@pytest.mark.filterwarnings("default")
def test_mlflow_reads_what_was_written_and_goes_on_in_the_same_run(
    log: EventLog, tmp_path: Path, offline: list[Any]
) -> None:
    for _ in range(2):
        with tracking(log, "north", print, mlflow=str(tmp_path / "runs")):
            rounds(log)
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())
    found = client.get_experiment_by_name("north")
    (run,) = client.search_runs([found.experiment_id])
    assert run.info.run_name == JOB[7:23]
    assert [one.step for one in client.get_metric_history(run.info.run_id, "sites/accepted")] == [1, 2, 1, 2]
    assert offline == []


@pytest.mark.skipif(not has("tensorboard"), reason="tensorboard, of the extra trackers, is not installed")
def test_a_tracker_that_cannot_write_says_so_once_and_ends_nothing(log: EventLog, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file stands in the way")
    said: list[str] = []
    with tracking(log, "north", said.append, tensorboard=str(tmp_path / "runs")):
        rounds(log)
    assert len(said) == 1
    assert said[0].startswith("TensorBoard gets no more figures: ")


def test_nothing_heavy_is_loaded_with_it() -> None:
    """A lead may have torch beside it and must not load it."""
    if not has("tensorboard"):
        pytest.skip("tensorboard, of the extra trackers, is not installed")
    import subprocess

    code = (
        "import sys; from pathlib import Path; from cloister.privacy.tracking import TensorBoard; "
        "TensorBoard(Path('.')); assert not {'torch', 'tensorflow'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
