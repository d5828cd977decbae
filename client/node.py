"""The calls of one Flower node to the lead's fleet listener. All of Flower's internal names of the site
are in this file.

A call that does not reach the server is repeated until it does, or until the site is told to stop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, cast

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node as NodeProto
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError

from cloister.client.proxy import proxy_for
from cloister.privacy.channel import tls
from cloister.privacy.channel.facts import CallerSide
from cloister.privacy.errors import StateError, TransportError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
Seen: TypeAlias = Callable[[CallerSide], None]
"""Told what this end sees of a connection to the fleet listener."""
_WAIT, _WAKE, _BELL = "x-cloister-wait", "x-cloister-wake", "run"
_RETRIED = (502, 503, 504)
_UNAUTHORISED, _PRECONDITION, _TOO_LARGE = 401, 412, 413
_BEAT = 0.6
_CALL = 30.0  # seconds for one call, beside the time it waits
_KEPT = 60.0  # seconds for which a connection may rest; the lead's listener closes it after 75
_FIRST_PAUSE, _LONGEST_PAUSE, _RECONNECT = 0.005, 0.5, 5.0
_PUSHES = 3


@dataclass(frozen=True)
class FleetSettings:
    """How a site reaches the fleet listener.

    Attributes:
        address: ``host:port``.
        authority: certificate of the authority that vouches for the lead's server, PEM.
        certificate: the site's certificate, whose common name is the site's, PEM.
        key: its key, PEM.
        node_key: the P-256 key that the lead registered for this site.
        folder: where the journal and the number of the node are kept.
        bundle: digest of the bundle that runs must be bound to.
        wait: seconds for which a look for a message waits for one; stopping may take as long.
        heartbeat: seconds; a site that is silent for twice as long counts as away. At least 10.
        patience: seconds without an answer after which a call fails.
        password: of the certificate's key, if that is under one.
    """

    address: str
    authority: Path
    certificate: Path
    key: Path
    node_key: ec.EllipticCurvePrivateKey
    folder: Path
    bundle: str
    wait: float = 5.0
    heartbeat: float = 15.0
    patience: float = float("inf")
    password: str = field(default="", repr=False)


class Stopped(Exception):  # not an error: the site was told to stop while it waited
    """The site was told to stop while the server did not answer."""


class Forgotten(Exception):  # not an error: the node activates again
    """The server does not know this node, or not under this number."""


@dataclass(frozen=True)
class _Retry:
    """Repeats a call that did not reach the server; other failures are final."""

    stop: threading.Event
    patience: float

    def invoke(self, send: Callable[[], _T]) -> _T:
        """What ``send`` returns.

        Raises:
            Forgotten: the server does not know the node.
            Stopped: told to stop before there was an answer.
            TransportError: ``refused``, ``too_large``, or ``unreachable`` after ``patience`` seconds.
        """
        started, pause, told = time.monotonic(), _FIRST_PAUSE, False
        while True:
            try:
                return send()
            except httpx.TransportError as error:
                failure: httpx.HTTPError = error
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in _RETRIED:
                    raise _refused(error.response.status_code) from error
                failure = error
            if time.monotonic() - started > self.patience:
                raise TransportError("unreachable", "The lead's Flower server does not answer.") from failure
            if not told and pause > _LONGEST_PAUSE:
                logger.warning("The lead's Flower server does not answer; trying again until it does.")
                told = True
            if self.stop.wait(pause):
                raise Stopped from failure
            pause = min(2 * pause, _RECONNECT)


class _Precondition(TransportError):
    """Refused because the node is not in the state that the call needs."""


def _refused(status: int) -> Exception:
    if status == _UNAUTHORISED:
        return Forgotten()
    if status == _PRECONDITION:
        return _Precondition("refused", "The lead's Flower server does not take this site now.")
    if status == _TOO_LARGE:
        return TransportError("too_large", "An answer is larger than the lead's Flower server takes.")
    return TransportError("refused", f"The lead's Flower server refused a call (HTTP {status}).")


class _Headers:
    """Headers that go with every call: Flower's version, and the bells of the lead's gate.

    Whenever the connection that a call went by is another one in what this end sees of it, ``seen`` is told.
    """

    _last: CallerSide | None

    def __init__(self, wait: float, seen: Seen) -> None:
        self._seen, self._last = seen, None
        metadata = RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()
        self._fixed = {str(name): str(value) for name, value in metadata}
        self._wait = wait
        self.wakes = False

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Adds the headers."""
        context.request.headers.update(self._fixed)
        if self.wakes:
            context.request.headers[_WAKE] = _BELL
        if isinstance(context.message, PullMessagesRequest):
            context.request.headers[_WAIT] = f"{self._wait} {context.message.node.node_id}"
        response = call_next(context)
        self._look(response.extensions.get("network_stream"))
        return response

    def _look(self, stream: Any) -> None:
        connection = stream.get_extra_info("ssl_object") if stream is not None else None
        found = CallerSide.seen(connection) if connection is not None else None
        if found is not None and found != self._last:
            self._seen(found)
            self._last = found


