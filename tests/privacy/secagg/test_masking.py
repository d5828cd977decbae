"""Masks against known answers and the laws of sums, and what a mask must hide, each beside one that fails."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from cloister.privacy.secagg import masking
from cloister.privacy.secagg.masking import Mask

Words = NDArray[np.uint32]

BLOCK = masking._BLOCK
SIZES = [0, 1, 3, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]
TOP = 2**32 - 1
MIB = 1 << 20
LEVEL = 1e-4


def key(name: object) -> bytes:
    return hashlib.sha256(repr(name).encode()).digest()


def plain(key: bytes, d: int) -> Words:
    """The pad of a key, counter by counter and in one piece: no mode and no block of ours."""
    counters = b"".join(counter.to_bytes(16, "big") for counter in range(-(-d // 4)))
    electronic_code_book = modes.ECB()  # noqa: S305  (of counters: that is what the counter mode is)
    stream = Cipher(algorithms.AES(key), electronic_code_book).encryptor().update(counters)
    return np.frombuffer(stream, "<u4")[:d]


def masked(vector: Words, *masks: Mask) -> Words:
    taken = vector.astype("<u4")
    masking.apply(taken, masks)
    return taken


def pad(key: bytes, d: int) -> Words:
    return masked(np.zeros(d, "<u4"), Mask(key, 1))


# Known answers


def test_known_answer() -> None:
    """The first words under the key 00 01 … 1f: AES-256 of the counters 0 and 1, little-endian."""
    words = pad(bytes(range(32)), 8)
    assert words.tobytes().hex() == "f29000b62a499fd0a9f39a6add2e7780f05d76ae4ab99fe5a6f69b3148c2363d"
    assert words[:2].tolist() == [0xB60090F2, 0xD09F492A]
    assert masked(np.arange(8, dtype="<u4"), Mask(bytes(range(32)), -1))[:2].tolist() == [
        2**32 - 0xB60090F2,
        2**32 + 1 - 0xD09F492A,
    ]


def test_the_top_value_of_the_ring_is_a_mask_like_any_other() -> None:
    assert pad((10865).to_bytes(32, "little"), 65347)[-1] == TOP


@pytest.mark.parametrize("d", SIZES)
def test_pads_are_counter_mode_over_block_borders(d: int) -> None:
    assert np.array_equal(pad(key("a"), d), plain(key("a"), d))


@pytest.mark.parametrize("d", SIZES)
def test_masks_of_both_signs_are_added_modulo_the_ring(d: int) -> None:
    clear = plain(key("clear"), d)
    pads = [plain(key(name), d).astype(np.int64) for name in range(5)]
    signs = [1, -1, -1, 1, -1]
    expected = (clear.astype(np.int64) + sum(s * p for s, p in zip(signs, pads, strict=True))) % 2**32
    assert np.array_equal(masked(clear, *(Mask(key(n), s) for n, s in enumerate(signs))), expected)


# Laws of sums

VECTORS = st.lists(st.integers(0, TOP), max_size=12).map(lambda values: np.array(values, "<u4"))
MASKS = st.lists(st.builds(Mask, st.binary(min_size=32, max_size=32), st.sampled_from([1, -1])), max_size=6)


@given(VECTORS, MASKS, st.randoms(use_true_random=False))
def test_the_order_of_masks_and_of_calls_does_not_matter(
    vector: Words, masks: list[Mask], random: Random
) -> None:
    shuffled = random.sample(masks, len(masks))
    one_by_one = vector.copy()
    for mask in shuffled:
        masking.apply(one_by_one, [mask])
    assert np.array_equal(masked(vector, *masks), masked(vector, *shuffled))
    assert np.array_equal(masked(vector, *masks), one_by_one)


@given(VECTORS, MASKS)
def test_equal_keys_with_opposite_signs_leave_no_trace(vector: Words, masks: list[Mask]) -> None:
    opposite = [Mask(mask.key, -mask.sign) for mask in masks]
    assert np.array_equal(masked(masked(vector, *masks), *opposite), vector)
    assert np.array_equal(masked(vector, *masks, *opposite), vector)


@pytest.mark.parametrize("sites", [2, 3, 7])
def test_the_masks_of_pairs_vanish_from_the_sum_of_all_sites(sites: int) -> None:
    d = BLOCK + 7
    clear = [plain(key(("clear", site)), d) for site in range(sites)]
    masks: list[list[Mask]] = [[] for _ in range(sites)]
    for low, high in combinations(range(sites), 2):
        masks[low].append(Mask(key((low, high)), 1))
        masks[high].append(Mask(key((low, high)), -1))
    sent = [masked(vector, *own) for vector, own in zip(clear, masks, strict=True)]
    total = np.add.reduce(clear, dtype=np.uint32)
    assert np.array_equal(np.add.reduce(sent, dtype=np.uint32), total)
    without_one = np.add.reduce(sent[1:], dtype=np.uint32)
    assert not np.array_equal(without_one, np.add.reduce(clear[1:], dtype=np.uint32))


def test_no_masks_change_nothing() -> None:
    assert masked(np.arange(5, dtype="<u4")).tolist() == [0, 1, 2, 3, 4]


# What a mask must hide

CLEAR = (np.arange(1 << 18) % 1000 - 500).astype(np.int32).view(np.uint32)  # small, as updates are


def uniform(words: Words) -> bool:
    """Whether words look uniform on the ring: each of their four bytes, and how often each bit is set."""
    if any(
        stats.chisquare(np.bincount(words >> shift & 255, minlength=256)).pvalue < LEVEL
        for shift in (0, 8, 16, 24)
    ):
        return False
    ones = np.array([np.count_nonzero(words >> bit & 1) for bit in range(32)])
    return bool(stats.binomtest(int(ones.sum()), 32 * words.size).pvalue > LEVEL) and all(
        stats.binomtest(int(count), words.size).pvalue > LEVEL for count in ones
    )


def correlation(one: Words, other: Words) -> float:
    """Of what two vectors mean as signed integers; about 0.002 by chance at this length."""
    return abs(float(np.corrcoef(one.view(np.int32), other.view(np.int32))[0, 1]))


@pytest.mark.parametrize("sign", [1, -1])
def test_masked_words_are_uniform_on_the_whole_ring_and_tell_nothing_of_the_clear_ones(sign: int) -> None:
    sent = masked(CLEAR, Mask(key("pair"), sign))
    assert uniform(sent)
    assert correlation(CLEAR, sent) < 0.01
    assert sent.max() > TOP - 2**18  # among 2^18 uniform words, except once in e^16


@pytest.mark.parametrize(
    "weak",
    [
        plain(key("weak"), CLEAR.size) >> 1,
        plain(key("weak"), CLEAR.size) & ~np.uint32(1),
        plain(key("weak"), CLEAR.size) | np.uint32(1 << 17),
        np.full(CLEAR.size, 0x5EED5EED, np.uint32),
    ],
    ids=["31 bits", "even", "one bit set", "one word for all"],
)
def test_the_check_of_uniformity_fails_weak_masks(weak: Words) -> None:
    assert not uniform(weak)


def test_the_check_of_correlation_fails_a_mask_of_the_updates_own_size() -> None:
    assert correlation(CLEAR, CLEAR + (plain(key("weak"), CLEAR.size) >> 21)) > 0.1


def test_no_bit_of_a_key_is_ignored() -> None:
    own = int.from_bytes(key("own"))
    pads = {pad((own ^ 1 << bit).to_bytes(32), 4).tobytes() for bit in range(256)}
    assert len(pads | {pad(key("own"), 4).tobytes()}) == 257


# A search for the seed

PRG = Callable[[bytes, int], Words]
SPACE = [seed.to_bytes(4, "little") + bytes(28) for seed in range(1 << 10)]
SMALL = 1 << 10


def folding(key: bytes, d: int) -> Words:
    """The generator of Flower 1.42's SecAgg+: the key's words are XORed to one seed of 32 bits."""
    seed = np.bitwise_xor.reduce(np.frombuffer(key, "<u4"))
    return np.random.RandomState(seed).randint(0, 2**32 - 1, d, dtype=np.int64).astype(np.uint32)


def folding_into_the_space() -> bytes:
    """A key of 256 unknown bits that folds to the seed 0x02bc."""
    words = np.frombuffer(key("a pair's"), "<u4").copy()
    words[7] ^= np.bitwise_xor.reduce(words) ^ np.uint32(0x02BC)
    return words.tobytes()


def search(sent: Words, prg: PRG, space: Sequence[bytes]) -> list[bytes]:
    """The keys under which the first words of a masked vector come out small, as an update's are."""
    head = sent[:8]
    return [key for key in space if (np.abs((head - prg(key, 8)).view(np.int32)) < SMALL).all()]


