import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.dp.odds import Odds, percent
from cloister.privacy.errors import BudgetError

EPSILONS = st.floats(0, 800)
DELTAS = st.floats(0, 0.5)
SHARES = st.floats(0, 1)
ODDS = st.builds(Odds, EPSILONS, DELTAS)


@pytest.mark.parametrize(("epsilon", "sure"), [(0, 0.5), (1, 0.7310586), (3, 0.9525741), (8, 0.9996646)])
def test_even_odds_at_known_epsilons(epsilon, sure):
    assert Odds(epsilon, 0).belief(0.5) == pytest.approx(sure, abs=1e-7)
    assert Odds(epsilon, 0).correct(0.5) == pytest.approx(sure, abs=1e-7)


def test_a_prior_is_moved_by_the_odds_ratio():
    # 1 to 9 becomes e to 9.
    assert Odds(1, 1e-6).belief(0.1) == pytest.approx(math.e / (math.e + 9))
    assert Odds(1, 1e-6).least_belief(0.1) == pytest.approx((1 / math.e) / (1 / math.e + 9))
    assert Odds(1, 0.1).correct(0.5) == pytest.approx((math.e + 0.1) / (math.e + 1))


def mechanism(epsilon, delta):
    """The worst mechanism: truth with probability delta, else randomised response (absent, present)."""
    e = math.exp(epsilon)
    low, high = (1 - delta) / (1 + e), (1 - delta) * e / (1 + e)
    return np.array([[delta, 0], [high, low], [low, high], [0, delta]])


def every_test(outcomes):
    """Error rates of all 16 deterministic tests of the four outcomes: (false, true) positive rates."""
    masks = np.array([[n >> i & 1 for i in range(4)] for n in range(16)])
    return masks @ outcomes


@pytest.mark.parametrize("prior", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (0.5, 0.1), (1.0, 1e-5), (4.0, 0.3)])
def test_the_worst_mechanism_attains_every_bound(epsilon, delta, prior):
    odds, outcomes = Odds(epsilon, delta), mechanism(epsilon, delta)
    assert outcomes.sum(axis=0) == pytest.approx([1, 1])
    rates = every_test(outcomes)
    best = max(prior * true + (1 - prior) * (1 - false) for false, true in rates)
    assert odds.correct(prior) == pytest.approx(best)
    assert odds.advantage() == pytest.approx(max(true - false for false, true in rates))
    for false, true in rates:
        assert true <= odds.true_positive_rate(min(1.0, max(0.0, false))) + 1e-12
    # The best test at any rate mixes deterministic ones.
    for false in (0.0, 0.001, 0.3, 0.8):
        hull = max(
            (b[1] * (false - a[0]) + a[1] * (b[0] - false)) / (b[0] - a[0])
            for a in rates
            for b in rates
            if a[0] <= false < b[0]
        )
        assert odds.true_positive_rate(false) == pytest.approx(hull)
    # Outside the event of probability delta a belief moves as far as is said, and no farther.
    moved = [prior * p / (prior * p + (1 - prior) * a) for a, p in outcomes[1:3]]
    assert moved == pytest.approx([odds.least_belief(prior), odds.belief(prior)])


@given(ODDS, SHARES)
def test_bounds_are_probabilities_and_keep_their_order(odds, share):
    assert odds.least_belief(share) <= share + 1e-12
    assert share <= odds.belief(share) + 1e-12
    assert max(share, 1 - share) <= odds.correct(share) + 1e-12
    assert odds.correct(share) <= 1
    assert share <= odds.true_positive_rate(share) + 1e-12
    assert odds.true_positive_rate(share) <= 1


@given(EPSILONS, EPSILONS, DELTAS, DELTAS, SHARES)
def test_a_weaker_promise_never_shows_smaller_odds(one, two, delta, other, share):
    strong, weak = Odds(min(one, two), min(delta, other)), Odds(max(one, two), max(delta, other))
    assert strong.belief(share) <= weak.belief(share)
    assert strong.correct(share) <= weak.correct(share) + 1e-12
    assert strong.true_positive_rate(share) <= weak.true_positive_rate(share) + 1e-12


def test_no_belief_overflows():
    assert Odds(746, 0).belief(2.3e-309) == pytest.approx(1)
    assert Odds(1e300, 0).belief(5e-324) == 1
    assert Odds(0, 0).belief(5e-324) == 5e-324


def test_plain_words():
    lines = Odds(1, 1e-5).lines("person")
    assert lines[0] == (
        "An attacker who was 50 % sure that a person was used becomes at most 73.11 % sure, "
        "except with probability 1e-05, in which nothing is promised."
    )
    assert "1 % of persons" in lines[2]
    assert "except" not in Odds(1, 0).lines()[0]


def testpercentages_are_never_rounded_down():
    assert "99.97 % sure" in Odds(8, 0).lines()[0]
    assert "almost 100 % sure" in Odds(20, 0).lines()[0]
    assert "at most 50.01 %" in Odds(0, 1e-9).lines()[1]
    assert "at most 50 %" in Odds(0, 0).lines()[1]


@pytest.mark.parametrize(("epsilon", "delta"), [(-1, 0), (math.inf, 0), (math.nan, 0), (1, 1), (1, -0.1)])
def test_no_odds_without_a_promise(epsilon, delta):
    with pytest.raises(BudgetError):
        Odds(epsilon, delta)


def test_no_probability_above_one():
    for call in (Odds(1, 0).belief, Odds(1, 0).correct, Odds(1, 0).true_positive_rate):
        with pytest.raises(BudgetError):
            call(1.1)


def test_the_page_on_privacy_shows_these_numbers():
    page = (Path(__file__).parents[3] / "docs/privacy.md").read_text()
    for epsilon in (0.5, 1, 3, 8):
        odds = Odds(epsilon, 0)
        cells = [odds.belief(0.5), odds.belief(0.1), odds.true_positive_rate(0.01)]
        assert f"| {epsilon} | {' | '.join(map(percent, cells))} |" in page
