"""``cloister site up`` or ``lead up`` that dies at an agreed point: for the benchmark of faults only.

The program runs the product's own classes. It wraps the functions that ``points`` names, and before or after
one of them, once, when a file says that this point is due, it sends itself or Flower's process SIGKILL, or
cuts the cable. The lead waits for a site that is away as long as a restart may take.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cloister.simulations.bench import wire
from cloister.simulations.bench.points import BEGUN, CABLE, FLOWER, POINTS, Point

PATIENCE_S, CUT_S = 300.0, 20.0


class Armed:
    """The point that is due for a role, in a file that this process takes away when it strikes."""

    def __init__(self, folder: Path, role: str) -> None:
        self._due, self._struck = folder / f"{role}.due", folder / f"{role}.struck"

    def strike(self, point: Point) -> None:
        """Kills the point's victim, or cuts the cable, if the point is due."""
        try:
            due = self._due.read_text()
        except FileNotFoundError:
            return
        if due != point.name:
            return
        if point.victim == CABLE:
            wire.cut(CUT_S)
        self._due.replace(self._struck)
        if point.victim == FLOWER:
            for child in psutil.Process().children(recursive=True):
                if "cloister.server.superlink" in child.cmdline():
                    child.kill()
        elif point.victim == point.role:
            os.kill(os.getpid(), signal.SIGKILL)


def wrap(role: str, armed: Armed) -> None:
    """Puts every point of a role in its place."""
    mine = [point for point in (BEGUN, *POINTS) if point.role == role]
    for target in dict.fromkeys(point.target for point in mine):
        points = [point for point in mine if point.target == target]
        owner, name = points[0].owner()
        setattr(owner, name, _striking(getattr(owner, name), points, armed))


def _striking(original: Callable[..., Any], points: list[Point], armed: Armed) -> Callable[..., Any]:
    before = [point for point in points if point.when == "before"]
    after = [point for point in points if point.when == "after"]

    @functools.wraps(original)
    def struck(*arguments: Any, **named: Any) -> Any:
        for point in before:
            armed.strike(point)
        given = original(*arguments, **named)
        for point in after:
            armed.strike(point)
        return given

    return struck


def main() -> None:
    """Runs until it is told to stop, or struck."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--faults", type=Path, required=True)
    parser.add_argument("--model", default="")
    arguments = parser.parse_args()
    wrap(arguments.role, Armed(arguments.faults, arguments.role))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if arguments.role == "lead":
        _lead(arguments.dir, stop)
    else:
        _site(arguments.dir, arguments.model, stop)


def _lead(folder: Path, stop: threading.Event) -> None:
    from cloister.server.folder import LeadFolder
    from cloister.server.lead import Lead
    from cloister.server.post import Pace

    Lead(LeadFolder.open(folder), _say, Pace(absence=PATIENCE_S)).run(stop)


def _site(folder: Path, model: str, stop: threading.Event) -> None:
    from cloister.client.agent import Agent
    from cloister.client.site.folder import SiteFolder

    if not Agent(SiteFolder.open(folder), model, _say).run(stop):
        os._exit(0)  # a thread still trains; nothing of it has left


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
