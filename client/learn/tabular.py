"""Models of rows of a table: linear on the plan's features, or with one hidden layer before.

They are trained by the same engines, rules and noise as a head on texts; there is no base model below them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cloister.client.learn.adapters import Adapted, Classifier
from cloister.client.learn.analytic import Cosines, cosines_of
from cloister.client.learn.documents import Labelled
from cloister.client.learn.features import Pooled
from cloister.client.learn.model import SCALE
from cloister.client.site.records import Records
from cloister.privacy.errors import ModelError
from cloister.privacy.layout import HIDDEN, Layout
from cloister.privacy.plan import Plan
from cloister.privacy.table import Table


class Dense(Classifier):
    """Features times ``SCALE``, one hidden layer or none, a linear head.

    Attributes:
        hidden: the hidden layer; its outputs, by tanh, are divided by the square root of their number, so
            that they are as long at most as features are. None of a linear model.
    """

    def __init__(self, layout: Layout, widen: nn.Module | None = None) -> None:
        shapes = dict(layout.tensors)
        try:
            classes, inputs = shapes["head.weight"]
        except (KeyError, ValueError) as error:
            raise ModelError("adapter_invalid", "The layout has no head.") from error
        Adapted.__init__(self, nn.Identity(), layout)
        self.head = nn.Linear(inputs, classes)
        self.hidden = nn.Linear(shapes[HIDDEN][1], shapes[HIDDEN][0]) if HIDDEN in shapes else None
        self.widen = widen
        self._settle()

    @property
    def device(self) -> torch.device:
        """See ``Adapted``."""
        return self.head.weight.device

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits, shape (n, classes), of features."""
        if self.hidden is None:
            return super().classify(pooled)
        inner = torch.tanh(self.hidden(SCALE * pooled)) / math.sqrt(self.hidden.out_features)
        return super().classify(inner)


def placed(plan: Plan, layout: Layout, device: str = "cpu") -> Dense:
    """The model of a plan for rows of a table.

    Raises:
        ModelError: ``adapter_invalid``, the layout is that of another model.
    """
    lift = cosines_of(plan)
    return Dense(layout, Cosines(lift) if lift else None).to(device)


def rows(model: Classifier, table: Table, records: Records) -> Labelled:
    """Records of a table as they are trained on.

    Raises:
        InputError: as ``Records.check``.
    """
    return Labelled(model, features(table, records), records.targets(table.classes))


def features(table: Table, records: Records) -> Pooled:
    """The features of rows; raises ``InputError`` as ``Table.features``."""
    return Pooled(torch.from_numpy(records.features(table)).float())
