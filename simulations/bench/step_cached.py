"""What the product's own way of training takes beside plain PEFT: a frozen prefix cached, rows by length.

Both train the same tensors (LoRA in the top layers that a plan names by default, and the head) on the same
rows of short texts, one unit a row:

- plain: PEFT and AdamW; rows in random order, 32 a batch, padded to the longest of the batch; the whole
  forward pass, the backward pass down to the lowest trained layer; gradients add up to one step.
- private: the hidden states below the first trained layer are kept; Poisson sampling, micro-batches of like
  length, cut, noise from the key stream, AdamW on the flat vector.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from cloister.client.learn.features import Units, prepare
from cloister.client.site.records import Records
from cloister.server.terms import COURSES, Terms
from cloister.simulations import stage
from cloister.simulations.bench.step_work import Work, minilm, paired, plain, private, tokens

ROWS, REPEATS = 640, 9
"""Rows of a run, of which a step draws a fifth: 128 on average."""

_RATE = COURSES["local"].rate


@dataclass(frozen=True)
class Cached:
    """What a run showed.

    Attributes:
        ratios: private over plain step time of the same rows, one a repeat.
        filling: the time in which the prefix runs once over all rows, over that of a plain pass over them.
    """

    ratios: list[float]
    filling: float


def notes() -> Records:
    """Synthetic notes, where no file is given."""
    parts = stage.triage(8, 0).train.values()
    texts = tuple(text for part in parts for text in part.texts)
    return Records(texts, tuple(label for part in parts for label in part.labels))


def shuffled(found: Records, rows: int) -> Records:
    """At most so many rows in random order, the same each time."""
    return found.take(np.random.default_rng(0).permutation(len(found))[:rows])


def measure(found: Records, repeats: int = REPEATS) -> Cached:
    """Steps on at most ``ROWS`` rows of some texts, in random order."""
    chosen = shuffled(found, ROWS)
    classes = chosen.classes()
    labels = np.array([classes.index(label) for label in chosen.labels], dtype=np.int64)
    units = Units.of(np.arange(len(chosen)))
    classifier = minilm(Terms.top_layers, len(classes))
    read = tokens(chosen.texts, Terms.max_tokens)
    whole = Work(classifier, read, labels, units, _RATE)
    started = time.perf_counter()
    hidden = prepare(classifier, read.ids)
    filled = time.perf_counter() - started
    cached = Work(classifier, hidden, labels, units, _RATE)
    steps = [plain(whole, whole.natural), private(cached, cached.fused())]
    seconds = paired(whole, steps, repeats)
    epoch = statistics.median(row[0] for row in seconds) / _RATE
    return Cached([row[1] / row[0] for row in seconds], filled / epoch)
