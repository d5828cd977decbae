"""Few bits a parameter: what comes out of a sum is the mean within the stated error, or nothing comes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import FixedEntropy, KeyStream
from cloister.privacy.errors import PlanError, UpdateError
from cloister.privacy.secagg import ring, rotation
from cloister.privacy.secagg.quantisation import Quantisation, mean, quantise, rotate
from cloister.privacy.secagg.terms import At
from cloister.privacy.update import Delta, Rotated, Vector
from tests.sums import MODEL, at, terms_of

MECHANISMS = (GaussianSteps(1.0, 0.5, 3),)


def few(sites: int = 4, parameters: int = 50, bits: int = 12, norm: float = 2.0) -> Quantisation:
    return Quantisation(terms_of(sites, sites, parameters=parameters), bits, norm)


def stream(name: str = "rounding") -> KeyStream:
    return FixedEntropy(b"quantisation").stream(name, round=1, model=MODEL)


def sent(values: Vector, weight: float, terms: Quantisation, place: At, name: str) -> np.ndarray:
    encoded = quantise(rotate(Delta(values, ()), weight, terms, place), terms, stream(name))
    return np.frombuffer(encoded.content, dtype="<u4")


@given(st.integers(3, 6), st.integers(8, 31), st.data())
def test_the_sum_modulo_2_to_the_b_is_the_weighted_mean_within_the_bound(
    sites: int, bits: int, data: st.DataObject
) -> None:
    """Of any number of the sites, of unequal weight, with lengths up to the norm, and of words as packed."""
    d = data.draw(st.integers(1, 40))  # so short that no coordinate can pass the range
    terms = few(sites, d, bits)
    vectors = hnp.arrays(np.float64, d, elements=st.floats(-1, 1))
    directions = data.draw(st.lists(vectors, min_size=1, max_size=sites))
    shares = np.array(data.draw(st.lists(st.integers(1, 9), min_size=sites, max_size=sites)), float)
    weights = (shares / shares.sum())[: len(directions)]
    total, true = np.zeros(d, dtype=np.uint32), np.zeros(d)
    for name, (direction, weight) in enumerate(zip(directions, weights, strict=True)):
        longest = 0.999 * terms.norm / weight
        values = (direction * longest / max(1.0, float(np.linalg.norm(direction)))).astype(np.float32)
        words = sent(values, weight, terms, at(), f"site {name}")
        total += ring.unpack(ring.pack(words, bits), bits, d)
        true += weight * values.astype(np.float64)
    found = mean(total & np.uint32(2**bits - 1), terms, at(), len(directions), weights.sum())
    error = float(np.linalg.norm(found * weights.sum() - true))
    float32 = 1e-5 * sites * terms.norm
    assert error <= len(directions) * terms.code.step * math.sqrt(d) + float32


def test_the_error_is_the_stated_one_and_halves_with_every_bit() -> None:
    d, sites = 20_000, 4
    random = np.random.default_rng(0)
    updates = [random.normal(0, 1, d).astype(np.float32) for _ in range(sites)]
    true = np.mean(np.array(updates, dtype=np.float64), axis=0)
    norm = 1.01 * max(float(np.linalg.norm(one)) for one in updates) / sites
    errors = []
    for bits in (10, 11, 12):
        terms = few(sites, d, bits, norm)
        words = [sent(one, 1 / sites, terms, at(), f"{k}") for k, one in enumerate(updates)]
        found = mean(np.sum(words, axis=0, dtype=np.uint32), terms, at(), sites, 1.0)
        errors.append(float(np.linalg.norm(found - true)))
        most = terms.code.step / 2 * math.sqrt(sites * d)
        assert 0.7 * most < errors[-1] <= most
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


def test_words_stay_below_2_to_the_b_and_mechanisms_are_carried() -> None:
    terms = few(bits=12)
    rotated = rotate(Delta(np.full(50, 0.2, dtype=np.float32), MECHANISMS), 0.5, terms, at())
    encoded = quantise(rotated, terms, stream())
    words = np.frombuffer(encoded.content, dtype="<u4")
    assert words.max() < 2**12
    assert words.max() > 2**11  # negative values
    assert encoded.bits == 12
    assert rotated.mechanisms == encoded.mechanisms == MECHANISMS


def test_what_is_beyond_the_range_is_cut_and_never_wraps() -> None:
    """All sites at once, each with the largest values that float32 holds."""
    terms = few(sites=4, bits=8)
    limit, high = terms.code.limit, np.finfo(np.float32).max
    rotated = Rotated(np.array([high, -high] * 25, dtype=np.float32), ())
    words = [np.frombuffer(quantise(rotated, terms, stream(f"{k}")).content, "<u4") for k in range(4)]
    signed = (np.sum(words, axis=0, dtype=np.uint32) << np.uint32(24)).view(np.int32) >> np.int32(24)
    assert signed.tolist() == [4 * limit, -4 * limit] * 25


@pytest.mark.parametrize(
    ("values", "id"),
    [
        (np.full(50, 1.0), "update_range"),  # its weighted length is 3.5
        (np.full(50, np.nan), "update_not_finite"),
        (np.array([np.inf] + [0.0] * 49), "update_not_finite"),
        (np.zeros(49), "update_shape"),
        (np.zeros((50, 1)), "update_shape"),
    ],
)
def test_what_must_not_be_sent_is_refused(values: np.ndarray, id: str) -> None:
    with pytest.raises(UpdateError) as caught:
        rotate(Delta(values.astype(np.float32), ()), 0.5, few(), at())
    assert caught.value.id == id


def test_just_the_norm_is_sent() -> None:
    values = np.zeros(50, dtype=np.float32)
    values[7] = 4.0
    assert rotate(Delta(values, ()), 0.5, few(), at()).values.size == 50


@pytest.mark.parametrize("place", [at(2), at(attempt=2), at(1, 1), at(model="sha256:" + "1" * 64)])
def test_every_sum_is_rotated_by_signs_of_its_own(place: At) -> None:
    delta = Delta(np.ones(50, dtype=np.float32), ())
    here, there = (rotate(delta, 0.1, few(), where).values for where in (at(), place))
    assert not np.array_equal(here, there)


@pytest.mark.parametrize("changed", ["job", "roster"])
def test_every_job_is_rotated_by_signs_of_its_own(changed: str) -> None:
    terms = few()
    other = replace(terms, sums=replace(terms.sums, **{changed: "sha256:" + "2" * 64}))
    assert terms.seed(at()) != other.seed(at())


def test_the_range_is_that_of_rotated_updates_of_the_norm() -> None:
    terms = few(parameters=5000)
    assert terms.code.range == rotation.clamp(2.0, 5000)
    assert terms.code.clamps


@pytest.mark.parametrize(
    ("sites", "bits", "norm", "id"),
    [
        (4, 5, 1.0, "plan_malformed"),
        (4, 33, 1.0, "plan_malformed"),
        (4, 12, 0.0, "plan_malformed"),
        (4, 12, math.inf, "plan_malformed"),
        (6, 5, 1.0, "plan_malformed"),
        (64, 6, 1.0, "plan_conflict"),  # no level is left for each
    ],
)
def test_terms_that_leave_nothing_are_refused(sites: int, bits: int, norm: float, id: str) -> None:
    names = tuple(f"site-{k}" for k in range(sites))
    sums = replace(terms_of(4, 4), sites=names, threshold=sites, minimum=sites)
    with pytest.raises(PlanError) as caught:
        Quantisation(sums, bits, norm)
    assert caught.value.id == id


def test_global_generators_change_nothing() -> None:
    terms, delta = few(), Delta(np.linspace(-0.2, 0.2, 50, dtype=np.float32), ())
    found = set()
    for seed in (0, 1):
        np.random.seed(seed)  # the global one, on purpose
        found.add(quantise(rotate(delta, 0.5, terms, at()), terms, stream()).content)
    assert len(found) == 1