@dataclass(frozen=True)
class Parcel:
    """A message that was pulled, without its content.

    Attributes:
        proto: its metadata.
        tree: the ids of its objects.
    """

    proto: MessageProto
    tree: ObjectTree

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The parcel in the bytes that ``Node.pull`` gave.

        Raises:
            StateError: ``state_damaged``.
        """
        try:
            pulled = PullMessagesResponse.FromString(data)
            return cls(pulled.messages_list[0], pulled.message_object_trees[0])
        except (DecodeError, IndexError) as error:
            raise StateError("state_damaged", "The journal of the last message is damaged.") from error

    @property
    def run(self) -> int:
        """Number of the run."""
        return int(self.proto.metadata.run_id)

    @property
    def node(self) -> int:
        """Number of the node that the message is for."""
        return int(self.proto.metadata.dst_node_id)

    @property
    def bare(self) -> Message:
        """The message without content, to reply to."""
        return message_from_proto(self.proto)


class _Known(ConfigRecord):
    """Stands in for a record of which nothing but the id is known."""

    is_dirty = False

    def __init__(self, object_id: str) -> None:
        super().__init__()
        self.__dict__["_object_id"] = object_id


def _implied(parcel: Parcel) -> dict[str, bytes]:
    """The two small objects around an envelope, worked out instead of fetched: two calls less a message.

    They follow from the envelope's id and the message's metadata. Each stands under its own digest, so
    where a message is made in another way its objects are not found here.
    """
    message = parcel.bare
    if message.has_error():
        return {}
    message.content = RecordDict({"envelope": _Known(next(iterate_object_tree(parcel.tree)).object_id)})
    return {get_object_id(part): part for part in (message.content.deflate(), message.deflate())}


class Node:
    """This site as a Flower node.

    Args:
        settings: how to reach the server.
        stop: ends every waiting.
        seen: told of the connection, and again whenever it is another one.

    Raises:
        ChannelError: ``certificate_invalid``.
        TransportError: ``proxy_refused``.
    """

    def __init__(self, settings: FleetSettings, stop: threading.Event, seen: Seen = lambda _: None) -> None:
        key = settings.node_key
        self.number = 0
        self._settings, self._stop = settings, stop
        self._public = public_key_to_bytes(key.public_key())
        self._headers = _Headers(settings.wait, seen)
        verify = tls.client_context(settings.authority, settings.certificate, settings.key, settings.password)
        timeout = settings.wait + _CALL
        self._client = FleetHttpClient(
            f"https://{settings.address}",
            verify=verify,
            timeout=timeout,
            interceptors=[self._headers, NodeAuthHttpInterceptor(key, key.public_key())],
            retry_invoker=cast(Any, _Retry(stop, settings.patience)),
        )
        self._client._client.close()  # Flower's own drops a connection that rests for 5 s, as in training
        limits = httpx.Limits(keepalive_expiry=_KEPT)
        proxy = proxy_for(settings.address)
        self._client._client = httpx.Client(
            verify=verify,
            timeout=timeout,
            limits=limits,
            proxy=proxy.url if proxy else None,
            trust_env=False,  # the environment was read once, for both connections (client.proxy)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Signs off and closes the connection."""
        with suppress(Forgotten, Stopped, TransportError):  # it is leaving anyway
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.number))
        self._client.close()

    # Being there

    def activate(self, known: int) -> None:
        """Comes online, waiting until the lead has registered this site.

        Args:
            known: the number of this node before, 0 for none. If our last process died a moment ago,
                the server believes that the node is online and activates it no second time; a
                heartbeat then takes it over.

        Raises:
            TransportError: ``clock``, or ``refused`` (the certificate is not for this node key).
        """
        interval = self._settings.heartbeat
        while True:
            try:
                request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=interval)
                self.number = int(self._client.ActivateNode(request).node_id)
                return
            except Forgotten as error:  # the key is in the call itself, so it can only be the time
                raise TransportError(
                    "clock", "The clocks of this site and of the lead differ too much.", "Set the clock."
                ) from error
            except _Precondition:
                if known and self._beat(known):
                    self.number = known
                    return
            if self._stop.wait(_LONGEST_PAUSE):
                raise Stopped

    def _beat(self, number: int) -> bool:
        request = SendNodeHeartbeatRequest(
            node=NodeProto(node_id=number), heartbeat_interval=self._settings.heartbeat
        )
        try:
            return bool(self._client.SendNodeHeartbeat(request).success)
        except Forgotten:
            return False

    def beat(self, over: threading.Event) -> None:
        """Says that the site is there, again and again; for a thread of its own."""
        while not over.wait(_BEAT * self._settings.heartbeat):
            with suppress(Stopped, TransportError):  # the next call of the main thread meets it as well
                self._beat(self.number)

    # A message

    def pull(self) -> bytes:
        """The next message, waiting a while for it; b"" if there is none."""
        request = PullMessagesRequest(node=NodeProto(node_id=self.number))
        pulled = self._client.PullMessages(request)
        return pulled.SerializeToString() if pulled.messages_list else b""

    def bundle(self, run: int) -> bytes:
        """The bundle that a run is bound to."""
        node = NodeProto(node_id=self.number)
        found = self._client.GetRun(GetRunRequest(node=node, run_id=run)).run
        request = GetFabRequest(node=node, hash_str=found.fab_hash, run_id=run)
        return bytes(self._client.GetFab(request).fab.content)

    def fetch(self, parcel: Parcel) -> dict[str, bytes] | None:
        """The objects of a message by id, None if the server does not have them any more."""
        contents: dict[str, bytes] = {}
        implied = _implied(parcel)
        for part in iterate_object_tree(parcel.tree):
            if part.object_id in implied:
                contents[part.object_id] = implied[part.object_id]
                continue
            request = PullObjectRequest(
                node=NodeProto(node_id=self.number), run_id=parcel.run, object_id=part.object_id
            )
            pause = _FIRST_PAUSE
            while not (response := self._client.PullObject(request)).object_available:
                if not response.object_found:
                    return None
                if self._stop.wait(pause):  # a message is visible before its objects are there
                    raise Stopped
                pause = min(2 * pause, _LONGEST_PAUSE)
            contents[part.object_id] = response.object_content
        return contents

    def open(self, parcel: Parcel, contents: dict[str, bytes]) -> Message:
        """The whole message; this process then is the node of its run, as Flower's classes need."""
        TaskIdentity.run_id, TaskIdentity.node_id = parcel.run, self.number
        TaskIdentity.task_id = 0
        message = cast(Message, inflate_object_from_contents(parcel.tree.object_id, contents))
        message.metadata.__dict__["_message_id"] = parcel.proto.metadata.message_id
        return message

    def push(self, parcel: Parcel, reply: Message, seconds: float) -> None:
        """Sends the answer and wakes the ServerApp when all of it has arrived.

        A server that has no use for the answer any more takes it without a word.

        Raises:
            TransportError: ``refused``, a part was not stored.
        """
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=NodeProto(node_id=self.number),
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
            )
            for _ in range(_PUSHES):
                if self._push_objects(parcel.run, objects, self._client.PushMessages(request)):
                    return
        raise TransportError("refused", "The lead's Flower server did not store an answer.")

    def _push_objects(
        self, run: int, objects: dict[str, InflatableObject], wanted: PushMessagesResponse
    ) -> bool:
        names = [name for name in objects if name in wanted.objects_to_push]
        stored = True
        for name in names:
            self._headers.wakes = name == names[-1]
            request = PushObjectRequest(
                node=NodeProto(node_id=self.number),
                run_id=run,
                object_id=name,
                object_content=objects[name].deflate(),
                session_id=wanted.session_id,
            )
            stored = stored and self._client.PushObject(request).stored
        self._headers.wakes = False
        return stored

    def confirm(self, parcel: Parcel) -> None:
        """Lets the server drop the message's objects."""
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=NodeProto(node_id=self.number),
                run_id=parcel.run,
                message_object_id=parcel.tree.object_id,
            )
        )
