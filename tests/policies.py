"""Policies for tests: one that allows nearly everything, and changes of it by the id of a rule."""

from __future__ import annotations

import json
from typing import Any

from cloister.client.site.folder import SiteFolder
from cloister.client.site.policies import Policies
from cloister.privacy.policy.terms import Policy

MANY = 1_000_000


def policy_json(**rules: Any) -> dict[str, Any]:
    """An open policy as JSON; ``rules`` are named with two underscores for the point."""
    value: dict[str, Any] = {
        "version": 1,
        "valid": {"begins": "2000-01-01", "ends": "2999-12-31"},
        "lead": {"consortia": "any", "identities": "any"},
        "roster": {"authorities": []},
        "datasets": {
            "*": {
                "purposes": "any",
                "epsilon": MANY,
                "jobs_per_day": MANY,
                "rows_per_person": MANY,
                "min_rows": 0,
                "min_persons": 0,
                "documents": [],
            }
        },
        "privacy": {
            "modes": ["joint", "local", "off"],
            "units": ["person", "record"],
            "epsilon": MANY,
            "delta": 0.5,
            "noise_multiplier": 0,
            "bound": MANY,
        },
        "aggregation": {"secure": False, "minimum_sites": 0, "threshold": 0, "colluding": 0},
        "models": {"base": "any", "parameters": 2**40},
        "code": {"digests": "any"},
        "training": {
            "rounds": MANY,
            "steps": MANY,
            "rate": 1,
            "head_rate": MANY,
            "adapter_rate": MANY,
        },
        "approval": {
            "automatic": 0,
            "people": 1,
            "roles": ["administrator", "steward", "validator"],
            "separate": False,
            "signed": False,
            "hours": MANY,
        },
        "time": {"hours": "any", "days": "any", "duration": MANY},
        "identifiers": {"action": "ignore"},
        "held_out": {"points": 100, "action": "ignore"},
    }
    for name, limit in rules.items():
        block, key = name.split("__")
        place = value["datasets"]["*"] if block == "datasets" else value[block]
        assert key in place
        place[key] = limit
    return value


def policy(**rules: Any) -> Policy:
    """An open policy with some rules of its own."""
    return Policy.of(policy_json(**rules))


def allow(site: SiteFolder, **rules: Any) -> Policy:
    """Puts such a policy in force at a site."""
    return Policies(site).put(json.dumps(policy_json(**rules)).encode())
