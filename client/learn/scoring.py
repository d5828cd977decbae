"""A finished model of rows of a table, ready to use: numpy alone, no torch and no base model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cloister.privacy import canonical
from cloister.privacy.analytic.lift import Lift
from cloister.privacy.errors import ModelError, PlanError
from cloister.privacy.layout import HIDDEN, SCALE
from cloister.privacy.table import Cells, Table

FORMAT, WEIGHTS = "cloister-table-1", "model.safetensors"


@dataclass(frozen=True, eq=False)
class TableClassifier:
    """A classifier of rows of a table.

    Attributes:
        table: the columns that it reads, and its classes.
        tensors: its weights by name, float32 (``privacy.layout.dense``).
        cosines: the random cosine features that its head is on as well; None for none.
    """

    table: Table
    tensors: Mapping[str, NDArray[np.float32]]
    cosines: Lift | None = None

    def probabilities(self, cells: Mapping[str, Cells]) -> NDArray[np.float64]:
        """Class probabilities, float64, shape (rows, classes).

        Args:
            cells: column name -> what stands in it, as text; other columns may be there.

        Raises:
            InputError: as ``Table.features``.
        """
        rows = self.table.features(cells)
        if self.cosines:
            frequencies, phases = self.cosines.waves
            waves = math.sqrt(2 / self.cosines.cosines) * np.cos(rows @ frequencies + phases)
            rows = np.concatenate([rows, waves], axis=1)
        if HIDDEN in self.tensors:
            inner = np.tanh(SCALE * rows @ self.tensors[HIDDEN].T + self.tensors["hidden.bias"])
            rows = inner / math.sqrt(inner.shape[1])
        logits = SCALE * rows @ self.tensors["head.weight"].T + self.tensors["head.bias"]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)

    def predict(self, cells: Mapping[str, Cells]) -> list[str]:
        """The most probable class of each row; see ``probabilities``."""
        return [self.table.classes[row] for row in self.probabilities(cells).argmax(axis=1)]


def load(folder: Path) -> TableClassifier:
    """The model that ``export.save`` wrote of a plan for rows of a table.

    Raises:
        ModelError: ``adapter_invalid``, the folder is incomplete or damaged, or holds something else.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if config["format"] != FORMAT:
            raise ValueError("no model of rows of a table")
        table = Table.model_validate_json(canonical.encode(config["table"]))
        waves = config.get("cosines")
        lift = waves and Lift(
            int(waves["inputs"]), int(waves["number"]), float(waves["bandwidth"]), str(waves["seed"])
        )
        tensors = load_file(folder / WEIGHTS)
        _check(table, tensors, lift.cosines if lift else 0)
    except (OSError, SafetensorError, ValidationError, ValueError, KeyError, TypeError, PlanError) as error:
        raise ModelError(
            "adapter_invalid", f"{folder} is not an exported model of rows of a table."
        ) from error
    return TableClassifier(table, tensors, lift or None)


def _check(table: Table, tensors: Mapping[str, NDArray[np.float32]], more: int) -> None:
    """Raises ``ValueError`` where weights are not those of a model on these columns."""
    classes, inputs = len(table.classes), table.width + more
    wanted = {"head.bias": (classes,), "head.weight": (classes, inputs)}
    if HIDDEN in tensors:
        hidden = len(tensors[HIDDEN])
        wanted |= {"head.weight": (classes, hidden), HIDDEN: (hidden, inputs), "hidden.bias": (hidden,)}
    if {name: tensor.shape for name, tensor in tensors.items()} != wanted:
        raise ValueError("the weights have other shapes")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("a weight is not finite")
