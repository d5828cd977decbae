import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.dp import accounting, discrete
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.dp.grid import WRAP, Grid, most_sampled
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import BudgetError, PlanError

TERMS = {
    "bound": 0.5,
    "parameters": 74_498,
    "noise_multiplier": 2.0,
    "sites": 4,
    "n_min": 3,
    "t": 1,
    "sampled": 2_000,
}
GRIDS = st.builds(
    Grid,
    bound=st.floats(1e-3, 1e3),
    parameters=st.integers(1, 10**6),
    noise_multiplier=st.floats(0.3, 30),
    sites=st.integers(5, 20),
    n_min=st.integers(4, 5),
    t=st.integers(1, 2),
    sampled=st.integers(1, 1000),
)


def test_the_default_consortium():
    grid = Grid(**TERMS)
    assert grid.units == 54_589
    assert grid.step == 0.5 / 54_589
    assert grid.sensitivity == pytest.approx(54_589 + math.sqrt(74_498))
    assert grid.share == pytest.approx(2.0 * grid.sensitivity / math.sqrt(2))
    assert grid.largest < 2**31


@given(GRIDS)
def test_what_every_grid_keeps(grid):
    root = math.sqrt(grid.parameters)
    assert grid.units >= 200 * root
    assert grid.step * grid.sensitivity == pytest.approx(grid.bound + grid.step * root)
    assert grid.share >= 8
    # The shares that nobody knows carry the whole noise, and more of them carry more.
    assert grid.share * math.sqrt(grid.n_min - grid.t) >= grid.noise_multiplier * grid.sensitivity
    assert grid.multiplier(grid.n_min - grid.t) == grid.noise_multiplier
    assert grid.multiplier(grid.sites) > grid.multiplier(grid.n_min - grid.t)
    assert grid.multiplier(grid.sites) * grid.sensitivity <= grid.share * math.sqrt(grid.sites)
    assert grid.log10_tau() < -200
    assert grid.largest < 2**31
    assert grid.log2_wrap() <= -41


def test_rounding_moves_neighbouring_sums_within_the_charged_sensitivity():
    grid = Grid(**TERMS | {"parameters": 500})
    generator = np.random.default_rng(3)
    unit = generator.normal(size=500)
    unit *= grid.bound / np.linalg.norm(unit)
    for _ in range(20):
        rest = generator.normal(size=500)
        moved = np.rint((rest + unit) / grid.step) - np.rint(rest / grid.step)
        assert grid.units < np.linalg.norm(moved) + math.sqrt(500)
        assert np.linalg.norm(moved) <= grid.sensitivity


def test_the_sum_of_shares_has_the_noise_that_is_charged():
    grid = Grid(**TERMS | {"parameters": 20_000, "noise_multiplier": 0.8})
    model = canonical.digest(b"a model")
    shares = [
        discrete.discrete_gaussian(
            20_000, grid.share, FixedEntropy(bytes([site]) * 32).stream("noise", round=1, model=model)
        )
        for site in range(2)
    ]
    deviation = np.std(sum(shares)) / grid.sensitivity
    assert deviation == pytest.approx(0.8, rel=0.03)


def test_a_sum_wraps_as_rarely_as_is_said():
    """The bound on the tail against draws, where it is not far out: 3 sites, 2^-10 instead of 2^-41."""
    model = canonical.digest(b"a model")
    d, sites, s = 30_000, 3, 9.0
    total = sum(
        discrete.discrete_gaussian(d, s, FixedEntropy(bytes([i]) * 32).stream("noise", round=1, model=model))
        for i in range(sites)
    )
    far = s * math.sqrt(2 * sites * math.log(2 / 2**-10))
    assert np.mean(abs(total) > far) < 2**-10
    assert np.mean(abs(total) > far * 0.6) > 2**-10
    # At the edge of what fits, the bound is just met.
    most = max(n for n in range(39_000, 39_340) if _fits(n))
    assert -60 < Grid(**TERMS | {"sampled": most}).log2_wrap() <= -41
    assert not _fits(most + 1)


def _fits(sampled):
    try:
        Grid(**TERMS | {"sampled": sampled})
    except PlanError:
        return False
    return True


def test_survivors_pay_less_than_was_reserved():
    grid = Grid(**TERMS)
    reserved = accounting.epsilon([grid.event(0.1, 50, 2)], 1e-5)
    assert reserved == accounting.epsilon([GaussianSteps(2.0, 0.1, 50)], 1e-5)
    spent = accounting.epsilon([grid.event(0.1, 50, 3)], 1e-5)
    outside = accounting.epsilon([grid.event(0.1, 50, 4)], 1e-5)
    assert outside < spent < reserved


@pytest.mark.parametrize("shares", [0, 1, 5])
def test_shares_that_the_terms_do_not_allow_are_not_accounted(shares):
    with pytest.raises(BudgetError):
        Grid(**TERMS).multiplier(shares)


@pytest.mark.parametrize(
    "change",
    [
        {"sampled": 40_000},  # 2^31 / 54,589 bounds are 39,339
        {"noise_multiplier": 10_000.0},
        {"parameters": 1, "noise_multiplier": 0.05},  # a share of 7.1 grid units
        {"n_min": 2},  # one share nobody knows
        {"t": 0},
        {"sites": 2},
        {"bound": 0.0},
        {"noise_multiplier": math.nan},
        {"parameters": 0},
        {"sampled": 0},
    ],
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(PlanError) as refusal:
        Grid(**TERMS | change)
    assert refusal.value.id == "plan_conflict"


@pytest.mark.parametrize(("units", "rate"), [(1000, 0.1), (1000, 0.9), (50_000, 0.01), (20, 0.5), (7, 1.0)])
def test_samples_larger_than_the_bound_are_as_rare_as_promised(units, rate):
    from scipy import stats

    most = most_sampled(units, rate)
    assert units * rate <= most <= units
    assert stats.binom.sf(most, units, rate) <= WRAP / 2
    if most < units:
        # Chernoff's bound is loose by a small factor only: far below, the tail is heavier than promised.
        assert stats.binom.sf(most - 0.1 * (most - units * rate) - 2, units, rate) > WRAP / 2 / 1000


def test_a_sample_without_units_or_rate_is_refused():
    for units, rate in [(0, 0.5), (10, 0.0), (10, 1.5)]:
        with pytest.raises(PlanError):
            most_sampled(units, rate)
