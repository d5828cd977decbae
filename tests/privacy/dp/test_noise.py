"""Gaussian noise: the right scale is accepted, wrong ones are rejected, and no seed has a say in it."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from cloister.privacy import canonical
from cloister.privacy.dp import noise
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import UpdateError
from cloister.privacy.update import Clipped, Noised

MODEL = canonical.digest(b"a model")
D = 20_000


def stream(seed=b"a" * 32, **place):
    return FixedEntropy(seed).stream("noise", **({"round": 1, "step": 0, "model": MODEL} | place))


def looks_like(values, sigma, level=1e-4):
    """Whether variance (chi-square) and shape (Kolmogorov-Smirnov) are those of N(0, sigma^2)."""
    spread = np.sum(values**2) / sigma**2
    low, high = stats.chi2.ppf([level / 2, 1 - level / 2], len(values))
    return low < spread < high and stats.kstest(values / sigma, "norm").pvalue > level


@pytest.mark.parametrize("sigma", [0.01, 1.0, 37.5])
def test_the_right_deviation_is_accepted_and_wrong_ones_are_rejected(sigma):
    values = noise.gaussian_vector(D, sigma, stream())
    assert values.dtype == np.float64
    assert values.shape == (D,)
    assert looks_like(values, sigma)
    assert not looks_like(values, sigma * 3 / 2)
    assert not looks_like(values, sigma * 2 / 3)
    assert not looks_like(values, sigma * 1.05)


def test_other_shapes_of_the_same_variance_are_rejected():
    generator = np.random.default_rng(1)
    assert not looks_like(generator.uniform(-math.sqrt(3), math.sqrt(3), D), 1.0)
    assert not looks_like(generator.laplace(0, math.sqrt(0.5), D), 1.0)
    assert not looks_like(noise.gaussian_vector(D, 1.0, stream()) + 0.05, 1.0)


@pytest.mark.parametrize("seed", [bytes([n]) * 32 for n in range(4)])
def test_the_scale_is_read_from_the_clipped_value(seed):
    clipped = Clipped(np.full(D, 3.25, dtype=np.float32), bound=0.5)
    noised = noise.gaussian(clipped, 2.0, stream(seed))
    assert isinstance(noised, Noised)
    assert (noised.bound, noised.noise_multiplier) == (0.5, 2.0)
    assert noised.values.dtype == np.float32
    added = noised.values.astype(np.float64) - 3.25
    assert looks_like(added, 2.0 * 0.5)
    assert not looks_like(added, 2.0)
    assert not looks_like(added, 0.5)
    assert (clipped.values == np.float32(3.25)).all()


def test_every_value_lies_on_the_public_grid():
    clipped = Clipped(np.linspace(-3, 3, D, dtype=np.float32), bound=0.7)
    steps = noise.gaussian(clipped, 1.3, stream()).values.astype(np.float64) / noise.grid(0.7 * 1.3)
    assert (steps == np.rint(steps)).all()
    assert len(np.unique(steps)) > 5000


@pytest.mark.parametrize("deviation", [1e-6, 0.3, 1.0, 1.999, 2.0, 1e7])
def test_the_grid_is_a_power_of_two_far_below_the_noise(deviation):
    step = noise.grid(deviation)
    assert math.frexp(step)[0] == 0.5
    assert 2**-11 < step / deviation <= 2**-10


def test_neighbouring_coordinates_are_uncorrelated():
    """Two halves of a block share Box-Muller pairs: sine and cosine must not show it."""
    values = noise.gaussian_vector(D, 1.0, stream())
    for left, right in [(values[:-1], values[1:]), (values[: D // 2], values[D // 2 :])]:
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / math.sqrt(len(left))
        assert abs(np.corrcoef(left**2, right**2)[0, 1]) < 5 / math.sqrt(len(left))


@pytest.mark.parametrize("d", [0, 1, 3, (1 << 16) - 1, (1 << 16) + 1])
def test_every_length_is_served(d):
    values = noise.gaussian_vector(d, 1.0, stream())
    assert values.shape == (d,)
    assert np.isfinite(values).all()
    assert len(np.unique(values)) == d


@pytest.fixture
def global_generators():
    kept = random.getstate(), np.random.get_state()
    yield
    random.setstate(kept[0])
    np.random.set_state(kept[1])


def test_seeding_global_generators_changes_nothing(global_generators):
    def drawn(seed, entropy):
        random.seed(seed)
        np.random.seed(seed)
        return noise.gaussian_vector(100, 1.0, stream(entropy))

    first = drawn(42, b"a" * 32)
    assert (first == drawn(43, b"a" * 32)).all()
    assert (first != drawn(42, b"b" * 32)).all()


def test_drawing_noise_leaves_global_generators_alone():
    state = np.random.get_state()[1].tolist()
    noise.gaussian_vector(100, 1.0, stream())
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.slow
def test_torch_seeds_have_no_part_in_it():
    import torch

    torch.manual_seed(42)
    first = noise.gaussian_vector(100, 1.0, stream(b"a" * 32))
    torch.manual_seed(42)
    other_site = noise.gaussian_vector(100, 1.0, stream(b"b" * 32))
    assert (first != other_site).all()
    torch.manual_seed(7)
    assert (first == noise.gaussian_vector(100, 1.0, stream(b"a" * 32))).all()


@pytest.mark.parametrize(
    "place",
    [
        {"seed": b"b" * 32},
        {"round": 2},
        {"step": 1},
        {"attempt": 2},
        {"model": canonical.digest(b"another model")},
    ],
)
def test_streams_of_different_places_are_independent(place):
    ours, theirs = noise.gaussian_vector(D, 1.0, stream()), noise.gaussian_vector(D, 1.0, stream(**place))
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 5 / math.sqrt(D)
    assert looks_like((ours - theirs) / math.sqrt(2), 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sum_that_is_not_finite_is_refused(value):
    with pytest.raises(UpdateError) as refusal:
        noise.gaussian(Clipped(np.array([1, value], dtype=np.float32), 1.0), 1.0, stream())
    assert refusal.value.id == "update_not_finite"


@pytest.mark.parametrize(("sigma", "bound"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_no_noise_is_no_option(sigma, bound):
    with pytest.raises(UpdateError) as refusal:
        noise.gaussian(Clipped(np.ones(2, dtype=np.float32), bound), sigma, stream())
    assert refusal.value.id == "update_unnoised"
