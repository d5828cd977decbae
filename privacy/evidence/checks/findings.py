"""What a check says: which check, where, and why, and what that makes of the whole bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from cloister.privacy.errors import CloisterError


class Result(Enum):
    """What a bundle is found to be: the word for the log (``report.verified``) and the exit code."""

    VERIFIED = ("verified", 0)
    ALTERED = ("altered", 10)
    INCOMPLETE = ("incomplete", 11)
    NOT_REPRODUCIBLE = ("not-reproducible", 12)
    UNTRUSTED = ("untrusted-key", 13)

    def __init__(self, word: str, code: int) -> None:
        self.word = word
        self.code = code


WORST_FIRST = (Result.ALTERED, Result.UNTRUSTED, Result.NOT_REPRODUCIBLE, Result.INCOMPLETE)
"""What counts where several checks found something."""

_BY_ID = {
    "key_untrusted": Result.UNTRUSTED,
    "bundle_incomplete": Result.INCOMPLETE,
    "head_missing": Result.INCOMPLETE,
    "claim_not_reproducible": Result.NOT_REPRODUCIBLE,
}


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold.

    Attributes:
        check: name of the check.
        result: what it makes of the bundle.
        place: an event as ``writer/seq``, or a file.
        reason: one sentence without its full stop.
    """

    check: str
    result: Result
    place: str
    reason: str

    @classmethod
    def of(cls, check: str, place: str, error: CloisterError) -> Finding:
        """What an error of reading or verifying amounts to."""
        return cls(check, _BY_ID.get(error.id, Result.ALTERED), place, error.what.rstrip("."))

    def line(self) -> str:
        """The one line that a person sees."""
        return f"{self.result.word}: {self.check}: {self.place}: {self.reason}."


Findings = Iterator[Finding]


def altered(check: str, place: str, reason: str) -> Finding:
    """Bytes, signatures or records are not what was signed, or contradict each other."""
    return Finding(check, Result.ALTERED, place, reason)


def incomplete(check: str, place: str, reason: str) -> Finding:
    """Something is not there that must be."""
    return Finding(check, Result.INCOMPLETE, place, reason)


def unfounded(check: str, place: str, reason: str) -> Finding:
    """Something is claimed that the records do not bear out."""
    return Finding(check, Result.NOT_REPRODUCIBLE, place, reason)
