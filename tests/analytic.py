"""Plans of one analytic round, small, whole and valid."""

from __future__ import annotations

import math
from typing import Any

from cloister.privacy.dp.calibration import noise_multiplier
from tests.plans import DIGEST, plan_json

FOUR = ("north", "south", "west", "east")
INPUTS, CLASSES = 6, 3


def analytic_json(mode: str = "off", epsilon: float = 4.0, **constants: Any) -> dict[str, Any]:
    """What an analytic plan has in the place of other plans' parts; ``constants`` replace some."""
    chosen: dict[str, Any] = {
        "kind": "ridge",
        "inputs": INPUTS,
        "cosines": 0 if mode != "off" else 20,
        "bandwidth": math.sqrt(2),
        "seed": DIGEST,
        "scale": 1.0,
        "constant": 0.3 if mode != "off" else 1.0,
        "weight": 0.5 if mode != "off" else 1.0,
        "ridge": 0.3,
        "noise_share": 0.5 if mode != "off" else 0.0,
    } | constants
    private = mode != "off"
    sigma = noise_multiplier(epsilon, 1e-5, 1.0, 1) if private else 0.0
    training = plan_json()["training"] | {"algorithm": "analytic", "rounds": 1, "steps": 1, "rate": 1.0}
    width = chosen["inputs"] + chosen["cosines"] + 1
    return {
        "training": training | {"momentum": 0.0, "head_rate": 1.0, "adapter_rate": 1.0, "analytic": chosen},
        "adapter": plan_json()["adapter"] | {"top_layers": 0, "parameters": CLASSES * width},
        "privacy": plan_json()["privacy"]
        | {
            "mode": mode,
            "bound": 1.0,
            "noise_multiplier": sigma,
            "epsilon": epsilon if private else 0.0,
            "delta": 1e-5 if private else 0.0,
        },
        "aggregation": {
            "secure": True,
            "minimum_sites": 3,
            "range": 400.0,
            "threshold": 3,
            "colluding": 1,
        },
    }


def started_json(
    mode: str = "joint", epsilon: float = 4.0, rounds: int = 4, **constants: Any
) -> dict[str, Any]:
    """The same of a plan whose first of some rounds is analytic, the others steps on the full batch."""
    found = analytic_json(mode, epsilon, cosines=0, **constants)
    start = {"analytic": found["training"].pop("analytic"), "bound": 1.0, "gain": 2.0}
    steps = {"algorithm": "fedavg", "rounds": rounds, "head_rate": 0.5, "momentum": 0.9, "start": start}
    sigma = noise_multiplier(epsilon, 1e-5, 1.0, rounds) if mode != "off" else 0.0
    return found | {
        "training": found["training"] | steps,
        "privacy": found["privacy"] | {"noise_multiplier": sigma, "bound": 2.4},
        "aggregation": found["aggregation"] | {"range": 64.0},
    }
