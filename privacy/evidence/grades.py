"""How sure a line of a report is. Every line has a grade: that of the weakest thing it rests on."""

from __future__ import annotations

from enum import Enum


class Grade(Enum):
    """The grades, strongest first; ``meaning`` is what the report prints."""

    PROVEN = ("Proven", "follows by digests and arithmetic from the plan and the public keys named here")
    DERIVED = ("Derived", "computed from what parties recorded; true if those records are")
    RECORDED = ("Recorded", "written down by the party that saw it; true if that party is honest")
    DECLARED = ("Declared", "somebody says so; nothing here checks it")
    NOT_KNOWN = ("Not known", "this report cannot tell")

    def __init__(self, word: str, meaning: str) -> None:
        self.word = word
        self.meaning = meaning
