"""The rows of a task as a step needs them: the loss of each, and what a model is worth on them.

The loss of a row is the mean over what is learnt of it: its class, the tags of its words, the tokens of its
answer. So one row is one sample, and rows of one batch do not weigh on each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from cloister.client.learn.adapters import Classifier, Tagger, Writer
from cloister.client.learn.features import Features, Hidden, Indices, Tokens, chunks
from cloister.client.learn.instruction import Turns
from cloister.client.site.tagging import entities

NOTHING = -100
"""The target of a token of which nothing is learnt."""


@dataclass(frozen=True)
class Worth:
    """What a model is worth on rows.

    Attributes:
        accuracy: the fraction of classes, of tags of words, or of tokens of answers, that is right; of rows
            with several the mean over rows.
        rows: how many there were.
        loss: of answers, the mean over rows; its exponential is the perplexity. None for other tasks.
        f1: of entities, found where they begin and end and by their kind (micro average); None likewise.
    """

    accuracy: float
    rows: int
    loss: float | None = None
    f1: float | None = None


class Documents(Protocol):
    """Rows ready to be trained on with one model."""

    @property
    def lengths(self) -> Indices:
        """What each row costs, in tokens; shape (rows,)."""
        ...

    def losses(self, rows: Indices) -> Tensor:
        """The loss of each of some rows under the model's parameters, shape (len(rows),)."""
        ...

    def worth(self) -> Worth:
        """What the model is worth on all rows, at least one."""
        ...


class Labelled:
    """Rows with one class each.

    Args:
        classifier: the model.
        features: the rows.
        labels: the class of each, int64, shape (rows,).
    """

    def __init__(self, classifier: Classifier, features: Features, labels: NDArray[np.int64]) -> None:
        if len(features.lengths) != len(labels):
            raise ValueError("there must be one label a row")
        self.classifier, self.features, self.labels = classifier, features, labels
        self._labels = torch.from_numpy(labels.astype(np.int64)).to(classifier.device)

    @property
    def lengths(self) -> Indices:
        """See ``Documents``."""
        return self.features.lengths

    def losses(self, rows: Indices) -> Tensor:
        """See ``Documents``."""
        logits = self.features.logits(self.classifier, rows)
        labels = self._labels[torch.from_numpy(rows).to(self._labels.device, non_blocking=True)]
        return cross_entropy(logits.float(), labels, reduction="none")

    @torch.no_grad()
    def worth(self) -> Worth:
        """See ``Documents``."""
        right = 0
        for rows in _all(self.lengths):
            found = self.features.logits(self.classifier, rows).argmax(dim=1).cpu().numpy()
            right += int((found == self.labels[rows]).sum())
        return Worth(right / len(self.labels), len(self.labels))


class Tagged:
    """Rows with a tag of each word, learnt at its first token.

    Args:
        tagger: the model.
        features: the rows.
        targets: the tag of each token or ``NOTHING``, one array of shape (tokens,) a row.
        tags: the tags by name.
    """

    def __init__(
        self,
        tagger: Tagger,
        features: Tokens | Hidden,
        targets: tuple[NDArray[np.int64], ...],
        tags: tuple[str, ...],
    ) -> None:
        if [len(row) for row in targets] != features.lengths.tolist():
            raise ValueError("there must be one target a token")
        self._tagger, self._features, self._targets, self._tags = tagger, features, targets, tags

    @property
    def lengths(self) -> Indices:
        """See ``Documents``."""
        return self._features.lengths

    def losses(self, rows: Indices) -> Tensor:
        """See ``Documents``."""
        logits = self._tagger.tag(self._features.states(self._tagger, rows))
        targets = self._padded(rows).to(logits.device)
        each = cross_entropy(logits.float().transpose(1, 2), targets, reduction="none", ignore_index=NOTHING)
        return each.sum(dim=1) / (targets != NOTHING).sum(dim=1).clamp(min=1)

    @torch.no_grad()
    def worth(self) -> Worth:
        """See ``Documents``."""
        shares = np.ones(len(self._targets))
        both = found_of_all = meant_of_all = 0
        for rows in _all(self.lengths):
            best = self._tagger.tag(self._features.states(self._tagger, rows)).argmax(dim=2).cpu().numpy()
            for row, tags in zip(rows.tolist(), best, strict=True):
                meant = self._targets[row]
                learnt = meant != NOTHING
                said, meant = tags[: len(meant)][learnt], meant[learnt]
                if len(meant):
                    shares[row] = float((said == meant).mean())
                found, true = self._entities(said), self._entities(meant)
                both += len(found & true)
                found_of_all, meant_of_all = found_of_all + len(found), meant_of_all + len(true)
        f1 = 2 * both / (found_of_all + meant_of_all) if found_of_all + meant_of_all else 1.0
        return Worth(float(shares.mean()), len(shares), f1=f1)

    def _padded(self, rows: Indices) -> Tensor:
        chosen = [torch.from_numpy(self._targets[row]) for row in rows]
        return pad_sequence(chosen, batch_first=True, padding_value=NOTHING)

    def _entities(self, tags: NDArray[np.int64]) -> set[tuple[int, int, str]]:
        return set(entities([self._tags[tag] for tag in tags]))


