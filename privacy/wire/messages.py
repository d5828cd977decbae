"""What the sealed envelopes of a round hold.

==========  ==================  ==============================================================
kind        from -> to          content
==========  ==================  ==============================================================
``task``    lead -> site        the global model to start from, and what of this site arrived last
``update``  site -> lead        the encoded update and nothing else: no count, no loss, no metric
``refusal`` site -> lead        the id of the reason, never a text
``finish``  lead -> site        the final global model, and what of this site arrived last
``closed``  site -> lead        empty: the site keeps the final model
==========  ==================  ==============================================================

With secure aggregation an update goes as ``masked``, and there are more kinds (``sums``). In joint mode a
task and the end also hold the opened sum that led to their model (``Taken``), and what the plan's optimizer
remembers, where no site could tell that from models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.channel import stream
from cloister.privacy.errors import ChannelError, UpdateError, areas
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector

TASK, UPDATE, REFUSAL, FINISH, CLOSED = "task", "update", "refusal", "finish", "closed"

_WIRE = np.dtype("<f4")
_WORD = np.dtype("<u4")
_DIGEST = 71  # "sha256:" and 64 digits
_OVERHEAD = 64 << 10
_OVERHEAD_SITE = 24 << 10  # keys, signatures and shares of one site


def largest(words: int, sites: int = 0) -> int:
    """The size in bytes that no envelope of a plan passes, known before one is read.

    Args:
        words: how many of 32 bits an envelope holds at most: parameters of a model, and of a sum.
        sites: how many add up in secret; 0 without secure aggregation.
    """
    return stream.sealed_size(_DIGEST + 4 * words) + _OVERHEAD + sites * _OVERHEAD_SITE


def largest_of(plan: Plan) -> int:
    """The same for a plan."""
    sites = len(plan.sites) if plan.aggregation.secure else 0
    model, vector = plan.adapter.parameters, max(plan.summands(1), plan.summands(plan.training.rounds))
    told = (1 + plan.remembered) * model + vector
    return largest(told if plan.joint else max(model, vector), sites)


@dataclass(frozen=True, eq=False)
class Taken:
    """The step that led to a global model, for everybody to take again.

    Attributes:
        words: the opened sum modulo 2^32, uint32, as long as what was summed.
        survivors: over whom it is, in the plan's order.
    """

    words: NDArray[np.uint32]
    survivors: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Task:
    """The global model of a round.

    Attributes:
        model: float32, shape (d,).
        acknowledged: digest of this site's last envelope that the lead accepted, or "".
        taken: in joint mode, the step that led to the model; None where none was taken since the last task.
        memory: what earlier steps left with the optimizer, ``Plan.remembered`` vectors; none before
            its first step.
    """

    model: Vector
    acknowledged: str = ""
    taken: Taken | None = None
    memory: tuple[Vector, ...] = ()

    def to_bytes(self) -> bytes:
        """71 bytes of digest (or spaces); the model and what is remembered as little-endian float32; then the
        opened sum as little-endian uint32, and the survivors as canonical JSON."""
        vectors = [one.astype(_WIRE).tobytes() for one in (self.model, *self.memory)]
        parts = [self.acknowledged.ljust(_DIGEST).encode(), *vectors]
        if self.taken is not None:
            parts += [
                self.taken.words.astype(_WORD).tobytes(),
                canonical.encode(list(self.taken.survivors)),
            ]
        return b"".join(parts)

    @classmethod
    def from_bytes(
        cls,
        content: bytes | bytearray,
        parameters: int,
        sites: Sequence[str] = (),
        words: int | None = None,
        remembered: int = 0,
    ) -> Task:
        """The task of a content of the plan's size.

        Args:
            content: of an envelope.
            parameters: d.
            sites: the plan's sites in joint mode; none where a task holds no step.
            words: the length of an opened sum; d where this is None.
            remembered: how many vectors a step leaves with the optimizer, if it took one.

        Raises:
            UpdateError: ``update_shape``, ``update_not_finite``.
            ChannelError: ``envelope_malformed``.
        """
        summed = (parameters if words is None else words) * _WORD.itemsize
        start = _DIGEST + parameters * _WIRE.itemsize
        told = 1 + (remembered if len(content) > start else 0)
        end = _DIGEST + told * parameters * _WIRE.itemsize
        if len(content) not in (start, end) and not (sites and len(content) > end + summed):
            raise UpdateError("update_shape", "The global model does not have the size that the plan names.")
        acknowledged = bytes(content[:_DIGEST]).decode("ascii", "replace").removesuffix(" " * _DIGEST)
        if acknowledged and not canonical.is_digest(acknowledged):
            raise ChannelError("envelope_malformed", "A task holds something else than a digest.")
        vectors = np.frombuffer(content, _WIRE, told * parameters, _DIGEST)
        if not np.isfinite(vectors).all():
            raise UpdateError("update_not_finite", "The global model holds NaN or infinity.")
        model, *memory = vectors.astype(np.float32).reshape(told, parameters)
        if len(content) == end:
            return cls(model, acknowledged, None, tuple(memory))
        taken = np.frombuffer(content, _WORD, summed // _WORD.itemsize, end).astype(np.uint32)
        survivors = _survivors(content[end + summed :], sites)
        return cls(model, acknowledged, Taken(taken, survivors), tuple(memory))


def _survivors(content: bytes | bytearray, sites: Sequence[str]) -> tuple[str, ...]:
    """The survivors of a step, some of the plan's sites in their order."""
    refusal = ChannelError("envelope_malformed", "A task names a step over other sites than the plan's.")
    names = canonical.decode(bytes(content), otherwise=refusal)
    if not isinstance(names, list) or not names or names != [name for name in sites if name in names]:
        raise refusal
    return tuple(names)


def model_digest(model: Vector) -> str:
    """The digest of a global model: of its little-endian float32 bytes."""
    return canonical.digest(model.astype(_WIRE).tobytes())


def refusal(reason: str) -> bytes:
    """The content of a refusal."""
    return canonical.encode({"reason": reason})


def refusal_reason(content: bytes | bytearray) -> str:
    """The reason of a refusal, ``internal`` where it is not one that this release knows."""
    value = canonical.decode(
        bytes(content), otherwise=ChannelError("envelope_malformed", "A refusal is not canonical JSON.")
    )
    reason = value.get("reason") if isinstance(value, dict) else None
    return reason if isinstance(reason, str) and known(reason) else "internal"


def known(reason: str) -> bool:
    """Whether an error id is declared in this release."""
    return any(reason in area.REASONS for area in areas())
