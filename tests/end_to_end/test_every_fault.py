"""Whoever is killed wherever: the same model, the same epsilon, the same ledgers as without any fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.simulations.bench import faults, wire
from cloister.simulations.bench.faulty import CUT_S
from cloister.simulations.bench.points import POINTS

FEW = ("north: after Replies.store", "lead: before Checkpoint.save", "lead: before Post.send (flower dies)")
CUTS = ("north: before Node.push (cable cut)", "lead: before Adding.open (cable cut)")


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
    struck, figures = faults.apart(tmp_path, str(model), POINTS)
    assert len(struck) >= 78
    assert {name for name in figures if name.endswith(("mismatches", "losses")) and figures[name]} == set()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not wire.isolation(), reason="this system makes no network namespaces")
def test_the_network_is_cut_from_both_ends_in_one_job(tmp_path: Path, model: Path) -> None:
    points = [point for point in POINTS if point.name in CUTS]
    struck, figures = faults.apart(tmp_path, str(model), points)
    assert [each.point for each in struck] == points
    assert all(each.seconds >= CUT_S for each in struck)
    assert {name for name in figures if name.endswith(("mismatches", "losses")) and figures[name]} == set()
