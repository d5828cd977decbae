"""A site's part in an analytic round: what its rows add to the sum, and the cosines that the model needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cloister.client.learn.adapters import Classifier, place
from cloister.client.learn.features import Pooled
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.errors import PlanError
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan
from cloister.privacy.update import Encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cloister.client.learn.features import Features
    from cloister.privacy.entropy import KeyStream


class Cosines(nn.Module):
    """Random cosine features beside frozen ones: (n, inputs) to (n, inputs + cosines), in float32.

    Args:
        lift: the feature map; its scale and constant are in the head's weights (``analytic.solution``).
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, lift: Lift) -> None:
        super().__init__()
        frequencies, phases = (torch.from_numpy(each.astype(np.float32)) for each in lift.waves)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", phases)
        self._factor = math.sqrt(2 / lift.cosines)

    def forward(self, pooled: Tensor) -> Tensor:
        """The features that a head is on."""
        waves = self._factor * torch.cos(pooled @ self.frequencies + self.phases)
        return torch.cat([pooled, waves], dim=1)


def cosines_of(plan: Plan) -> Lift | None:
    """The feature map of a plan whose head is on cosines too; None for all others."""
    analytic = plan.training.analytic
    return analytic.lift(cut=False) if analytic and analytic.cosines else None


def placed(encoder: nn.Module, layout: Layout, alpha: float, lift: Lift | None) -> Classifier:
    """A classifier whose head is on random cosines too, where there is a feature map; see ``adapters.place``.

    Raises:
        ModelError: ``adapter_invalid``.
    """
    if lift is None:
        return place(encoder, layout, alpha)
    return place(encoder, layout, alpha, Cosines(lift), lift.cosines)


def sums(
    plan: Plan,
    features: Features,
    labels: NDArray[np.int64],
    units: NDArray[np.int64] | None,
    stream: KeyStream,
) -> Encoded:
    """What a site adds to the sum of an analytic round, ready to be masked.

    Formal guarantees:
        Those of ``privacy.analytic.release.Release`` in the plan's mode.

    Args:
        plan: its first round is analytic.
        features: of all training rows, pooled.
        labels: class numbers, shape (rows,).
        units: whose row each is, numbered from 0 without gaps; None where each is its own.
        stream: for the noise, used for nothing else.

    Raises:
        PlanError: ``plan_conflict``, no round is analytic, or the head is not on frozen features.
        UpdateError: ``update_shape``, ``update_not_finite``, ``update_range``.
    """
    analytic, release = plan.training.opening, plan.release
    if analytic is None or release is None:
        raise PlanError("plan_conflict", "The plan has no analytic round.")
    rows = analytic.lift(cut=release.mode != "off").rows(frozen(features))
    return release.encoded(rows, labels, units, stream)


def frozen(features: Features) -> NDArray[np.float64]:
    """Pooled features as the lift takes them: shape (rows, inputs).

    Raises:
        PlanError: ``plan_conflict``, layers are trained, so features are no constants.
    """
    if not isinstance(features, Pooled):
        raise PlanError("plan_conflict", "An analytic round is on frozen features.")
    return features.values.cpu().numpy().astype(np.float64)
