"""Whoever is killed wherever: the same model, the same epsilon, the same ledgers as without any fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.simulations.bench import faults
from cloister.simulations.bench.points import POINTS

FEW = ("north: after Replies.store", "lead: before Checkpoint.save", "lead: before Post.send (flower dies)")


def check(tmp_path: Path, model: Path, points: list[faults.Point]) -> None:
    struck, calm, disturbed = faults.compare(tmp_path, str(model), points)
    assert [each.point for each in struck] == points
    assert len(calm.models) >= 4
    assert disturbed == calm
    assert set(calm.accepted) == {faults.SITES}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_site_the_lead_and_flower_die_in_one_job(tmp_path: Path, model: Path) -> None:
    check(tmp_path, model, [point for point in POINTS if point.name in FEW])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_somebody_dies_at_every_point_of_the_protocol(tmp_path: Path, model: Path) -> None:
    check(tmp_path, model, list(POINTS))
