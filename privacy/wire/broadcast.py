"""The global model on its way down where a plan codes what changed: in full, or as the change of one before.

A task is then one byte longer and tells which. ``full`` is followed by the task as it is without a codec;
``change`` by 71 bytes of digest (or spaces) of what arrived last, the digest of the model that it changes,
and the coded change. Whoever adds the decoded change to that model in float32 has the lead's model bit for
bit, and its digest is in the signed header.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloister.privacy import canonical
from cloister.privacy.codecs import coding
from cloister.privacy.errors import ChannelError, ModelError
from cloister.privacy.methods import Codec
from cloister.privacy.update import Vector
from cloister.privacy.wire.messages import Task

_FULL, _CHANGE = b"\x00", b"\x01"
_DIGEST = 71


@dataclass(frozen=True)
class Change:
    """What the last round changed, for whoever has the model before it.

    Attributes:
        base: digest of that model.
        content: the change, coded.
    """

    base: str
    content: bytes


def full(task: Task) -> bytes:
    """A task with the whole model."""
    return _FULL + task.to_bytes()


def changed(acknowledged: str, change: Change) -> bytes:
    """A task with what changed."""
    return _CHANGE + acknowledged.ljust(_DIGEST).encode() + change.base.encode() + change.content


def opened(
    content: bytes | bytearray, codec: Codec, parameters: int, held: Callable[[str], Vector | None]
) -> Task:
    """The task of a content, with the whole model.

    Args:
        content: of an envelope.
        codec: of the plan.
        parameters: d.
        held: gives the model of a digest, float32, shape (d,), or None.

    Raises:
        UpdateError: ``update_shape``, ``update_not_finite``.
        ChannelError: ``envelope_malformed``.
        ModelError: ``model_unknown``, what changed is another model than any here.
    """
    head, body = bytes(content[:1]), content[1:]
    if head == _FULL:
        return Task.from_bytes(body, parameters)
    if head != _CHANGE:
        raise ChannelError("envelope_malformed", "A task has neither a model nor a change.")
    known, base = (_digest(body[place : place + _DIGEST]) for place in (0, _DIGEST))
    change = coding.decode(codec, bytes(body[2 * _DIGEST :]), parameters)
    model = held(base)
    if model is None:
        raise ModelError("model_unknown", "The lead sent a change of a global model that is not here.")
    return Task(model + change, known)


def _digest(data: bytes | bytearray) -> str:
    """A digest, or "" for spaces."""
    text = bytes(data).decode("ascii", "replace").removesuffix(" " * _DIGEST)
    if text and not canonical.is_digest(text):
        raise ChannelError("envelope_malformed", "A task holds something else than a digest.")
    return text
