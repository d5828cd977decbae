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

With secure aggregation an update goes as ``masked``, and there are more kinds (``sums``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cloister.privacy import canonical
from cloister.privacy.channel import stream
from cloister.privacy.errors import ChannelError, UpdateError, areas
from cloister.privacy.update import Vector

TASK, UPDATE, REFUSAL, FINISH, CLOSED = "task", "update", "refusal", "finish", "closed"

_WIRE = np.dtype("<f4")
_DIGEST = 71  # "sha256:" and 64 digits
_OVERHEAD = 64 << 10
_OVERHEAD_SITE = 24 << 10  # keys, signatures and shares of one site


def largest(parameters: int, sites: int = 0) -> int:
    """The size in bytes that no envelope of a plan passes, known before one is read.

    Args:
        parameters: d.
        sites: how many add up in secret; 0 without secure aggregation.
    """
    return stream.sealed_size(_DIGEST + 4 * parameters) + _OVERHEAD + sites * _OVERHEAD_SITE


@dataclass(frozen=True, eq=False)
class Task:
    """The global model of a round.

    Attributes:
        model: float32, shape (d,).
        acknowledged: digest of this site's last envelope that the lead accepted, or "".
    """

    model: Vector
    acknowledged: str = ""

    def to_bytes(self) -> bytes:
        """71 bytes of digest (or spaces), then little-endian float32."""
        return self.acknowledged.ljust(_DIGEST).encode() + self.model.astype(_WIRE).tobytes()

    @classmethod
    def from_bytes(cls, content: bytes | bytearray, parameters: int) -> Task:
        """The task of a content of the plan's size.

        Raises:
            UpdateError: ``update_shape``, ``update_not_finite``.
            ChannelError: ``envelope_malformed``.
        """
        if len(content) != _DIGEST + parameters * _WIRE.itemsize:
            raise UpdateError("update_shape", "The global model does not have the size that the plan names.")
        acknowledged = bytes(content[:_DIGEST]).decode("ascii", "replace").removesuffix(" " * _DIGEST)
        if acknowledged and not canonical.is_digest(acknowledged):
            raise ChannelError("envelope_malformed", "A task holds something else than a digest.")
        model = np.frombuffer(content, dtype=_WIRE, offset=_DIGEST).astype(np.float32)
        if not np.isfinite(model).all():
            raise UpdateError("update_not_finite", "The global model holds NaN or infinity.")
        return cls(model, acknowledged)


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
