"""The processes of a demo: started with our own interpreter, watched, measured, and always stopped."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil

from cloister.privacy.errors import RoundError

_PORTS = range(20_000, 32_768)
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}


class Troupe:
    """The lead and the sites of a demo, each a process of its own with its output in a file.

    Use as a context: leaving it stops every process, whatever happened.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def start(self, name: str, arguments: list[str], output: Path) -> None:
        """Starts ``cloister ARGUMENTS``; its output goes to the file ``output``."""
        with output.open("ab") as file:
            process = subprocess.Popen(
                self.command(name, arguments),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_OFFLINE},
            )
        self._running[name] = (process, output)

    def command(self, name: str, arguments: list[str]) -> list[str]:  # noqa: ARG002  # for benchmarks
        """What is executed for ``cloister ARGUMENTS``."""
        return [sys.executable, "-m", "cloister.privacy.cli", *arguments]

    def check(self) -> None:
        """Raises ``RoundError`` ``site_failed`` if a process has ended, with its last words."""
        for name, (process, output) in self._running.items():
            if process.poll() not in (None, 0):
                lines = output.read_text(errors="replace").strip().splitlines()
                raise RoundError(
                    "site_failed",
                    f"The process of {name} ended: {lines[-1] if lines else 'it said nothing'}",
                    f"Its output is in {output}.",
                )

    def ended(self, name: str) -> bool:
        """Whether a process that was started is gone."""
        return self._running[name][0].poll() is not None

    def kill(self, name: str) -> None:
        """Ends a process at once, as a power cut would (SIGKILL)."""
        process, _ = self._running.pop(name)
        process.kill()
        process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process, _output in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 15
        for process, _output in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()


def free_ports(number: int) -> tuple[int, ...]:
    """Different ports of the loopback interface that nobody listens on now.

    They lie below those that the system itself gives to whoever asks for any, and so are still free when a
    process that is started now comes to listen.
    """
    draw = random.SystemRandom()
    free = filter(_free, draw.sample(_PORTS, len(_PORTS)))
    return tuple(itertools.islice(free, number))


def _free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


class Memory:
    """The peak of what this process (unless ``own`` is False) and all its descendants hold in memory.

    Attributes:
        peak_rss: largest sum of resident sets, bytes; pages that processes share count once for each.
        peak_pss: largest sum of proportional sets, bytes; shared pages count once. 0 if not measured.
    """

    def __init__(self, *, pss: bool = False, every: float = 0.5, own: bool = True) -> None:
        self.peak_rss = 0
        self.peak_pss = 0
        self._pss, self._every, self._own = pss, every, own
        self._stop = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[Memory]:
        """Samples on a thread while the context is open."""
        thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self._every):
            rss = pss = 0
            root = psutil.Process()
            for process in (*([root] if self._own else []), *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                    rss += process.memory_info().rss
                    if self._pss:
                        pss += process.memory_full_info().pss
            self.peak_rss = max(self.peak_rss, rss)
            self.peak_pss = max(self.peak_pss, pss)
