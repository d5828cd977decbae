"""Several contributions of one person: figures of the design, direct integration, and laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.privacy.dp import accounting, persons
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError
from tests.losses import measured_delta

PLAN = [GaussianSteps(1.0, 0.01, 1000)]
BLOCKS = st.builds(
    GaussianSteps,
    st.sampled_from([0.6, 1.0, 3.0, 20.0]),
    st.sampled_from([0.001, 0.05, 0.5, 1.0]),
    st.integers(1, 500),
)


@pytest.mark.slow
@pytest.mark.parametrize(("sites", "joint", "local"), [(1, 1.83, 1.83), (2, 3.98, 2.58), (3, 6.34, 3.19)])
def test_a_person_at_several_sites_by_the_tight_account(sites, joint, local):
    found = persons.accountants(PLAN, sites, 1e-5)
    assert round(found["pld"], 2) == joint
    assert found["pld"] < found["rdp"] < found["pld"] * 1.2
    assert round(accounting.accountants(PLAN * sites, 1e-5)["pld"], 2) == local


@pytest.mark.parametrize(
    ("sites", "joint", "local"), [(1, 2.1014, 2.1014), (2, 4.5161, 2.8665), (3, 7.1302, 3.5108)]
)
def test_a_person_at_several_sites_by_the_ruling_account(sites, joint, local):
    assert persons.at_sites(PLAN, sites, "joint", 1e-5) == pytest.approx(joint, abs=1e-4)
    assert persons.at_sites(PLAN, sites, "local", 1e-5) == pytest.approx(local, abs=1e-4)


@pytest.mark.parametrize(("sigma", "rate", "k"), [(1.0, 0.01, 3), (2.0, 0.3, 2), (3.0, 0.1, 5)])
@pytest.mark.parametrize("order", [1.5, 2.0, 4.5])
def test_moments_are_those_of_direct_integration(sigma, rate, k, order):
    from scipy import integrate, stats

    weights = [(j, stats.binom.pmf(j, k, rate)) for j in range(k + 1)]

    def ratio(z):
        return sum(weight * math.exp(j * z / sigma - j * j / (2 * sigma**2)) for j, weight in weights)

    for power in (order, 1 - order):
        area, _ = integrate.quad(
            lambda z, a=power: ratio(z) ** a * stats.norm.pdf(z),
            *(-12, 12 + order * k / sigma),
            limit=500,
            epsabs=0,
            epsrel=1e-11,
        )
        found = persons._log_moments(sigma, rate, k, np.array([power]))[0]
        assert found == pytest.approx(math.log(area), rel=1e-7)


def test_one_contribution_is_the_ordinary_account():
    assert persons.epsilon(PLAN, 1, 1e-5) == accounting.epsilon(PLAN, 1e-5)
    ours = dict(zip(persons._ORDERS, persons._renyi(1.0, 0.01, 1), strict=True))
    theirs = dict(zip(accounting._ORDERS, accounting.renyi(1.0, 0.01), strict=True))
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 70
    assert [ours[order] for order in shared] == pytest.approx([theirs[order] for order in shared], rel=1e-9)


def test_without_sampling_the_sensitivity_is_multiplied():
    assert persons.epsilon([GaussianSteps(12.0, 1.0, 5)], 3, 1e-5) == pytest.approx(
        accounting.epsilon([GaussianSteps(4.0, 1.0, 5)], 1e-5), rel=2e-3
    )


def test_simulated_privacy_loss_of_three_rows_stays_within_the_figure():
    sigma, rate, steps, k, delta, runs = 4.0, 0.3, 10, 3, 0.01, 60_000
    generator = np.random.default_rng(20260801)
    noise = generator.normal(0, sigma, (runs, steps))
    present = noise + generator.binomial(k, rate, (runs, steps))
    claimed = persons.epsilon([GaussianSteps(sigma, rate, steps)], k, delta)

    def loss(x):
        return persons._log_ratio(x / sigma**2, sigma, rate, k).sum(axis=1)

    assert measured_delta(loss(present), loss(noise), claimed) < delta
    assert measured_delta(loss(present), loss(noise), claimed / 2) > delta


@given(st.lists(BLOCKS, min_size=1, max_size=3), st.sampled_from([2, 3, 5]))
@settings(max_examples=25, deadline=None)
def test_more_contributions_cost_more_and_less_than_group_privacy(ledger, k):
    delta = 1e-6
    single = accounting.epsilon(ledger, delta)
    several = persons.epsilon(ledger, k, delta)
    assert persons.epsilon(ledger, k - 1, delta) <= several * (1 + 1e-2)
    grown = delta * sum(math.exp(min(600, i * single)) for i in range(k))
    if grown < 1:  # group privacy says something only here
        assert persons.epsilon(ledger, k, grown) <= k * single * 1.05 + 1e-9


def test_noise_too_low_to_account_is_infinite_and_never_small():
    assert persons.epsilon([GaussianSteps(0.1, 0.5, 1)], 2, 1e-5) == math.inf
    assert persons.epsilon([], 2, 1e-5) == 0


@pytest.mark.parametrize("contributions", [0, 33, 1.5, True])
def test_numbers_of_contributions_out_of_range_are_refused(contributions):
    with pytest.raises(BudgetError):
        persons.epsilon(PLAN, contributions, 1e-5)
    with pytest.raises(BudgetError):
        persons.at_sites(PLAN, contributions, "local", 1e-5)


def test_a_delta_out_of_range_is_refused():
    with pytest.raises(BudgetError):
        persons.epsilon(PLAN, 2, 1.0)
