"""Rows to choose on, where many rows are phrases of other rows' sentences, as in SST-2.

A tenth of such rows drawn at random is no test: parts of its sentences are trained on. Here whole sentences
are held back, and with them every row that is a part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.errors import InputError

FEWEST_WORDS = 4
"""A row of fewer words is taken for no sentence, though no other row contains it."""


@dataclass(frozen=True, eq=False)
class Divided:
    """Rows to train on and rows to choose on, int64, ascending.

    Attributes:
        train: no word sequence of these is, as a whole row, a part of a row of ``held``.
        held: whole sentences.
    """

    train: NDArray[np.int64]
    held: NDArray[np.int64]


def divided(texts: Sequence[str], number: int, seed: int) -> Divided:
    """Holds back some whole sentences and all rows that are parts of them.

    Args:
        texts: of all rows; words are what blanks divide.
        number: how many sentences, or all that there are where they are fewer.
        seed: which ones.

    Raises:
        InputError: ``split_invalid``, nothing would be left on one of the sides.
    """
    rows = [_spaced(text) for text in texts]
    drawn = np.random.default_rng(seed).permutation(sentences(texts))[:number]
    held = np.sort(drawn).astype(np.int64)
    parts = set().union(*(_runs(rows[place]) for place in held))
    train = np.array([place for place, row in enumerate(rows) if row not in parts], dtype=np.int64)
    if not len(held) or not len(train):
        raise InputError(
            "split_invalid",
            f"{len(rows)} rows cannot be divided by whole sentences.",
            f"Give rows of which some have {FEWEST_WORDS} words or more and are no part of others.",
        )
    return Divided(train, held)


def sentences(texts: Sequence[str]) -> NDArray[np.int64]:
    """The places of rows that are a part of no other row, ascending."""
    rows = [_spaced(text) for text in texts]
    known = set(rows)
    inner: set[str] = set()
    for row in known:
        inner |= (_runs(row) & known) - {row}
    found = [
        place for place, row in enumerate(rows) if row not in inner and row.count(" ") >= FEWEST_WORDS - 1
    ]
    return np.array(found, dtype=np.int64)


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _runs(row: str) -> set[str]:
    """Every run of a row's words, the whole row included."""
    words = row.split(" ")
    return {
        " ".join(words[start:stop])
        for start in range(len(words))
        for stop in range(start + 1, len(words) + 1)
    }
