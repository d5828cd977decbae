import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.dp import accounting
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError
from tests.losses import measured_delta

PLANS = json.loads((Path(__file__).parents[2] / "vectors/dp/accountants.json").read_text())["plans"]

# From a short list, so that the divergences are computed once.
SIGMAS = st.sampled_from([0.3, 0.55, 0.8, 1.0, 1.7, 3.0, 12.0, 80.0])
RATES = st.sampled_from([0.0005, 0.01, 0.07, 0.3, 0.5, 0.95, 1.0])
BLOCKS = st.builds(GaussianSteps, SIGMAS, RATES, st.integers(1, 5000))
LEDGERS = st.lists(BLOCKS, max_size=6)
DELTAS = st.sampled_from([1e-9, 1e-6, 1e-5, 1e-3])


def block(plan):
    return GaussianSteps(plan["noise_multiplier"], plan["rate"], plan["steps"])


@pytest.mark.parametrize("plan", PLANS)
def test_the_ruling_number_of_known_plans(plan):
    assert round(accounting.epsilon([block(plan)], plan["delta"]), 4) == plan["rdp"]


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_the_second_account_of_known_plans(plan):
    found = accounting.accountants([block(plan)], plan["delta"])
    assert found.keys() == {"rdp", "pld"}
    assert found["rdp"] == accounting.epsilon([block(plan)], plan["delta"])
    assert round(found["pld"], 4) == plan["pld"]
    assert found["pld"] < found["rdp"]


@pytest.mark.parametrize("rate", [1e-6, 0.001, 0.1, 0.5, 0.9999])
@pytest.mark.parametrize("sigma", [0.25, 1.0, 5.0, 100.0])
def test_whole_orders_are_those_of_dp_accounting(sigma, rate):
    from dp_accounting import dp_event
    from dp_accounting.rdp import rdp_privacy_accountant

    orders = [2, 3, 17, 64, 256, 512]
    library = rdp_privacy_accountant.RdpAccountant(orders)
    library.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma)))
    ours = dict(zip(accounting._ORDERS, accounting.renyi(sigma, rate), strict=True))
    np.testing.assert_allclose([ours[order] for order in orders], library.rdp, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9999])
@pytest.mark.parametrize("sigma", [0.2, 0.7, 3.0, 100.0])
def test_fractional_orders_are_those_of_direct_integration(sigma, rate):
    from scipy import integrate

    ours = dict(zip(accounting._ORDERS, accounting.renyi(sigma, rate), strict=True))

    def moment(order):
        # E over the mixture of ratio^(order-1), with the origin moved to where the integrand peaks.
        def integrand(x):
            log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * sigma**2))
            return order * log_ratio - x * x / (2 * sigma**2)

        grid = np.linspace(-15 * sigma, order + 15 * sigma, 4001)
        peak = integrand(grid).max()
        area, _ = integrate.quad(
            lambda x: math.exp(integrand(x) - peak),
            *(grid[0], grid[-1]),
            points=[0, 1, order],
            limit=2000,
            epsabs=0,
            epsrel=1e-11,
        )
        return (peak + math.log(area) - math.log(sigma * math.sqrt(2 * math.pi))) / (order - 1)

    for order in (1.5, 2.6, 3.3, 10.9):
        assert ours[order] == pytest.approx(moment(order), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0, 10.0])
def test_divergences_grow_with_the_order(sigma, rate):
    """A law of Rényi divergences that ties whole and fractional orders, computed apart, together."""
    order = np.argsort(accounting._ORDERS)
    divergence = accounting.renyi(sigma, rate)[order]
    assert (np.diff(divergence) >= -1e-14).all()


def test_rate_one_is_the_gaussian_mechanism_without_sampling():
    assert (accounting.renyi(3.0, 1.0) == accounting._ORDERS / 18).all()
    almost = accounting.renyi(3.0, 1 - 1e-12)
    np.testing.assert_allclose(almost, accounting.renyi(3.0, 1.0), rtol=1e-8)


@given(LEDGERS, BLOCKS, DELTAS)
def test_more_never_costs_less(ledger, more, delta):
    before = accounting.epsilon(ledger, delta)
    assert 0 <= before <= accounting.epsilon([*ledger, more], delta)


@given(LEDGERS, DELTAS, st.randoms())
def test_neither_order_nor_splitting_of_blocks_matters(ledger, delta, random):
    pieces = [GaussianSteps(b.noise_multiplier, b.rate, n) for b in ledger for n in (1, b.steps - 1) if n]
    random.shuffle(pieces)
    assert accounting.epsilon(pieces, delta) == accounting.epsilon(ledger, delta)


@given(st.tuples(SIGMAS, SIGMAS), st.tuples(RATES, RATES), st.integers(1, 5000), DELTAS)
def test_more_noise_and_a_lower_rate_never_cost_more(sigmas, rates, steps, delta):
    strict = GaussianSteps(max(sigmas), min(rates), steps)
    loose = GaussianSteps(min(sigmas), max(rates), steps)
    assert accounting.epsilon([strict], delta) <= accounting.epsilon([loose], delta)
    assert accounting.epsilon([loose], 1e-3) <= accounting.epsilon([loose], delta)


