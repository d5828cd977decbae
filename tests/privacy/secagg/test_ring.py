"""Words on the wire bit by bit, sums that cannot wrap, and rounding whose mean is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cloister.privacy.entropy import FixedEntropy, KeyStream
from cloister.privacy.errors import PlanError, UpdateError
from cloister.privacy.secagg import masking, ring
from cloister.privacy.secagg.masking import Mask
from cloister.privacy.secagg.ring import Code, decode, encode, pack, unpack
from cloister.privacy.update import Vector

WIDTHS = range(6, 33)
MODEL = "sha256:" + "0" * 64


def stream(name: str = "rounding") -> KeyStream:
    return FixedEntropy(b"ring").stream(name, round=1, model=MODEL)


def words(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint32)


def values(*found: float) -> Vector:
    return np.array(found, dtype=np.float32)


def by_hand(found: np.ndarray, bits: int) -> bytes:
    """The wire format as its definition says it: one long integer."""
    whole = sum((int(word) % 2**bits) << (bits * place) for place, word in enumerate(found))
    return whole.to_bytes(math.ceil(found.size * bits / 8), "little")


# On the wire


@pytest.mark.parametrize(
    ("found", "bits", "packed"),
    [
        (words(), 12, ""),
        (words(1), 6, "01"),
        (words(0x3F, 0, 0x3F), 6, "3ff003"),
        (words(0x21, 0x43), 8, "2143"),
        (words(0xABC, 0x123), 12, "bc3a12"),
        (words(0xABC, 0x123, 0xFED), 12, "bc3a12ed0f"),
        (words(0x1234, 0xABCD), 16, "3412cdab"),
        (words(0x12345, 0xABCDE), 20, "4523e1cdab"),
        (words(0x123456, 0xABCDEF), 24, "563412efcdab"),
        (words(1, 0x7FFFFFFF), 31, "01000080ffffff3f"),
        (words(0x12345678, 2**32 - 1), 32, "78563412ffffffff"),
    ],
)
def test_known_answers(found: np.ndarray, bits: int, packed: str) -> None:
    assert pack(found, bits).hex() == packed
    assert unpack(bytes.fromhex(packed), bits, found.size).tolist() == found.tolist()


@given(st.sampled_from(WIDTHS), hnp.arrays(np.uint32, st.integers(0, 70)))
def test_words_come_back_in_exactly_their_bits(bits: int, found: np.ndarray) -> None:
    packed = pack(found, bits)
    assert packed == by_hand(found, bits)
    assert len(packed) == ring.packed_bytes(found.size, bits)
    assert np.array_equal(unpack(packed, bits, found.size), found & np.uint32(2**bits - 1))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("size", [1 << 16, (1 << 16) + 1, (3 << 16) + 19])
def test_blocks_meet_without_a_seam(bits: int, size: int) -> None:
    found = stream(f"{bits}-{size}").words(size).astype(np.uint32)
    packed = pack(found, bits)
    assert np.array_equal(unpack(memoryview(packed), bits, size), found & np.uint32(2**bits - 1))
    odd = found[1 << 16 :]  # begins at whole bytes, being at a whole block
    assert packed[(1 << 16) * bits // 8 :] == pack(odd, bits)


@pytest.mark.parametrize(
    ("data", "bits", "count"),
    [
        ("3ff0", 6, 3),  # too short
        ("3ff00300", 6, 3),  # too long
        ("3ff007", 6, 3),  # a bit above the last word
        ("3ff083", 6, 3),
        ("bc3a1210ed", 12, 2),
        ("bc3a12ed1f", 12, 3),
        ("01000080ffffff7f", 31, 2),
        ("", 8, 1),
        ("00", 8, 0),
    ],
)
def test_bytes_of_another_size_or_with_bits_left_over_are_refused(data: str, bits: int, count: int) -> None:
    with pytest.raises(UpdateError, check=lambda error: error.id == "update_shape"):
        unpack(bytes.fromhex(data), bits, count)


@given(st.sampled_from(WIDTHS), st.binary(min_size=1, max_size=40), st.integers(0, 60))
def test_whatever_bytes_come_they_are_refused_or_the_one_form_of_words(
    bits: int, data: bytes, count: int
) -> None:
    try:
        found = unpack(data, bits, count)
    except UpdateError:
        used = count * bits
        assert len(data) != math.ceil(used / 8) or int.from_bytes(data, "little") >> used
    else:
        assert pack(found, bits) == data


@pytest.mark.parametrize("bits", [5, 33, 0, -1])
def test_a_width_that_no_code_has_is_a_fault_of_the_caller(bits: int) -> None:
    with pytest.raises(ValueError):
        pack(words(1), bits)
    with pytest.raises(ValueError):
        unpack(b"\1", bits, 1)


def test_words_of_another_type_or_shape_are_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError):
        pack(np.zeros(2, dtype=np.int32), 8)
    with pytest.raises(ValueError):
        pack(np.zeros((2, 2), dtype=np.uint32), 8)


# Terms


@given(st.sampled_from(WIDTHS), st.integers(1, 200))
def test_levels_are_as_many_as_cannot_wrap(bits: int, sites: int) -> None:
    if bits < ring.fewest_bits(sites):
        with pytest.raises(PlanError, check=lambda error: error.id == "plan_conflict"):
            Code(1, bits, sites, 1.0)
        return
    code = Code(1, bits, sites, 1.0)
    assert code.levels >= 8
    assert sites * (code.levels - 1) < 2**bits
    assert sites * (code.levels + 1) >= 2**bits - 1  # one more level each way would wrap


@pytest.mark.parametrize(("sites", "bits"), [(1, 6), (7, 6), (8, 7), (15, 7), (16, 8), (100, 10), (1000, 13)])
def test_the_fewest_bits_for_eight_levels(sites: int, bits: int) -> None:
    assert ring.fewest_bits(sites) == bits
    assert Code(1, bits, sites, 1.0).levels >= 8


def test_sixteen_sites_of_twelve_bits_take_two_bytes() -> None:
    code = Code(1000, 16, 16, 1.0)
    assert (code.limit, code.levels, code.content_bytes) == (2047, 4095, 2000)
    assert code.step == 1 / 2047


@pytest.mark.parametrize(
    "terms",
    [
        (0, 16, 4, 1.0),
        (1, 5, 1, 1.0),
        (1, 33, 4, 1.0),
        (1, 16, 0, 1.0),
        (1, 16, 4, 0.0),
        (1, 16, 4, -1.0),
        (1, 16, 4, math.inf),
        (1, 16, 4, math.nan),
    ],
)
def test_terms_out_of_their_range_are_refused(terms: tuple[int, int, int, float]) -> None:
    with pytest.raises(PlanError, check=lambda error: error.id == "plan_malformed"):
        Code(*terms)


# Sums


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("sites", [1, 3, 7])
def test_every_site_at_its_limit_gives_the_exact_sum(bits: int, sites: int) -> None:
    """Attack 13 of the list: the ring holds the worst case, and nothing beyond it is taken for a sum."""
    code = Code(4, bits, sites, 2.0)
    one = encode(values(2.0, -2.0, 0.0, 2.0), code, stream()).words
    total = np.zeros(4, dtype=np.uint32)
    for _ in range(sites):
        total += one
    mean = decode(total, code, sites, float(sites))
    assert mean.tolist() == [2.0, -2.0, 0.0, 2.0]
    beyond = total.copy()
    beyond[1] -= np.uint32(1)
    with pytest.raises(UpdateError, check=lambda error: error.id == "update_range"):
        decode(beyond, code, sites, float(sites))


def test_a_sum_is_held_against_the_sites_that_took_part() -> None:
    code = Code(1, 16, 4, 1.0)
    of_three = words(3 * code.limit)
    assert decode(of_three, code, 3, 3.0).tolist() == [1.0]
    with pytest.raises(UpdateError, check=lambda error: error.id == "update_range"):
        decode(of_three, code, 2, 2.0)


@pytest.mark.parametrize("bits", WIDTHS)
def test_encoded_words_are_of_the_ring(bits: int) -> None:
    code = Code(5, bits, 3, 1.0)
    found = encode(values(-1, -0.5, 0, 0.5, 1), code, stream()).words
    assert found.dtype == np.uint32
    assert found.max() < 2**bits
    assert found[[0, 2, 4]].tolist() == [2**bits - code.limit, 0, code.limit]


@given(
    st.sampled_from(WIDTHS),
    st.lists(hnp.arrays(np.float32, 5, elements=st.floats(-2, 2, width=32)), min_size=1, max_size=7),
    st.randoms(use_true_random=False),
)
def test_masked_and_packed_sums_are_within_a_step_a_site_in_any_order(
    bits: int, vectors: list[Vector], random
) -> None:
    sites = len(vectors)
    code, weight = Code(5, bits, 7, 2.0), 1 / sites
    encoded = [encode(vector, code, stream(str(place))).words for place, vector in enumerate(vectors)]
    plain = decode(sum(encoded, words(0, 0, 0, 0, 0)), code, sites, 1.0)
    assert np.abs(plain - np.sum(np.float64(vectors), axis=0)).max() <= sites * code.step + 1e-6

    # A mask on one site's words and its opposite on another's, as masks come: modulo 2^32.
    key = bytes(32)
    masking.apply(encoded[0], [Mask(key, 1)])
    masking.apply(encoded[-1], [Mask(key, -1)])
    received = [unpack(pack(each, bits), bits, 5) for each in random.sample(encoded, sites)]
    again = decode(sum(received, words(0, 0, 0, 0, 0)), code, sites, 1.0)
    assert again.tobytes() == plain.tobytes()
    assert decode(sum(received, words(0, 0, 0, 0, 0)), code, sites, weight) == pytest.approx(
        plain / weight, rel=1e-6
    )


def test_a_lost_site_leaves_the_weighted_mean_of_the_others() -> None:
    code = Code(1, 24, 4, 1.0)
    total = (
        encode(values(0.5 * 1.0), code, stream("a")).words
        + encode(values(0.25 * 2.0), code, stream("b")).words
    )
    assert decode(total, code, 2, 0.75) == pytest.approx([4 / 3], abs=1e-5)


@pytest.mark.parametrize(("sites", "weight"), [(0, 1.0), (5, 1.0), (2, 0.0), (2, math.nan), (2, math.inf)])
def test_a_sum_over_nobody_or_more_than_the_plan_is_a_fault_of_the_caller(sites: int, weight: float) -> None:
    with pytest.raises(ValueError):
        decode(words(0), Code(1, 16, 4, 1.0), sites, weight)


def test_a_sum_of_another_length_is_refused() -> None:
    with pytest.raises(UpdateError, check=lambda error: error.id == "update_shape"):
        decode(words(0, 0), Code(1, 16, 4, 1.0), 1, 1.0)


# Rounding


def drawn(value: float, draws: int = 1 << 18) -> np.ndarray:
    """The integers that many roundings of one value give, the value in steps."""
    code = Code(draws, 16, 1, 2.0**15 - 1)  # a step is 1
    assert code.step == 1
    total = encode(np.full(draws, value, dtype=np.float32), code, stream(str(value))).words
    return decode(total, code, 1, 1.0)


def unbiased(found: np.ndarray, value: float) -> bool:
    """Whether all are one of the two neighbours, and the mean is within five standard deviations."""
    low = math.floor(value)
    chance = value - low
    up = np.count_nonzero(found == low + 1)
    if up + np.count_nonzero(found == low) != found.size:
        return False
    return abs(up - chance * found.size) <= 5 * math.sqrt(found.size * chance * (1 - chance)) + 1


@pytest.mark.parametrize("value", [0.5, 0.25, -0.25, 1 / 256, -1 / 256, 17.875, -1234.5625, 20000.5, 0, -3])
def test_rounding_has_the_right_mean(value: float) -> None:
    assert unbiased(drawn(value), value)


@pytest.mark.parametrize("value", [0.25, -0.25, 17.875])
def test_the_check_of_rounding_refuses_another_chance(value: float) -> None:
    size = 1 << 18
    assert not unbiased(np.full(size, np.rint(value)), value)
    assert not unbiased(np.full(size, np.floor(value)), value)
    assert not unbiased(drawn(value + 1 / 128), value)
    assert not unbiased(drawn(value) + 1, value)


def test_roundings_are_independent_over_coordinates_and_streams() -> None:
    code = Code(1 << 16, 16, 1, 2.0**15 - 1)
    half = np.full(1 << 16, 0.5, dtype=np.float32)
    one, other = (encode(half, code, stream(name)).words.astype(np.float64) - 0.5 for name in "ab")
    for first, second in [(one, other), (one[1:], one[:-1]), (one[: 1 << 15], one[1 << 15 :])]:
        assert abs(np.mean(first * second)) <= 5 * 0.25 / math.sqrt(first.size)
    again = encode(half, code, stream("a")).words
    assert np.array_equal(again, one + 0.5)


def test_a_coordinate_takes_two_bytes_of_the_stream() -> None:
    used, fresh = stream(), stream()
    encode(np.zeros(70_001, dtype=np.float32), Code(70_001, 8, 2, 1.0), used)
    fresh.bytes(2 * 70_001)
    assert used.bytes(16) == fresh.bytes(16)


def test_a_coin_moves_no_level_and_every_fraction_of_at_least_half_its_grain() -> None:
    """All 2^16 coins, lowest and highest included: what the bias of at most 2^-17 of a step rests on."""

    class Coins(KeyStream):
        def bytes(self, n: int) -> bytes:
            return np.arange(n // 2, dtype="<u2").tobytes()

    code = Code(1 << 16, 32, 1, 2.0**31 - 1)
    for level in (0.0, 5.0, -5.0):
        for over, ups in [(0.0, 0), (2.0**-18, 0), (0.25, 1 << 14), (1 - 2.0**-18, 1 << 16)]:
            found = encode(np.full(1 << 16, level + over, dtype=np.float32), code, Coins(bytes(32))).words
            assert np.count_nonzero(found.view(np.int32) == level + 1) == ups
            assert np.count_nonzero(found.view(np.int32) == level) == (1 << 16) - ups


# What must not leave


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (values(np.nan, 0, 0), "update_not_finite"),
        (values(0, np.inf, 0), "update_not_finite"),
        (values(0, -np.inf, 0), "update_not_finite"),
        (values(0, 0), "update_shape"),
        (values(0, 0, 0, 0), "update_shape"),
    ],
)
@pytest.mark.parametrize("clamps", [True, False])
def test_what_is_no_update_is_refused(found: Vector, reason: str, clamps: bool) -> None:
    with pytest.raises(UpdateError, check=lambda error: error.id == reason):
        encode(found, Code(3, 16, 4, 1.0, clamps), stream())


def test_without_a_rotation_a_value_beyond_the_range_is_refused() -> None:
    code = Code(3, 16, 4, 1.0)
    assert encode(values(1, -1, 0), code, stream()).clamped == 0
    with pytest.raises(UpdateError, check=lambda error: error.id == "update_range"):
        encode(values(1 + 2**-20, 0, 0), code, stream("beyond"))


def test_with_a_rotation_tails_are_cut_and_counted() -> None:
    code = Code(100_003, 16, 4, 1.0, clamps=True)
    found = np.zeros(100_003, dtype=np.float32)
    found[[0, 70_000, 100_002]] = 3.0, -1e30, 1.5
    done = encode(found, code, stream())
    assert done.clamped == 3
    mean = decode(done.words, code, 1, 1.0)
    assert mean[[0, 70_000, 100_002]].tolist() == [1.0, -1.0, 1.0]
    assert np.count_nonzero(mean) == 3
