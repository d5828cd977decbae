"""Discrete Gaussian noise: the right parameter is accepted, wrong ones are rejected, and it is exact."""

import math
import random
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import stats

from cloister.privacy import canonical
from cloister.privacy.dp import accounting, discrete
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import UpdateError

MODEL = canonical.digest(b"a model")
D = 40_000
LEVEL = 1e-4


def stream(seed=b"a" * 32):
    return FixedEntropy(seed).stream("noise", round=1, model=MODEL)


def probabilities(s, reach):
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * s * s))
    return weights / weights.sum()


def looks_like(values, s):
    """Whether the counts of all integers pass a chi-square test against the exact probabilities."""
    reach = math.ceil(12 * s)
    if abs(values).max() > reach:
        return False
    expected = probabilities(s, reach) * len(values)
    counts = np.bincount(values + reach, minlength=2 * reach + 1)
    # Neighbouring integers are put together until each cell expects at least 20.
    starts, held = [0], 0.0
    for i, more in enumerate(expected):
        if held >= 20 and expected[i:].sum() >= 20:
            starts.append(i)
            held = 0.0
        held += more
    expected, counts = np.add.reduceat(expected, starts), np.add.reduceat(counts, starts)
    return stats.chisquare(counts, expected).pvalue > LEVEL


@pytest.mark.parametrize("s", [1.0, 1.7, 8.0, 8.5, 60.0])
def test_the_right_parameter_is_accepted_and_wrong_ones_are_rejected(s):
    values = discrete.discrete_gaussian(D, s, stream())
    assert values.dtype == np.int64
    assert values.shape == (D,)
    assert looks_like(values, s)
    assert not looks_like(values, s * 3 / 2)
    assert not looks_like(values, s * 2 / 3)
    assert not looks_like(values, s * 1.05)
    assert not looks_like(values + 1, s) or s > 20


@pytest.mark.parametrize("s", [1e3, 1e6, 2.0**28])
def test_large_parameters_look_gaussian(s):
    values = discrete.discrete_gaussian(D, s, stream()) / s
    assert stats.kstest(values, "norm").pvalue > LEVEL
    assert stats.kstest(values * 1.05, "norm").pvalue < LEVEL


def test_rounded_gaussian_and_laplace_noise_are_rejected():
    generator = np.random.default_rng(5)
    assert not looks_like(np.rint(generator.normal(0, 1.0, D)).astype(int), 1.0)
    assert not looks_like(np.rint(generator.laplace(0, 8 / math.sqrt(2), D)).astype(int), 8.0)


def test_zero_is_not_drawn_twice_as_often():
    values = discrete.discrete_gaussian(D, 1.0, stream())
    share = probabilities(1.0, 40)[40]
    assert abs(np.mean(values == 0) - share) < 5 * math.sqrt(share / D)
    assert abs(np.mean(values > 0) - np.mean(values < 0)) < 5 / math.sqrt(D)


@pytest.mark.parametrize("s", [1.0, 8.0, 12345.678, 2.0**28])
def test_decimal_decides_as_float64_does(monkeypatch, s):
    """With margins as wide as everything, every draw is decided exactly; the values are the same bits."""
    fast = discrete.discrete_gaussian(400, s, stream())
    monkeypatch.setattr(discrete, "_FLOOR_MARGIN", 1.0)
    monkeypatch.setattr(discrete, "_KEEP_MARGIN", 2.0)
    asked = []
    exact = discrete._exact_floor
    monkeypatch.setattr(discrete, "_exact_floor", lambda *given: asked.append(1) or exact(*given))
    assert (discrete.discrete_gaussian(400, s, stream()) == fast).all()
    assert len(asked) >= 400


class Digits:
    """A stream whose further digits are given."""

    def __init__(self, *words):
        self.left = list(words)

    def words(self, n):
        return np.array([self.left.pop(0) for _ in range(n)], dtype=np.uint64)


def test_a_floor_on_the_edge_is_decided_by_further_digits():
    t = 1000
    with localcontext(prec=80):
        edge = (Decimal(-7) / t).exp() * 2**64  # U at which -t ln U is 7
    first, rest = int(edge), edge - int(edge)
    below, above = int(rest * 2**64) - 1, int(rest * 2**64) + 1
    assert discrete._exact_floor(first, t, Digits(below)) == 7
    assert discrete._exact_floor(first, t, Digits(above)) == 6
    assert discrete._exact_floor(first, t, Digits(below + 1, 0)) == 7  # the edge within 128 digits


def test_a_rejection_on_the_edge_is_decided_by_further_digits():
    s, t, size = 12.5, 13, 20
    with localcontext(prec=80):
        square = Decimal(s) ** 2
        edge = (-((size - square / t) ** 2) / (2 * square)).exp() * 2**63
    first, rest = int(edge), edge - int(edge)
    below, above = int(rest * 2**64) - 1, int(rest * 2**64) + 1
    assert discrete._exact_keep(first, size, s, t, Digits(below))
    assert not discrete._exact_keep(first, size, s, t, Digits(above))
    assert discrete._exact_keep(first - 1, size, s, t, Digits())


