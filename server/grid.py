"""The ``Grid`` of a ServerApp over Flower's runtime API, and how its calls are made.

Replies are handed over one at a time. What Flower itself answers in the place of a site (a node that is
away, a message that is gone) is no reply: it is noted in ``RuntimeGrid.lost``, and the ServerApp sends
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

import httpx
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.proto.runtime_pb2 import GetNodesRequest, PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from cloister.privacy.errors import TransportError

SUPERLINK_NODE = 1
"""Flower's number for itself among the nodes."""

_WAIT, _WAKE, _BELL = "x-cloister-wait", "x-cloister-wake", "run"
_RETRIED = (502, 503, 504)
_TOO_LARGE = 413
_RETRY_PAUSE, _LONGEST_RETRY_PAUSE = 0.05, 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.003, 0.1
_UNDER_WAY_S = 0.5
"""So long one reply's parts are waited for before the others get their turn again."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Retry:
    """Repeats a call that did not reach the server; every other failure is final."""

    patience: float

    def invoke(self, send: Callable[[], _T]) -> _T:
        """What ``send`` returns.

        Raises:
            TransportError: ``unreachable``, ``too_large`` or ``refused``.
        """
        deadline, pause = time.monotonic() + self.patience, _RETRY_PAUSE
        while True:
            try:
                return send()
            except httpx.TransportError as error:
                failure: httpx.HTTPError = error
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in _RETRIED:
                    raise _refused(error.response.status_code) from error
                failure = error
            if time.monotonic() > deadline:
                raise TransportError(
                    "unreachable",
                    "Flower's server does not answer.",
                    "Start the lead again and resume the job.",
                ) from failure
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_PAUSE)


def _refused(status: int) -> TransportError:
    if status == _TOO_LARGE:
        return TransportError("too_large", "A message is larger than Flower's server takes.")
    return TransportError("refused", f"Flower's server refused a call (HTTP {status}).")


class Headers:
    """Headers that go with every call of one client: Flower's version, and the bells of the gate."""

    def __init__(self, component: str, wait: float = 0.0) -> None:
        metadata = RuntimeVersionMetadata.from_local_component(component).as_metadata()
        self._fixed = {str(name): str(value) for name, value in metadata}
        self._wait = wait
        self.wakes = ""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Adds the headers."""
        context.request.headers.update(self._fixed)
        if self.wakes:
            context.request.headers[_WAKE] = self.wakes
        if self._wait and context.rpc_method.endswith("/PullMessages"):
            context.request.headers[_WAIT] = f"{self._wait} {_BELL}"
        return call_next(context)


@dataclass
class _Coming:
    """A reply that Flower has announced.

    Attributes:
        answers: id of the message that it answers.
        source: number of the node that sends it.
        tree: ids of its parts.
        contents: the parts that were fetched.
        gone: whether Flower has dropped one of them.
    """

    answers: str
    source: int
    tree: ObjectTree
    contents: dict[str, bytes] = field(default_factory=dict)
    gone: bool = False


class RuntimeGrid(Grid):
    """A ``Grid`` over the runtime API: replies one at a time, no fixed sleeps.

    Attributes:
        lost: ids of messages that Flower has given up on; their replies will never come.
    """

    def __init__(self, client: RuntimeHttpClient, headers: Headers, run_id: int) -> None:
        self._client, self._headers, self._run_id = client, headers, run_id
        self._node = Node(node_id=SUPERLINK_NODE)
        self._coming: list[_Coming] = []
        self.lost: set[str] = set()

    def set_run(self, run: Run) -> None:
        """A session has one run."""

    @property
    def run(self) -> Run:
        """The session's run: its id is all that is known of it here."""
        return Run.create_empty(self._run_id)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message as ``Message`` itself makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The ids of the nodes that are online."""
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are online."""
        return list(self._client.GetNodes(GetNodesRequest()).nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages, and wakes each site when all of its message has arrived.

        Raises:
            TransportError: ``refused``, Flower did not take a message; or as every call.
        """
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            objects = get_all_nested_objects(message)
            response = self._client.PushMessages(
                PushAppMessagesRequest(
                    messages_list=[message_to_proto(remove_content_from_message(message))],
                    message_object_trees=[get_object_tree(message)],
                )
            )
            (message_id,) = response.message_ids
            if not message_id:
                raise TransportError("refused", "Flower did not take a message for a site.")
            wanted = [name for name in objects if name in response.objects_to_push]
            for name in wanted:
                self._headers.wakes = str(message.metadata.dst_node_id) if name == wanted[-1] else ""
                self._push_object(name, objects[name].deflate(), response.session_id)
            self._headers.wakes = ""
        return str(message_id)

    def _push_object(self, name: str, content: bytes, session: str) -> None:
        request = PushObjectRequest(
            node=self._node,
            run_id=self._run_id,
            object_id=name,
            object_content=content,
            session_id=session,
        )
        if not self._client.PushObject(request).stored:
            raise TransportError("refused", "Flower did not store a part of a message.")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yields the replies that are there; waits a short while for the first one.

        A reply's content is fetched only when it is its turn, so one reply is in memory at a time. Flower
        announces a reply before its parts are there, and for three minutes also one whose sender died in
        between: such a reply is passed over, and looked at again at the next call that wants it.
        """
        wanted = [name for name in message_ids if name not in self.lost]
        if not wanted:
            return
        response = self._client.PullMessages(PullAppMessagesRequest(message_ids=wanted))
        self._coming = [coming for coming in self._coming if coming.answers in wanted]
        for proto, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            self._coming.append(_Coming(proto.metadata.reply_to_message_id, proto.metadata.src_node_id, tree))
        for coming in tuple(self._coming):
            if not self._arrived(coming):
                continue
            self._coming.remove(coming)
            reply = self._reply(coming)
            if reply is None:
                self.lost.add(coming.answers)
                continue
            yield reply
            del reply, coming  # before the next one is fetched

    def _arrived(self, coming: _Coming) -> bool:
        """Fetches the parts of a reply that are there; whether no more of them are to come."""
        if coming.source == SUPERLINK_NODE:  # Flower itself answers
            coming.gone = True
            return True
        deadline = time.monotonic() + _UNDER_WAY_S
        for part in iterate_object_tree(coming.tree):
            if part.object_id in coming.contents:
                continue
            request = PullObjectRequest(node=self._node, run_id=self._run_id, object_id=part.object_id)
            pause = _FIRST_PAUSE
            while not (response := self._client.PullObject(request)).object_available:
                if not response.object_found:
                    coming.gone = True
                    return True
                if time.monotonic() > deadline:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            coming.contents[part.object_id] = response.object_content
        return True

    def _reply(self, coming: _Coming) -> Message | None:
        """A whole reply, None where Flower itself answers or has dropped a part of it."""
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=self._run_id, message_object_id=coming.tree.object_id
            )
        )
        if coming.gone:
            return None
        contents, coming.contents = coming.contents, {}
        message = cast(Message, inflate_object_from_contents(coming.tree.object_id, contents))
        message.metadata.__dict__["_message_id"] = coming.tree.object_id
        return message

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Yields the replies until each message has one or is lost, or the time is over."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        while waiting := waiting - self.lost:
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if deadline is not None and time.monotonic() > deadline:
                return
