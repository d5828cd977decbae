"""The aggregator's checkpoint: after each round, everything that the next one needs, in one file.

Written atomically and synced before sites hear of the next round. A lead that was killed starts the
interrupted round again with the same number, attempt and model; sites that had answered send their
stored reply again, byte for byte, so nothing is trained, charged or counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.errors import StateError
from cloister.privacy.update import Vector
from cloister.privacy.vault import CLEAR, Vault
from cloister.privacy.wire.messages import Taken

_WIRE = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class Pending:
    """An opened sum of a joint step that is not taken yet: its surplus noise is being taken back.

    Attributes:
        words: the sum over the checkpoint's survivors modulo 2^32, uint32, shape (d,).
        signed, opened: who signed the survivor set, and who opened its mask.
    """

    words: NDArray[np.uint32]
    signed: tuple[str, ...]
    opened: tuple[str, ...]


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
        change: in joint mode, what the last step changed; None before the first.
        taken: the step that the last round took; None if it took none, or there are no joint steps.
        pending: the opened sum of the next round, while its surplus noise is being taken back: sites that
            gave some do not open the sum itself again.
    """

    plan: str
    round: int
    model: Vector
    acknowledged: dict[str, str]
    excluded: dict[str, str]
    survivors: tuple[str, ...] = ()
    agreed: bool = False
    change: Vector | None = None
    taken: Taken | None = None
    pending: Pending | None = None

    def change_before(self) -> Vector:
        """The change of the step before, zeros at the start."""
        return np.zeros_like(self.model) if self.change is None else self.change

    def stepped(self, change: Vector, taken: Taken) -> Checkpoint:
        """The state after a joint step."""
        return replace(self, model=self.model + change, change=change, taken=taken)

    def save(self, path: Path, vault: Vault = CLEAR) -> None:
        """Writes the checkpoint: one line of canonical JSON, then the bytes of its vectors."""
        vectors = [self.model.astype(_WIRE)]
        if self.change is not None:
            vectors.append(self.change.astype(_WIRE))
        if self.taken is not None:
            vectors.append(self.taken.words.view(_WIRE))
        if self.pending is not None:
            vectors.append(self.pending.words.view(_WIRE))
        body = b"".join(vector.tobytes() for vector in vectors)
        head: dict[str, canonical.Json] = {
            "plan": self.plan,
            "round": self.round,
            "body": canonical.digest(body),
            "change": self.change is not None,
            "taken": None if self.taken is None else list(self.taken.survivors),
            "acknowledged": self.acknowledged,
            "excluded": self.excluded,
            "survivors": list(self.survivors),
            "agreed": self.agreed,
        }
        if self.pending is not None:
            head["pending"] = {"signed": list(self.pending.signed), "opened": list(self.pending.opened)}
        vault.write(path, canonical.encode(head) + b"\n" + body)

    @classmethod
    def load(cls, path: Path, plan: str, vault: Vault = CLEAR) -> Checkpoint:
        """The newest checkpoint of a plan.

        Raises:
            StateError: ``state_damaged``, the file is missing, not whole or belongs to another plan;
                ``permissions``, ``state_sealed``.
        """
        damaged = StateError(
            "state_damaged",
            f"{path} is not a whole checkpoint of this plan.",
            "Restore it from a backup, or propose the plan anew.",
        )
        line, _, body = (vault.read(path) if path.exists() else b"").partition(b"\n")
        head = canonical.decode(line, otherwise=damaged)
        if (
            not isinstance(head, dict)
            or head.get("plan") != plan
            or head.get("body") != canonical.digest(body)
        ):
            raise damaged
        held = head.get("pending")
        parts = 1 + bool(head["change"]) + (head["taken"] is not None) + (held is not None)
        model, *rest = np.split(np.frombuffer(body, dtype=_WIRE), parts)
        change = rest[0].astype(np.float32) if head["change"] else None
        pending = None
        if held is not None:
            words = rest.pop().view(np.uint32).copy()
            pending = Pending(words, tuple(held["signed"]), tuple(held["opened"]))
        taken = None
        if head["taken"] is not None:
            taken = Taken(rest[-1].view(np.uint32).copy(), tuple(head["taken"]))
        told = (dict(head["acknowledged"]), dict(head["excluded"]), tuple(head["survivors"]))
        agreed = bool(head["agreed"])
        number = int(head["round"])
        return cls(plan, number, model.astype(np.float32), *told, agreed, change, taken, pending)
