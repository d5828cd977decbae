"""Texts that occur twice, or nearly so.

Exact: the same text but for case, space and Unicode form (``records.plain``). Near: two different texts whose
sets of three-word shingles have a Jaccard similarity of at least ``NEAR``. Candidates are found by MinHash
signatures in ``BANDS`` bands of ``ROWS`` hashes (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of
Massive Datasets, chapter 3), and each is then checked on the shingles themselves.

Formal guarantees:
    No false pair, but for a collision of 64-bit hashes of shingles. A pair of similarity s is missed with
    probability about (1 - s^ROWS)^BANDS: 4 in 10,000 at 0.8, 2 in 10^8 at 0.9 (for independent hash
    functions; those here are multiply-shift, universal but not independent of each other's inputs). Texts
    of fewer than three words are near to no other text. Beyond ``MOST_PAIRS`` candidates the search ends
    and says that it is not complete.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAR = 0.8
BANDS, ROWS = 20, 5
MOST_PAIRS = 500_000
_WORDS = 3
_CHUNK = 4096
_SINGLE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # scripts without spaces between words
_WORD = re.compile(rf"[{_SINGLE}]|[^\W{_SINGLE}]+")

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Near:
    """Pairs of near texts.

    Attributes:
        pairs: places of both texts, the smaller one first.
        complete: whether all candidates were looked at.
    """

    pairs: tuple[tuple[int, int], ...]
    complete: bool


def missed(similarity: float) -> float:
    """The probability that a pair of this similarity is no candidate."""
    return float((1 - similarity**ROWS) ** BANDS)


def near(texts: Sequence[str]) -> Near:
    """The near pairs among different texts.

    Args:
        texts: in plain form, each once.
    """
    vocabulary: dict[str, int] = {}
    shingles = [_shingles(text, vocabulary) for text in texts]
    able = [place for place, found in enumerate(shingles) if len(found)]
    if len(able) < 2:
        return Near((), complete=True)
    signatures = _signatures([shingles[place] for place in able])
    candidates: set[tuple[int, int]] = set()
    complete = True
    for bucket in _buckets(signatures):
        if len(candidates) + len(bucket) * (len(bucket) - 1) // 2 > MOST_PAIRS:
            complete = False
            continue
        first, second = np.triu_indices(len(bucket), 1)
        candidates.update(zip(bucket[first].tolist(), bucket[second].tolist(), strict=True))
    pairs = ((able[a], able[b]) for a, b in sorted(candidates))
    return Near(tuple((a, b) for a, b in pairs if _similarity(shingles[a], shingles[b]) >= NEAR), complete)


def _shingles(text: str, vocabulary: dict[str, int]) -> Hashes:
    """The 64-bit hashes of a text's runs of three words, each once."""
    words = np.array([_word(word, vocabulary) for word in _WORD.findall(text)], dtype=np.uint64)
    if len(words) < _WORDS:
        return np.empty(0, dtype=np.uint64)
    factors = _random(_WORDS, b"shingle")
    found = np.zeros(len(words) - _WORDS + 1, dtype=np.uint64)
    for place, factor in enumerate(factors):
        part = words[place : place + len(found)] * factor
        found ^= (part >> np.uint64(29)) ^ part
    return np.unique(found)


def _word(word: str, vocabulary: dict[str, int]) -> int:
    if word not in vocabulary:
        vocabulary[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
    return vocabulary[word]


def _random(count: int, purpose: bytes) -> Hashes:
    """Fixed odd factors: a report is the same each time."""
    data = hashlib.shake_256(b"cloister duplicates\0" + purpose).digest(8 * count)
    return np.frombuffer(data, dtype="<u8").astype(np.uint64) | np.uint64(1)


def _signatures(shingles: Sequence[Hashes]) -> NDArray[np.uint32]:
    """For each text the smallest value of each hash function: shape (texts, BANDS x ROWS)."""
    factors, offsets = _random(BANDS * ROWS, b"factor"), _random(BANDS * ROWS, b"offset")
    found = np.full((len(shingles), BANDS * ROWS), 2**32 - 1, dtype=np.uint32)
    for place, hashes in enumerate(shingles):
        for start in range(0, len(hashes), _CHUNK):
            values = (hashes[start : start + _CHUNK, None] * factors + offsets) >> np.uint64(32)
            np.minimum(found[place], values.min(axis=0).astype(np.uint32), out=found[place])
    return found


def _buckets(signatures: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """The places of texts that agree in a whole band, two or more, in ascending order."""
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        keys = part.view(np.dtype((np.void, part.dtype.itemsize * ROWS))).ravel()
        order = np.argsort(keys, kind="stable")
        ends = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
        yield from (places for places in np.split(order, ends) if len(places) > 1)


def _similarity(first: Hashes, second: Hashes) -> float:
    """The Jaccard similarity of two sets."""
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)
