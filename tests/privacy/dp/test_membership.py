"""What scores tell about who was trained on."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from cloister.privacy.dp import tails
from cloister.privacy.dp.membership import guessed, guesses_of, separation

SCORES = np.array([4.0, 3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("included", "guesses", "correct"),
    [
        ([1, 1, 0, 0], 4, 4),
        ([0, 0, 1, 1], 4, 0),
        ([1, 0, 1, 0], 4, 2),
        ([1, 0, 1, 0], 2, 2),  # of the two in the middle nothing is said
        ([1, 1, 1, 1], 4, 2),
        ([0, 0, 0, 0], 0, 0),
    ],
)
def test_the_surest_on_either_side_are_guessed(included: list[int], guesses: int, correct: int) -> None:
    assert guessed(SCORES, np.array(included, dtype=bool), guesses) == correct


@pytest.mark.parametrize(("trials", "guesses"), [(20, 10), (22, 10), (32, 16), (64, 32), (1000, 500)])
def test_half_of_the_coins_are_guessed(trials: int, guesses: int) -> None:
    assert guesses_of(trials) == guesses


def test_figures_of_a_perfect_and_of_a_blind_attack() -> None:
    included = np.arange(40) % 2 == 0
    perfect, blind = separation(included.astype(float), included), separation(np.zeros(40), included)
    assert perfect is not None
    assert blind is not None
    assert (perfect.auc, perfect.accused, perfect.found) == (1.0, 0.1, 1.0)
    assert perfect.exposure == pytest.approx(np.log2(21))
    assert (blind.auc, blind.found, blind.exposure) == (0.5, 0.0, 0.0)


def test_the_rate_of_false_alarms_is_kept() -> None:
    """2 of 20 others may be accused: the third highest of them is where members begin to be found."""
    others, members = np.arange(20.0), np.array([17.0, 17.5, 18.5, 19.5, *np.zeros(8)])
    scores = np.concatenate([members, others])
    found = separation(scores, np.arange(32) < 12)
    assert found is not None
    assert found.found == pytest.approx(3 / 12)


@pytest.mark.parametrize(("members", "others"), [(9, 100), (100, 9), (0, 50)])
def test_nothing_is_told_of_few(members: int, others: int) -> None:
    included = np.arange(members + others) < members
    assert separation(np.zeros(members + others), included) is None


def test_with_a_hundred_others_the_smaller_rate_is_taken() -> None:
    found = separation(np.zeros(120), np.arange(120) < 20)
    assert found is not None
    assert found.accused == 0.01


@cache
def bound(correct: int, trials: int) -> float:
    return tails.epsilon_lower_bound(correct, guesses_of(trials), trials, 0.0)


def refuted(leak: float, claim: float, runs: int = 400, trials: int = 128) -> float:
    """How often guesses refute a claim, where each coin is told as ``leak``-randomised response."""
    random, found = np.random.default_rng(7), 0
    for _ in range(runs):
        included = random.random(trials) < 0.5
        honest = random.random(trials) < 1 / (1 + np.exp(-leak))
        scores = np.where(honest == included, 1.0, -1.0) + random.random(trials) / 2
        correct = guessed(scores, included, guesses_of(trials))
        found += bound(correct, trials) > claim
    return found / runs


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_a_true_claim_is_refuted_at_most_as_often_as_stated(epsilon: float) -> None:
    assert refuted(epsilon, epsilon) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_false_claim_is_refuted_nearly_always() -> None:
    assert refuted(3.0, 0.5) > 0.95


@pytest.mark.parametrize(
    ("correct", "bound"), [(64, 3.0382), (60, 1.8376), (32, 0.0)]
)  # the logit of scipy.stats.beta.ppf(0.05, correct, 65 - correct)
def test_known_bounds(correct: int, bound: float) -> None:
    assert tails.epsilon_lower_bound(correct, 64, 128, 0.0) == pytest.approx(bound, abs=1e-4)
