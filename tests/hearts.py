"""Made-up patients in the columns of heart_disease, for scenarios without the data set."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

SITES = {"cleveland": 0.45, "hungarian": 0.35, "switzerland": 0.9, "va": 0.75}


def hearts(path: Path, rows: int, seed: int) -> None:
    """Made-up patients in the columns of heart_disease: the ill are older and feel pain on exertion."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = "age sex cp trestbps chol fbs restecg thalach exang oldpeak num site label"
        writer.writerow(columns.split())
        for site, share in SITES.items():
            for _ in range(rows):
                ill = int(rng.random() < share)
                pain = int(rng.random() < (0.65 if ill else 0.3))
                rest = [rng.integers(1, 5), 130, 220, 0, 0, round(150 - 10 * ill + rng.normal(0, 15)), pain]
                age = round(50 + 5 * ill + rng.normal(0, 8))
                writer.writerow(
                    [
                        age,
                        int(rng.integers(0, 2)),
                        *rest,
                        round(float(rng.random() + 0.4 * ill), 1),
                        ill,
                        site,
                        ill,
                    ]
                )


def folder(path: Path) -> Path:
    """A folder of data sets that holds nothing but these."""
    (path / "heart_disease").mkdir(parents=True)
    hearts(path / "heart_disease" / "flamby_train.csv", 60, 1)
    hearts(path / "heart_disease" / "flamby_test.csv", 40, 2)
    return path
