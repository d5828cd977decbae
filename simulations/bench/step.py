"""``cloister bench step``: what privacy costs in a training step, beside plain PEFT on the same rows.

MiniLM, LoRA of rank 8 on query and value of all layers and a head of six classes; synthetic notes of two
rows a person, padded in micro-batches of like length; persons drawn by Poisson sampling, 32 rows a step on
average. The private step draws, clips per person, adds noise from a key stream and takes a step of AdamW on
the flat vector; the plain one is PEFT with AdamW on the same micro-batches. They alternate in one process.

=========================  ==============================================================================
figure                     meaning
=========================  ==============================================================================
time_ratio_64              private over plain step time, rows of at most 64 tokens; median of paired steps
time_ratio_128             the same at 128 tokens
hooks_time_ratio           the same at 64 tokens with Opacus' hooks in place of the fused engine
flop_ratio                 counted floating-point operations of the two steps; exact, without noise and
                           optimizer, which no counter sees in either
max_abs_error              the clipped sum against one person at a time, largest difference of a value
=========================  ==============================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from cloister.client.learn.adapters import Classifier, get_flat, place, set_flat
from cloister.client.learn.features import Indices, Tokens, Units
from cloister.client.learn.model import load_encoder, tokenize
from cloister.privacy import canonical
from cloister.privacy.dp import noise, sampling
from cloister.privacy.entropy import FixedEntropy, KeyStream
from cloister.privacy.layout import Placement, initial, layout
from cloister.privacy.model import DEFAULT, describe
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.hooks import HooksEngine
from cloister.privacy.step.interface import Engine, MicroBatch
from cloister.simulations import stage
from cloister.simulations.bench.result import Limit, Result, spread

_PERSONS, _ROWS_EACH, _RATE = 64, 2, 0.25
_BOUND, _SIGMA = 1.0, 1.0
_LIMITS = {
    "time_ratio_64": Limit(1.05),
    "time_ratio_128": Limit(1.05),
    "flop_ratio": Limit(1.001),
    "max_abs_error": Limit(1e-6),
}


@dataclass(frozen=True, eq=False)
class Work:
    """A model and rows to train it on.

    Attributes:
        classifier: its trained parameters are overwritten.
        tokens, labels: the rows.
        units: whose they are.
    """

    classifier: Classifier
    tokens: Tokens
    labels: NDArray[np.int64]
    units: Units

    @classmethod
    def of(cls, max_tokens: int) -> Work:
        """MiniLM over rows of two to four notes, cut at a number of tokens."""
        base = describe(DEFAULT)
        play = stage.triage(4, 0)
        notes = [text for part in play.train.values() for text in part.texts]
        rows = _PERSONS * _ROWS_EACH
        texts = [" ".join(notes[4 * row : 4 * row + 2 + row % 3]) for row in range(rows)]
        order = layout(base.tensors, base.hidden, Placement(8, ("query", "value"), 6, 6))
        classifier = place(load_encoder(base), order, 16.0)
        set_flat(classifier, initial(order, canonical.digest(b"cloister bench step")))
        return cls(
            classifier,
            Tokens(tokenize(base, texts, max_tokens)),
            np.arange(rows) % 6,
            Units.of(np.arange(rows) // _ROWS_EACH),
        )

    def batches(self, chosen: Indices) -> list[MicroBatch]:
        """All rows of some persons."""

        def of(rows: Indices) -> MicroBatch:
            targets = torch.from_numpy(self.labels[rows])
            return MicroBatch(
                lambda: cross_entropy(self.tokens.logits(self.classifier, rows), targets, reduction="none"),
                self.units.of_row[rows],
            )

        return [of(rows) for rows in self.units.chunks(self.tokens.lengths, chosen)]

    def fused(self) -> Engine:
        """The engine that is measured."""
        return FusedEngine(self.classifier, self.classifier.layout, self.classifier.trained)

    def hooks(self) -> Engine:
        """Opacus' hooks."""
        return HooksEngine(self.classifier, self.classifier.layout, self.classifier.trained)


