"""What a plan does not say of a simulated job, and its sites must know: in one file beside the plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cloister.privacy import canonical, durable, folder
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.errors import StateError
from cloister.privacy.identity import Roster
from cloister.privacy.layout import Layout, initial
from cloister.privacy.model import agreed_layout, describe
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from cloister.simulations.engine.head import head_layout

_FILE = "terms.json"


@dataclass(frozen=True)
class Terms:
    """Of one job.

    Attributes:
        roster: everybody's public keys.
        epsilon, delta: the budget that each site opens; 0 both without privacy.
        cut: whether rows of an analytic round are cut to norm 1, which a plan says of private ones only.
        bound_to: what the noise of an analytic round is bound to in the place of the model; "" for the model.
        base: folder of the base model that reads the sites' texts, the same on every machine; "" where rows
            are features already.
    """

    roster: Roster
    epsilon: float = 0.0
    delta: float = 0.0
    cut: bool = False
    bound_to: str = ""
    base: str = ""

    def lift(self, plan: Plan) -> Lift | None:
        """The feature map of an analytic round; None where the plan has none."""
        analytic = plan.training.opening
        return analytic.lift(cut=self.cut or plan.privacy.mode != "off") if analytic else None

    def layout(self, plan: Plan) -> Layout:
        """The order of the trained parameters.

        Raises:
            ModelError: as ``describe`` and ``agreed_layout``.
        """
        if self.base:
            return agreed_layout(plan, describe(self.base))
        classes = len(plan.task.labels)
        return head_layout(plan.adapter.parameters // classes - 1, classes)

    def start(self, plan: Plan) -> Vector:
        """The model before round 1, float32, shape (d,): a head on features starts from zero."""
        if self.base:
            return initial(self.layout(plan), plan.adapter.seed)
        return np.zeros(plan.adapter.parameters, dtype=np.float32)

    def save(self, path: Path) -> None:
        """Writes the file into a folder.

        Raises:
            StateError: ``state_unwritable``, ``disk_full``.
        """
        value: dict[str, Any] = asdict(self) | {"roster": self.roster.to_json()}
        durable.write(path / _FILE, canonical.encode(value))

    @classmethod
    def load(cls, path: Path) -> Terms:
        """The terms in a folder.

        Raises:
            StateError: ``state_damaged``, ``state_missing``.
        """
        value = folder.read_json(path / _FILE)
        try:
            return cls(**(value | {"roster": Roster.from_json(value["roster"])}))
        except (KeyError, TypeError) as error:
            raise StateError("state_damaged", f"{path / _FILE} holds no terms of a simulated job.") from error
