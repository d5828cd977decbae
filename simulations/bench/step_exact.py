"""What of the two steps does not depend on time: counted operations, and the value of the clipped sum."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from cloister.client.learn.features import Indices
from cloister.simulations.bench.step_work import BOUND, Work


def flop_ratio(work: Work, chosen: Indices) -> float:
    """Counted operations of the private over the plain gradient of some persons' rows."""
    without, within = flops(work, chosen)
    return within / without


def flops(work: Work, chosen: Indices) -> tuple[int, int]:
    """Counted operations of the plain and of the private gradient: forward, backward, cut and sum."""
    with FlopCounterMode(display=False) as without:
        for part in work.batches(chosen):
            torch.autograd.grad(part.losses().sum(), list(work.classifier.trained.values()))
    engine = work.fused()
    with FlopCounterMode(display=False) as within:
        engine.clipped(work.batches(chosen), BOUND)
    return without.get_total_flops(), within.get_total_flops()


def max_abs_error(work: Work, chosen: Indices) -> float:
    """The largest difference of a value of the clipped sum from that of one person at a time."""
    found = work.fused().clipped(work.batches(chosen), BOUND).values
    return float(np.abs(found - one_at_a_time(work, chosen)).max())


def relative_error(work: Work, chosen: Indices) -> float:
    """The norm of that difference over the norm of the sum of one person at a time."""
    found, wanted = work.fused().clipped(work.batches(chosen), BOUND).values, one_at_a_time(work, chosen)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def one_at_a_time(work: Work, chosen: Indices) -> NDArray[np.float64]:
    """The clipped sum by ordinary backward passes, one for each unit: float64, shape (d,)."""
    names = [name for name, _ in work.classifier.layout.tensors]
    total = np.zeros(work.classifier.layout.size)
    for unit in chosen:
        losses = work.batches(np.array([unit]))[0].losses()
        parts = torch.autograd.grad(losses.sum(), [work.classifier.trained[name] for name in names])
        gradient = torch.cat([part.reshape(-1) for part in parts]).double().cpu().numpy()
        total += gradient * min(1.0, BOUND / (float(np.linalg.norm(gradient)) + 1e-6))
    return total