def test_a_search_opens_a_mask_from_a_seed_of_32_bits_and_finds_nothing_in_ours() -> None:
    unknown = folding_into_the_space()
    clear = CLEAR[:64]
    (found,) = search(clear + folding(unknown, 64), folding, SPACE)
    assert int.from_bytes(found[:4], "little") == 0x02BC
    assert np.array_equal(clear + folding(unknown, 64) - folding(found, 64), clear)

    sent = masked(clear, Mask(unknown, 1))
    assert search(sent, pad, SPACE) == []
    assert search(sent, folding, SPACE) == []
    assert search(sent, pad, [*SPACE, unknown]) == [unknown]  # the search would know it


def test_keys_of_one_folded_seed_have_nothing_in_common() -> None:
    one, other = folding_into_the_space(), SPACE[0x02BC]
    assert np.array_equal(folding(one, 64), folding(other, 64))
    assert not (pad(one, 64) == pad(other, 64)).any()


# Memory


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python and numpy held at once for some work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("masks", [1, 64])
def test_working_memory_is_one_block_whatever_the_number_of_masks(masks: int) -> None:
    vector = np.zeros(4 * MIB // 4, dtype="<u4")
    held = [Mask(key(name), 1) for name in range(masks)]
    assert peak(lambda: masking.apply(vector, held)) < MIB // 2
    assert vector.any()
    assert peak(lambda: plain(key(0), vector.size)) > vector.nbytes  # a pad in one piece would be found


# What is refused


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(8, np.int32),
        np.zeros(8, np.uint64),
        np.zeros(8, np.float32),
        np.zeros(8, ">u4"),
        np.zeros((2, 4), "<u4"),
        np.zeros((), "<u4"),
        np.zeros(16, "<u4")[::2],
        np.zeros(8, "<u4")[::-1],
        np.frombuffer(bytes(32), "<u4"),
    ],
    ids=["signed", "64 bits", "float", "big-endian", "2-d", "0-d", "strided", "reversed", "read-only"],
)
def test_a_vector_of_another_form_is_refused_and_left_alone(vector: Words) -> None:
    with pytest.raises(ValueError, match="a vector to mask"):
        masking.apply(vector, [Mask(key("a"), 1)])
    assert not vector.any()


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes instead of 32"):
        Mask(bytes(length), 1)


@pytest.mark.parametrize("sign", [0, 2, -2])
def test_a_sign_is_one_of_two(sign: int) -> None:
    with pytest.raises(ValueError, match="sign"):
        Mask(bytes(32), sign)


def test_a_mask_does_not_print_its_key() -> None:
    secret = Mask(key("secret"), 1)
    assert repr(secret) == "Mask(sign=1)"
