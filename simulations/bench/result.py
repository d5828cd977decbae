"""What a benchmark gives: figures by name, and the targets that were set for them beforehand."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Limit:
    """A target: a figure that should be at most, or at least, a number."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether a figure keeps the target."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Result:
    """The outcome of one benchmark.

    Attributes:
        bench: its name.
        figures: name -> number; medians where repeated, with the spread beside as ``NAME_min``, ``NAME_max``.
        limits: name -> target.
        card: the GPU that it ran on, by its maker's name.
        notes: what was not measured here, and why.
    """

    bench: str
    figures: dict[str, float]
    limits: dict[str, Limit] = field(default_factory=dict)
    card: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The value that ``cloister bench NAME --json`` prints."""
        targets = {
            name: {"limit": limit.limit, "met": limit.met(self.figures[name])}
            for name, limit in self.limits.items()
            if name in self.figures
        }
        where = f"{self.card}, {machine()}" if self.card else machine()
        value = {"bench": self.bench, "machine": where, "figures": self.figures, "targets": targets}
        return {**value, "notes": list(self.notes)} if self.notes else value


def spread(name: str, values: Iterable[float]) -> dict[str, float]:
    """Median, minimum and maximum of repeated measurements as three figures."""
    found = list(values)
    return {name: statistics.median(found), f"{name}_min": min(found), f"{name}_max": max(found)}


def machine() -> str:
    """The processor and the number of cores, in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
