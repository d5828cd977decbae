"""What figures mean: worst cases, who was missing, and fair comparisons."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy.evidence import reading
from cloister.privacy.evidence.evidence import Accuracy, Evidence
from tests.reports import evidence, jointly, without_privacy


@pytest.mark.parametrize(
    ("epsilon", "delta", "odds"),
    [(0, 0, 0.5), (0, 0.01, 0.505), (1, 0, 0.731059), (3, 0, 0.952574), (8, 0, 0.999665), (5000, 0, 1.0)],
)
def test_even_odds_of_known_cases(epsilon: float, delta: float, odds: float) -> None:
    assert reading.even_odds(epsilon, delta) == pytest.approx(odds, abs=1e-6)


@given(st.floats(0, 50), st.floats(0, 0.5))
def test_even_odds_are_the_best_test_that_the_guarantee_allows(epsilon: float, delta: float) -> None:
    """Among error rates (a, b) with a + e^eps b >= 1 - delta and e^eps a + b >= 1 - delta."""
    corner = (1 - delta) / (1 + math.exp(epsilon))
    assert reading.even_odds(epsilon, delta) == pytest.approx(1 - corner)
    for miss in (corner / 2, 2 * corner):
        alarm = max(1 - delta - math.exp(epsilon) * miss, (1 - delta - miss) / math.exp(epsilon), 0)
        assert 1 - (miss + alarm) / 2 <= reading.even_odds(epsilon, delta) + 1e-12


@given(st.lists(st.floats(0, 30), min_size=2, max_size=5).map(sorted))
def test_more_epsilon_is_never_a_stronger_bound(epsilons: list[float]) -> None:
    odds = [reading.even_odds(epsilon, 1e-5) for epsilon in epsilons]
    assert all(a <= b for a, b in pairwise(odds))


def test_the_worst_site_speaks_for_all() -> None:
    worst = reading.Worst.of(Evidence.from_json(evidence()))
    assert worst is not None
    assert (worst.epsilon, worst.delta) == ("7.99", "1e-05")
    assert worst.odds == reading.even_odds(7.99, 1e-5)


def test_epsilons_are_compared_as_numbers() -> None:
    value = evidence()
    value["privacy"][2] |= {"epsilon": "10.5", "delta": "0.0001"}
    worst = reading.Worst.of(Evidence.from_json(value))
    assert worst is not None
    assert (worst.epsilon, worst.delta) == ("10.5", "0.0001")


def test_at_several_sites_one_noise_covers_less_than_a_noise_at_each() -> None:
    local, joint = (reading.several(Evidence.from_json(value)) for value in (evidence(), jointly()))
    sites = [[float(s.epsilon or 0) for s in found if s.what == "sites"] for found in (local, joint)]
    assert all(b > a for a, b in zip(*sites, strict=True))


def test_the_statement_of_a_joint_plan_names_shares_and_colluders() -> None:
    found = reading.statement_of(Evidence.from_json(jointly()).plan).to_json()
    assert found["mechanism"]["name"] == "discrete-gaussian-shares"
    assert found["trust"]["colluders"] == 1


def test_without_privacy_there_is_no_worst_case() -> None:
    assert reading.Worst.of(Evidence.from_json(without_privacy())) is None


def test_who_was_missing_is_told_once_with_its_rounds() -> None:
    found = reading.missing(Evidence.from_json(evidence()))
    assert [(gone.site, gone.how, gone.rounds) for gone in found] == [
        ("lake-hospital", "refused", "round 3"),
        ("river-practice", "lost", "rounds 6–8"),
    ]
    assert found[1].meaning == "a site went away and did not come back in time"


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([3], "round 3"),
        ([3, 4], "rounds 3–4"),
        ([1, 3], "rounds 1 and 3"),
        ([1, 3, 4, 5, 9], "rounds 1, 3–5 and 9"),
    ],
)
def test_rounds_in_words(numbers: list[int], words: str) -> None:
    assert reading.spans(numbers) == words


@pytest.mark.parametrize(
    ("parts", "words"), [([], "nobody"), (["a"], "a"), (["a", "b"], "a and b"), ("abc", "a, b and c")]
)
def test_lists_in_words(parts: list[str], words: str) -> None:
    assert reading.listing(parts) == words


def accuracy(**changes: Any) -> Accuracy:
    found = Evidence.from_json(evidence(accuracy=evidence()["accuracy"] | changes)).accuracy
    assert found is not None
    return found


def test_verdicts() -> None:
    verdicts = {(c.site, c.other): c.verdict for c in reading.comparisons(accuracy())}
    assert verdicts[("", "tfidf")] == "not better"
    assert verdicts[("hill-clinic", "alone")] == "too close"
    assert verdicts[("lake-hospital", "alone")] == "not better"
    assert verdicts[("river-practice", "alone")] == "better"
    assert verdicts[("town-hospital", "alone_private")] == "better"
    assert len(verdicts) == 3 + 2 * 4


def test_equal_is_not_better() -> None:
    first = next(reading.comparisons(accuracy(tfidf=0.776)))
    assert first.verdict == "not better"


@pytest.mark.parametrize(("rows", "verdict"), [("100", "too close"), ("100000", "better")])
def test_more_test_records_tell_closer_figures_apart(rows: str, verdict: str) -> None:
    assert next(reading.comparisons(accuracy(tfidf=0.766, test_rows=rows))).verdict == verdict


def test_the_margin_is_the_textbook_one() -> None:
    first = next(reading.comparisons(accuracy(tfidf=0.5, federated=0.5, test_rows="200")))
    assert first.margin == pytest.approx(1.96 * math.sqrt(0.25 / 200 + 0.25 / 200))


def test_what_was_not_measured_is_not_compared() -> None:
    nothing = {"tfidf": None, "pooled": None, "pooled_private": None, "sites": []}
    assert list(reading.comparisons(accuracy(**nothing))) == []