def test_the_ends_of_the_uniform_are_no_special_case():
    assert discrete._exact_floor(2**64 - 1, 5, Digits()) == 0
    assert discrete._exact_floor(0, 5, Digits(0, 2**63)) == math.floor(5 * 129 * math.log(2))


def test_log_and_exp_of_this_machine_err_less_than_the_proof_assumes():
    generator = np.random.default_rng(9)
    inside = np.append(generator.uniform(2.0**-20, 1, 1000), [1 - 2.0**-53, 2.0**-20])
    below = -generator.uniform(0, 30, 1000)
    with localcontext(prec=40):
        for x, found in zip(inside, np.log(inside), strict=True):
            exact = Decimal(float(x)).ln()
            assert abs(Decimal(float(found)) - exact) <= abs(exact) * Decimal(2.0**-48)
        for x, found in zip(below, np.exp(below), strict=True):
            exact = Decimal(float(x)).exp()
            assert abs(Decimal(float(found)) - exact) <= exact * Decimal(2.0**-48)


@pytest.mark.parametrize("d", [0, 1, 7, (1 << 15) + 1])
def test_every_length_is_served(d):
    assert discrete.discrete_gaussian(d, 9.0, stream()).shape == (d,)


@pytest.mark.parametrize("s", [0.0, 0.99, -8.0, 2.0**28 + 1, math.inf, math.nan])
def test_parameters_without_a_proof_are_refused(s):
    with pytest.raises(UpdateError) as refusal:
        discrete.discrete_gaussian(3, s, stream())
    assert refusal.value.id == "update_unnoised"


def test_seeding_global_generators_changes_nothing():
    kept = random.getstate(), np.random.get_state()
    try:
        random.seed(42)
        np.random.seed(42)
        first = discrete.discrete_gaussian(200, 8.0, stream(b"a" * 32))
        random.seed(42)
        np.random.seed(42)
        other = discrete.discrete_gaussian(200, 8.0, stream(b"b" * 32))
        random.seed(7)
        np.random.seed(7)
        again = discrete.discrete_gaussian(200, 8.0, stream(b"a" * 32))
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
    assert (first == again).all()
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.4


@pytest.mark.slow
def test_torch_seeds_have_no_part_in_it():
    import torch

    torch.manual_seed(42)
    first = discrete.discrete_gaussian(200, 8.0, stream(b"a" * 32))
    torch.manual_seed(42)
    other = discrete.discrete_gaussian(200, 8.0, stream(b"b" * 32))
    torch.manual_seed(7)
    assert (first == discrete.discrete_gaussian(200, 8.0, stream(b"a" * 32))).all()
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.4


def log_moment(s, shift, rate, order):
    """Direct sum of E[(P/Q)^order] over the integers, for the sampled discrete Gaussian."""
    y = np.arange(-math.ceil(15 * s), math.ceil(order * shift + 15 * s) + 1)
    log_q = -(y**2) / (2 * s * s)
    log_q -= np.logaddexp.reduce(log_q)
    # Probabilities of the shifted one are those of the other, moved by whole integers: same normaliser.
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * y * shift - shift**2) / (2 * s * s))
    return np.logaddexp.reduce(log_q + order * log_ratio)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.9])
@pytest.mark.parametrize(("s", "shift"), [(8.0, 8), (8.0, 3), (20.0, 40), (100.0, 90)])
def test_the_discrete_gaussian_costs_what_the_gaussian_costs(s, shift, rate):
    """At whole orders exactly, since the moments of integer shifts agree; at fractional ones to 1e-9."""
    gaussian = dict(zip(accounting._ORDERS, accounting.renyi(s / shift, rate), strict=True))
    for order in (2, 3, 8, 32, 1.5, 2.5, 5.5):
        found = log_moment(s, shift, rate, order) / (order - 1)
        assert found == pytest.approx(gaussian[order], rel=1e-9, abs=1e-13)
        assert found != pytest.approx(gaussian[order] * 1.001, rel=1e-9, abs=1e-13)


def test_the_identity_needs_integer_shifts_and_enough_noise():
    """What the test above would miss if it could not fail: half a unit of noise breaks fractional orders."""
    gaussian = dict(zip(accounting._ORDERS, accounting.renyi(0.5, 0.1), strict=True))
    assert log_moment(0.5, 1, 0.1, 2) == pytest.approx(gaussian[2], rel=1e-9)
    assert log_moment(0.5, 1, 0.1, 1.5) / 0.5 != pytest.approx(gaussian[1.5], rel=1e-6)
