"""The rotation is one, makes updates flat, and lets few bits carry a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import UpdateError
from cloister.privacy.secagg import rotation
from cloister.privacy.secagg.ring import Code, decode, encode, pack, unpack
from cloister.privacy.secagg.rotation import clamp, length, rotate, unrotate, within
from cloister.privacy.update import Vector

SEED = b"a public seed"
LENGTHS = [1, 2, 3, 5, 8, 100, 128, 4097, 1 << 14, (1 << 14) + 1, 40_000, 1 << 17, 100_003]
MODEL = "sha256:" + "0" * 64

vectors = hnp.arrays(
    np.float32, st.integers(1, 600), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
)


def matrix(d: int, seed: bytes = SEED) -> np.ndarray:
    """The rotation as a matrix, float64: column k is where coordinate k goes."""
    return np.array([rotate(unit, seed) for unit in np.eye(d, dtype=np.float32)], dtype=np.float64).T


def hadamard(d: int) -> np.ndarray:
    """Sylvester's construction."""
    half = np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    return reduce(np.kron, [half] * (d.bit_length() - 1), np.ones((1, 1)))


def heavy(d: int, seed: int) -> Vector:
    """Student's t with three degrees of freedom: no fourth moment."""
    return (np.random.default_rng(seed).standard_t(3, d) * 1e-3).astype(np.float32)


def norm(values: Vector) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))


# A rotation


def test_known_answer() -> None:
    """Bits that every machine must find, d being no power of two."""
    found = rotate(np.arange(1, 7, dtype=np.float32), SEED)
    assert found.tolist() == [1.0, -5.0, -0.5, -4.5, -1.5, 6.5]
    assert found.dtype == np.float32


@pytest.mark.parametrize("d", [1, 2, 8, 64, 256, 1024])
def test_at_a_power_of_two_it_is_hadamards_matrix_with_random_signs(d: int) -> None:
    signs = hadamard(d) @ matrix(d)  # H is its own inverse
    assert np.abs(signs - np.diag(np.sign(np.diag(signs)))).max() <= 1e-6
    assert np.abs(np.diag(signs)) == pytest.approx(np.ones(d), abs=1e-6)
    if d >= 64:
        assert abs(np.diag(signs).sum()) <= 5 * math.sqrt(d)


