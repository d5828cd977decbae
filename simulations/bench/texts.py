"""A file of real texts that a benchmark is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloister.client.site import records
from cloister.client.site.records import Records


@dataclass(frozen=True)
class TextFile:
    """A file of real texts.

    Attributes:
        path: CSV, JSON lines or Parquet.
        text, label: columns.
    """

    path: Path
    text: str
    label: str

    def read(self) -> Records:
        """Its rows.

        Raises:
            InputError: the file or a column cannot be used.
        """
        return records.load(self.path, text=self.text, label=self.label)
