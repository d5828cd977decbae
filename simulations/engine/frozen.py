"""What the frozen base model says of texts, once: every site of a simulation shares it.

torch is loaded here, for as long as the base model runs, and by nothing else of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.layout import Placement, layout
from cloister.privacy.model import BaseModel

Features: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_CLASSES = 2  # of a head that is never used


def features(base: BaseModel, texts: Sequence[str], max_tokens: int = 64) -> Features:
    """Mean-pooled features of Euclidean length 1: float64, shape (texts, hidden).

    The same as a federated run's head works on, by the same code (``client.learn.features``), but for its
    constant scale.

    Raises:
        ModelError: the base model cannot be loaded.
    """
    from cloister.client.learn.adapters import place
    from cloister.client.learn.features import Pooled, prepare
    from cloister.client.learn.model import load_encoder, tokenize

    bare = layout(base.tensors, base.hidden, Placement(1, ("query",), 0, _CLASSES))
    found = prepare(place(load_encoder(base), bare, 1.0), tokenize(base, texts, max_tokens))
    if not isinstance(found, Pooled):
        raise TypeError("a model of which nothing but a head is trained has pooled features")
    return np.asarray(found.values.numpy(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Words:
    """The words of documents, as many of each as the base model reads.

    Attributes:
        features: of length 1, float64, shape (words, hidden).
        tags: of each word, shape (words,).
        documents: whose word each is, ascending, shape (words,).
    """

    features: Features
    tags: Indices
    documents: Indices


def words(base: BaseModel, rows: Sequence[tuple[tuple[str, ...], Indices]], max_tokens: int = 128) -> Words:
    """The state of the first token of each word, as a federated run's tagger works on it.

    Args:
        base: the base model.
        rows: words of each document, and their tags as places in a list.
        max_tokens: of a document; words beyond are left out.

    Raises:
        ModelError: the base model cannot be loaded.
    """
    from torch.nn.functional import normalize

    from cloister.client.learn.adapters import place_tagger
    from cloister.client.learn.documents import NOTHING
    from cloister.client.learn.features import Hidden, prepare_states
    from cloister.client.learn.model import load_encoder
    from cloister.client.learn.tasks import tokens_of_words

    ids, targets = tokens_of_words(base, rows, max_tokens)
    bare = layout(base.tensors, base.hidden, Placement(1, ("query",), 0, _CLASSES))
    found = prepare_states(place_tagger(load_encoder(base), bare, 1.0), ids)
    if not isinstance(found, Hidden):
        raise TypeError("a model of which nothing but a head is trained has states for every token")
    learnt = [row != NOTHING for row in targets]
    states = [normalize(each, dim=-1).numpy()[kept] for each, kept in zip(found.below, learnt, strict=True)]
    return Words(
        np.concatenate(states).astype(np.float64),
        np.concatenate([row[kept] for row, kept in zip(targets, learnt, strict=True)]),
        np.repeat(np.arange(len(ids)), [int(kept.sum()) for kept in learnt]),
    )
