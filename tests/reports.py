"""Evidence for tests of reports: the vector of a realistic run, and changes to it that stay consistent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.evidence.evidence import lower_bound

VECTOR = Path(__file__).parent / "vectors" / "evidence" / "report-evidence.json"


def evidence(**changes: Any) -> dict[str, Any]:
    """The evidence of the vector as JSON; ``changes`` replace top-level parts."""
    value: dict[str, Any] = json.loads(VECTOR.read_text(encoding="utf-8"))
    return value | _rehearsed(value["plan"], changes.get("kind")) | changes


def _rehearsed(plan: dict[str, Any], kind: str | None) -> dict[str, Any]:
    """The plan of a run of another kind, and its job."""
    if kind not in ("demo", "simulation", "federation"):
        return {}
    meant = {name: value for name, value in plan.items() if name != "rehearsal"}
    found = meant if kind == "federation" else meant | {"rehearsal": kind}
    return {"plan": found, "job": canonical.digest_of(found)}


def replanned(**terms: Any) -> dict[str, Any]:
    """The evidence under a plan with other terms: job and purpose follow."""
    value = evidence()
    value["plan"] |= terms
    return value | {"job": canonical.digest_of(value["plan"]), "purpose": value["plan"]["purpose"]}


def per_person(most_rows: int = 8) -> dict[str, Any]:
    """The evidence of a run whose unit of privacy is the person."""
    plan = evidence()["plan"]
    persons = {"low": 64, "high": 127, "most_rows": most_rows}
    value = replanned(
        privacy=plan["privacy"] | {"unit": "person"},
        sites=[site | {"persons": persons} for site in plan["sites"]],
    )
    value["privacy"] = [stated | {"unit": "person"} for stated in value["privacy"]]
    size = {"unit": "person", "persons": "64-127", "cap": str(most_rows)}
    value["datasets"] = [opened | size for opened in value["datasets"]]
    return value


def licensed(licence: str = "apache-2.0") -> dict[str, Any]:
    """The evidence of a run whose lead declared a licence of the base model."""
    return replanned(base=evidence()["plan"]["base"] | {"licence": licence})


def jointly() -> dict[str, Any]:
    """The evidence of a run whose sites took every step together, each with a share of the noise."""
    plan = evidence()["plan"]
    value = replanned(
        privacy=plan["privacy"] | {"mode": "joint"},
        training=plan["training"] | {"rounds": 120, "steps": 1, "optimizer": "sgd"},
        aggregation={"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 3, "colluding": 1},
    )
    value["privacy"] = [stated | {"mode": "joint", "outside": "5.120"} for stated in value["privacy"]]
    return value


def without_privacy() -> dict[str, Any]:
    """The evidence of a run whose plan has privacy off."""
    terms = evidence()["plan"]["privacy"]
    off = {"mode": "off", "noise_multiplier": 0, "epsilon": 0, "delta": 0}
    value = replanned(privacy=terms | off)
    nothing = dict.fromkeys(("epsilon", "delta", "budget", "accountants", "noise_multiplier"))
    value["privacy"] = [stated | nothing | {"mode": "off"} for stated in value["privacy"]]
    value["progress"] = [point | {"epsilon": None} for point in value["progress"]]
    return value


def audit(correct: int, claimed: str = "7.998") -> dict[str, Any]:
    """What an audit of 1,000 phantoms with 200 guesses says, at the vector's delta."""
    (delta, *_) = [stated["delta"] for stated in evidence()["privacy"]]
    return {
        "commitment": canonical.digest(b"coins"),
        "phantoms": "1000",
        "guesses": "200",
        "correct": str(correct),
        "claimed": claimed,
        "bound": lower_bound(correct, 200, 1000, float(delta)),
    }


def with_audit(*corrects: int, claimed: str = "7.998") -> dict[str, Any]:
    """The evidence of a run whose first sites have audits with so many right guesses."""
    value = evidence()
    for stated, correct in zip(value["privacy"], corrects, strict=False):
        stated["audit"] = audit(correct, claimed)
    return value


SECURE = {"secure": True, "minimum_sites": 3, "range": 4.0, "threshold": 3, "colluding": 1}


def with_sums() -> dict[str, Any]:
    """The evidence of a run with secure sums: two sites fell away in one of eight, in other phases."""
    value = replanned(aggregation=SECURE)
    north, lake, river, town = everybody = [site["name"] for site in value["plan"]["sites"]]
    ends = [one["event"] for one in value["cited"] if one["type"] == "round.closed"]
    alike: dict[str, Any] = {"rounds": [1, 2, 4, 5, 6, 7, 8], "step": 0, "reason": None}
    alike |= dict.fromkeys(("invited", "survivors", "signed", "opened"), everybody)
    alike |= {"untold": [], "missing": [], "recovered": [], "events": [ends[0], ends[-1]]}
    other = alike | {"rounds": [3], "survivors": [north, lake, town], "signed": [north, lake, town]}
    other |= {"opened": [north, lake], "missing": [river], "recovered": [town], "events": ends[2:3]}
    return value | {"sums": [alike, other]}


def with_ledgers() -> dict[str, Any]:
    """The evidence of a run whose sites kept ledgers: one has charges without use, one does not say what was
    charged before, and one charged nothing."""
    value = evidence()
    sites = [site["name"] for site in value["plan"]["sites"]]
    budgets = [one["event"] for one in value["cited"] if one["type"] == "budget.opened"]
    kept: dict[str, Any] = {"dataset": "triage", "unit": "record", "limit": "10", "unused": []}
    kept |= {"before": "1.250", "after": "8.310", "reserved": "8", "spent": "8", "released": "8"}
    ledgers = [kept | {"site": name, "events": [budget]} for name, budget in zip(sites, budgets, strict=True)]
    ledgers[1] |= {"unused": [3, 6, 7, 8]}
    ledgers[2] |= {"before": None}
    ledgers[3] |= {"before": None, "after": None, "reserved": "0", "spent": "0", "released": "0"}
    return value | {"ledgers": ledgers}
