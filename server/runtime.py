"""The operator's end of Flower: registering nodes, starting a run, and executing its ServerApp.

    runtime = Runtime(settings)
    runtime.register_node(site.node, site.name)
    runtime.start_run(bundle.build(), plan.digest)
    with runtime.acquire() as session:
        keep(session.token.to_json())      # with it, Runtime.resume continues the run after a crash
        session.run(server_app(federation))

The ServerApp runs in the caller's process, warm, with no code from a bundle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from cryptography.hazmat.primitives import serialization
from flwr.app import Context, RecordDict
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.serverapp import ServerApp
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

from cloister.privacy import canonical, folder
from cloister.privacy.channel import tls
from cloister.privacy.errors import CloisterError, StateError, TransportError
from cloister.server.grid import SUPERLINK_NODE, Headers, Retry, RuntimeGrid

_ACQUIRE, _SERVER_APP = "/flwr.proto.Runtime/AcquireTask", "flwr-serverapp"
_HEARTBEAT = 10.0  # seconds; Flower gives a run up after 60
_LOOK = 0.05

_C = TypeVar("_C", bound=ProtobufClient)


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
        password: of the key, if it is under one.
    """

    address: str
    authority: Path
    certificate: Path
    key: Path
    secret: Path
    wait: float = 0.5
    patience: float = 30.0
    password: str = field(default="", repr=False)


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
        try:
            self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except TransportError:
            self._client.close()
            raise
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
        self._tls = tls.client_context(
            settings.authority, settings.certificate, settings.key, settings.password
        )
        secret = folder.read(settings.secret)
        executor = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})
        self._control = self._client(ControlHttpClient, Headers("flwr"))
        self._executor = self._client(RuntimeHttpClient, Headers(_SERVER_APP), executor)

    def _client(self, kind: Callable[..., _C], *interceptors: Any) -> _C:
        retry = Retry(self._settings.patience)
        timeout = self._settings.wait + self._settings.patience
        address = f"https://{self._settings.address}"
        made = kind(
            address, interceptors=interceptors, verify=self._tls, timeout=timeout, retry_invoker=retry
        )
        made._client.close()  # Flower's own would ask the environment's proxy for this machine itself
        made._client = httpx.Client(verify=self._tls, timeout=timeout, follow_redirects=True, trust_env=False)
        return made

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

    def unregister_node(self, node: int) -> None:
        """Lets a node no longer in; what it is working on is lost."""
        self._control.UnregisterNode(UnregisterNodeRequest(node_id=node))

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
        headers = Headers(_SERVER_APP, self._settings.wait)
        client = self._client(RuntimeHttpClient, headers, RuntimeTokenHttpInterceptor(token.token))
        return Session(token, RuntimeGrid(client, headers, token.run_id), client)
