"""Figures of running jobs for TensorBoard and MLflow: files in a folder of this machine, off by default.

They are read from the party's event log as it is written, so they show nothing that the log, and the lines
for machines (``journal``), do not say already: sites per round, bytes, the epsilon that the ledger charged.
No loss, norm, batch size or accuracy is in the log, and so none is here. Nothing is sent: MLflow is given a
folder and told to send no telemetry, and an address in the place of a folder is refused.

A tracker is for people who look on. One that cannot write any longer says so once, and the job goes on.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cloister.privacy.errors import CloisterError, InputError, UsageError
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.log import EventLog

_LOOK_S = 0.5
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # else a folder is refused in favour of a database
}


def figures(event: Event) -> dict[str, float]:
    """What an event of the log says in numbers over rounds: name -> value; {} for most."""
    if event.job is None or event.round is None:
        return {}
    if event.type in ("round.closed", "round.aborted"):
        found = {f"sites/{what}": float(_count(event, what)) for what in ("accepted", "refused", "lost")}
        return found | {"rounds/aborted": float(event.type == "round.aborted")}
    if event.type == "budget.reserved":
        return {"epsilon/charged": _number(event, "total")}
    if event.type == "update.sent":
        return {"bytes/sent": _number(event, "bytes")}
    return {}


def _count(event: Event, field: str) -> int:
    named: Any = event.body.get(field, ())
    return len(named)


def _number(event: Event, field: str) -> float:
    value: Any = event.body[field]
    return float(value)


class Tracker(Protocol):
    """Where figures are written."""

    def put(self, event: Event, named: dict[str, float]) -> None:
        """Writes the figures of one event; raises ``OSError`` where it cannot."""

    def close(self) -> None:
        """Ends its files."""


class TensorBoard:
    """One folder of TensorBoard's event files a job, without this machine's name in theirs.

    Raises:
        InputError: ``extra_missing``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._writers = folder, dict[str, Any]()
        self._records = _library("tensorboard.summary.writer.record_writer", "TensorBoard")
        self._proto = _library("tensorboard.compat.proto.event_pb2", "TensorBoard")

    def put(self, event: Event, named: dict[str, float]) -> None:
        """See ``Tracker``."""
        job = str(event.job)[7:23]
        if job not in self._writers:
            place = self._folder / job
            place.mkdir(parents=True, exist_ok=True)
            file = (place / f"events.out.tfevents.{time.time_ns()}.cloister").open("xb")
            self._writers[job] = self._records.RecordWriter(file)
            self._write(job, self._proto.Event(wall_time=_seconds(event), file_version="brain.Event:2"))
        for name, value in named.items():
            found = self._proto.Event(wall_time=_seconds(event), step=event.round or 0)
            found.summary.value.add(tag=name, simple_value=value)
            self._write(job, found)
        self._writers[job].flush()

    def _write(self, job: str, found: Any) -> None:
        self._writers[job].write(found.SerializeToString())

    def close(self) -> None:
        """See ``Tracker``."""
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """One run a job, in MLflow's store of plain files.

    Raises:
        InputError: ``extra_missing``.
    """

    def __init__(self, folder: Path, party: str) -> None:
        os.environ.update(_QUIET)  # read when it is loaded
        self._client = _library("mlflow", "MLflow").MlflowClient(tracking_uri=folder.resolve().as_uri())
        found = self._client.get_experiment_by_name(party)
        self._experiment = found.experiment_id if found else self._client.create_experiment(party)
        self._runs: dict[str, str] = {}

    def put(self, event: Event, named: dict[str, float]) -> None:
        """See ``Tracker``."""
        run, at = self._run(str(event.job)[7:23]), int(_seconds(event) * 1000)
        for name, value in named.items():
            self._client.log_metric(run, name, value, timestamp=at, step=event.round)

    def _run(self, job: str) -> str:
        if job not in self._runs:
            known = self._client.search_runs([self._experiment], f"attributes.run_name = '{job}'")
            made = known[0] if known else self._client.create_run(self._experiment, run_name=job)
            self._runs[job] = str(made.info.run_id)
        return self._runs[job]

    def close(self) -> None:
        """See ``Tracker``."""
        for run in self._runs.values():
            self._client.set_terminated(run)


def _seconds(event: Event) -> float:
    return datetime.fromisoformat(event.ts).timestamp()


def _library(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            "extra_missing",
            f"What writes files for {what} is not installed.",
            "Install it: pip install 'cloister[trackers]'.",
        ) from error


def local(folder: str) -> Path:
    """The folder of an option; raises ``UsageError`` ``option_invalid`` for an address."""
    if "://" in folder or folder.startswith(("s3:", "gs:", "http:", "https:", "databricks")):
        raise UsageError(
            "option_invalid",
            f"{folder} is no folder of this machine; trackers write files here and send nothing.",
            "Name a folder.",
        )
    return Path(folder)


@contextmanager
def tracking(
    log: EventLog, party: str, say: Callable[[str], None], *, tensorboard: str = "", mlflow: str = ""
) -> Iterator[None]:
    """Writes the figures of whatever the log gets while it is open; nothing where no folder is named.

    Args:
        log: the party's.
        party: its name.
        say: is told once if a tracker cannot write.
        tensorboard, mlflow: a folder each, "" for none.

    Raises:
        UsageError: ``option_invalid``, a folder is an address.
        InputError: ``extra_missing``.
    """
    trackers: list[Tracker] = []
    if tensorboard:
        trackers.append(TensorBoard(local(tensorboard)))
    if mlflow:
        trackers.append(MLflow(local(mlflow), party))
    if not trackers:
        yield
        return
    following = _Following(log, trackers, say)
    following.start()
    try:
        yield
    finally:
        following.stop()


class _Following(threading.Thread):
    """Reads the log onwards."""

    def __init__(self, log: EventLog, trackers: list[Tracker], say: Callable[[str], None]) -> None:
        super().__init__(name="trackers", daemon=True)
        self._log, self._trackers, self._say = log, trackers, say
        self._stopping, self._place = threading.Event(), log.since(0)[1]

    def run(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        try:
            events, self._place = self._log.since(self._place)
        except CloisterError:
            return  # whoever writes the log says so, and stops
        for event in events:
            if named := figures(event):
                for tracker in tuple(self._trackers):
                    self._guarded(tracker, partial(tracker.put, event, named))

    def _guarded(self, tracker: Tracker, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - what others' code raises must not end a job
            self._trackers.remove(tracker)
            self._say(
                f"{type(tracker).__name__} gets no more figures: {type(error).__name__}. The job goes on."
            )

    def stop(self) -> None:
        """Writes what is left, and ends."""
        self._stopping.set()
        self.join()
        self._look()
        for tracker in tuple(self._trackers):
            self._guarded(tracker, tracker.close)
