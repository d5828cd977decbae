"""Whole entities in tagged documents: what was found, and how surely so many documents measure it.

Strict spans, as in Tjong Kim Sang and De Meulder 2003 (CoNLL): an entity is found if it begins and ends where
it should and is of the right kind. Words that were cut off at the end of a document count on neither side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.client.site.tagging import entities

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_DRAWS = 1000
_KEY = 20030531


def counts(found: Indices, meant: Indices, firsts: Indices, tags: Sequence[str]) -> Indices:
    """Of each document, entities found rightly, found and meant.

    Args:
        found, meant: places in ``tags``, shape (words,).
        firsts: the first word of each document, ascending.
        tags: by name.

    Returns:
        Shape (documents, 3).
    """
    rows = []
    for said, true in zip(np.split(found, firsts[1:]), np.split(meant, firsts[1:]), strict=True):
        one, other = ({*entities([tags[tag] for tag in words])} for words in (said, true))
        rows.append((len(one & other), len(one), len(other)))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def f1(counted: NDArray[np.floating] | Indices) -> float:
    """Micro-averaged over all documents; 1 where nothing was there and nothing found."""
    right, found, meant = counted.sum(axis=0)
    return float(2 * right / (found + meant)) if found + meant else 1.0


def interval(counted: NDArray[np.floating] | Indices) -> tuple[float, float]:
    """95 % of the F1 over documents drawn with replacement (Efron's percentile bootstrap, fixed draws)."""
    documents = len(counted)
    drawn = np.random.default_rng(_KEY).multinomial(documents, np.full(documents, 1 / documents), _DRAWS)
    low, high = np.percentile([f1(each[:, None] * counted) for each in drawn], (2.5, 97.5))
    return float(low), float(high)
