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

from cloister.client.learn.adapters import Adapted, Classifier, pool
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

    def states(self, model: Adapted, rows: Indices) -> Tensor:
        """The last states through the whole encoder, shape (len(rows), tokens of the longest, hidden)."""
        return model.states(*self.padded(model, rows))

    def padded(self, classifier: Adapted, rows: Indices) -> tuple[Tensor, Tensor]:
        """Ids and mask, int64 of shape (len(rows), tokens of the longest)."""
        chosen = [torch.from_numpy(self.ids[row]) for row in rows]
        padding = getattr(classifier.encoder.config, "pad_token_id", None) or 0
        ids = pad_sequence(chosen, batch_first=True, padding_value=padding)
        mask = _mask([len(row) for row in chosen])
        # Not waited for: a GPU gets the next micro-batch while it is at work on the last one.
        return ids.to(classifier.device, non_blocking=True), mask.to(classifier.device, non_blocking=True)


@dataclass(frozen=True, eq=False)
class Hidden:
    """Hidden states below layer ``first``, one tensor of shape (tokens, hidden) a document."""

    below: tuple[Tensor, ...]
    first: int

    @property
    def lengths(self) -> Indices:
        """The number of tokens of each document."""
        return np.array([len(states) for states in self.below], dtype=np.int64)

    def logits(self, classifier: Classifier, rows: Indices) -> Tensor:
        """Logits through the layers from ``first`` on."""
        return classifier.classify(pool(*self._last(classifier, rows)))

    def states(self, model: Adapted, rows: Indices) -> Tensor:
        """The last states through the layers from ``first`` on; as of ``Tokens``."""
        return self._last(model, rows)[0]

    def _last(self, model: Adapted, rows: Indices) -> tuple[Tensor, Tensor]:
        """The last states and their mask."""
        chosen = [self.below[row] for row in rows]
        mask = _mask([len(states) for states in chosen]).to(model.device, non_blocking=True)
        states = pad_sequence(chosen, batch_first=True).to(model.device, torch.float32)
        layers = model.encoder.encoder.layer[self.first :]
        return _through(model.encoder, layers, states, mask), mask


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


def prepare_states(model: Adapted, ids: Sequence[NDArray[np.int64]]) -> Tokens | Hidden:
    """As ``prepare``, for heads that need the state of each token."""
    tokens = Tokens(tuple(ids))
    if model.encoder.config.model_type not in _BERT_LIKE:
        return tokens
    adapted = any(name.endswith(LORA_A) for name in model.trained)
    first = _first_trained(model) if adapted else len(model.encoder.encoder.layer)
    return _hidden(model, tokens, first, torch.float32) if first else tokens


def chunks(lengths: Indices, rows: Indices) -> Iterator[Indices]:
    """Splits ``rows`` into batches of documents of like length: little padding, bounded memory."""
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    for run in _runs(np.ones(len(ordered), dtype=np.int64), lengths[ordered]):
        yield ordered[run]


@dataclass(frozen=True, eq=False)
class Units:
    """Which documents each unit of privacy has.

    Attributes:
        of_row: whose document each is, int64, shape (documents,), numbered from 0 without gaps.
        rows: the documents of each unit, ascending; one array a unit.
    """

    of_row: Indices
    rows: tuple[Indices, ...]

    @classmethod
    def of(cls, of_row: Indices) -> Units:
        """The units of documents that say whose they are.

        Raises:
            ValueError: a number between 0 and the largest has no document: it would be sampled in vain.
        """
        counts = np.bincount(of_row)
        if not counts.all():
            raise ValueError("units must be numbered without gaps")
        ordered = np.argsort(of_row, kind="stable")
        return cls(of_row, tuple(np.split(ordered, np.cumsum(counts)[:-1])) if len(counts) else ())

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self, lengths: Indices, chosen: Indices) -> Iterator[Indices]:
        """Splits the documents of ``chosen`` units into batches of like length, all of a unit in one.

        A unit that alone is larger than a batch should be is one batch.

        Args:
            lengths: of all documents, shape (documents,).
            chosen: distinct units, shape (n,).

        Yields:
            Documents, those of a unit side by side.
        """
        longest = np.array([lengths[self.rows[unit]].max() for unit in chosen], dtype=np.int64)
        order = np.argsort(longest, kind="stable")
        sizes = np.array([len(self.rows[unit]) for unit in chosen], dtype=np.int64)
        for run in _runs(sizes[order], longest[order]):
            yield np.concatenate([self.rows[unit] for unit in chosen[order][run]])


def _runs(sizes: Indices, lengths: Indices) -> Iterator[slice]:
    """Consecutive runs of items, each of some rows of at most so many tokens: bounded rows and tokens.

    Args:
        sizes: rows of each item, shape (n,).
        lengths: tokens of its longest row, ascending, shape (n,).
    """
    start = 0
    while start < len(sizes):
        stop, rows = start + 1, int(sizes[start])
        while stop < len(sizes):
            more = rows + int(sizes[stop])
            if more > _ROWS or more * int(lengths[stop]) > _TOKENS:
                break
            stop, rows = stop + 1, more
        yield slice(start, stop)
        start = stop


def _first_trained(classifier: Adapted) -> int:
    """The index of the lowest layer with a trained parameter; 0 where layers cannot be run apart."""
    if classifier.encoder.config.model_type not in _BERT_LIKE:
        return 0
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in classifier.encoder.encoder.layer]
    return trained.index(True)


@torch.no_grad()
def _pooled(classifier: Classifier, tokens: Tokens, dtype: torch.dtype) -> Pooled:
    width = int(classifier.encoder.config.hidden_size)
    values = torch.empty((len(tokens.ids), width), dtype=dtype)
    for rows in chunks(tokens.lengths, np.arange(len(tokens.ids))):
        values[torch.from_numpy(rows)] = classifier.pooled(*tokens.padded(classifier, rows)).to("cpu", dtype)
    return Pooled(values)


@torch.no_grad()
def _hidden(classifier: Adapted, tokens: Tokens, first: int, dtype: torch.dtype) -> Hidden:
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
