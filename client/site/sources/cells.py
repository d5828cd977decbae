"""From cells to texts, with the same rules and limits for every kind of source."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date, time
from decimal import Decimal
from uuid import UUID

from cloister.client.site.sources.table import Cell
from cloister.privacy.errors import InputError

MOST_CHARACTERS = 1_000_000
"""Of one cell: far above a long document, far below what would take a machine down."""
MOST_OF_ALL = 1 << 32
"""Characters of all cells that are read together."""

_NUMBERS = (bool, int, float, Decimal)
_OTHERS = (date, time, UUID)


class Texts:
    """The texts of some columns, checked while they are read.

    Args:
        title: what errors call the source.
        names: the columns.
        lists: those whose cells may be lists of texts, numbers and objects of such, which come out as JSON.
    """

    def __init__(self, title: str, names: Sequence[str], lists: Sequence[str] = ()) -> None:
        self._title, self._names, self._lists = title, names, frozenset(lists)
        self._kinds: dict[str, type] = {}
        self._left = MOST_OF_ALL

    def row(self, cells: Sequence[Cell]) -> tuple[str, ...]:
        """The texts of one row; "" for a cell without a value (null, NaN).

        Raises:
            InputError: ``column_type``, a cell is no text or number, or a column mixes the two;
                ``cell_invalid``, a text has a NUL or half a character pair, or is too long.
        """
        return tuple(self._text(name, cell) for name, cell in zip(self._names, cells, strict=True))

    def _text(self, name: str, cell: Cell) -> str:
        if cell is None or (isinstance(cell, float | Decimal) and math.isnan(cell)):
            return ""
        if name in self._lists and isinstance(cell, list):
            cell = self._json(name, cell)
        kind = next((kind for kind in (str, *_NUMBERS, *_OTHERS) if isinstance(cell, kind)), None)
        if kind is None:
            raise self._neither(name)
        self._check_kind(name, float if kind in _NUMBERS else kind)
        text = str(cell)
        self._check(name, text)
        return text

    def _json(self, name: str, cell: list[object]) -> str:
        try:
            return json.dumps(cell, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise self._neither(name) from None

    def _neither(self, name: str) -> InputError:
        return InputError(
            "column_type",
            f"The column {name} of {self._title} holds something that is no text or number.",
            "Name a column of texts or numbers.",
        )

    def _check_kind(self, name: str, kind: type) -> None:
        if self._kinds.setdefault(name, kind) is not kind:
            raise InputError(
                "column_type",
                f"The column {name} of {self._title} mixes texts and numbers.",
                "Make them all texts, or all numbers.",
            )

    def _check(self, name: str, text: str) -> None:
        self._left -= len(text)
        fault = _fault(text)
        if fault:
            raise InputError(
                "cell_invalid",
                f"The column {name} of {self._title} has a cell {fault}.",
                "Correct it, or take its row out.",
            )
        if self._left < 0:
            raise InputError(
                "cell_invalid",
                f"{self._title} holds more than {MOST_OF_ALL} characters in the columns to read.",
                "Register a smaller part of it.",
            )


def _fault(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        return f"of more than {MOST_CHARACTERS} characters"
    if "\0" in text:
        return "with a NUL"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "with half a character pair"
    return ""
