import math

import pytest

from cloister.privacy.dp import accounting
from cloister.privacy.dp.calibration import noise_multiplier
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError, PlanError


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "steps"),
    [(8.0, 1e-5, 0.1, 200), (1.0, 1e-5, 1.0, 60), (3.0, 1e-6, 0.02, 1000), (0.05, 1e-6, 1.0, 1000)],
)
def test_the_smallest_noise_of_five_digits_that_holds(epsilon, delta, rate, steps):
    sigma = noise_multiplier(epsilon, delta, rate, steps)
    assert float(f"{sigma:.5g}") == sigma
    assert accounting.epsilon([GaussianSteps(sigma, rate, steps)], delta) <= epsilon
    less = sigma - 10.0 ** (math.floor(math.log10(sigma)) - 4)
    assert accounting.epsilon([GaussianSteps(less, rate, steps)], delta) > epsilon


def test_a_known_plan_is_calibrated_back():
    epsilon = accounting.epsilon([GaussianSteps(1.0, 0.01, 1000)], 1e-5)
    assert noise_multiplier(epsilon, 1e-5, 0.01, 1000) == 1.0


def test_a_plan_split_into_rounds_stays_within_its_target():
    sigma = noise_multiplier(8.0, 1e-5, 0.1, 200)
    rounds = [GaussianSteps(sigma, 0.1, 10)] * 20
    assert not accounting.would_exceed(rounds, 1e-5, 8.0)
    assert accounting.would_exceed([*rounds, rounds[0]], 1e-5, 8.0)


def test_noise_never_falls_below_the_floor():
    assert noise_multiplier(1e6, 1e-5, 0.1, 1) == 0.1


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_an_impossible_target_is_refused(epsilon):
    with pytest.raises(PlanError) as refusal:
        noise_multiplier(epsilon, 1e-5, 0.1, 100)
    assert refusal.value.id == "plan_conflict"


def test_a_target_beyond_all_noise_is_refused():
    with pytest.raises(PlanError, match="No noise keeps 9000000000000 steps"):
        noise_multiplier(1e-3, 1e-9, 1.0, 9 * 10**12)


@pytest.mark.parametrize(("delta", "rate", "steps"), [(0.0, 0.1, 1), (1e-5, 0.0, 1), (1e-5, 0.1, 0)])
def test_parameters_out_of_range_are_refused(delta, rate, steps):
    with pytest.raises(BudgetError):
        noise_multiplier(1.0, delta, rate, steps)
