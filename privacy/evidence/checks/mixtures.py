"""The slow accounts: what a person's data at several sites, or in several rows, come to, by PLD."""

from __future__ import annotations

from typing import Literal

from cloister.privacy.dp import persons as several
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.evidence import reading
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, unfounded
from cloister.privacy.evidence.evidence import Evidence

_SLACK = 0.005
"""What rounding a printed figure up may hide."""


def persons(case: Case) -> Findings:
    """No figure that the report prints for several rows or sites is below the one that PLD finds."""
    found = Evidence.from_json(case.evidence)
    stated = [g for g in found.privacy if g.epsilon and g.delta]
    if not stated:
        return
    weakest = max(stated, key=lambda g: float(g.epsilon or 0))
    delta = max(float(g.delta or 0) for g in stated)
    sigma, rate, steps = weakest.noise_multiplier, weakest.rate, weakest.steps
    blocks = [GaussianSteps(float(sigma or 0), float(rate or 0), int(steps or 0))]
    mode: Literal["local", "joint"] = "joint" if case.plan.joint else "local"
    for entry in reading.several(found):
        if entry.epsilon is None:
            continue
        if entry.what == "sites" and mode == "local":
            tight = several.accountants(blocks * entry.number, 1, delta)["pld"]
        else:
            tight = several.accountants(blocks, entry.number, delta)["pld"]
        if float(entry.epsilon) + _SLACK < tight:
            reason = f"{entry.epsilon} is printed for {entry.number} {entry.what}; PLD gives {tight:.3f}"
            yield unfounded("epsilon", "report.html", reason)
