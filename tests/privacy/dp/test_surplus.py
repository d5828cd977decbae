"""Noise in parts: which are surplus, what stays without them, and that a sum then holds the plan's noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cloister.privacy.dp import joint
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import LEAST_SHARE, Grid
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import BudgetError, PlanError, UpdateError
from cloister.privacy.update import Clipped

TERMS: dict[str, Any] = {
    "bound": 0.5,
    "parameters": 400,
    "noise_multiplier": 1.5,
    "sites": 4,
    "n_min": 3,
    "t": 1,
    "sampled": 1000,
    "surplus": True,
}
GRID = Grid(**TERMS)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    sites = draw(st.integers(4, 20))
    t = draw(st.integers(1, sites - 3))
    return Grid(
        bound=1.0,
        parameters=draw(st.integers(1, 10**5)),
        noise_multiplier=draw(st.floats(2, 30)),
        sites=sites,
        n_min=draw(st.integers(t + 2, sites - 1)),
        t=t,
        sampled=100,
        surplus=True,
    )


def test_four_sites_of_which_one_may_be_lost_have_two_parts() -> None:
    """Variances: a third of the plan's always, a sixth for one loss; together a half."""
    whole = 1.5 * GRID.sensitivity
    assert GRID.parts == pytest.approx((whole / math.sqrt(3), whole / math.sqrt(6)))
    assert (list(GRID.unneeded(4)), list(GRID.unneeded(3))) == ([1], [])
    assert GRID.share == pytest.approx(whole / math.sqrt(2))


@given(grids())
def test_for_every_number_of_survivors_exactly_the_plans_noise_is_left(grid: Grid) -> None:
    assert math.hypot(*grid.parts) == pytest.approx(grid.share)
    assert min(grid.parts) >= LEAST_SHARE
    assert grid.log10_tau() < -200
    for survivors in range(grid.n_min, grid.sites + 1):
        left = grid.left(survivors)
        assert grid.noise_multiplier <= left <= grid.noise_multiplier * (1 + 1e-12)
        assert len(grid.unneeded(survivors)) == survivors - grid.n_min
        assert grid.settled(0.5, survivors) == GaussianSteps(grid.noise_multiplier, 0.5, 1)
        assert grid.noise_multiplier < grid.outside(0.5, survivors).noise_multiplier
        assert grid.outside(0.5, survivors).noise_multiplier <= grid.multiplier(survivors) * (1 + 1e-12)


@pytest.mark.parametrize("survivors", [2, 5])
def test_no_sum_is_over_fewer_or_more_than_the_plan_allows(survivors: int) -> None:
    for ask in (GRID.unneeded, GRID.left, lambda n: GRID.settled(1.0, n), lambda n: GRID.outside(1.0, n)):
        with pytest.raises(BudgetError) as caught:
            ask(survivors)
        assert caught.value.id == "mechanism_unaccountable"


def test_without_surplus_nothing_is_in_parts_and_more_survivors_cost_less() -> None:
    plain = Grid(**TERMS | {"surplus": False})
    assert plain.parts == (plain.share,)
    assert not plain.unneeded(4)
    assert plain.settled(1.0, 4) == plain.event(1.0, 1, 3)
    assert plain.outside(1.0, 4) == plain.event(1.0, 1, 4)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"n_min": 4}, "No site may be lost"),
        ({"noise_multiplier": 1e-3}, "A part of a share would have"),
        # A share of all noise would have 8 units: only the parts are too small.
        ({"noise_multiplier": 9 * math.sqrt(2) / 4020}, "A part of a share would have"),
    ],
)
def test_terms_that_leave_no_sound_parts_are_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Grid(**TERMS | more)


