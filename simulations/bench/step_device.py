"""``cloister bench step --device cuda``: what privacy costs in a training step on a GPU, beside plain PEFT.

Random weights and random token ids, for neither changes what a step costs; two rows a person, of half to all
of the tokens, 32 rows a step on average; LoRA of rank 8 in all layers and a head of six classes on the mean
of the last states. Both sides take the same micro-batches, in turns in one process, each step until the GPU
is done. Plain is PEFT with AdamW on the GPU. Private draws persons by Poisson sampling, clips each person's
sum, adds noise from the key stream and steps AdamW on the flat vector; noise and that vector are the CPU's,
so a clipped sum comes back and the parameters go out once a step.

======  ==================================================================================================
work    what it is
======  ==================================================================================================
minilm  a BERT of MiniLM's shape (6 layers of width 384), LoRA on query and value, all in float32
llama   a Llama of 1.2 billion parameters (16 layers of width 2048, 32 heads over 8), LoRA on q_proj and
        v_proj; base in bfloat16, forward pass under autocast to bfloat16, what is trained in float32
======  ==================================================================================================

Figures are named ``WORK_TOKENS_…``, in full ``minilm_64_time_ratio``:

====================  ====================================================================================
figure                meaning
====================  ====================================================================================
time_ratio            private over plain step time; median of paired steps
plain_ms              median time of the plain step
private_ms            median time of the private step
clipped_ms            median time of the private engine alone: forward, backward, cut and sum
noise_ms              median time to draw the noise of one step, on the CPU
memory_ratio          peak of the GPU's memory that torch's tensors took in private steps over that in plain
                      ones, model included
memory_growth_ratio   the same of the peak less what is held with no step taken
plain_mib             that peak in plain steps, MiB
private_mib           that peak in private steps, MiB
flop_ratio            counted floating-point operations of the two steps; exact, without noise and optimizer
relative_error        the clipped sum against one person at a time: norm of the difference over the norm
max_abs_error         the same, largest difference of a value; float32 on both sides, llama's base too
====================  ====================================================================================
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch

from cloister.client.learn.adapters import Classifier, place, set_flat
from cloister.client.learn.features import Tokens, Units
from cloister.privacy import canonical
from cloister.privacy.dp import noise
from cloister.privacy.errors import UsageError
from cloister.privacy.layout import Placement, initial, layout
from cloister.simulations.bench.result import Limit, Result, spread
from cloister.simulations.bench.step_exact import flop_ratio, max_abs_error, relative_error
from cloister.simulations.bench.step_work import (
    BOUND,
    SIGMA,
    Step,
    Work,
    paired,
    plain,
    private,
    ratios,
    settled,
    streams,
)

_PERSONS, _ROWS_EACH, _CLASSES, _RANK = 64, 2, 6, 8
_REPEATS, _MEMORY_STEPS = 20, 3
_MIB = 1 << 20
_LIMITS = {
    "time_ratio": Limit(1.05),
    "flop_ratio": Limit(1.001),
    "memory_ratio": Limit(1.0),
    "max_abs_error": Limit(1e-6),
}


@dataclass(frozen=True)
class Shape:
    """A model by its sizes; the weights are random.

    Attributes:
        kind: transformers' name of the architecture.
        sizes: of its config.
        targets: the adapted modules.
        half: the base is kept in bfloat16, and the forward pass runs under autocast to it.
    """

    kind: str
    sizes: Mapping[str, Any]
    targets: tuple[str, ...]
    half: bool


MINILM = Shape(
    "bert",
    {
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
    },
    ("query", "value"),
    half=False,
)
LLAMA = Shape(
    "llama",
    {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "rope_theta": 500000.0,
    },
    ("q_proj", "v_proj"),
    half=True,
)

Made: TypeAlias = Callable[[Work], Step]
"""One side: makes its step of a work."""

_SIDES: tuple[Made, Made] = (plain, lambda work: private(work, work.fused()))

CASES = (("minilm", MINILM, (64, 128)), ("llama", LLAMA, (128, 512)))


@dataclass(frozen=True)
class Peak:
    """Bytes that tensors take on the GPU.

    Attributes:
        held: with no step taken.
        most: at any time of some steps.
    """

    held: int
    most: int

    @property
    def growth(self) -> int:
        """What the steps added."""
        return self.most - self.held


@dataclass(frozen=True)
class Measured:
    """What one work of one length showed.

    Attributes:
        seconds: of the plain and of the private step, one row a repeat.
        clipped: seconds of the engine alone, one a repeat.
        noise: seconds to draw the noise of a step, one a repeat.
        plain: memory of plain steps.
        private: memory of private steps.
        flop_ratio: exact.
        relative_error: in the types of the work.
    """

    seconds: Sequence[Sequence[float]]
    clipped: Sequence[float]
    noise: Sequence[float]
    plain: Peak
    private: Peak
    flop_ratio: float
    relative_error: float

    def figures(self, name: str) -> dict[str, float]:
        """The figures of a work, by the name that they begin with."""
        without, within = (statistics.median(row[at] for row in self.seconds) for at in (0, 1))
        (times,) = ratios([list(row) for row in self.seconds])
        return spread(f"{name}_time_ratio", times) | {
            f"{name}_plain_ms": 1e3 * without,
            f"{name}_private_ms": 1e3 * within,
            f"{name}_clipped_ms": 1e3 * statistics.median(self.clipped),
            f"{name}_noise_ms": 1e3 * statistics.median(self.noise),
            f"{name}_memory_ratio": self.private.most / self.plain.most,
            f"{name}_memory_growth_ratio": self.private.growth / self.plain.growth,
            f"{name}_plain_mib": self.plain.most / _MIB,
            f"{name}_private_mib": self.private.most / _MIB,
            f"{name}_flop_ratio": self.flop_ratio,
            f"{name}_relative_error": self.relative_error,
        }


def run(device: str) -> Result:
    """Measures everything on a GPU.

    Args:
        device: as torch names it: ``cuda``, or ``cuda:1`` for the second.

    Raises:
        UsageError: ``option_invalid``, there is no such GPU.
    """
    where = _gpu(device)
    figures: dict[str, float] = {}
    for name, shape, lengths in CASES:
        exact = max_abs_error(work(replace(shape, half=False), lengths[0], where), np.arange(8))
        model = classifier(shape, where)
        for tokens in lengths:
            figures |= measure(work(shape, tokens, where, model), _REPEATS).figures(f"{name}_{tokens}")
        figures[f"{name}_{lengths[0]}_max_abs_error"] = exact
    limits = {name: limit for name in figures for kind, limit in _LIMITS.items() if name.endswith(f"_{kind}")}
    return Result("step", figures, limits, torch.cuda.get_device_name(where))


def peak(work: Work, made: Made) -> Peak:
    """What one side takes on the GPU in some steps of its own."""
    for parameter in work.classifier.trained.values():
        parameter.grad = None
    gc.collect()  # nothing of the other side is counted
    step = made(work)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(work.device)
    held = torch.cuda.memory_allocated(work.device)
    for repeat in range(_MEMORY_STEPS):
        step(_drawn(work, repeat), streams("step", repeat))
    return Peak(held, torch.cuda.max_memory_allocated(work.device))


def measure(work: Work, repeats: int, peak: Callable[[Work, Made], Peak] = peak) -> Measured:
    """Both sides of one work.

    Args:
        work: what is trained, wherever it is.
        repeats: of what is timed.
        peak: measures the memory of a side.
    """
    seconds = paired(work, [made(work) for made in _SIDES], repeats)
    engine, everyone = work.fused(), np.arange(len(work.units))
    return Measured(
        seconds=seconds,
        clipped=_timed(
            work, repeats, lambda repeat: engine.clipped(work.batches(_drawn(work, repeat)), BOUND)
        ),
        noise=_timed(work, repeats, lambda repeat: _noise(work, repeat)),
        plain=peak(work, _SIDES[0]),
        private=peak(work, _SIDES[1]),
        flop_ratio=flop_ratio(work, everyone[:16]),
        relative_error=relative_error(work, everyone[:8]),
    )


def work(shape: Shape, tokens: int, device: torch.device, model: Classifier | None = None) -> Work:
    """Rows of half to all of some tokens, two a person, and a model to train on them."""
    random = np.random.default_rng(tokens)
    rows = _PERSONS * _ROWS_EACH
    lengths = random.integers(tokens // 2, tokens + 1, rows)
    return Work(
        model or classifier(shape, device),
        Tokens(tuple(random.integers(1, shape.sizes["vocab_size"], length) for length in lengths)),
        np.arange(rows) % _CLASSES,
        Units.of(np.arange(rows) // _ROWS_EACH),
        half=shape.half,
    )


def classifier(shape: Shape, device: torch.device) -> Classifier:
    """A model of a shape, its base random, with LoRA and a head."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(shape.kind, pad_token_id=0, **shape.sizes)
    with torch.random.fork_rng(), device:
        torch.manual_seed(20)
        made: Any = AutoModel
        encoder = made.from_config(config, dtype=torch.bfloat16 if shape.half else torch.float32)
    encoder.requires_grad_(False).eval()
    tensors = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    placement = Placement(_RANK, shape.targets, config.num_hidden_layers, _CLASSES)
    order = layout(tensors, config.hidden_size, placement)
    placed = place(encoder, order, 16.0)
    start = initial(order, canonical.digest(b"cloister bench step"))
    # LoRA's B and the head away from 0, where half of all gradients would be 0.
    set_flat(placed, start + np.random.default_rng(20).normal(0, 0.01, order.size).astype(np.float32))
    return placed


def _gpu(device: str) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError:
        where = torch.device("cpu")
    if where.type != "cuda" or (where.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            "option_invalid", f"There is no GPU {device} here.", "Name cuda on a machine with one, or cpu."
        )
    return where


def _drawn(work: Work, repeat: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return work.draw(streams("draw", repeat))


def _noise(work: Work, repeat: int) -> None:
    noise.gaussian_vector(work.classifier.layout.size, BOUND * SIGMA, streams("noise", repeat))


def _timed(work: Work, repeats: int, task: Callable[[int], object]) -> list[float]:
    """Seconds of a task, one a repeat, after one that warms up."""
    found = []
    for repeat in range(repeats + 1):
        settled(work.device)
        started = time.perf_counter()
        task(repeat)
        settled(work.device)
        found.append(time.perf_counter() - started)
    return found[1:]
