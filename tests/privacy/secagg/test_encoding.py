from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import UpdateError
from cloister.privacy.secagg.encoding import Ring, Sum, encode, encode_sums
from cloister.privacy.update import Delta

MECHANISMS = (GaussianSteps(1.0, 0.5, 3),)
RING = Ring(parameters=4, sites=3, range=2.0)


def delta(*values: float) -> Delta:
    return Delta(np.array(values, dtype=np.float32), MECHANISMS)


def test_known_answer() -> None:
    """round(weight * value / step) with step = 2 / floor((2^31 - 1) / 3), little-endian int32."""
    encoded = encode(delta(0.0, 1.0, -2.0, 0.5), 1.0, RING)
    limit = (2**31 - 1) // 3
    assert np.frombuffer(encoded.content, "<i4").tolist() == [
        0,
        limit // 2 + limit % 2,
        -limit,
        round(limit / 4),
    ]
    assert encoded.mechanisms == MECHANISMS


def test_sums_keep_more_digits_than_float32_has() -> None:
    ring = Ring(parameters=2, sites=1, range=4.0)
    values = np.array([3 + 2.0**-26, -1.0])
    words = np.frombuffer(encode_sums(values, ring).content, "<i4")
    assert np.abs(words * ring.step - values).max() <= ring.step / 2 < 2.0**-29
    assert encode_sums(values, ring).mechanisms == ()
    assert values.tolist() == [3 + 2.0**-26, -1.0]


@pytest.mark.parametrize(
    ("values", "reason"),
    [([np.nan, 0.0], "update_not_finite"), ([4.1, 0.0], "update_range"), ([0.0], "update_shape")],
)
def test_sums_that_do_not_fit_are_refused(values: list[float], reason: str) -> None:
    with pytest.raises(UpdateError) as caught:
        encode_sums(np.array(values), Ring(parameters=2, sites=1, range=4.0))
    assert caught.value.id == reason


@given(
    st.lists(hnp.arrays(np.float32, 6, elements=st.floats(-2, 2, width=32)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_the_sum_does_not_depend_on_the_order_and_is_the_weighted_mean(vectors: list, random) -> None:
    ring = Ring(6, len(vectors), 2.0)
    weight = 1 / len(vectors)
    encoded = [encode(Delta(v, ()), weight, ring).content for v in vectors]
    first, second = Sum(ring), Sum(ring)
    for content in encoded:
        first.add([content], weight)
    for content in random.sample(encoded, len(encoded)):
        second.add([content], weight)
    assert first.mean().tobytes() == second.mean().tobytes()
    expected = np.mean(np.array(vectors, dtype=np.float64), axis=0)
    assert np.abs(first.mean() - expected).max() <= len(vectors) * ring.step + 1e-6


def test_every_site_at_its_limit_does_not_wrap() -> None:
    total = Sum(RING)
    for _ in range(3):
        total.add([encode(delta(2.0, -2.0, 2.0, -2.0), 1.0, RING).content], 1.0)
    assert total.mean().tolist() == [2.0, -2.0, 2.0, -2.0]


def test_a_lost_site_leaves_the_weighted_mean_of_the_others() -> None:
    total = Sum(RING)
    total.add([encode(delta(1.0, 1.0, 1.0, 1.0), 0.5, RING).content], 0.5)
    total.add([encode(delta(2.0, 2.0, 2.0, 2.0), 0.25, RING).content], 0.25)
    assert total.mean() == pytest.approx([4 / 3] * 4)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((np.nan, 0, 0, 0), "update_not_finite"),
        ((0, np.inf, 0, 0), "update_not_finite"),
        ((0, 0, 0), "update_shape"),
        ((2.1, 0, 0, 0), "update_range"),
    ],
)
def test_what_must_not_leave_is_refused_at_the_site(values: tuple[float, ...], reason: str) -> None:
    with pytest.raises(UpdateError) as caught:
        encode(delta(*values), 1.0, RING)
    assert caught.value.id == reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes(15), "update_shape"),
        (bytes(20), "update_shape"),
        (np.array([2**31 - 1, 0, 0, 0], "<i4").tobytes(), "update_range"),
        (np.array([-(2**31), 0, 0, 0], "<i4").tobytes(), "update_range"),
    ],
)
def test_what_no_honest_site_sends_is_refused_at_the_aggregator(content: bytes, reason: str) -> None:
    total = Sum(RING)
    with pytest.raises(UpdateError) as caught:
        total.add([content], 1.0)
    assert caught.value.id == reason
    assert total.weight == 0


def test_an_update_in_pieces_is_the_update() -> None:
    whole = encode(delta(0.1, -0.2, 0.3, -0.4), 1.0, RING).content
    pieces, one = Sum(RING), Sum(RING)
    pieces.add([whole[:4], whole[4:12], b"", whole[12:]], 1.0)
    one.add([whole], 1.0)
    assert pieces.mean().tolist() == one.mean().tolist()


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (bytes(7), "update_shape"),
        (bytes(12), "update_shape"),
        (np.array([0, 2**31 - 1], "<i4").tobytes(), "update_range"),
    ],
)
def test_of_an_update_with_a_bad_last_piece_nothing_is_added(last: bytes, reason: str) -> None:
    total, good = Sum(RING), encode(delta(1.0, 1.0, 1.0, 1.0), 1.0, RING).content
    with pytest.raises(UpdateError) as caught:
        total.add([good[:8], last], 1.0)
    assert caught.value.id == reason
    total.add([good], 1.0)
    assert total.mean() == pytest.approx([1.0] * 4)
