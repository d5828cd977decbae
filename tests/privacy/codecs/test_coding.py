"""Codecs: one conformance class for all, known answers, laws, and error feedback."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cloister.privacy.codecs import bf16, coding, feedback
from cloister.privacy.errors import UpdateError
from cloister.privacy.update import Vector

CODECS: list[Any] = ["bf16", "int8", "int4", "ternary"]
MINILM = 74_498
"""LoRA of rank 8 on query and value of MiniLM's six layers, and a head of two classes."""

SOME = st.integers(1, 600).flatmap(
    lambda size: arrays(np.float32, size, elements=st.floats(-100, 100, width=32))
)


def error(codec: Any, values: Vector) -> Vector:
    return coding.decode(codec, coding.encode(codec, values), values.size) - values


@pytest.mark.parametrize("codec", CODECS)
@given(SOME)
def test_the_size_is_known_and_zeros_stay(codec: Any, values: Vector) -> None:
    content = coding.encode(codec, values)
    assert len(content) == coding.size(codec, values.size)
    found = coding.decode(codec, content, values.size)
    assert found.dtype == np.float32
    assert found.shape == values.shape
    assert not found[values == 0].any()


@pytest.mark.parametrize("codec", CODECS)
@given(SOME)
def test_what_was_read_is_written_alike(codec: Any, values: Vector) -> None:
    """Of values on its levels, coding is an identity up to the rounding of scales."""
    first = coding.encode(codec, values)
    assert first == coding.encode(codec, values.copy())
    again = error(codec, coding.decode(codec, first, values.size))
    assert np.abs(again).max() <= 2**-7 * np.abs(values).max()


@pytest.mark.parametrize(("codec", "most"), [("int8", 127), ("int4", 7)])
@given(SOME)
def test_an_error_is_about_half_a_level_of_its_block(codec: Any, most: int, values: Vector) -> None:
    """Half a level, and what the rounding of the scale (2^-8) does to the largest level."""
    found = np.abs(error(codec, values))
    for start in range(0, values.size, 64):
        largest = float(np.abs(values[start : start + 64]).max())
        assert found[start : start + 64].max() <= largest * (0.5 / most + 2**-7) + 1e-37


@given(SOME)
def test_bf16_is_off_by_at_most_one_part_in_256(values: Vector) -> None:
    assert (np.abs(error("bf16", values)) <= 2**-8 * np.abs(values) + 1e-38).all()


def test_three_levels_by_hand() -> None:
    """Mean magnitude 2, so 1.4 decides; 4 and -3 stay, at their mean 3.5; digits 2 0 1 1 1 of base three."""
    values = np.array([4, -3, 1, 0, -2], np.float32)
    assert np.abs(values).mean() == 2
    scale = 3.0  # of 4, 3 and 2
    content = coding.encode("ternary", values)
    assert content == bf16.encode(np.array([scale], np.float32)) + bytes(
        [2 + 0 * 3 + 1 * 9 + 1 * 27 + 0 * 81]
    )
    assert coding.decode("ternary", content, 5).tolist() == [3, -3, 0, 0, -3]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_coded(codec: Any, bad: float) -> None:
    with pytest.raises(UpdateError) as caught:
        coding.encode(codec, np.array([0, bad], np.float32))
    assert caught.value.id == "update_not_finite"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("change", [-1, 1])
def test_another_size_is_refused(codec: Any, change: int) -> None:
    content = coding.encode(codec, np.ones(70, np.float32))
    with pytest.raises(UpdateError) as caught:
        coding.decode(codec, (content + b"\0")[: len(content) + change], 70)
    assert caught.value.id == "update_shape"


@pytest.mark.parametrize("codec", CODECS)
@given(st.binary(min_size=200, max_size=200))
def test_any_bytes_of_the_right_size_give_finite_values_or_an_error(codec: Any, content: bytes) -> None:
    data = content[: coding.size(codec, 70)]
    try:
        found = coding.decode(codec, data, 70)
    except UpdateError as refusal:
        assert refusal.id == "update_not_finite"  # noqa: PT017
    else:
        assert np.isfinite(found).all()


def test_a_scale_that_is_no_number_is_refused() -> None:
    content = coding.encode("ternary", np.ones(5, np.float32))
    with pytest.raises(UpdateError, match="NaN"):
        coding.decode("ternary", b"\xff\x7f" + content[2:], 5)


@pytest.mark.parametrize(
    ("codec", "most"), [("bf16", 149_000), ("int8", 76_900), ("int4", 39_600), ("ternary", 15_500)]
)
def test_minilm_with_lora_takes_so_many_bytes(codec: Any, most: int) -> None:
    assert most - 300 < coding.size(codec, MINILM) <= most


@pytest.mark.parametrize("codec", CODECS)
@given(st.data())
def test_with_feedback_nothing_is_lost_but_the_last_rest(codec: Any, data: Any) -> None:
    """What was read adds up to what was said, less the rest."""
    steps = data.draw(st.lists(arrays(np.float32, 9, elements=st.floats(-4, 4, width=32)), min_size=1))
    rest, read = None, np.zeros(9, np.float64)
    for values in steps:
        fed = feedback.encode(codec, values, rest)
        np.testing.assert_array_equal(fed.values, coding.decode(codec, fed.content, 9))
        read, rest = read + fed.values, fed.rest
    np.testing.assert_allclose(read + rest, np.sum(steps, axis=0, dtype=np.float64), atol=1e-4 * len(steps))


@pytest.mark.parametrize("codec", CODECS)
def test_a_rest_stays_small(codec: Any) -> None:
    """Over many updates alike, feedback keeps the mean error falling; without it, it stays."""
    generator = np.random.default_rng(5)
    wanted = generator.standard_normal(2_000).astype(np.float32)
    rest, read, blunt = None, np.zeros(2_000), np.zeros(2_000)
    for _ in range(40):
        fed = feedback.encode(codec, wanted, rest)
        read, rest = read + fed.values, fed.rest
        blunt = blunt + feedback.encode(codec, wanted, None).values
    off = np.linalg.norm(read / 40 - wanted) / np.linalg.norm(wanted)
    assert off < 0.25 * np.linalg.norm(blunt / 40 - wanted) / np.linalg.norm(wanted)
