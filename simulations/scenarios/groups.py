"""How well groups of test rows are served, where a column names them; groups of few rows are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 20
"""Rows below which a group is not shown: its figure would tell of single rows, and say little."""


@dataclass(frozen=True)
class Groups:
    """A column of the test rows.

    Attributes:
        column: its name.
        values: of each row.
    """

    column: str
    values: tuple[str, ...]

    @property
    def shown(self) -> dict[str, int]:
        """Group -> rows. A single one that is too small takes the next smallest with it: it could be worked
        out from the others and the whole.
        """
        names, counts = np.unique(np.array(self.values), return_counts=True)
        order = sorted(zip(counts.tolist(), names.tolist(), strict=True))
        hidden = sum(count < FEWEST for count, _ in order)
        kept = order[2 if hidden == 1 else hidden :]
        return {name: count for count, name in sorted(kept, key=lambda pair: pair[1])}

    @property
    def hidden(self) -> int:
        """How many groups are left out."""
        return len(set(self.values)) - len(self.shown)

    def accuracies(self, hits: NDArray[np.floating]) -> Mapping[str, float]:
        """Of each group that is shown.

        Args:
            hits: how often each test row was answered rightly, a share, shape (rows,).
        """
        values = np.array(self.values)
        return {name: float(hits[values == name].mean()) for name in self.shown}