@given(st.floats(1.0, 4.0), st.floats(1.0, 4.0))
def test_two_unequal_discrete_gaussians_add_up_to_one_within_tau(one: float, two: float) -> None:
    """The bound of the module for parts, at parameters so small that float64 shows the difference."""
    reach = np.arange(-60, 61)

    def law(parameter: float) -> np.ndarray[Any, Any]:
        weights = np.exp(-(reach**2) / (2 * parameter**2))
        return np.asarray(weights / weights.sum())

    total = np.convolve(law(one), law(two), mode="same")
    single = law(math.hypot(one, two))
    near = np.abs(reach) <= 20
    ratio = np.abs(np.log(total[near] / single[near])).max()
    tau = 10 * math.exp(-2 * math.pi**2 / (1 / one**2 + 1 / two**2))
    assert ratio <= tau + 1e-9
    assert tau <= 10 * math.exp(-((math.pi * min(one, two)) ** 2)) * (1 + 1e-9)


def streams(seed: str) -> joint.Streams:
    entropy = FixedEntropy(seed.encode())
    return lambda purpose: entropy.stream(purpose, round=1, model="")


def noise_left(grid: Grid, sites: int, seed: str) -> np.ndarray[Any, Any]:
    """The noise of an opened sum after what is surplus was taken out, in grid units."""
    total = np.zeros(grid.parameters, dtype=np.int64)
    for site in range(sites):
        name = f"{seed} {site}"
        total += joint.share(Clipped(np.zeros(grid.parameters), grid.bound), grid, 1.0, streams(name)).values
        total -= joint.surplus(grid.parameters, grid, sites, streams(name)).values
    return total


@pytest.mark.parametrize(("sites", "n_min", "t"), [(4, 3, 1), (6, 4, 2)])
def test_the_opened_sum_holds_the_plans_noise_and_no_other(sites: int, n_min: int, t: int) -> None:
    grid = Grid(**TERMS | {"sites": sites, "n_min": n_min, "t": t})
    for survivors in range(n_min, sites + 1):
        noise = np.concatenate([noise_left(grid, survivors, f"{draw}") for draw in range(12)])
        # All survivors' shares are in the sum; survivors - t of them are the plan's noise.
        right = 1.5 * grid.sensitivity * math.sqrt(survivors / (survivors - t))
        assert stats.kstest(noise, "norm", args=(0, right)).pvalue > 1e-4
        for variance in (2 / 3, 3 / 2):
            wrong = right * math.sqrt(variance)
            assert stats.kstest(noise, "norm", args=(0, wrong)).pvalue < 1e-4, "the test tells them apart"


def test_what_is_taken_out_is_what_was_put_in_bit_for_bit() -> None:
    """The share without its surplus is the share of the part that stays alone."""
    clipped = Clipped(np.linspace(-0.4, 0.4, 400), 0.5)
    share = joint.share(clipped, GRID, 1.0, streams("a")).values
    surplus = joint.surplus(400, GRID, 4, streams("a")).values
    alone = Grid(**TERMS | {"surplus": False, "n_min": 4})
    kept = joint.share(clipped, alone, 1.0, streams("a")).values
    np.testing.assert_array_equal(share - surplus, kept)
    assert not joint.surplus(400, GRID, 3, streams("a")).values.any(), "with three of four all is needed"


def test_every_part_has_a_key_of_its_own() -> None:
    asked: list[str] = []
    entropy = FixedEntropy(b"a")

    def spying(purpose: str) -> Any:
        asked.append(purpose)
        return entropy.stream(purpose, round=1, model="")

    grid = Grid(**TERMS | {"sites": 6, "n_min": 4})
    joint.share(Clipped(np.zeros(400), 0.5), grid, 1.0, spying)
    assert asked == ["noise", "surplus-1", "surplus-2"]


def test_parts_that_would_leave_too_little_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grid, "parts", (GRID.parts[0] * 0.99, GRID.parts[1] * 1.1))
    with pytest.raises(UpdateError) as caught:
        joint.surplus(400, GRID, 4, streams("a"))
    assert caught.value.id == "update_unnoised"
