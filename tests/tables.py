"""Rows of a table for tests: made-up patients, with empty cells, and the columns to learn from."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cloister.privacy.table import Table, parsed

COLUMNS = b"""\
[label]
column = "ill"
classes = ["no", "yes"]

[columns]
age = { low = 20, high = 90 }
chol = { low = 100, high = 400, empty = [0], missing = "flag" }
sex = { values = ["f", "m"] }
pain = { values = [1, 2, 3, 4], missing = "flag" }
"""
TABLE: Table = parsed(COLUMNS)
HEADER = ("age", "chol", "sex", "pain", "ill", "patient")


def patients(number: int, seed: int, ill: float = 0.5) -> list[tuple[str, ...]]:
    """The ill are older and feel pain of kind 4: age and pain alone tell nine of ten."""
    random = np.random.default_rng(seed)
    rows = []
    for place in range(number):
        sick = random.random() < ill
        age = np.clip(random.normal(65 if sick else 40, 8), 21, 89)
        pain = random.choice(["4", "4", "4.0", "1", ""]) if sick else random.choice(["1", "2", "3", ""])
        chol = random.choice(["", "0", f"{random.normal(230, 60):.1f}"])
        row = (f"{age:.1f}", chol, str(random.choice(["f", "m"])), pain, "yes" if sick else "no", f"P{place}")
        rows.append(tuple(map(str, row)))
    return rows


def write(path: Path, rows: list[tuple[str, ...]]) -> Path:
    """Rows as a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows)
    return path
