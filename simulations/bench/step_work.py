"""The training steps that ``cloister bench step`` compares, and the rows that they train on.

Every step draws its units, runs the model over their rows and changes the trained parameters; the timed
part is all of it. Draw and noise come from a key stream, so two processes can do the same work.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from cloister.client.learn.adapters import Classifier, get_flat, place, set_flat
from cloister.client.learn.features import Features, Indices, Tokens, Units, chunks
from cloister.client.learn.model import load_encoder, tokenize
from cloister.privacy import canonical
from cloister.privacy.dp import noise, sampling
from cloister.privacy.entropy import FixedEntropy, KeyStream
from cloister.privacy.layout import Placement, initial, layout
from cloister.privacy.model import DEFAULT, describe
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.interface import Engine, MicroBatch
from cloister.simulations import stage

BOUND, SIGMA = 1.0, 1.0
NATURAL = 32
"""Rows of a batch in plain training."""

_PERSONS, _ROWS_EACH, _CLASSES = 64, 2, 6
_LEARNING_RATE = 1e-4

Step: TypeAlias = Callable[[Indices, KeyStream], None]
"""One training step on the rows of some units, with the key stream of its draw and noise."""


@dataclass(frozen=True, eq=False)
class Work:
    """A model and rows to train it on.

    Attributes:
        classifier: its trained parameters are overwritten.
        features: the rows.
        labels: the class of each, int64, shape (rows,).
        units: whose they are.
        rate: the rate at which units are drawn.
        half: whether the forward pass runs under autocast to bfloat16.
    """

    classifier: Classifier
    features: Features
    labels: NDArray[np.int64]
    units: Units
    rate: float = 0.25
    half: bool = False

    @classmethod
    def of(cls, max_tokens: int) -> Work:
        """MiniLM with LoRA in all layers over two rows a person of two to four notes, cut to some tokens."""
        play = stage.triage(4, 0)
        notes = [text for part in play.train.values() for text in part.texts]
        rows = _PERSONS * _ROWS_EACH
        texts = [" ".join(notes[4 * row : 4 * row + 2 + row % 3]) for row in range(rows)]
        return cls(
            minilm(6, _CLASSES),
            tokens(texts, max_tokens),
            np.arange(rows) % _CLASSES,
            Units.of(np.arange(rows) // _ROWS_EACH),
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.classifier.device

    @property
    def expected(self) -> float:
        """How many units a step draws on average."""
        return self.rate * len(self.units)

    def draw(self, stream: KeyStream) -> Indices:
        """The units of a step."""
        return sampling.poisson(len(self.units), self.rate, stream)

    def batches(self, chosen: Indices) -> list[MicroBatch]:
        """All rows of some units in micro-batches of like length, as the product makes them."""
        return [self._batch(rows) for rows in self.units.chunks(self.features.lengths, chosen)]

    def natural(self, chosen: Indices) -> list[MicroBatch]:
        """The same rows as they come, ``NATURAL`` at a time."""
        rows = self.rows(chosen)
        return [self._batch(rows[start : start + NATURAL]) for start in range(0, len(rows), NATURAL)]

    def rows(self, chosen: Indices) -> Indices:
        """All rows of some units."""
        return np.concatenate([self.units.rows[unit] for unit in chosen])

    def _batch(self, rows: Indices) -> MicroBatch:
        targets = torch.from_numpy(self.labels[rows]).to(self.device, non_blocking=True)

        def losses() -> torch.Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = self.features.logits(self.classifier, rows)
            return cross_entropy(logits.float(), targets, reduction="none")

        return MicroBatch(losses, self.units.of_row[rows])

    def fused(self) -> Engine:
        """The engine that is measured."""
        return FusedEngine(self.classifier, self.classifier.layout, self.classifier.trained)

    def hooks(self) -> Engine:
        """Opacus' hooks."""
        from cloister.privacy.step.hooks import HooksEngine

        return HooksEngine(self.classifier, self.classifier.layout, self.classifier.trained)


def minilm(top_layers: int, classes: int) -> Classifier:
    """MiniLM with LoRA of rank 8 on query and value of its top layers, placed by PEFT, and a head."""
    base = describe(DEFAULT)
    order = layout(base.tensors, base.hidden, Placement(8, ("query", "value"), top_layers, classes))
    classifier = place(load_encoder(base), order, 16.0)
    set_flat(classifier, initial(order, canonical.digest(b"cloister bench step")))
    return classifier


def tokens(texts: Sequence[str], max_tokens: int) -> Tokens:
    """Texts as MiniLM reads them."""
    return Tokens(tokenize(describe(DEFAULT), texts, max_tokens))


