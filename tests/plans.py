"""Plans for tests: small, whole and valid."""

from __future__ import annotations

from typing import Any

from cloister.privacy import canonical
from cloister.privacy.plan import Plan

DIGEST = canonical.digest(b"some agreed bytes")


def plan_json(sites: tuple[str, ...] = ("north", "south", "west"), **changes: Any) -> dict[str, Any]:
    """A plan as JSON; ``changes`` replace top-level parts."""
    value: dict[str, Any] = {
        "version": 1,
        "consortium": "hospitals",
        "purpose": "triage notes to departments",
        "nonce": "0" * 32,
        "roster": DIGEST,
        "lead": {"name": "lead", "identity": DIGEST, "code": DIGEST},
        "sites": [
            {
                "name": name,
                "identity": DIGEST,
                "code": DIGEST,
                "dataset": "notes",
                "rows": {"low": 128, "high": 255},
            }
            for name in sites
        ],
        "base": {"name": "tiny", "digest": DIGEST, "max_tokens": 32},
        "task": {"kind": "sequence-classification", "labels": ["a", "b", "c"]},
        "adapter": {
            "kind": "lora",
            "rank": 2,
            "alpha": 4.0,
            "targets": ["query", "value"],
            "top_layers": 1,
            "seed": DIGEST,
            "parameters": 5,
            "layout": DIGEST,
        },
        "training": {
            "algorithm": "fedavg",
            "rounds": 2,
            "steps": 3,
            "rate": 0.25,
            "optimizer": "sgd",
            "head_rate": 0.5,
            "adapter_rate": 0.01,
            "momentum": 0.9,
        },
        "privacy": {
            "mode": "local",
            "unit": "record",
            "relation": "add-remove",
            "bound": 0.5,
            "noise_multiplier": 1.5,
            "epsilon": 8.0,
            "delta": 1e-5,
        },
        "aggregation": {"secure": False, "minimum_sites": 2, "range": 4.0},
    }
    return value | changes


def persons_json(sites: tuple[str, ...] = ("north", "south", "west"), **changes: Any) -> dict[str, Any]:
    """A plan as JSON whose unit of privacy is the person: 64 to 127 of them a site, 8 rows each at most."""
    value = plan_json(sites, **changes)
    value["privacy"] = value["privacy"] | {"unit": "person"}
    for site in value["sites"]:
        site["persons"] = {"low": 64, "high": 127, "most_rows": 8}
    return value


def plan(sites: tuple[str, ...] = ("north", "south", "west"), **changes: Any) -> Plan:
    """A valid plan."""
    return Plan.from_bytes(canonical.encode(plan_json(sites, **changes)))
