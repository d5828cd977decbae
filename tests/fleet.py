"""Flower's real server behind our entry, and sites as processes of their own, in a folder.

``python -m tests.fleet CONFIG.json`` is one such site: an echo that answers with its name. What it is asked:
``raise`` fails with a text that must not leave the site; ``hang`` never ends, the first time.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from cloister.client.fleet import FleetConnection, for_app
from cloister.client.node import FleetSettings
from cloister.privacy.channel.certificates import Authority, key_pem
from cloister.privacy.channel.facts import CallerSide
from cloister.privacy.wire import bundle
from cloister.server.runtime import Runtime, RuntimeSettings
from tests.waiting import LONG_S

ROOT = Path(__file__).parents[1]
NAMES = ("north", "south", "west")
SECRET_TEXT = "Mrs Agatha Winterbourne, born 1931-04-05"


def environment() -> dict[str, str]:
    """The environment of a child process: it imports what this process imports."""
    places = [str(ROOT / ".links"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def until(done: Callable[[], Any], what: str, seconds: float = LONG_S) -> Any:
    """Waits until ``done`` is true, which is an assertion."""
    deadline = time.monotonic() + seconds
    while not (value := done()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)
    return value


class Fleet:
    """A lead's server and its sites.

    Args:
        folder: everything is kept there.
        names: the sites.
    """

    def __init__(self, folder: Path, names: Iterable[str] = NAMES) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        self.sites = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}
        authorities = {door: Authority.create(door) for door in ("sites", "operator")}
        for door, authority in authorities.items():
            authority.save(folder, door)
        for name in names:
            self._keep(name, authorities["sites"].client(name))
        self._keep("server", authorities["sites"].server("server", ("localhost", "127.0.0.1")))
        self._keep("loopback", authorities["operator"].server("loopback", ("localhost", "127.0.0.1")))
        self._keep("lead", authorities["operator"].client("lead"))
        self._private("secret", secrets.token_bytes(32))
        self.fleet = self.control = "127.0.0.1:0"
        self.server: subprocess.Popen[str] | None = None

    def _keep(self, name: str, pair: tuple[bytes, bytes]) -> None:
        self._private(f"{name}.key", pair[0])
        self._private(f"{name}.pem", pair[1])

    def _private(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)
        (self.folder / name).chmod(0o600)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    # The server

    def config(self, **changes: Any) -> Path:
        def door(address: str, authority: str, certificate: str) -> dict[str, Any]:
            return {
                "port": int(address.rpartition(":")[2]),
                "authority": self.path(f"{authority}.pem"),
                "certificate": self.path(f"{certificate}.pem"),
                "key": self.path(f"{certificate}.key"),
            }

        value = {
            "fleet": door(self.fleet, "sites", "server"),
            "control": door(self.control, "operator", "loopback"),
            "secret": self.path("secret"),
            "limit": 1 << 20,
        }
        (self.folder / "config.json").write_text(json.dumps(value | changes))
        return self.folder / "config.json"

    def start(self, **changes: Any) -> None:
        """Starts the server, on the same ports as before."""
        command = [sys.executable, "-m", "cloister.server.superlink", str(self.config(**changes))]
        self.server = self.spawn(command, stdout=subprocess.PIPE)
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, "the server did not start"
        addresses = json.loads(line)
        assert set(addresses) == {"fleet", "control"}
        self.fleet, self.control = addresses["fleet"], addresses["control"]

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, text=True, env=environment(), cwd=self.folder, **options)
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    # The operator

    def settings(self, **changes: Any) -> RuntimeSettings:
        values: dict[str, Any] = {
            "address": self.control,
            "authority": self.folder / "operator.pem",
            "certificate": self.folder / "lead.pem",
            "key": self.folder / "lead.key",
            "secret": self.folder / "secret",
            "patience": 5.0,
        }
        return RuntimeSettings(**(values | changes))

    def runtime(self, **changes: Any) -> Runtime:
        return Runtime(self.settings(**changes))

    def register(self, runtime: Runtime) -> dict[str, int]:
        return {name: runtime.register_node(public(key), name) for name, key in self.sites.items()}

    # The sites

    def fleet_settings(self, name: str, **changes: Any) -> FleetSettings:
        values: dict[str, Any] = {
            "address": self.fleet,
            "authority": self.folder / "sites.pem",
            "certificate": self.folder / f"{name}.pem",
            "key": self.folder / f"{name}.key",
            "node_key": self.sites[name],
            "folder": self.folder / name,
            "bundle": bundle.digest(),
            "wait": 1.0,
        }
        return FleetSettings(**(values | changes))

    def site(self, name: str) -> subprocess.Popen[str]:
        """Starts a site's process."""
        settings = vars(self.fleet_settings(name))
        values = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
        config = self.folder / f"{name}.json"
        values["node_key"] = key_pem(self.sites[name]).decode()
        config.write_text(json.dumps(values))
        return self.spawn([sys.executable, "-m", "tests.fleet", str(config)])


def public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def message(node: int, data: bytes, number: int = 1) -> Message:
    """A message with one envelope for a node."""
    content = RecordDict({"envelope": ConfigRecord({"b": data})})
    return Message(content, node, "train", ttl=600.0, group_id=str(number))


def envelope(reply: Message) -> bytes:
    data = reply.content["envelope"]["b"]
    assert isinstance(data, bytes)
    return data


def online(grid: Grid, names: Iterable[str]) -> dict[str, int]:
    """Waits for sites; their nodes by name."""

    def look() -> dict[str, int] | None:
        nodes = {node.name: node.node_id for node in grid.get_nodes()}  # type: ignore[attr-defined]
        return nodes if set(names) <= set(nodes) else None

    found: dict[str, int] = until(look, f"{names} online")
    return found


def asks(names: Iterable[str], rounds: list[bytes], answers: dict[bytes, dict[int, Message]]) -> ServerApp:
    """A ServerApp that asks every site the same in each round and keeps the answers by node."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        nodes = online(grid, names)
        for number, data in enumerate(rounds, start=1):
            sent = [message(nodes[name], data, number) for name in names]
            replies = grid.send_and_receive(sent, timeout=120)
            answers[data] = {reply.metadata.src_node_id: reply for reply in replies}

    return app


def _site(config: Path) -> None:
    values = json.loads(config.read_text())
    key = serialization.load_pem_private_key(values.pop("node_key").encode(), None)
    folders = {name: Path(values.pop(name)) for name in ("authority", "certificate", "key", "folder")}
    app, folder, stop = ClientApp(), folders["folder"], threading.Event()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        data = envelope(message)
        with (folder / "asked").open("ab") as asked:
            asked.write(data + b"\n")
        if data == b"raise":
            raise ValueError(SECRET_TEXT)
        if data == b"hang" and not (folder / "hung").exists():
            (folder / "hung").touch()
            time.sleep(600)
        answer = data + b" from " + config.stem.encode()
        return Message(RecordDict({"envelope": ConfigRecord({"b": answer})}), reply_to=message)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def seen(side: CallerSide) -> None:
        with (folder / "seen").open("a") as told:
            told.write(json.dumps(vars(side)) + "\n")

    FleetConnection(FleetSettings(**folders, **values, node_key=key), seen).run(for_app(app), stop)


if __name__ == "__main__":
    _site(Path(sys.argv[1]))
