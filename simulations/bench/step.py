"""``cloister bench step``: what privacy costs in a training step, beside plain PEFT on the same rows.

MiniLM, LoRA of rank 8 on query and value of all layers and a head of six classes; synthetic notes of two
rows a person, padded in micro-batches of like length; persons drawn by Poisson sampling, 32 rows a step on
average. The private step draws, clips per person, adds noise from a key stream and takes a step of AdamW on
the flat vector; the plain one is PEFT with AdamW on the same micro-batches. They alternate in one process.

``cached_time_ratio`` is of other work: 640 short texts, of which each step draws 128 on average, one unit a
row; LoRA in the layers that a plan names by default, and the head. The private side keeps what the frozen
layers say and batches by length; the plain one is PEFT as it is usually run (``step_cached``). Give a file of
real texts with ``--data``; without one the texts are synthetic notes, and ``cached_real_text`` says so.

=========================  ==============================================================================
figure                     meaning
=========================  ==============================================================================
time_ratio_64              private over plain step time, rows of at most 64 tokens; median of paired steps
time_ratio_128             the same at 128 tokens
hooks_time_ratio           the same at 64 tokens with Opacus' hooks in place of the fused engine
ghost_time_ratio           the same at 64 tokens with Opacus' ghost clipping, which knows records only: each
                           row is clipped for itself, and the noise is of torch's default generator
flop_ratio                 counted floating-point operations of the two steps; exact, without noise and
                           optimizer, which no counter sees in either
memory_ratio               peak resident memory of a process that takes three private steps over that of one
                           that takes the same steps without privacy: whole processes, interpreter,
                           libraries, model and rows included; medians of fresh processes in pairs, the
                           larger of the two that follow
memory_ratio_64            the same at 64 tokens
memory_ratio_128           the same at 128 tokens
memory_growth_ratio_64     the same of the peak less what is resident with model and rows in memory and no
                           step taken, at 64 tokens
memory_growth_ratio_128    the same at 128 tokens
memory_private_mib_64      median peak of the private process in MiB; so, too, _plain_ and _128
memory_loaded_mib          median of what is resident with model and rows in memory and no step taken, MiB
cached_time_ratio          private over plain step time where the frozen layers below the trained ones are
                           cached; the cache is filled once a run, which is not in this figure
cached_filling             the time to fill it, in passes of plain training over the same rows
cached_real_text           1: the texts are those of a file; 0: synthetic notes
max_abs_error              the clipped sum against one person at a time, largest difference of a value
=========================  ==============================================================================

With ``--device cuda`` another work is measured, on a GPU: ``step_device``.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cloister.simulations.bench import step_cached, step_memory
from cloister.simulations.bench.result import Limit, Result, spread
from cloister.simulations.bench.step_cached import Cached
from cloister.simulations.bench.step_exact import flop_ratio, max_abs_error
from cloister.simulations.bench.step_memory import Pair
from cloister.simulations.bench.step_work import Ghost, Work, paired, plain, private, ratios
from cloister.simulations.bench.texts import TextFile

_PAIRS = 3
_MIB = 1 << 20
_LIMITS = {
    "time_ratio_64": Limit(1.05),
    "time_ratio_128": Limit(1.05),
    "flop_ratio": Limit(1.001),
    "memory_ratio": Limit(1.0),
    "cached_time_ratio": Limit(0.6),
    "max_abs_error": Limit(1e-6),
}


@dataclass(frozen=True)
class Measured:
    """What one run showed, without the cached part.

    Attributes:
        times: name of a figure -> private over plain step times, one a repeat.
        memory: tokens -> pairs of processes.
        flop_ratio: exact.
        max_abs_error: exact.
    """

    times: Mapping[str, Sequence[float]]
    memory: Mapping[int, Sequence[Pair]]
    flop_ratio: float
    max_abs_error: float


def run(data: TextFile | None = None) -> Result:
    """Measures everything, in about six minutes on two idle cores.

    Args:
        data: texts for ``cached_time_ratio``; None for synthetic notes.

    Raises:
        InputError: the file cannot be used; told before anything is measured.
        RoundError: a process that is measured failed.
    """
    texts = data.read() if data else step_cached.notes()
    memory = {tokens: _pairs(tokens) for tokens in (64, 128)}  # first: nothing else is in memory yet
    cached = step_cached.measure(texts)
    short = Work.of(64)
    times = {
        **dict(zip(("time_ratio_64", "hooks_time_ratio", "ghost_time_ratio"), _short(short, 9), strict=True)),
        "time_ratio_128": _long(Work.of(128), 5),
    }
    exact = flop_ratio(short, np.arange(16)), max_abs_error(short, np.arange(12))
    return result(Measured(times, memory, *exact), cached, real_text=data is not None)


def result(measured: Measured, cached: Cached, *, real_text: bool) -> Result:
    """The figures of what was measured."""
    figures: dict[str, float] = {}
    for name in ("time_ratio_64", "time_ratio_128", "hooks_time_ratio", "ghost_time_ratio"):
        figures |= spread(name, measured.times[name])
    figures |= {"flop_ratio": measured.flop_ratio, **_memory(measured.memory)}
    figures |= spread("cached_time_ratio", cached.ratios)
    figures |= {"cached_filling": cached.filling, "cached_real_text": float(real_text)}
    return Result("step", {**figures, "max_abs_error": measured.max_abs_error}, _LIMITS)


def _memory(found: Mapping[int, Sequence[Pair]]) -> dict[str, float]:
    ratios: dict[str, float] = {}
    for tokens, pairs in found.items():
        ratios |= spread(f"memory_ratio_{tokens}", (pair.ratio for pair in pairs))
        ratios |= spread(f"memory_growth_ratio_{tokens}", (pair.growth_ratio for pair in pairs))
        for side, peaks in (("private", [p.private for p in pairs]), ("plain", [p.plain for p in pairs])):
            ratios[f"memory_{side}_mib_{tokens}"] = statistics.median(p.peak for p in peaks) / _MIB
    loaded = [peak.loaded for pairs in found.values() for p in pairs for peak in (p.plain, p.private)]
    worst = max(ratios[f"memory_ratio_{tokens}"] for tokens in found)
    return {"memory_ratio": worst, **ratios, "memory_loaded_mib": statistics.median(loaded) / _MIB}


def _pairs(tokens: int) -> list[Pair]:
    return [step_memory.pair(tokens, private_first=bool(number % 2)) for number in range(_PAIRS)]


def _short(work: Work, repeats: int) -> list[list[float]]:
    """Step times of fused engine, hooks and ghost clipping over the plain step of the same rows."""
    ghost = Ghost(Work.of(64))  # a model of its own: Opacus' hooks would run in every step of this one
    steps = [plain(work), private(work, work.fused()), private(work, work.hooks()), ghost.step]
    return ratios(paired(work, steps, repeats))


def _long(work: Work, repeats: int) -> list[float]:
    """Step times of the fused engine over the plain step of the same rows."""
    (found,) = ratios(paired(work, [plain(work), private(work, work.fused())], repeats))
    return found
