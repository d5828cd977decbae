"""A masked update on the wire: packed to the bits of the plan, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cloister.privacy import canonical
from cloister.privacy.errors import ChannelError
from cloister.privacy.secagg.rounds import Masked
from cloister.privacy.wire.sums import masked_from_bytes, masked_to_bytes

VECTORS = Path(__file__).parents[2] / "vectors" / "sums"
KNOWN = json.loads((VECTORS / "masked.json").read_text())
BROKEN = json.loads((VECTORS / "masked_broken.json").read_text())
WIDTHS = range(6, 33)


def masked(words: Any) -> Masked:
    shares = {name: bytes.fromhex(share) for name, share in KNOWN["shares"].items()}
    return Masked(np.array(words, dtype=np.uint32), KNOWN["commitment"], shares, KNOWN["digests"])


@pytest.mark.parametrize("case", KNOWN["contents"], ids=lambda case: case["bits"])
def test_known_answers(case: dict[str, Any]) -> None:
    content, bits = bytes.fromhex(case["content"]), case["bits"]
    assert masked_to_bytes(masked(KNOWN["words"]), bits) == content
    read = masked_from_bytes(bytearray(content), len(KNOWN["words"]), bits)
    assert read.words.tolist() == [word % 2**bits for word in KNOWN["words"]]
    assert (read.commitment, read.digests) == (KNOWN["commitment"], KNOWN["digests"])
    assert {name: share.hex() for name, share in read.shares.items()} == KNOWN["shares"]


def test_without_bits_a_word_has_32() -> None:
    content = masked_to_bytes(masked(KNOWN["words"]))
    assert content == masked_to_bytes(masked(KNOWN["words"]), 32)
    assert np.shares_memory(masked_from_bytes(content, 5).words, np.frombuffer(content, np.uint8))


@given(st.sampled_from(WIDTHS), hnp.arrays(np.uint32, st.integers(0, 70)))
def test_words_come_back_in_exactly_their_bits_behind_the_head(bits: int, words: np.ndarray) -> None:
    content = masked_to_bytes(masked(words), bits)
    size = int.from_bytes(content[:4])
    assert len(content) == 4 + size + -(-words.size * bits // 8)
    assert canonical.decode(content[4 : 4 + size])["commitment"] == KNOWN["commitment"]
    read = masked_from_bytes(content, words.size, bits)
    assert np.array_equal(read.words, words & np.uint32(2**bits - 1))
    assert read.words.dtype == np.uint32


@pytest.mark.parametrize("case", BROKEN["contents"], ids=lambda case: case["why"])
def test_anything_else_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ChannelError) as caught:
        masked_from_bytes(bytes.fromhex(case["content"]), BROKEN["parameters"], case["bits"])
    assert caught.value.id == "envelope_malformed"


@given(st.sampled_from([12, 13, 31]), st.binary(max_size=200))
def test_any_bytes_are_refused_by_id_or_read(bits: int, content: bytes) -> None:
    with pytest.raises(ChannelError):
        masked_from_bytes(content, 5, bits)
