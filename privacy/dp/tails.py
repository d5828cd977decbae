"""Tail bounds: how probable it is, at most, that a sound mechanism looks as bad as what was seen.

Each function gives an upper bound on a probability that holds at every number of observations; none is an
approximation for many. The audit of a job (``privacy.dp.audit``) is built of them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.errors import BudgetError

_LARGEST_EPSILON = 32.0  # beyond it the odds leave float64's precision, and no number of guesses reaches it
_HALVINGS = 40


def chi_square(ratio: float, freedom: int) -> float:
    """At most how probable it is that a chi-square value over its mean lies as far from 1, on either side.

    Twice Chernoff's bound exp(-k/2 (t - 1 - ln t)).

    Args:
        ratio: the value over its degrees of freedom, at least 0.
        freedom: degrees of freedom, at least 1.
    """
    if ratio == 0 or not math.isfinite(ratio):
        return 0.0
    return min(1.0, 2 * math.exp(-freedom / 2 * (ratio - 1 - math.log(ratio))))


def sub_gaussian(deviation: float, proxy: float) -> float:
    """At most how probable it is that a sub-Gaussian sum is as far from its mean: 2 exp(-d^2 / (2 proxy))."""
    if not math.isfinite(deviation):
        return 0.0
    return min(1.0, 2 * math.exp(-(deviation**2) / (2 * proxy)))


def binomial(successes: int, trials: int, rate: float) -> float:
    """At most how probable it is that so many of independent trials succeed, or as far off on either side.

    Chernoff's bound with the relative entropy: 2 exp(-n KL(seen share || rate)).

    Args:
        successes: from 0 to ``trials``.
        trials: at least 1.
        rate: in (0, 1]; at 1 every trial must succeed.
    """
    share = successes / trials
    if rate == 1:
        return 1.0 if share == 1 else 0.0
    entropy = (share * math.log(share / rate) if share else 0.0) + (
        (1 - share) * math.log((1 - share) / (1 - rate)) if share < 1 else 0.0
    )
    return min(1.0, 2 * math.exp(-trials * entropy))


def dispersion(counts: NDArray[np.int64], trials: int, rate: float) -> float:
    """At most how probable it is that independent Binomial(trials, rate) counts are spread as these.

    The mean of (count - n q)^2 / (n q (1 - q)) is 1. Below it: exp(-m t^2 / (2 E[Y^2])) for non-negative
    variables (Maurer 2003, "A Bound on the Deviation Probability for Sums of Non-Negative Random
    Variables"); above it: Bernstein's inequality. A sampler that takes every unit equally often, as
    shuffled batches do, lies far below; one that takes the same units again and again far above.

    Args:
        counts: how often each of m units was taken, shape (m,).
        trials: the number of draws, at least 1.
        rate: in (0, 1]; at 1 every count must be ``trials``.
    """
    if rate == 1:
        return 1.0 if (counts == trials).all() else 0.0
    variance = trials * rate * (1 - rate)
    spread = float(np.mean((counts - trials * rate) ** 2)) / variance
    square = 3 + (1 - 6 * rate * (1 - rate)) / variance  # E[Y^2], the kurtosis of the count
    t, m = abs(spread - 1), len(counts)
    if spread <= 1:
        exponent = m * t**2 / (2 * square)
    else:
        most = (trials * max(rate, 1 - rate)) ** 2 / variance
        exponent = m * t**2 / (2 * (square - 1 + most * t / 3))
    return min(1.0, 2 * math.exp(-exponent))


def guessing(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """At most how probable it is to guess as many coins right under (epsilon, delta)-differential privacy.

    Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846), theorem 5.2: each canary was put in by a fair coin;
    the attacker saw everything that left once, guessed the coins of ``guesses`` canaries, and had
    ``correct`` right.

    Args:
        correct: from 0 to ``guesses``.
        guesses: r, from 0 to ``canaries``, fixed before the guesses were scored.
        canaries: m.
        epsilon: at least 0.
        delta: in [0, 1).
    """
    pmf = _binomial(guesses, 1 / (1 + math.exp(-min(epsilon, _LARGEST_EPSILON))))
    beta = float(pmf[correct:].sum())
    below = np.cumsum(pmf[:correct][::-1]) / np.arange(1, correct + 1)
    alpha = float(below.max()) if correct else 0.0
    return min(1.0, beta + 2 * canaries * delta * alpha)


def epsilon_lower_bound(
    correct: int, guesses: int, canaries: int, delta: float, *, confidence: float = 0.95
) -> float:
    """The largest epsilon that such guesses refute; 0 where they refute none.

    A mechanism that is (epsilon, delta)-differentially private for an epsilon below this number lets
    anybody guess as well with probability at most 1 - ``confidence``. Even when every guess is right it
    stays finite: 4.2 for 200 guesses.

    Raises:
        BudgetError: ``mechanism_unaccountable`` for numbers out of range.
    """
    if not (0 <= correct <= guesses <= canaries and 0 <= delta < 1 and 0 < confidence < 1):
        raise BudgetError("mechanism_unaccountable", "These cannot be the guesses of an audit.")
    low, high = 0.0, _LARGEST_EPSILON
    if guessing(correct, guesses, canaries, low, delta) > 1 - confidence:
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if guessing(correct, guesses, canaries, middle, delta) > 1 - confidence:
            high = middle
        else:
            low = middle
    return low


def share_at_least(successes: int, trials: int, *, confidence: float = 0.95) -> float:
    """The lower end of Clopper and Pearson's interval (1934), one-sided: 0 where nothing succeeded.

    Args:
        successes: from 0 to ``trials``, each by itself with the same probability.
        trials: at least 1.
        confidence: how surely the probability is not below what is returned.
    """
    if not successes:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(_binomial(trials, middle)[successes:].sum()) > 1 - confidence:
            high = middle
        else:
            low = middle
    return low


def share_at_most(successes: int, trials: int, *, confidence: float = 0.95) -> float:
    """The upper end of that interval: 1 where everything succeeded."""
    return 1 - share_at_least(trials - successes, trials, confidence=confidence)


def _binomial(n: int, p: float) -> NDArray[np.float64]:
    """Probabilities of 0 to n successes; p in (0, 1)."""
    k = np.arange(n + 1)
    factorials = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    ways = factorials[n] - factorials - factorials[::-1]
    found: NDArray[np.float64] = np.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))
    return found
