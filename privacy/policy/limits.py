"""The kinds of limits that a policy sets. Each is a meet-semilattice, and so is a policy made of them.

Formal guarantees:
    For every kind, ``holds(value, meet(a, b))`` implies ``holds(value, a)`` and ``holds(value, b)``: the
    meet of two limits never allows what one of them refuses. ``meet`` is commutative, associative and
    idempotent. The tests hold every rule of the vocabulary to these laws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Change = Literal["tighter", "looser", "mixed", "same"]
ANY = "any"
"""The limit that allows every value of a set."""


@dataclass(frozen=True)
class Kind:
    """A kind of limit.

    Attributes:
        words: what stands between a value and its limit when it is read out.
        holds: whether a value keeps to a limit.
        meet: the loosest limit that is at least as strict as both.
    """

    words: str
    holds: Callable[[Any, Any], bool]
    meet: Callable[[Any, Any], Any]

    def change(self, old: Any, new: Any) -> Change:
        """What a new limit is, compared with an old one."""
        if old == new:
            return "same"
        both = self.meet(old, new)
        return "tighter" if both == new else "looser" if both == old else "mixed"


def _common(a: Any, b: Any) -> Any:
    if ANY in (a, b):
        return b if a == ANY else a
    return tuple(sorted(set(a) & set(b)))


def ordered(words: str, *loosest_first: str, holds: Callable[[Any, Any], bool]) -> Kind:
    """A kind whose limits are words, each stricter than the one before."""
    return Kind(words, holds, lambda a, b: max(a, b, key=loosest_first.index))


AT_MOST = Kind("at most", lambda value, limit: bool(value <= limit), min)
AT_LEAST = Kind("at least", lambda value, limit: bool(value >= limit), max)
ONE_OF = Kind("one of", lambda value, limit: limit == ANY or value in limit, _common)
ALL_OF = Kind("all of", lambda value, limit: limit == ANY or set(value) <= set(limit), _common)
REQUIRED = Kind("required", lambda value, limit: bool(value or not limit), lambda a, b: a or b)