class Answered:
    """Rows of instruction and answer; the answer's tokens are learnt.

    Args:
        writer: the model.
        turns: the rows.
    """

    def __init__(self, writer: Writer, turns: Turns) -> None:
        self._writer, self._tokens, self._starts = writer, Tokens(turns.ids), turns.starts

    @property
    def lengths(self) -> Indices:
        """See ``Documents``."""
        return self._tokens.lengths

    def losses(self, rows: Indices) -> Tensor:
        """See ``Documents``."""
        logits, targets, owner = self._next(rows)
        return self._means(cross_entropy(logits, targets, reduction="none"), owner, rows)

    @torch.no_grad()
    def worth(self) -> Worth:
        """See ``Documents``."""
        losses, shares = np.empty(len(self._starts)), np.empty(len(self._starts))
        for rows in _all(self.lengths):
            logits, targets, owner = self._next(rows)
            each = cross_entropy(logits, targets, reduction="none")
            losses[rows] = self._means(each, owner, rows).cpu().numpy()
            right = (logits.argmax(dim=1) == targets).to(each.dtype)
            shares[rows] = self._means(right, owner, rows).cpu().numpy()
        return Worth(float(shares.mean()), len(shares), loss=float(losses.mean()))

    @torch.no_grad()
    def recited(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The loss of each row, and whether the model gives its answer word for word, to its end.

        Greedy decoding gives an answer exactly if each of its tokens is the most probable one after the
        instruction and the true tokens before it: no text is generated. Shapes (rows,).
        """
        losses, same = np.empty(len(self._starts)), np.empty(len(self._starts), dtype=np.bool_)
        for rows in _all(self.lengths):
            logits, targets, owner = self._next(rows)
            each = cross_entropy(logits, targets, reduction="none")
            losses[rows] = self._means(each, owner, rows).cpu().numpy()
            wrong = (logits.argmax(dim=1) != targets).to(each.dtype)
            same[rows] = (self._means(wrong, owner, rows) == 0).cpu().numpy()
        return losses, same

    def _next(self, rows: Indices) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (answer tokens, vocabulary) before each token of answers, that token, and whose it is."""
        ids, mask = self._tokens.padded(self._writer, rows)
        starts = torch.from_numpy(self._starts[rows]).to(ids.device)
        places = torch.arange(ids.shape[1], device=ids.device)
        learnt = ((places >= starts.unsqueeze(1)) & (mask > 0))[:, 1:]
        # Only these states meet the output layer: of the whole row, its logits would be the largest tensor.
        logits = self._writer.words(self._writer.states(ids, mask)[:, :-1][learnt]).float()
        return logits, ids[:, 1:][learnt], learnt.nonzero()[:, 0]

    def _means(self, each: Tensor, owner: Tensor, rows: Indices) -> Tensor:
        """The mean over the tokens of each row, shape (len(rows),)."""
        sums = torch.zeros(len(rows), dtype=each.dtype, device=each.device).index_add(0, owner, each)
        counts = torch.bincount(owner, minlength=len(rows))
        return sums / counts.clamp(min=1)


def _all(lengths: Indices) -> Iterator[Indices]:
    return chunks(lengths, np.arange(len(lengths)))
