"""Passes in bfloat16, where a plan says so. What is trained, every norm, cut, sum and noise stay wider.

The forward pass of the layers from the lowest trained one on, and the backward pass through them, take their
products in bfloat16 (autocast); losses are float32. The frozen layers below run once, before training, in
float32, and a model is scored in float32. Nothing of this shows in what leaves the site but rounding: the
gradient of a row is contracted in float32, and cut by the norm of just that vector.

A device that has no such products is refused. None falls back to float32: two sites that train by one plan
train alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloister.client.learn.documents import Documents, Worth
from cloister.client.learn.features import Indices
from cloister.privacy.errors import ModelError
from cloister.privacy.methods import Precision

_TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Narrowed:
    """Rows whose losses are worked out in another precision.

    Attributes:
        rows: the same rows in float32.
        precision: of a plan.
        device: where the model is.
    """

    rows: Documents
    precision: Precision
    device: torch.device

    @property
    def lengths(self) -> Indices:
        """See ``Documents``."""
        return self.rows.lengths

    def losses(self, rows: Indices) -> Tensor:
        """See ``Documents``; float32."""
        with torch.autocast(self.device.type, _TYPES[self.precision]):
            return self.rows.losses(rows).float()

    def worth(self) -> Worth:
        """See ``Documents``; in float32."""
        return self.rows.worth()


def narrowed(rows: Documents, precision: Precision | None, device: torch.device) -> Documents:
    """Rows as a plan's precision trains on them.

    Raises:
        ModelError: ``precision_unsupported``, the device has no products of that kind.
    """
    if precision is None:
        return rows
    if not _has(device):
        raise ModelError(
            "precision_unsupported",
            f"The plan trains in {precision}, and {device} has no such products.",
            "Train on another device (--device cpu has them), or agree on a plan without --precision.",
        )
    return Narrowed(rows, precision, device)


def _has(device: torch.device) -> bool:
    """Whether products in bfloat16 are there. PyTorch has them on any processor, if slow ones on most."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu"
