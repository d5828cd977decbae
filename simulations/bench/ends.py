"""What came of a job in which somebody died at every point, beside the same job that nobody disturbed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from cloister.simulations.bench.points import Point
from cloister.simulations.bench.result import spread

SAME = "same"


@dataclass(frozen=True)
class Struck:
    """What came of one point.

    Attributes:
        point: where somebody died.
        seconds: until the protocol went on: the next round closed, or the next point was reached.
        closed: how many rounds were over when it happened.
        outcome: "same", or what differs from the job that nobody disturbed; "" before both have ended.
    """

    point: Point
    seconds: float
    closed: int = 0
    outcome: str = ""


@dataclass(frozen=True)
class End:
    """What a finished job left: everything that must not depend on who died when.

    Attributes:
        models: the digest of the global model after each round.
        accepted: whose updates each round counted.
        rows: site -> the rows of its ledger: kind, round, attempt and mechanism.
        epsilon: site -> what the ledger says was spent.
    """

    models: tuple[str, ...]
    accepted: tuple[tuple[str, ...], ...]
    rows: dict[str, list[tuple[Any, ...]]]
    epsilon: dict[str, float]

    def part(self, after: int, until: int) -> tuple[Any, ...]:
        """Models, sums and rows of the rounds after ``after``, ``until`` among them."""
        rows = {name: [row for row in rows if after < row[1] <= until] for name, rows in self.rows.items()}
        return self.models[after:until], self.accepted[after:until], rows


def judged(struck: Sequence[Struck], calm: End, disturbed: End) -> list[Struck]:
    """Every point with its outcome: of the rounds from there to the next; if none, of the whole job."""
    last = max(len(calm.models), len(disturbed.models))
    bounds = [*(each.closed for each in struck), last]
    spans = [(a, b) if a < b else (0, last) for a, b in pairwise(bounds)]
    return [
        replace(each, outcome=_outcome(calm.part(*span), disturbed.part(*span)))
        for each, span in zip(struck, spans, strict=True)
    ]


def _outcome(calm: tuple[Any, ...], disturbed: tuple[Any, ...]) -> str:
    found = [name for name, a, b in zip(("model", "sum", "ledger"), calm, disturbed, strict=True) if a != b]
    return f"other {', '.join(found)}" if found else SAME


def figures(struck: Sequence[Struck], calm: End, disturbed: End) -> dict[str, float]:
    """The figures of two ends of the same job."""
    names = calm.rows.keys() | disturbed.rows.keys()
    return {
        "points": float(len(struck)),
        "model_mismatches": float(differences(calm.models, disturbed.models)),
        "sum_mismatches": float(differences(calm.accepted, disturbed.accepted)),
        "ledger_losses": float(sum(calm.rows.get(name) != disturbed.rows.get(name) for name in names)),
        "epsilon_mismatches": float(
            sum(calm.epsilon.get(name) != disturbed.epsilon.get(name) for name in names)
        ),
        **spread("recovery_s", [each.seconds for each in struck] or [0.0]),
    }


def differences(calm: Sequence[object], disturbed: Sequence[object]) -> int:
    """In how many places two sequences differ; what only one of them has differs."""
    longer = max(len(calm), len(disturbed))
    return sum(calm[k : k + 1] != disturbed[k : k + 1] for k in range(longer))


def table(struck: Iterable[Struck]) -> str:
    """The points, their outcomes, and the seconds after which the protocol went on, one line each."""
    return "\n".join(f"{each.point.name:<60}{each.outcome:<26}{each.seconds:>8.1f} s" for each in struck)
