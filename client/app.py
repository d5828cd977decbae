"""Answering the lead: each of its envelopes goes to the participant of its job, however it came.

The app is the locally installed one. Nothing of the bundle that Flower carries is executed.
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from cloister.client.participation import Participant
from cloister.privacy.errors import ChannelError, PlanError
from cloister.privacy.wire.envelope import peek

_LARGEST = 1 << 40


def answer(participants: Mapping[str, Participant], data: bytes) -> bytes:
    """The sealed answer to an envelope of the lead.

    Args:
        participants: plan digest -> the site's part in that job.
        data: the envelope; its size was bounded where it came in.

    Raises:
        PlanError: ``plan_unknown``.
        ChannelError: ``envelope_malformed``.
        CloisterError: what the participant refuses with.
    """
    plan = peek(data, _LARGEST).plan
    if plan not in participants:
        raise PlanError(
            "plan_unknown", "A message names a plan that is not open here: not approved, or over."
        )
    return participants[plan].handle(data)


def client_app(participants: Mapping[str, Participant]) -> ClientApp:
    """The ClientApp of a site.

    Args:
        participants: plan digest -> the site's part in that job; may change while the app runs.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:  # noqa: ARG001  # Flower's signature
        record = message.content.get("envelope")
        data = record.get("b") if isinstance(record, ConfigRecord) else None
        if not isinstance(data, bytes):
            raise ChannelError("envelope_malformed", "A Flower message holds no envelope.")
        sealed = answer(participants, data)
        return Message(content=RecordDict({"envelope": ConfigRecord({"b": sealed})}), reply_to=message)

    return app
