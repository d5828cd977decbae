"""What the frozen part of the model says about each document, kept so that it runs only once.

Dropout is off and the layers below the first trained one never change, so their output for a document
is a constant of the run. Three forms, by what is trained:

- ``Pooled``: only the head is trained; one vector a document.
- ``Hidden``: the top layers are trained, in a BERT-like encoder; one hidden state a token.
- ``Tokens``: everything else; the token ids, and the whole encoder runs each time.

All three give the same logits as the full model, up to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cloister.client.learn.adapters import Classifier, pool
from cloister.client.learn.model import LORA_A

Indices: TypeAlias = NDArray[np.int64]

# Encoders whose layers are called in turn with (states, mask) and nothing else.
_BERT_LIKE = ("bert", "roberta", "xlm-roberta")
_ROWS, _TOKENS = 64, 4096


class Features(Protocol):
    """Documents in the form that a step starts from."""

    @property
    def lengths(self) -> Indices:
        """What each document costs, in tokens; shape (documents,)."""
        ...

    def logits(self, classifier: Classifier, rows: Indices) -> Tensor:
        """Logits of the documents at ``rows``, shape (len(rows), classes)."""
        ...


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids, one array of shape (tokens,) a document."""

    ids: tuple[NDArray[np.int64], ...]

    @property
    def lengths(self) -> Indices:
        """The number of tokens of each document."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def logits(self, classifier: Classifier, rows: Indices) -> Tensor:
        """Logits through the whole encoder."""
        logits: Tensor = classifier(*self.padded(classifier, rows))
        return logits

    def padded(self, classifier: Classifier, rows: Indices) -> tuple[Tensor, Tensor]:
        """Ids and mask, int64 of shape (len(rows), tokens of the longest)."""
        chosen = [torch.from_numpy(self.ids[row]) for row in rows]
        padding = getattr(classifier.encoder.config, "pad_token_id", None) or 0
        ids = pad_sequence(chosen, batch_first=True, padding_value=padding)
        return ids.to(classifier.device), _mask([len(row) for row in chosen]).to(classifier.device)


@dataclass(frozen=True, eq=False)
class Hidden:
    """Hidden states below layer ``first``, one tensor of shape (tokens, hidden) a document."""

    states: tuple[Tensor, ...]
    first: int

    @property
    def lengths(self) -> Indices:
        """The number of tokens of each document."""
        return np.array([len(states) for states in self.states], dtype=np.int64)

    def logits(self, classifier: Classifier, rows: Indices) -> Tensor:
        """Logits through the layers from ``first`` on."""
        chosen = [self.states[row] for row in rows]
        mask = _mask([len(states) for states in chosen]).to(classifier.device)
        states = pad_sequence(chosen, batch_first=True).to(classifier.device, torch.float32)
        layers = classifier.encoder.encoder.layer[self.first :]
        return classifier.classify(pool(_through(classifier.encoder, layers, states, mask), mask))


@dataclass(frozen=True, eq=False)
class Pooled:
    """Pooled features of unit length, shape (documents, hidden)."""

    values: Tensor

    @property
    def lengths(self) -> Indices:
        """1 for each document."""
        return np.ones(len(self.values), dtype=np.int64)

    def logits(self, classifier: Classifier, rows: Indices) -> Tensor:
        """Logits of the head alone."""
        return classifier.classify(self.values[torch.from_numpy(rows)].to(classifier.device, torch.float32))


def prepare(classifier: Classifier, ids: Sequence[NDArray[np.int64]], *, half: bool = False) -> Features:
    """Runs the frozen part of the model once over all documents.

    Args:
        classifier: a model as ``adapters.place`` gives it. Later changes of its trained parameters do
            not touch what is kept.
        ids: token ids, one array of shape (tokens,) a document.
        half: keep float16, half the memory; logits then differ from the full model's by about 1e-3.
    """
    tokens = Tokens(tuple(ids))
    dtype = torch.float16 if half else torch.float32
    if not any(name.endswith(LORA_A) for name in classifier.trained):
        return _pooled(classifier, tokens, dtype)
    first = _first_trained(classifier)
    return _hidden(classifier, tokens, first, dtype) if first else tokens


def chunks(lengths: Indices, rows: Indices) -> Iterator[Indices]:
    """Splits ``rows`` into batches of documents of like length: little padding, bounded memory."""
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    start = 0
    while start < len(ordered):
        stop = start + 1
        while (
            stop < len(ordered)
            and stop - start < _ROWS
            and (stop - start + 1) * lengths[ordered[stop]] <= _TOKENS
        ):
            stop += 1
        yield ordered[start:stop]
        start = stop


def _first_trained(classifier: Classifier) -> int:
    """The index of the lowest layer with a trained parameter; 0 where layers cannot be run apart."""
    if classifier.encoder.config.model_type not in _BERT_LIKE:
        return 0
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in classifier.encoder.encoder.layer]
    return trained.index(True)


@torch.no_grad()
def _pooled(classifier: Classifier, tokens: Tokens, dtype: torch.dtype) -> Pooled:
    values = torch.empty((len(tokens.ids), classifier.head.in_features), dtype=dtype)
    for rows in chunks(tokens.lengths, np.arange(len(tokens.ids))):
        values[torch.from_numpy(rows)] = classifier.pooled(*tokens.padded(classifier, rows)).to("cpu", dtype)
    return Pooled(values)


@torch.no_grad()
def _hidden(classifier: Classifier, tokens: Tokens, first: int, dtype: torch.dtype) -> Hidden:
    encoder, lengths = classifier.encoder, tokens.lengths
    kept: dict[int, Tensor] = {}
    for rows in chunks(lengths, np.arange(len(tokens.ids))):
        ids, mask = tokens.padded(classifier, rows)
        states = _through(encoder, encoder.encoder.layer[:first], encoder.embeddings(input_ids=ids), mask)
        for row, state in zip(rows.tolist(), states.to("cpu", dtype), strict=True):
            kept[row] = state[: lengths[row]].clone()
    return Hidden(tuple(kept[row] for row in range(len(kept))), first)


def _through(encoder: Any, layers: Any, states: Tensor, mask: Tensor) -> Tensor:
    """Hidden states after some layers of a BERT-like encoder, as its own forward pass calls them."""
    from transformers.masking_utils import create_bidirectional_mask

    attention = create_bidirectional_mask(config=encoder.config, inputs_embeds=states, attention_mask=mask)
    for layer in layers:
        states = layer(states, attention)
    return states


def _mask(lengths: Sequence[int]) -> Tensor:
    """1 where a token is real, 0 where it is padding: int64, shape (documents, tokens of the longest)."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
