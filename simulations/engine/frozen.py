"""What the frozen base model says of texts, once: every site of a simulation shares it.

torch is loaded here, for as long as the base model runs, and by nothing else of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.layout import Placement, layout
from cloister.privacy.model import BaseModel

Features: TypeAlias = NDArray[np.float64]

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
