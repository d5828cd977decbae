"""The aggregator's checkpoint: after each round, everything that the next one needs, in one file.

Written atomically and synced before sites hear of the next round. A lead that was killed starts the
interrupted round again with the same number, attempt and model; sites that had answered send their
stored reply again, byte for byte, so nothing is trained, charged or counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.errors import StateError
from cloister.privacy.update import Vector
from cloister.privacy.vault import CLEAR, Vault
from cloister.privacy.wire.broadcast import Change
from cloister.privacy.wire.messages import Taken

_WIRE = np.dtype("<f4")
_WORD = np.dtype("<u4")


@dataclass(frozen=True, eq=False)
class Pending:
    """An opened sum of a joint step that is not taken yet: its surplus noise is being taken back.

    Attributes:
        words: the sum over the checkpoint's survivors modulo 2^32, uint32, as long as what was summed.
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
        taken: the step that the last round took; None if it took none, or there are no joint steps.
        moments: what the optimizer remembers, of the server (``server.optimizers``) or of joint steps
            (``privacy.descent``); none before its first step.
        sent: what the last round changed, coded, where the plan codes it and the round moved the model.
        holders: the sites that have the model before that change.
        rest: what the codings of changes left out so far; None before the first.
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
    taken: Taken | None = None
    moments: tuple[Vector, ...] = ()
    sent: Change | None = None
    holders: tuple[str, ...] = ()
    rest: Vector | None = None
    pending: Pending | None = None

    def stepped(self, change: Vector, moments: tuple[Vector, ...], taken: Taken | None) -> Checkpoint:
        """The state after a joint step, or an analytic one."""
        return replace(self, model=self.model + change, moments=moments, taken=taken)

    def save(self, path: Path, vault: Vault = CLEAR) -> None:
        """Writes the checkpoint: a line of canonical JSON, the bytes of its vectors, and the coded change."""
        vectors = [self.model, *self.moments, *([] if self.rest is None else [self.rest])]
        words = [one.words for one in (self.taken, self.pending) if one is not None]
        parts = [np.ascontiguousarray(vector, _WIRE).data for vector in vectors]
        parts += [np.ascontiguousarray(one, _WORD).data for one in words]
        body = b"".join([*parts, self.sent.content if self.sent else b""])  # the one copy of them all
        head: dict[str, canonical.Json] = {
            "plan": self.plan,
            "round": self.round,
            "body": canonical.digest(body),
            "parameters": self.model.size,
            "moments": len(self.moments),
            "rest": self.rest is not None,
            "taken": None if self.taken is None else list(self.taken.survivors),
            "sent": self.sent.base if self.sent else None,
            "holders": list(self.holders),
            "acknowledged": self.acknowledged,
            "excluded": self.excluded,
            "survivors": list(self.survivors),
            "agreed": self.agreed,
        }
        if self.pending is not None:
            head["pending"] = {"signed": list(self.pending.signed), "opened": list(self.pending.opened)}
        if any(one.size != self.model.size for one in words):
            head["summands"] = [one.size for one in words]
        vault.write(path, b"\n".join((canonical.encode(head), body)))

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
        return cls._of(head, body)

    @classmethod
    def _of(cls, head: dict[str, Any], body: bytes) -> Checkpoint:
        """The checkpoint of a whole file. One of an earlier release lacks what there was not then."""
        moments, earlier = head.get("moments", 0), bool(head.get("change", False))
        rest, held = bool(head.get("rest", False)), head.get("pending")
        floats = 1 + earlier + moments + rest
        sums = (head["taken"] is not None) + (held is not None)
        d = head.get("parameters", len(body) // ((floats + sums) * _WIRE.itemsize))
        said = head.get("summands", d)  # one number for all of them, or of each its own
        lengths = said if isinstance(said, list) else [said] * sums
        vectors = iter(np.frombuffer(body, _WIRE, floats * d).reshape(floats, d).astype(np.float32))
        end = floats * d + sum(lengths)
        whole = np.frombuffer(body, _WORD, end)[floats * d :].astype(np.uint32)
        words = iter(np.split(whole, np.cumsum(lengths, dtype=np.int64)[:-1]))
        sent, model = head.get("sent"), next(vectors)
        # Once a change stood by itself: of a joint step, or zeros, which say nothing, of an analytic one.
        changes = [next(vectors)] if earlier else []
        return cls(
            plan=head["plan"],
            round=int(head["round"]),
            model=model,
            moments=(*(one for one in changes if one.any()), *(next(vectors) for _ in range(moments))),
            rest=next(vectors) if rest else None,
            taken=None if head["taken"] is None else Taken(next(words), tuple(head["taken"])),
            pending=None
            if held is None
            else Pending(next(words), tuple(held["signed"]), tuple(held["opened"])),
            sent=None if sent is None else Change(sent, body[end * _WIRE.itemsize :]),
            holders=tuple(head.get("holders", ())),
            acknowledged=dict(head["acknowledged"]),
            excluded=dict(head["excluded"]),
            survivors=tuple(head["survivors"]),
            agreed=bool(head["agreed"]),
        )
