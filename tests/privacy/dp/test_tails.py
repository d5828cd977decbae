"""Tail bounds hold, known answers included, and are sharp enough to refute what they should."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cloister.privacy.dp import tails
from cloister.privacy.errors import BudgetError


@pytest.mark.parametrize("freedom", [1, 10, 1000])
@pytest.mark.parametrize("ratio", [0.2, 0.8, 0.97, 1.0, 1.05, 1.5, 6.0])
def test_chi_square_bounds_the_exact_tail(ratio: float, freedom: int) -> None:
    exact = stats.chi2(freedom)
    value = ratio * freedom
    tail = float(exact.sf(value) if ratio >= 1 else exact.cdf(value))
    bound = tails.chi_square(ratio, freedom)
    assert tail <= bound / 2 or bound == 1
    if 1e-280 < bound < 0.1:
        assert bound < tail * 40 * math.sqrt(freedom)  # Chernoff loses a polynomial factor, no more


def test_no_noise_at_all_is_impossible() -> None:
    assert tails.chi_square(0.0, 5) == tails.chi_square(math.nan, 5) == tails.chi_square(math.inf, 5) == 0


@pytest.mark.parametrize("successes", [0, 40, 90, 100, 104, 150, 1000])
def test_binomial_bounds_the_exact_tail(successes: int) -> None:
    law = stats.binom(1000, 0.1)
    tail = float(law.sf(successes - 1) if successes >= 100 else law.cdf(successes))
    bound = tails.binomial(successes, 1000, 0.1)
    assert tail <= bound / 2 * (1 + 1e-9) or bound == 1
    assert bound <= 100 * tail or bound == 1


def test_at_rate_one_every_trial_succeeds() -> None:
    assert (tails.binomial(9, 9, 1.0), tails.binomial(8, 9, 1.0)) == (1, 0)


def test_sub_gaussian_known_answer() -> None:
    assert tails.sub_gaussian(3, 1) == pytest.approx(2 * math.exp(-4.5))
    assert tails.sub_gaussian(0, 1) == 1
    assert tails.sub_gaussian(math.nan, 1) == 0


@pytest.mark.parametrize(("trials", "rate"), [(10, 0.05), (10, 0.5), (200, 0.01), (3, 0.9), (1, 0.2)])
def test_independent_draws_are_spread_as_they_should(trials: int, rate: float) -> None:
    random = np.random.default_rng(5)
    seen = [tails.dispersion(random.binomial(trials, rate, 1000), trials, rate) for _ in range(200)]
    assert min(seen) > 1e-4


@pytest.mark.parametrize(("trials", "rate"), [(10, 0.1), (20, 0.05), (100, 0.2)])
def test_units_taken_equally_often_or_again_and_again_are_found(trials: int, rate: float) -> None:
    equal = np.full(1000, round(trials * rate))
    assert tails.dispersion(equal, trials, rate) < 1e-9
    same = np.zeros(1000, dtype=np.int64)
    same[: int(1000 * rate)] = trials
    assert tails.dispersion(same, trials, rate) < 1e-9


def test_at_rate_one_every_unit_is_taken_every_time() -> None:
    assert tails.dispersion(np.full(5, 7), 7, 1.0) == 1
    assert tails.dispersion(np.array([7, 7, 6]), 7, 1.0) == 0


def test_a_perfect_guesser_refutes_this_much_and_no_more() -> None:
    # 200 of 200: the largest epsilon with (e^eps / (1 + e^eps))^200 <= 0.05, by hand.
    pure = math.log(0.05 ** (1 / 200) / (1 - 0.05 ** (1 / 200)))
    assert tails.epsilon_lower_bound(200, 200, 1000, 0.0) == pytest.approx(pure)
    assert pure == pytest.approx(4.19, abs=0.01)
    assert 4.15 < tails.epsilon_lower_bound(200, 200, 1000, 1e-5) < pure


def test_a_coin_refutes_nothing() -> None:
    assert tails.epsilon_lower_bound(100, 200, 1000, 1e-5) == 0
    assert tails.epsilon_lower_bound(0, 0, 1000, 1e-5) == 0


def test_the_probability_of_guessing_is_that_of_randomised_response() -> None:
    epsilon = 1.3
    exact = stats.binom(200, math.exp(epsilon) / (1 + math.exp(epsilon))).sf(169)
    assert tails.guessing(170, 200, 200, epsilon, 0.0) == pytest.approx(exact)


def test_delta_gives_the_guesser_something() -> None:
    # alpha of theorem 5.2, written out: the best of all i of P[v - i <= W < v] / i, times 2 m delta.
    v, law = 8, stats.binom(10, math.e / (1 + math.e))
    alpha = max((law.cdf(v - 1) - law.cdf(v - i - 1)) / i for i in range(1, v + 1))
    assert tails.guessing(v, 10, 50, 1.0, 1e-3) == pytest.approx(law.sf(v - 1) + 2 * 50 * 1e-3 * alpha)


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 0.01))
def test_more_right_answers_refute_more(one: int, two: int, delta: float) -> None:
    few, many = sorted((one, two))
    assert tails.epsilon_lower_bound(few, 60, 100, delta) <= tails.epsilon_lower_bound(many, 60, 100, delta)


@given(st.integers(1, 100), st.floats(0.1, 3))
def test_at_the_bound_the_guesses_are_just_improbable(correct: int, delta: float) -> None:
    bound = tails.epsilon_lower_bound(correct, 100, 100, delta / 1e6)
    if bound:
        assert tails.guessing(correct, 100, 100, bound, delta / 1e6) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("numbers", [(3, 2, 5), (1, 2, 1), (-1, 2, 5)])
def test_impossible_guesses_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(BudgetError):
        tails.epsilon_lower_bound(*numbers, 1e-5)
