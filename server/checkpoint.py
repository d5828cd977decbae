"""The aggregator's checkpoint: after each round, everything that the next one needs, in one file.

Written atomically and synced before sites hear of the next round. A lead that was killed starts the
interrupted round again with the same number, attempt and model; sites that had answered send their
stored reply again, byte for byte, so nothing is trained, charged or counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloister.privacy import canonical, durable
from cloister.privacy.errors import StateError
from cloister.privacy.update import Vector

_WIRE = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state after ``round`` rounds.

    Attributes:
        plan: the plan's digest.
        round: rounds completed, 0 before the first.
        model: the global model, float32, shape (d,).
        acknowledged: site name -> digest of its last accepted envelope.
        excluded: site name -> id of the reason why it is not asked again.
        survivors: whose masked updates of the next round are to be added up, once that was fixed.
        agreed: whether all sites have agreed on keys for secure aggregation.
    """

    plan: str
    round: int
    model: Vector
    acknowledged: dict[str, str]
    excluded: dict[str, str]
    survivors: tuple[str, ...] = ()
    agreed: bool = False

    def save(self, path: Path) -> None:
        """Writes the checkpoint: one line of canonical JSON, then the model's bytes."""
        body = self.model.astype(_WIRE).tobytes()
        head: dict[str, canonical.Json] = {
            "plan": self.plan,
            "round": self.round,
            "model": canonical.digest(body),
            "acknowledged": self.acknowledged,
            "excluded": self.excluded,
            "survivors": list(self.survivors),
            "agreed": self.agreed,
        }
        durable.write(path, canonical.encode(head) + b"\n" + body)

    @classmethod
    def load(cls, path: Path, plan: str) -> Checkpoint:
        """The newest checkpoint of a plan.

        Raises:
            StateError: ``state_damaged``, the file is missing, not whole or belongs to another plan.
        """
        damaged = StateError(
            "state_damaged",
            f"{path} is not a whole checkpoint of this plan.",
            "Restore it from a backup, or propose the plan anew.",
        )
        line, _, body = (path.read_bytes() if path.exists() else b"").partition(b"\n")
        head = canonical.decode(line, otherwise=damaged)
        if (
            not isinstance(head, dict)
            or head.get("plan") != plan
            or head.get("model") != canonical.digest(body)
        ):
            raise damaged
        model = np.frombuffer(body, dtype=_WIRE).astype(np.float32)
        told = (dict(head["acknowledged"]), dict(head["excluded"]), tuple(head["survivors"]))
        return cls(plan, int(head["round"]), model, *told, bool(head["agreed"]))
