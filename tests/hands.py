"""A person at the command line: runs ``cloister …``, starts what stays running, reads what it says."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

CLOISTER = (sys.executable, "-m", "cloister.privacy.cli")
LABELS = ("cardiology", "neurology", "gastro")
LIMIT_S = 240.0
"""The longest that anything here waits: only a fault takes so long."""

_WORDS = {"cardiology": ("chest", "card"), "neurology": ("headache", "head"), "gastro": ("pain", "since")}
_OURS = ("HF_", "TRANSFORMERS_", "FLWR_")  # what the product itself must set


def until(found: Callable[[], T], what: str) -> T:
    """Waits for a true value and gives it back; fails after ``LIMIT_S``."""
    deadline = time.monotonic() + LIMIT_S
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return value


@dataclass(frozen=True)
class Said:
    """The end of a command."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on the error stream."""
        (line,) = self.err.strip().splitlines()
        return line


class Running:
    """A command that stays running, with its output in a file."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process, self._output, self._start = process, output, output.stat().st_size

    @property
    def said(self) -> str:
        """What this process has said so far."""
        return self._output.read_bytes()[self._start :].decode(errors="replace")

    def hear(self, text: str) -> None:
        """Waits until it has said something."""

        def heard() -> bool:
            if text in self.said:
                return True
            assert self.process.poll() is None, f"it ended before it said {text!r}:\n{self.said}"
            return False

        until(heard, f"{text!r} in: {self.said}")

    def pause(self) -> None:
        """It gets no time any more, as on a machine that hangs."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It runs again."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It ends at once, as in a power cut."""
        self.process.kill()
        self.process.wait()

    def ended(self) -> int:
        """Waits for its end; the exit code."""
        return self.process.wait(LIMIT_S)

    def end(self) -> int:
        """Ends it in order; the exit code."""
        self.process.terminate()
        return self.ended()


class Hands:
    """One person, or several in one room: commands run in a common folder.

    Args:
        place: where commands run.
        environment: added to the environment of all of them.
    """

    def __init__(self, place: Path, **environment: str) -> None:
        self.place = place
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self.environment = {**kept, "OMP_NUM_THREADS": "1", **environment}
        self._running: list[Running] = []

    def run(self, *arguments: str, program: tuple[str, ...] = CLOISTER) -> Said:
        """Runs a command to its end."""
        done = subprocess.run(
            [*program, *arguments],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def do(self, *arguments: str) -> str:
        """Runs a command that must work; what it prints."""
        said = self.run(*arguments)
        assert said.code == 0, said
        return said.out

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.do(*arguments, "--json"))

    def start(self, name: str, *arguments: str, program: tuple[str, ...] = CLOISTER) -> Running:
        """Starts a command; its output goes to ``NAME.out``."""
        output = self.place / f"{name}.out"
        with output.open("ab") as file:
            process = subprocess.Popen(
                [*program, *arguments],
                cwd=self.place,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            self._running.append(running := Running(process, output))
        return running

    def close(self) -> None:
        """Ends everything that was started."""
        alive = [running for running in self._running if running.process.poll() is None]
        for running in alive:
            running.go_on()
            running.process.terminate()
        for running in alive:
            try:
                running.process.wait(15)
            except subprocess.TimeoutExpired:
                running.kill()


@contextmanager
def hands(place: Path, **environment: str) -> Iterator[Hands]:
    """Hands that let go of everything at the end."""
    place.mkdir(parents=True, exist_ok=True)
    person = Hands(place, **environment)
    try:
        yield person
    finally:
        person.close()


def write_records(path: Path, seed: int, rows: int = 70, marker: str = "") -> Path:
    """A site's file: short notes whose words tell the class; ``marker`` stands in every record."""
    choose = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "department"))
        for row in range(rows):
            label = LABELS[row % len(LABELS)]
            words = [choose.choice((*_WORDS[label], "monday")) for _ in range(choose.randint(3, 12))]
            writer.writerow((" ".join([*words, marker]).strip(), label))
    return path