def run() -> Result:
    """Measures everything, in about three minutes on two idle cores."""
    short, long = Work.of(64), Work.of(128)
    ratios, hooks = _ratios(short, 9)
    figures = {
        **spread("time_ratio_64", ratios),
        **spread("time_ratio_128", _ratios(long, 5)[0]),
        **spread("hooks_time_ratio", hooks),
        "flop_ratio": flop_ratio(short, np.arange(16)),
        "max_abs_error": max_abs_error(short, np.arange(12)),
    }
    return Result("step", figures, _LIMITS)


def _ratios(work: Work, repeats: int) -> tuple[list[float], list[float]]:
    """Step times of fused engine and hooks over the plain step of the same rows, one pair a repeat."""
    steps = [_plain(work), _private(work, work.fused()), _private(work, work.hooks())]
    entropy = FixedEntropy(b"cloister bench step")
    found: list[list[float]] = []
    for repeat in range(repeats + 1):
        streams = [entropy.stream(f"{at}", round=repeat, model="") for at in range(len(steps) + 1)]
        chosen = sampling.poisson(_PERSONS, _RATE, streams[-1])
        # The first of the three changes from repeat to repeat.
        order = np.roll(np.arange(len(steps)), repeat).tolist()
        seconds = {at: _timed(steps[at], chosen, streams[at]) for at in order}
        found.append([seconds[at] / seconds[0] for at in range(len(steps))])
    timed = found[1:]  # the first warms up
    return [row[1] for row in timed], [row[2] for row in timed]


def _timed(step: Callable[[Indices, KeyStream], None], chosen: Indices, stream: KeyStream) -> float:
    started = time.perf_counter()
    step(chosen, stream)
    return time.perf_counter() - started


def _plain(work: Work) -> Callable[[Indices, KeyStream], None]:
    parameters = list(work.classifier.trained.values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step(chosen: Indices, _: KeyStream) -> None:
        optimizer.zero_grad()
        for part in work.batches(chosen):
            (part.losses().sum() / (_RATE * _PERSONS)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _private(work: Work, engine: Engine) -> Callable[[Indices, KeyStream], None]:
    flat = torch.nn.Parameter(torch.from_numpy(get_flat(work.classifier)))
    optimizer = torch.optim.AdamW([flat], lr=1e-4)

    def step(chosen: Indices, stream: KeyStream) -> None:
        sampling.poisson(_PERSONS, _RATE, stream)  # timed; the persons are those of the plain step
        noised = noise.gaussian(engine.clipped(work.batches(chosen), _BOUND), _SIGMA, stream)
        flat.grad = torch.from_numpy(noised.values / np.float32(_RATE * _PERSONS))
        optimizer.step()
        set_flat(work.classifier, flat.detach().numpy())

    return step


def flop_ratio(work: Work, chosen: Indices) -> float:
    """Counted operations of the private over the plain gradient of some persons' rows."""
    plain, private = flops(work, chosen)
    return private / plain


def flops(work: Work, chosen: Indices) -> tuple[int, int]:
    """Counted operations of the plain and of the private gradient: forward, backward, cut and sum."""
    with FlopCounterMode(display=False) as plain:
        for part in work.batches(chosen):
            torch.autograd.grad(part.losses().sum(), list(work.classifier.trained.values()))
    engine = work.fused()
    with FlopCounterMode(display=False) as private:
        engine.clipped(work.batches(chosen), _BOUND)
    return plain.get_total_flops(), private.get_total_flops()


def max_abs_error(work: Work, chosen: Indices) -> float:
    """The largest difference of a value of the clipped sum from that of one person at a time."""
    names = [name for name, _ in work.classifier.layout.tensors]
    total = np.zeros(work.classifier.layout.size)
    for unit in chosen:
        losses = work.batches(np.array([unit]))[0].losses()
        parts = torch.autograd.grad(losses.sum(), [work.classifier.trained[name] for name in names])
        gradient = torch.cat([part.reshape(-1) for part in parts]).double().numpy()
        total += gradient * min(1.0, _BOUND / (float(np.linalg.norm(gradient)) + 1e-6))
    found = work.fused().clipped(work.batches(chosen), _BOUND).values
    return float(np.abs(found - total).max())
