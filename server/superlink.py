"""Our server entry to Flower: SuperLink's own app behind two listeners of ours.

    python -m cloister.server.superlink CONFIG.json

=============  =========================================================  =============================
listener       what it serves                                             who may connect
=============  =========================================================  =============================
``fleet``      what a site's agent needs of ``/v1/fleet/``, ``/health``   sites, with the key of their name
``control``    everything, on the loopback address only                   the operator
=============  =========================================================  =============================

Stock SuperLink serves all its APIs on one port, and its control and runtime APIs without asking who
calls. When both listeners are ready, one line of JSON says where: ``{"fleet": "host:port", "control":
"host:port"}``. If asked to, it prints a line for each connection of a site that is another one than that
site's last: ``{"channel": …}`` (``privacy.channel.facts.ListenerSide``). Flower's own log goes to the
standard error stream. The process ends with its parent.

Formal guarantees:
    Both listeners speak TLS 1.3 only and ask for a certificate of their own authority. At the fleet
    listener, a certificate of one site cannot be used with the node key of another. Tasks are handed
    out only under the executor's secret. Flower's telemetry, update checks and installation of
    dependencies are off, whatever the environment says.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from cloister.privacy import canonical, folder, heap
from cloister.privacy.channel.facts import ListenerSide
from cloister.privacy.errors import CloisterError, InputError, StateError, UsageError
from cloister.privacy.frozen import Part
from cloister.server.listener import Door, File, Listener, address, bind
from cloister.server.longpoll import Bells, Gate, Scope, header
from cloister.server.membership import Admitted

LOOPBACK = "127.0.0.1"
MEMORY = ":flwr-in-memory:"
"""Flower's name for a database that is forgotten with the process: our checkpoint is what lasts."""

_FLEET = frozenset(
    {
        "/health",
        *(
            f"/v1/fleet/{call}"
            for call in (
                "activate-node",
                "deactivate-node",
                "send-node-heartbeat",
                "pull-messages",
                "push-messages",
                "pull-object",
                "push-object",
                "confirm-message-received",
                "get-run",
                "get-fab",
            )
        ),
    }
)
_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
}
_KEY_HEADER = b"flwr-public-key"
_FORBIDDEN, _NOT_FOUND = 403, 404
_PR_SET_PDEATHSIG = 1
_LIMIT = 64 << 20
_KNOWN = 4096
_SECRET = 16


class Settings(Part):
    """``CONFIG.json``.

    Attributes:
        host: address that the fleet listener binds to.
        fleet: the listener for sites.
        control: the listener for the operator, always on the loopback address.
        secret: file with the executor's secret, any bytes.
        database: a file, or Flower's name for memory.
        limit: bytes of the largest call that is taken.
        parent: process id of the parent; 0 does not ask who it is.
        password: the keys of both listeners are under one, the first line of the standard input.
        channels: whether connections of sites are told on the standard output, which must then be read.
        members: the lead's ``roster.json``: only certificates that are in it now are let in; "" asks nobody.
    """

    version: Literal[1] = 1
    host: File = LOOPBACK
    fleet: Door
    control: Door
    secret: File
    database: File = MEMORY
    limit: Annotated[int, Field(ge=1 << 10)] = _LIMIT
    parent: Annotated[int, Field(ge=0)] = 0
    password: bool = False
    channels: bool = False
    members: str = ""

    @classmethod
    def read(cls, path: Path) -> Settings:
        """The settings in a file.

        Raises:
            InputError: ``file_missing`` or ``file_format``.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError("file_missing", f"{path} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            raise InputError("file_format", f"{path} is not a configuration of this server.") from error


class _Members:
    """Which calls the fleet listener lets in.

    Args:
        state: gives SuperLink's state; asked for the name under which a node key was registered.
        admitted: gives the fingerprints of the certificates that are let in; None lets in all.
    """

    def __init__(self, state: Any, admitted: Callable[[], frozenset[str]] | None = None) -> None:
        self._state, self._admitted = state, admitted
        self._known: set[tuple[str, str]] = set()

    def refusal(self, scope: Scope) -> int:
        """0; 404 for what sites have no business with; 403 for a certificate or a node key of nobody."""
        if scope["type"] != "http" or scope["path"] not in _FLEET:
            return _NOT_FOUND
        if self._admitted is not None and scope["state"]["fingerprint"] not in self._admitted():
            return _FORBIDDEN
        pair = (scope["state"]["certificate"], header(scope, _KEY_HEADER))
        if not pair[1] or pair in self._known:
            return 0  # Flower refuses a call without a key
        try:
            key = base64.b64decode(pair[1], validate=True)
        except binascii.Error:
            return _FORBIDDEN
        state = self._state()
        node = state.get_node_id_by_public_key(key)
        if node is None:
            return 0  # Flower refuses a key that was never registered
        if state.get_node_info(node_ids=[node])[0].name != pair[0]:
            return _FORBIDDEN
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known.add(pair)
        return 0


class _Channels:
    """Prints what the fleet listener sees of a site's connection, where it is another one than the last."""

    def __init__(self) -> None:
        self._last: dict[str, ListenerSide] = {}

    def __call__(self, seen: ListenerSide) -> None:
        if self._last.get(seen.name) != seen:
            self._last[seen.name] = seen
            print(canonical.encode({"channel": seen.told()}).decode(), flush=True)