def plain(work: Work, batches: Callable[[Indices], list[MicroBatch]] | None = None) -> Step:
    """The step without privacy: PEFT, and AdamW over the trained parameters.

    Args:
        work: what is trained.
        batches: how rows are batched; None for micro-batches of like length. Gradients add up over them.
    """
    optimizer = torch.optim.AdamW(list(work.classifier.trained.values()), lr=_LEARNING_RATE)
    split = batches or work.batches

    def step(chosen: Indices, _: KeyStream) -> None:
        optimizer.zero_grad()
        for part in split(chosen):
            torch.autograd.backward(part.losses().sum() / work.expected)
        optimizer.step()

    return step


def private(work: Work, engine: Engine) -> Step:
    """The step of an engine: draw, clip per unit, noise from the key stream, AdamW on the flat vector."""
    flat = torch.nn.Parameter(torch.from_numpy(get_flat(work.classifier)))
    optimizer = torch.optim.AdamW([flat], lr=_LEARNING_RATE)

    def step(chosen: Indices, stream: KeyStream) -> None:
        work.draw(stream)  # timed; the units are those of the plain step
        noised = noise.gaussian(engine.clipped(work.batches(chosen), BOUND), SIGMA, stream)
        flat.grad = torch.from_numpy(noised.values / np.float32(work.expected))
        optimizer.step()
        optimizer.zero_grad()  # as in the plain step: no gradient lies there through the next pass
        set_flat(work.classifier, flat.detach().numpy())

    return step


class Ghost:
    """Opacus' ghost clipping: norms in a first backward pass, the clipped sum in a second one.

    It knows no units of several rows, so each row is clipped for itself. Noise is that of Opacus' own
    optimizer, from torch's default generator.

    Args:
        work: over token ids; its classifier keeps Opacus' hooks, so nothing else may train it.
        sigma: the noise multiplier.

    Raises:
        ValueError: the rows are not token ids.
    """

    def __init__(self, work: Work, sigma: float = SIGMA) -> None:
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizerFastGradientClipping
        from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

        if not isinstance(work.features, Tokens):
            raise ValueError("ghost clipping is measured over token ids")
        self._work, self._tokens = work, work.features
        for layer in work.classifier.modules():  # Opacus' hooks see no others; dropout stays off
            if any(p.requires_grad for p in layer.parameters(recurse=False)):
                layer.training = True
        self._module: Any = GradSampleModuleFastGradientClipping(
            work.classifier, loss_reduction="sum", max_grad_norm=BOUND
        )
        self._optimizer: Any = DPOptimizerFastGradientClipping(
            torch.optim.AdamW(list(work.classifier.trained.values()), lr=_LEARNING_RATE),
            noise_multiplier=sigma,
            max_grad_norm=BOUND,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        criterion = torch.nn.CrossEntropyLoss(reduction="sum")
        self._criterion: Any = DPLossFastGradientClipping(self._module, self._optimizer, criterion, "sum")

    def step(self, chosen: Indices, stream: KeyStream) -> None:
        """One step on all rows of some units."""
        self._work.draw(stream)  # timed, as in the other private steps
        parts = list(chunks(self._tokens.lengths, self._work.rows(chosen)))
        for number, rows in enumerate(parts, start=1):
            self._optimizer.zero_grad()
            logits = self._module(*self._tokens.padded(self._work.classifier, rows))
            targets = torch.from_numpy(self._work.labels[rows])
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
                self._criterion(logits, targets).backward()
            self._optimizer.signal_skip_step(do_skip=number < len(parts))
            self._optimizer.step()


def streams(purpose: str, repeat: int) -> KeyStream:
    """The key stream of one repeat, the same in every process."""
    return FixedEntropy(b"cloister bench step").stream(purpose, round=repeat, model="")


def paired(work: Work, steps: Sequence[Step], repeats: int) -> list[list[float]]:
    """Seconds of each step on the same units, one row a repeat, after one repeat that warms up.

    Which step is the first changes from repeat to repeat. On a GPU, each step ends when its work is done.
    """
    found: list[list[float]] = []
    for repeat in range(repeats + 1):
        chosen = work.draw(streams("draw", repeat))
        seconds: dict[int, float] = {}
        for at in np.roll(np.arange(len(steps)), repeat).tolist():
            settled(work.device)
            started = time.perf_counter()
            steps[at](chosen, streams(f"{at}", repeat))
            settled(work.device)
            seconds[at] = time.perf_counter() - started
        found.append([seconds[at] for at in range(len(steps))])
    return found[1:]


def settled(device: torch.device) -> None:
    """Waits until a GPU has done what it was asked for; the CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(seconds: list[list[float]]) -> list[list[float]]:
    """Times of each step but the first over those of the first, one list a step."""
    return [[row[at] / row[0] for row in seconds] for at in range(1, len(seconds[0]))]
