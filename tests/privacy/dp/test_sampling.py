"""Poisson sampling: every unit by its own coin, at exactly the rate that is charged."""

import math

import numpy as np
import pytest
from scipy import stats

from cloister.privacy import canonical
from cloister.privacy.dp.sampling import poisson
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError

MODEL = canonical.digest(b"a model")
UNITS, STEPS = 200, 400


def stream(step=0, seed=b"a" * 32):
    return FixedEntropy(seed).stream("sampling", round=1, step=step, model=MODEL)


def taken(rate, sample=poisson):
    """A matrix, steps by units: who took part when."""
    table = np.zeros((STEPS, UNITS), dtype=bool)
    for step in range(STEPS):
        table[step, sample(UNITS, rate, stream(step))] = True
    return table


def looks_like(table, rate, level=1e-4):
    """Whether the total, the spread of sizes and of each unit's count are those of Poisson sampling."""
    total = stats.binomtest(int(table.sum()), table.size, rate).pvalue > level
    steps, units = table.shape
    sizes, counts = table.sum(axis=1), table.sum(axis=0)
    return (
        total and _binomial_spread(sizes, units, rate, level) and _binomial_spread(counts, steps, rate, level)
    )


def _binomial_spread(counts, trials, rate, level):
    spread = np.sum((counts - trials * rate) ** 2) / (trials * rate * (1 - rate))
    low, high = stats.chi2.ppf([level / 2, 1 - level / 2], len(counts))
    return low < spread < high


@pytest.mark.parametrize("rate", [0.03, 0.3, 0.9])
def test_the_right_rate_is_accepted_and_wrong_ones_are_rejected(rate):
    table = taken(rate)
    assert looks_like(table, rate)
    assert not looks_like(table, rate * 0.9)
    assert not looks_like(table, min(rate * 1.1, 0.999))


def test_shuffled_batches_of_one_size_are_rejected():
    order = np.random.default_rng(3)

    def fixed_size(units, rate, _stream):
        return order.permutation(units)[: round(units * rate)]

    assert looks_like(taken(0.3), 0.3)
    assert not looks_like(taken(0.3, fixed_size), 0.3)


def test_a_sample_that_favours_some_units_is_rejected():
    def skewed(units, rate, drawn):
        chances = np.where(np.arange(units) < units // 2, rate * 1.3, rate * 0.7)
        return np.flatnonzero(drawn.uniform(units) < chances)

    assert not looks_like(taken(0.3, skewed), 0.3)


def test_units_are_drawn_independently_of_each_other_and_of_other_steps():
    table = taken(0.3).astype(float)
    limit = 5 / math.sqrt(table.size)
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < limit
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < limit


def test_the_sample_is_sorted_positions():
    sample = poisson(1000, 0.4, stream())
    assert sample.dtype == np.int64
    assert (np.diff(sample) > 0).all()
    assert 0 <= sample[0] < sample[-1] < 1000


def test_rate_one_takes_every_unit():
    assert (poisson(500, 1.0, stream()) == np.arange(500)).all()


def test_samples_may_be_empty():
    assert poisson(0, 0.5, stream()).shape == (0,)
    assert poisson(500, 2.0**-60, stream()).shape == (0,)


def test_a_stream_gives_one_sample_and_another_stream_another():
    assert (poisson(500, 0.5, stream(0)) == poisson(500, 0.5, stream(0))).all()
    others = [poisson(500, 0.5, stream(1)), poisson(500, 0.5, stream(0, seed=b"b" * 32))]
    assert all(not np.array_equal(other, poisson(500, 0.5, stream(0))) for other in others)


class Edges:
    """Uniforms at the two sides of a rate that is no multiple of 2^-53."""

    def __init__(self, values):
        self.values = np.array(values)

    def uniform(self, n):
        return self.values[:n]


def test_the_true_rate_is_never_above_the_one_charged():
    rate = 1 / 1024 + 2.0**-60
    below, threshold = math.floor(rate * 2**53) - 1, math.floor(rate * 2**53)
    drawn = Edges([below * 2.0**-53, threshold * 2.0**-53])
    assert threshold * 2.0**-53 < rate
    assert poisson(2, rate, drawn).tolist() == [0]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, math.nan])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(PlanError):
        poisson(10, rate, stream())
