"""What every source gives: the names of its columns, and rows of named cells."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

Cell = object
"""A value as the source has it; ``cells`` makes it a text or refuses it."""


class Table(Protocol):
    """An open table. It is read once."""

    @property
    def columns(self) -> Sequence[str]:
        """The names of all columns, in their order; a name may stand there twice."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether the rows come in the same order each time."""
        ...

    def rows(self, names: Sequence[str]) -> Generator[Sequence[Cell], None, None]:
        """The cells of the named columns, row by row.

        Raises:
            ValueError: the source is not what it says, or not UTF-8; its words may quote records and are
                never shown.
            InputError: what is known more exactly.
        """
        ...
