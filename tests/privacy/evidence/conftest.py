"""Staged jobs with real keys and logs, made once for all tests of bundles."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from cloister.simulations.bench.staged import staged
from tests.cheating import Forger


@dataclass(frozen=True)
class Stage:
    """Jobs: one whose heads nobody witnessed, one with witnesses, one whose first site shuffles, and two that
    are no simulations: one whose first site draws noise from a known seed, one whose lead was away."""

    plain: Forger
    witnessed: Forger
    shuffled: Forger
    seeded: Forger
    away: Forger


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    def forger(name: str, **how: Any) -> Forger:
        folder = tmp_path_factory.mktemp(name)
        return Forger(staged(folder / "job", **how), folder)

    return Stage(
        forger("plain", witnessed=False),
        forger("witnessed"),
        forger("shuffled", witnessed=False, sampler="shuffled"),
        forger("seeded", witnessed=False, entropy="fixed"),
        forger("away", witnessed=False, away=timedelta(hours=2)),
    )
