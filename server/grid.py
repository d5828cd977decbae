"""The operator's end of Flower: registering nodes, starting a run, and the ``Grid`` of its ServerApp.

    runtime = Runtime(settings)
    runtime.register_node(site.node, site.name)
    runtime.start_run(bundle.build(), plan.digest)
    with runtime.acquire() as session:
        keep(session.token.to_json())      # with it, Runtime.resume continues the run after a crash
        session.run(server_app(federation))

The ServerApp runs in the caller's process, warm, with no code from a bundle. Replies are handed over one
at a time. What Flower itself answers in the place of a site (a node that is away, a message that is
gone) is no reply: it is noted in ``RuntimeGrid.lost``, and the ServerApp sends again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import httpx
from cryptography.hazmat.primitives import serialization
from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClient, ProtobufRequestContext
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity

from cloister.privacy import canonical, folder
from cloister.privacy.channel import tls
from cloister.privacy.errors import CloisterError, StateError, TransportError

SUPERLINK_NODE = 1
"""Flower's number for itself among the nodes."""

_ACQUIRE, _SERVER_APP = "/flwr.proto.Runtime/AcquireTask", "flwr-serverapp"
_WAIT, _WAKE, _BELL = "x-cloister-wait", "x-cloister-wake", "run"
_RETRIED = (502, 503, 504)
_TOO_LARGE = 413
_HEARTBEAT = 10.0  # seconds; Flower gives a run up after 60
_LOOK = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.003, 0.5

_C = TypeVar("_C", bound=ProtobufClient)
_T = TypeVar("_T")


@dataclass(frozen=True)
class RuntimeSettings:
    """How the operator reaches the control listener.

    Attributes:
        address: ``host:port``.
        authority: certificate of the authority that vouches for the listener, PEM.
        certificate: the operator's certificate, PEM.
        key: its key, PEM.
        secret: file with the executor's secret.
        wait: seconds for which a look for replies waits for one.
        patience: seconds without an answer after which a call fails.
    """

    address: str
    authority: Path
    certificate: Path
    key: Path
    secret: Path
    wait: float = 0.5
    patience: float = 30.0


@dataclass(frozen=True)
class TaskToken:
    """What is needed to go on with a run in another process. The token is a secret."""

    token: str
    run_id: int
    task_id: int

    def to_json(self) -> dict[str, str]:
        """Its members as texts, because Flower's numbers do not fit into JSON's."""
        return {name: str(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises ``StateError`` ``state_damaged`` for anything else."""
        try:
            return cls(str(value["token"]), int(value["run_id"]), int(value["task_id"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError("state_damaged", "A saved run of Flower cannot be read.") from error


@dataclass(frozen=True)
class _Retry:
    """Repeats a call that did not reach the server; every other failure is final."""

    patience: float

    def invoke(self, send: Callable[[], _T]) -> _T:
        """What ``send`` returns.

        Raises:
            TransportError: ``unreachable``, ``too_large`` or ``refused``.
        """
        deadline, pause = time.monotonic() + self.patience, _LOOK
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
            pause = min(2 * pause, 1.0)


def _refused(status: int) -> TransportError:
    if status == _TOO_LARGE:
        return TransportError("too_large", "A message is larger than Flower's server takes.")
    return TransportError("refused", f"Flower's server refused a call (HTTP {status}).")


class _Headers:
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


class RuntimeGrid(Grid):
    """A ``Grid`` over the runtime API: replies one at a time, no fixed sleeps.

    Attributes:
        lost: ids of messages that Flower has given up on; their replies will never come.
    """

    def __init__(self, client: RuntimeHttpClient, headers: _Headers, run_id: int) -> None:
        self._client, self._headers, self._run_id = client, headers, run_id
        self._node = Node(node_id=SUPERLINK_NODE)
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

        A reply's content is fetched only when it is its turn, so one reply is in memory at a time. A
        reply that is not taken from the iterator is lost.
        """
        wanted = [name for name in message_ids if name not in self.lost]
        if not wanted:
            return
        response = self._client.PullMessages(PullAppMessagesRequest(message_ids=wanted))
        for proto, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            contents = None if proto.metadata.src_node_id == SUPERLINK_NODE else self._pull(tree)
            self._client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self._node, run_id=self._run_id, message_object_id=tree.object_id
                )
            )
            if contents is None:
                self.lost.add(proto.metadata.reply_to_message_id)
                continue
            message = cast(Message, inflate_object_from_contents(tree.object_id, contents))
            message.metadata.__dict__["_message_id"] = tree.object_id
            yield message

    def _pull(self, tree: ObjectTree) -> dict[str, bytes] | None:
        """The objects of a reply by id, None if Flower has dropped one of them."""
        contents: dict[str, bytes] = {}
        for part in iterate_object_tree(tree):
            request = PullObjectRequest(node=self._node, run_id=self._run_id, object_id=part.object_id)
            pause = _FIRST_PAUSE
            while not (response := self._client.PullObject(request)).object_available:
                if not response.object_found:
                    return None
                time.sleep(pause)  # a message is visible before its objects are there
                pause = min(2 * pause, _LONGEST_PAUSE)
            contents[part.object_id] = response.object_content
        return contents

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