@pytest.mark.parametrize("d", [1 << 15, 1 << 17])
def test_above_one_tile_it_is_hadamards_too(d: int) -> None:
    """Row k of H has the sign of the parity of k and the column's number in common."""
    place = np.arange(d)
    for k in (0, 1, 77, 1 << 13, 1 << 14, d - 1):
        unit = np.zeros(d, dtype=np.float32)
        unit[k] = 1
        parity = np.bitwise_count(place & k) % 2
        found = rotate(unit, SEED) * math.sqrt(d)
        assert np.abs(found - found[0] * (1 - 2.0 * parity)).max() <= 1e-6
        assert abs(found[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("d", [3, 7, 100, 300])
def test_at_another_length_it_is_orthogonal_and_spreads_over_all(d: int) -> None:
    found = matrix(d)
    assert np.abs(found @ found.T - np.eye(d)).max() <= 1e-6
    variance = np.mean([matrix(d, bytes([k])) ** 2 for k in range(12)], axis=0)
    assert variance.sum(axis=0) == pytest.approx(np.ones(d), abs=1e-5)
    if d == 300:  # 256 coordinates first; 44 of them stay as they are then
        assert variance[:44, :256].mean() == pytest.approx(1 / 256, rel=0.02)
        assert np.abs(found[:44, 256:]).max() == 0
        assert variance[44:, 256:].mean() == pytest.approx(1 / 256, rel=0.02)
        assert variance[44:, :256].mean() == pytest.approx((256 - 44) / 256**2, rel=0.05)


@pytest.mark.parametrize("d", LENGTHS)
def test_it_is_undone_and_keeps_lengths(d: int) -> None:
    values = heavy(d, d)
    rotated = rotate(values, SEED)
    assert norm(rotated) == pytest.approx(norm(values), rel=1e-5)
    assert norm(unrotate(rotated, SEED) - values) <= 1e-6 * norm(values)
    if d >= 100:
        assert norm(rotated - values) > 0.5 * norm(values)
        assert norm(unrotate(rotated, b"another seed") - values) > 0.5 * norm(values)


@given(vectors, st.binary(max_size=40))
def test_it_is_undone_whatever_the_update_and_the_seed(values: Vector, seed: bytes) -> None:
    before = values.copy()
    rotated = rotate(values, seed)
    assert np.array_equal(values, before)  # an update is not changed in place
    assert norm(rotated) == pytest.approx(norm(values), rel=1e-5, abs=1e-30)
    assert norm(unrotate(rotated, seed) - values) <= 2e-6 * norm(values)
    assert norm(rotate(unrotate(values, seed), seed) - values) <= 2e-6 * norm(values)


@given(vectors, st.floats(-4, 4, width=32))
def test_the_sum_of_rotated_updates_is_the_rotated_sum(values: Vector, factor: float) -> None:
    other = np.cos(np.arange(values.size, dtype=np.float32)) * np.float32(factor)
    apart = rotate(values, SEED) + rotate(other, SEED)
    assert norm(apart - rotate(values + other, SEED)) <= 2e-6 * (norm(values) + norm(other))


# Flat


@pytest.mark.parametrize("d", [1 << 10, 1500, 1 << 14, 20_000, 1 << 17, 200_000, 260_000])
@pytest.mark.parametrize("where", ["first", "middle", "last", "block", "constant", "heavy", "alternating"])
def test_no_coordinate_of_any_update_passes_the_public_range(d: int, where: str) -> None:
    values = np.zeros(d, dtype=np.float32)
    place: dict[str, int | slice] = {"first": 0, "middle": d // 2, "last": d - 1, "block": slice(0, 100)}
    if where in place:
        values[place[where]] = 1
    elif where == "heavy":
        values = heavy(d, d)
    else:
        values[:] = 1 if where == "constant" else 1 - 2 * (np.arange(d) % 2)
    rotated = rotate(values, SEED)
    assert np.abs(rotated).max() <= clamp(norm(values), d)
    if where == "first":  # seen by a range that is much too small
        assert np.abs(rotated).max() > clamp(norm(values), d) / 8


def beyond(values: Vector, deviations: float, d: int) -> float:
    """The share of coordinates beyond some of the six deviations that the range stands for."""
    return float(np.mean(np.abs(values) > clamp(norm(values), d) * deviations / 6))


def test_rotated_coordinates_are_spread_like_a_gaussians() -> None:
    d = 1 << 18
    values = heavy(d, 1)
    rotated = rotate(values, SEED)
    for deviations in (1.0, 2.0, 3.0):
        wanted = math.erfc(deviations / math.sqrt(2))
        within_five = 5 * math.sqrt(wanted * (1 - wanted) / d)
        assert beyond(rotated, deviations, d) == pytest.approx(wanted, abs=within_five)
        assert beyond(values, deviations, d) != pytest.approx(wanted, abs=within_five)  # before, it was not
        assert beyond(rotated, deviations * 1.05, d) != pytest.approx(wanted, abs=within_five)


def test_the_range_is_six_deviations_of_a_coordinate() -> None:
    assert clamp(2.0, 1 << 14) == 6 * 2.0 / 128
    assert clamp(2.0, (1 << 15) - 1) == clamp(2.0, 1 << 14)
    assert [length(d) for d in (1, 2, 3, 4, 1023, 1024, 25_000_000)] == [1, 2, 2, 4, 512, 1024, 1 << 24]


def test_an_update_longer_than_agreed_is_refused() -> None:
    values = np.full(40_000, 0.01, dtype=np.float32)
    within(values, 2.0001)
    with pytest.raises(UpdateError, check=lambda error: error.id == "update_range"):
        within(values, 1.9999)
    for bad in (np.nan, np.inf):
        values[-1] = bad
        with pytest.raises(UpdateError, check=lambda error: error.id == "update_not_finite"):
            within(values, 1e9)


def test_the_length_of_huge_values_does_not_overflow() -> None:
    within(np.full(4, 1e38, dtype=np.float32), 2.1e38)


# What few bits keep of a mean


def error(updates: Sequence[Vector], code: Code, rotated: bool) -> float:
    """RMS error of the mean as it comes out of the ring, over the RMS of the true mean."""
    entropy = FixedEntropy(b"fidelity")
    total = np.zeros(code.parameters, dtype=np.uint32)
    for place, update in enumerate(updates):
        weighted = update / np.float32(len(updates))
        stream = entropy.stream("rounding", round=1, step=place, model=MODEL)
        done = encode(rotate(weighted, SEED) if rotated else weighted, code, stream)
        assert done.clamped == 0
        total += unpack(pack(done.words, code.bits), code.bits, code.parameters)
    mean = decode(total, code, len(updates), 1.0)
    true = np.mean(np.float64(updates), axis=0)
    found = unrotate(mean, SEED) if rotated else mean
    return norm(found - true) / norm(true)


def public(updates: Sequence[Vector], bits: int) -> Code:
    """A code for the longest of some updates."""
    d, most = updates[0].size, max(norm(update) for update in updates) / len(updates)
    return Code(d, bits, len(updates), clamp(most, d), clamps=True)


def alike(d: int, sites: int) -> list[Vector]:
    """Updates of which half is common to all, as where sites start from one model; heavy tails in both."""
    return [heavy(d, 1000) + heavy(d, site) for site in range(sites)]


@pytest.mark.parametrize("d", [1 << 17, 100_000])
def test_sixteen_sites_at_twelve_bits_keep_the_mean_to_a_thousandth(d: int) -> None:
    """Twelve bits of each site, sixteen of the ring: two bytes a parameter."""
    updates = alike(d, 16)
    code = public(updates, 16)
    assert code.levels == 2**12 - 1
    assert code.content_bytes == 2 * d
    assert error(updates, code, rotated=True) <= 1e-3
    # The limit tells good codes from bad: fewer bits miss it, and so do as many without the rotation.
    assert error(updates, public(updates, 14), rotated=True) > 1e-3
    largest = max(float(np.abs(update).max()) for update in updates) / 16
    assert error(updates, Code(d, 16, 16, largest), rotated=False) > 4e-3


@pytest.mark.parametrize("bits", [12, 16, 20])
@pytest.mark.parametrize("d", [1 << 14, 20_000])
def test_the_error_of_a_sum_is_a_sixth_of_a_step_squared_a_site(bits: int, d: int) -> None:
    updates = alike(d, 16)
    code = public(updates, bits)
    wanted = code.step * math.sqrt(16 / 6) * math.sqrt(d) / norm(np.mean(updates, axis=0))
    assert error(updates, code, rotated=True) == pytest.approx(wanted, rel=0.03)


def test_a_tail_beyond_the_range_is_cut_and_told() -> None:
    d = 1 << 12
    rotated = rotate(heavy(d, 3), SEED)
    code = Code(d, 16, 4, clamp(norm(rotated), d) / 3, clamps=True)  # two deviations
    done = encode(rotated, code, FixedEntropy(b"").stream("rounding", round=1, model=MODEL))
    assert done.clamped == pytest.approx(d * math.erfc(2 / math.sqrt(2)), rel=0.3)
    assert np.abs(decode(done.words, code, 1, 1.0)).max() <= code.range * (1 + 1e-6)


def test_six_deviations_are_what_the_docstring_says() -> None:
    assert math.erfc(6 / math.sqrt(2)) == pytest.approx(2.0e-9, rel=0.02)
    assert math.erfc(6 / math.sqrt(2)) * 25e6 == pytest.approx(0.05, rel=0.02)
    assert 2 * math.exp(-(rotation.DEVIATIONS**2) / 2) == pytest.approx(3.0e-8, rel=0.02)
