"""A file of notes with a column of patients."""

from __future__ import annotations

import csv
from pathlib import Path


def notes(path: Path, persons: int = 60, rows: int = 3, missing: int = 0) -> Path:
    """Some rows of each person, and some of nobody."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label", "patient"))
        table.writerows(
            (f"note {row} of {person}", "ab"[(row + person) % 2], f"Patient {person}")
            for person in range(persons)
            for row in range(rows)
        )
        table.writerows((f"unsigned {row}", "a", " ") for row in range(missing))
    return path