def test_heterogeneous_composition_is_below_the_sum_and_above_the_parts():
    parts = [GaussianSteps(1.0, 0.01, 500), GaussianSteps(3.0, 0.2, 40), GaussianSteps(9.0, 1.0, 2)]
    each = [accounting.epsilon([part], 1e-5) for part in parts]
    assert max(each) < accounting.epsilon(parts, 1e-5) < sum(each)


def test_a_ledger_of_sixty_different_entries_composes():
    ledger = [GaussianSteps(1 + i / 50, 0.01 * (1 + i % 7), 10 + i) for i in range(60)]
    assert len(accounting.merged(ledger)) == 60
    each = [accounting.epsilon([entry], 1e-5) for entry in ledger]
    total = accounting.epsilon(ledger, 1e-5)
    assert max(each) < total < sum(each) / 4
    # The number is that of the sum of all divergences, converted once.
    divergence = sum(e.steps * accounting.renyi(e.noise_multiplier, e.rate) for e in ledger)
    assert total == pytest.approx(accounting.converted(divergence, accounting._ORDERS, 1e-5), rel=1e-12)


def test_jobs_rounds_retries_and_trials_all_count():
    """Whatever was charged is in the account: a refused budget is the same in whatever order they came."""
    rounds = [GaussianSteps(1.2, 0.02, 25)] * 8  # one job
    retry = [GaussianSteps(1.2, 0.02, 25)]  # a round that was computed again with fresh noise
    trials = [GaussianSteps(sigma, 0.05, 40) for sigma in (2.0, 3.0, 4.0)]  # settings tried out
    joint = [GaussianSteps(6.0, 1.0, 10)]  # full-batch steps of another job
    parts = [rounds, retry, trials, joint]
    all_of_them = [entry for part in parts for entry in part]
    total = accounting.epsilon(all_of_them, 1e-6)
    for left_out in range(len(parts)):
        rest = [entry for i, part in enumerate(parts) if i != left_out for entry in part]
        assert accounting.epsilon(rest, 1e-6) < total
        assert accounting.would_exceed(all_of_them, 1e-6, accounting.epsilon(rest, 1e-6))
    assert accounting.epsilon(rounds, 1e-6) == accounting.epsilon([GaussianSteps(1.2, 0.02, 200)], 1e-6)
    assert accounting.epsilon(all_of_them[::-1], 1e-6) == total


def test_a_divergence_is_computed_once_and_cannot_be_written_to():
    first = accounting.renyi(1.25, 0.125)
    assert accounting.renyi(1.25, 0.125) is first
    with pytest.raises(ValueError):
        first[0] = 0


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_simulated_privacy_loss_stays_within_the_ruling_epsilon(rate):
    """The worst pair of neighbours, played out: delta at the ruling epsilon holds, well below it breaks."""
    sigma, steps, delta, runs = 2.0, 12, 0.01, 60_000
    generator = np.random.default_rng(20260731)
    noise = generator.normal(0, sigma, (runs, steps))
    present = noise + (generator.random((runs, steps)) < rate)
    claimed = accounting.epsilon([GaussianSteps(sigma, rate, steps)], delta)

    def loss(x):
        return np.log1p(rate * np.expm1((2 * x - 1) / (2 * sigma**2))).sum(axis=1)

    assert measured_delta(loss(present), loss(noise), claimed) < delta
    assert measured_delta(loss(present), loss(noise), claimed / 2) > delta


def test_extremes_stay_finite():
    assert math.isfinite(accounting.epsilon([GaussianSteps(0.001, 0.5, 10**6)], 1e-5))
    assert math.isfinite(accounting.epsilon([GaussianSteps(0.2, 1 - 2**-53, 1)], 1e-5))
    assert accounting.epsilon([GaussianSteps(1e9, 2.0**-1000, 1)], 1e-5) == 0


def test_nothing_costs_nothing_and_limits_are_inclusive():
    assert accounting.epsilon([], 1e-5) == 0
    ledger = [GaussianSteps(1.0, 0.01, 1000)]
    exact = accounting.epsilon(ledger, 1e-5)
    assert not accounting.would_exceed(ledger, 1e-5, exact)
    assert accounting.would_exceed(ledger, 1e-5, math.nextafter(exact, 0))


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(BudgetError):
        accounting.epsilon([GaussianSteps(1.0, 0.5, 1)], delta)


@pytest.mark.slow
def test_the_ruling_number_loads_neither_torch_nor_other_accountants():
    code = (
        "import sys\n"
        "from cloister.privacy.dp import accounting, calibration, events\n"
        "accounting.epsilon([events.GaussianSteps(1.0, 0.5, 1)], 1e-5)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'opacus', 'scipy', 'dp_accounting')))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