class Session:
    """A run that this process executes; it ends the run or leaves it to be resumed.

    Attributes:
        token: with it another process can go on.
        grid: what the ServerApp talks to.
    """

    def __init__(self, token: TaskToken, grid: RuntimeGrid, client: RuntimeHttpClient) -> None:
        self.token, self.grid, self._client = token, grid, client
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="flower-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Starts the heartbeat.

        Raises:
            TransportError: ``refused``, Flower does not know the run any more.
        """
        self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the heartbeat. A run that was not finished fails after a minute, unless it is resumed."""
        self._over.set()
        self._heart.join(timeout=1.0)
        self._client.close()

    def _beat(self) -> None:
        while not self._over.wait(_HEARTBEAT):
            with suppress(TransportError):  # the ServerApp's next call meets the same failure and raises it
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    def begin(self) -> None:
        """Tells Flower that the run is running; once only, before anything else."""
        self._client.PullTaskInput(PullTaskInputRequest())

    def run(self, app: ServerApp) -> None:
        """Executes a ServerApp and finishes the run, as completed or as failed.

        Raises:
            whatever the app raises; of it only an id goes to Flower.
        """
        TaskIdentity.run_id, TaskIdentity.task_id = self.token.run_id, self.token.task_id
        TaskIdentity.node_id = SUPERLINK_NODE
        context = Context(
            run_id=self.token.run_id,
            node_id=SUPERLINK_NODE,
            node_config={},
            state=RecordDict(),
            run_config={},
        )
        try:
            app(self.grid, context)
        except CloisterError as error:
            if not isinstance(error, TransportError):
                self.finish("failed", error.id)
            raise
        self.finish("completed")

    def finish(self, outcome: str, reason: str = "") -> None:
        """Tells Flower that the run is over: ``completed``, or ``failed`` with an error id."""
        self._client.PushTaskOutput(PushTaskOutputRequest(sub_status=outcome, details=reason))


class Runtime:
    """The operator at the control listener.

    Raises:
        ChannelError: ``certificate_invalid``.
        StateError: the secret is missing or others can read it.
    """

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._tls = tls.client_context(settings.authority, settings.certificate, settings.key)
        secret = folder.read(settings.secret)
        executor = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})
        self._control = self._client(ControlHttpClient, _Headers("flwr"))
        self._executor = self._client(RuntimeHttpClient, _Headers(_SERVER_APP), executor)

    def _client(self, kind: Callable[..., _C], *interceptors: Any) -> _C:
        retry = _Retry(self._settings.patience)
        timeout = self._settings.wait + self._settings.patience
        address = f"https://{self._settings.address}"
        return kind(
            address, interceptors=interceptors, verify=self._tls, timeout=timeout, retry_invoker=retry
        )

    def close(self) -> None:
        """Closes the connections; sessions have their own."""
        self._control.close()
        self._executor.close()

    def register_node(self, public_key: bytes, name: str) -> int:
        """Lets a site's node key in, under the site's name; the id of its node. Safe to repeat.

        Args:
            public_key: DER SubjectPublicKeyInfo of a P-256 key.
            name: the common name of the site's certificate.
        """
        key = serialization.load_der_public_key(public_key).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for node in self._control.ListNodes(ListNodesRequest()).nodes_info:
            if node.public_key == key:
                return int(node.node_id)
        return int(self._control.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id)

    def start_run(self, bundle: bytes, plan: str) -> int:
        """Starts a run of a plan and returns its id.

        Args:
            bundle: the archive of ``privacy.wire.bundle``.
            plan: digest of the plan.
        """
        fab = Fab(hash_str=canonical.digest(bundle).removeprefix("sha256:"), content=bundle)
        config = user_config_to_proto({"plan": plan})
        run_id = int(self._control.StartRun(StartRunRequest(fab=fab, override_config=config)).run_id)
        if not run_id:
            raise TransportError("refused", "Flower did not start a run.")
        return run_id

    def status(self, run_id: int) -> str:
        """``pending``, ``starting``, ``running`` or ``finished:…``."""
        run = self._control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id]
        return ":".join(part for part in (run.status.status, run.status.sub_status) if part)

    def acquire(self) -> Session:
        """Takes over the oldest run that waits for a ServerApp.

        Raises:
            TransportError: ``refused``, there is none.
        """
        request = AcquireTaskRequest(supported_task_types=[_SERVER_APP])
        deadline = time.monotonic() + self._settings.patience
        while not (response := self._executor.AcquireTask(request)).HasField("task"):
            if time.monotonic() > deadline:
                raise TransportError("refused", "No run of Flower waits for a ServerApp.")
            time.sleep(_LOOK)
        session = self.resume(TaskToken(response.token, response.task.run_id, response.task.task_id))
        session.begin()
        return session

    def resume(self, token: TaskToken) -> Session:
        """Goes on with a run whose ServerApp has died less than a minute ago."""
        headers = _Headers(_SERVER_APP, self._settings.wait)
        client = self._client(RuntimeHttpClient, headers, RuntimeTokenHttpInterceptor(token.token))
        return Session(token, RuntimeGrid(client, headers, token.run_id), client)