class _Lifespan:
    """What SuperLink asks of whoever owns its processes: in process isolation there are none."""

    def __init__(self, config: object, state: object) -> None:
        """SuperLink makes it from its configuration and its state."""

    def startup(self) -> None:
        """Nothing to start."""

    def shutdown(self) -> None:
        """Nothing to stop."""


def _superlink(settings: Settings, secret: bytes) -> Any:
    """SuperLink's FastAPI app."""
    from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
    from flwr.superlink.main import create_app

    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=settings.control.port,
        insecure=False,
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=settings.database,
        isolation="process",
        runtime_dependency_install=False,
    )
    return create_app(config, _Lifespan)  # type: ignore[arg-type]  # it asks for nothing else of its own class


async def _serve(listeners: dict[Listener, socket.socket], bells: Bells) -> None:
    """Serves until the process is told to stop; the first listener is that of the sites."""

    def stop() -> None:
        bells.close()
        for listener in listeners:
            listener.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = [loop.create_task(listener.serve([bound])) for listener, bound in listeners.items()]
    ready = asyncio.gather(*(listener.ready.wait() for listener in listeners))
    either: list[asyncio.Future[Any]] = [ready, *serving]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        fleet, control = (address(bound) for bound in listeners.values())
        print(canonical.encode({"fleet": fleet, "control": control}).decode(), flush=True)
    await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    stop()
    await asyncio.gather(*serving)


def _end_with_parent(parent: int) -> None:
    """Lets the kernel kill this process when the thread that started it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:
        raise StateError("state_missing", "The process that this server belongs to has ended already.")


def _own_environment() -> None:
    """Replaces Flower's settings in the environment by ours, before Flower is imported."""
    for name in [name for name in os.environ if name.startswith("FLWR_") and name != "FLWR_HOME"]:
        del os.environ[name]
    os.environ.update(_ENVIRONMENT)


def run(path: Path) -> None:
    """Runs the server of a configuration file until it is told to stop.

    Raises:
        InputError: the file cannot be used, or a port is in use.
        StateError: the secret is missing or others can read it.
        ChannelError: ``certificate_invalid``.
    """
    settings = Settings.read(path)
    _end_with_parent(settings.parent)
    _own_environment()
    secret = folder.read(Path(settings.secret))
    if len(secret) < _SECRET:
        raise StateError("state_damaged", f"{settings.secret} holds no secret of {_SECRET} bytes or more.")
    password = sys.stdin.readline().rstrip("\n") if settings.password else ""
    fleet, control = bind(settings.host, settings.fleet.port), bind(LOOPBACK, settings.control.port)
    app, bells = _superlink(settings, secret), Bells()
    admitted = Admitted(Path(settings.members)) if settings.members else None
    members = _Members(app.state.linkstate_factory.state, admitted)
    for_sites, for_all = (
        Gate(app, bells, settings.limit, members.refusal),
        Gate(app, bells, settings.limit),
    )
    seen = _Channels() if settings.channels else lambda _: None
    listeners = {
        Listener(for_sites, settings.fleet, "off", password, seen): fleet,
        Listener(for_all, settings.control, "on", password): control,
    }
    loop = next(iter(listeners)).config.get_loop_factory()
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_serve(listeners, bells))


def main(arguments: list[str]) -> int:
    """The exit code of ``python -m cloister.server.superlink CONFIG.json``."""
    try:
        if len(arguments) != 1:
            raise UsageError("option_invalid", "One argument is needed: the configuration file.")
        heap.settle()
        run(Path(arguments[0]))
    except CloisterError as error:
        print(error.line(), file=sys.stderr)
        return error.EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
