"""The real Flower server behind our entry: whole rounds, what it refuses, and what survives kill -9."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.serverapp import ServerApp

from cloister.client.fleet import FleetConnection
from cloister.privacy.channel.certificates import fingerprint
from cloister.privacy.errors import TransportError
from cloister.privacy.wire import bundle
from cloister.server.runtime import TaskToken
from tests.fleet import NAMES, SECRET_TEXT, Fleet, asks, envelope, environment, message, online, until
from tests.waiting import LONG_S

pytestmark = [pytest.mark.slow, pytest.mark.flower, pytest.mark.timeout(300)]

PLAN = "sha256:" + "5" * 64


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server with three running sites, for tests that leave it as it is."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    yield from _running(fleet)


@pytest.fixture
def cold_fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A server that was not started."""
    with closing(Fleet(tmp_path)) as fleet:
        yield fleet


@pytest.fixture
def own_fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A server with three running sites, for tests that break it."""
    yield from _running(Fleet(tmp_path))


def _running(fleet: Fleet) -> Iterator[Fleet]:
    try:
        fleet.start()
        runtime = fleet.runtime()
        fleet.register(runtime)
        runtime.close()
        for name in fleet.sites:
            fleet.site(name)
        yield fleet
    finally:
        fleet.close()


def run(fleet: Fleet, rounds: list[bytes], archive: bytes | None = None) -> dict[bytes, dict[str, Message]]:
    """Runs a ServerApp that asks all sites; the answers by question and site."""
    answers: dict[bytes, dict[int, Message]] = {}
    with closing(fleet.runtime()) as runtime:
        nodes = {node: name for name, node in fleet.register(runtime).items()}
        run_id = runtime.start_run(archive or bundle.build(), PLAN)
        with runtime.acquire() as session:
            assert session.token.run_id == run_id
            session.run(asks(fleet.sites, rounds, answers))
        assert runtime.status(run_id) == "finished:completed"
    return {
        data: {nodes[node]: reply for node, reply in replies.items()} for data, replies in answers.items()
    }


@contextmanager
def refused(reason: str = "refused") -> Iterator[pytest.ExceptionInfo[TransportError]]:
    with pytest.raises(TransportError) as caught:
        yield caught
    assert caught.value.id == reason


def asked(fleet: Fleet, name: str) -> list[str]:
    path = fleet.folder / name / "asked"
    return path.read_text().splitlines() if path.exists() else []


# Whole runs


def test_two_rounds_with_three_sites(fleet: Fleet) -> None:
    answers = run(fleet, [b"one", b"two"])
    for data in (b"one", b"two"):
        assert {name: envelope(reply) for name, reply in answers[data].items()} == {
            name: data + b" from " + name.encode() for name in NAMES
        }
    assert not any((fleet.folder / name / "message").exists() for name in NAMES)
    server = fingerprint((fleet.folder / "server.pem").read_bytes())
    for name in NAMES:
        (told,) = map(json.loads, (fleet.folder / name / "seen").read_text().splitlines())
        assert (told["tls"], told["server"]) == ("1.3", server)


def test_an_exception_leaves_its_id_and_no_text(fleet: Fleet) -> None:
    answers = run(fleet, [b"raise"])[b"raise"]
    assert set(answers) == set(NAMES)
    for reply in answers.values():
        assert (reply.error.code, reply.error.reason) == (2, "internal")
        assert not any(word in repr(reply) for word in SECRET_TEXT.split())


def test_a_bundle_with_a_foreign_file_is_refused_by_every_site_and_never_executed(fleet: Fleet) -> None:
    archive = io.BytesIO(bundle.build())
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("torch.py", "open('executed', 'w')")
    answers = run(fleet, [b"unasked"], archive.getvalue())[b"unasked"]
    assert {name: reply.error.reason for name, reply in answers.items()} == dict.fromkeys(
        NAMES, "bundle_invalid"
    )
    assert not any("unasked" in asked(fleet, name) for name in NAMES)
    assert not (fleet.folder / "executed").exists()


def test_a_large_envelope_arrives_whole_and_one_that_is_too_large_is_refused(fleet: Fleet) -> None:
    data = os.urandom(900_000)
    answers = run(fleet, [data])[data]
    assert {name: envelope(reply) for name, reply in answers.items()} == {
        name: data + b" from " + name.encode() for name in NAMES
    }
    with refused("too_large"):
        run(fleet, [bytes(1 << 20)])


def test_registering_a_node_again_gives_the_same_node(fleet: Fleet) -> None:
    with closing(fleet.runtime()) as runtime:
        assert fleet.register(runtime) == fleet.register(runtime)


# What is refused


def answer(address: str, context: ssl.SSLContext, path: str, body: bytes = b"", **headers: str) -> int | str:
    """The status of a call, or "refused" where the connection is."""
    host, port = address.split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=LONG_S)
    fixed = {"content-type": "application/protobuf", "accept": "application/protobuf"}
    try:
        connection.request("POST" if body else "GET", path, body or None, fixed | headers)
        return connection.getresponse().status
    except (ssl.SSLError, ConnectionError, http.client.HTTPException):
        return "refused"
    finally:
        connection.close()


def context(fleet: Fleet, authority: str, certificate: str = "") -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=fleet.path(f"{authority}.pem"))
    if certificate:
        made.load_cert_chain(fleet.path(f"{certificate}.pem"), fleet.path(f"{certificate}.key"))
    return made


def test_a_certificate_of_the_right_authority_opens_each_door(fleet: Fleet) -> None:
    assert answer(fleet.fleet, context(fleet, "sites", "north"), "/health") == 200
    assert answer(fleet.control, context(fleet, "operator", "lead"), "/health") == 200


def test_no_certificate_or_one_of_the_other_authority_opens_neither(fleet: Fleet) -> None:
    for certificate in ("", "lead"):
        assert answer(fleet.fleet, context(fleet, "sites", certificate), "/health") == "refused"
    for certificate in ("", "north"):
        assert answer(fleet.control, context(fleet, "operator", certificate), "/health") == "refused"


def test_tls_below_1_3_is_refused(fleet: Fleet) -> None:
    older = context(fleet, "sites", "north")
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    assert answer(fleet.fleet, older, "/health") == "refused"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/runtime/pull-messages",
        "/v1/responses",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/control/list-runs",
        "/v1/fleet/pull-messages/",
        "/v1/unknown",
        "/docs",
        "/openapi.json",
    ],
)
def test_sites_reach_nothing_but_what_their_agent_needs(fleet: Fleet, path: str) -> None:
    trusted = context(fleet, "sites", "north")
    assert answer(fleet.fleet, trusted, path) == 404
    assert answer(fleet.fleet, trusted, path, b"\n\x00") == 404


def test_a_fleet_call_without_node_key_is_refused(fleet: Fleet) -> None:
    trusted = context(fleet, "sites", "north")
    assert answer(fleet.fleet, trusted, "/v1/fleet/pull-messages", b"\n\x00") == 401
    forged = base64.b64encode(b"no key").decode()
    assert answer(fleet.fleet, trusted, "/v1/fleet/get-run", b"\n\x00", **{"flwr-public-key": forged}) == 401
    assert answer(fleet.fleet, trusted, "/v1/fleet/get-run", b"\n\x00", **{"flwr-public-key": "*"}) == 403


def test_the_certificate_of_one_site_does_not_go_with_the_node_key_of_another(fleet: Fleet) -> None:
    settings = fleet.fleet_settings("north", node_key=fleet.sites["south"], folder=fleet.folder / "thief")
    with refused() as caught:
        FleetConnection(settings).run(lambda message: message, threading.Event())
    assert "403" in caught.value.what


def test_a_site_whose_clock_is_wrong_is_told_so(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    late = datetime.now(UTC) - timedelta(minutes=10)
    monkeypatch.setattr("flwr.supernode.node_auth_http_interceptor.now", lambda: late)
    settings = fleet.fleet_settings("north", folder=fleet.folder / "late")
    with refused("clock"):
        FleetConnection(settings).run(lambda message: message, threading.Event())


def test_a_body_beyond_the_limit_is_refused(fleet: Fleet) -> None:
    trusted = context(fleet, "sites", "north")
    assert answer(fleet.fleet, trusted, "/v1/fleet/push-object", bytes((1 << 20) + 1)) == 413


def test_no_task_without_the_secret(fleet: Fleet, tmp_path: Path) -> None:
    operator = context(fleet, "operator", "lead")
    assert answer(fleet.control, operator, "/v1/runtime/acquire-task", b"\n\x00") == 401
    (tmp_path / "secret").write_bytes(bytes(32))
    (tmp_path / "secret").chmod(0o600)
    with closing(fleet.runtime(secret=tmp_path / "secret")) as runtime, refused() as caught:
        runtime.acquire()
    assert "401" in caught.value.what


def test_a_token_that_is_none_continues_nothing(fleet: Fleet) -> None:
    token = TaskToken("0" * 128, 1, 1)
    with closing(fleet.runtime()) as runtime, refused() as caught, runtime.resume(token):
        pass
    assert "401" in caught.value.what


# Starting and ending


def failed_start(fleet: Fleet, config: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "cloister.server.superlink", str(config)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), cwd=fleet.folder, timeout=LONG_S
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_port_in_use_is_one_line_and_an_exit_code(fleet: Fleet, cold_fleet: Fleet) -> None:
    cold_fleet.fleet = fleet.fleet
    code, text = failed_start(cold_fleet, cold_fleet.config())
    assert code == 1
    port = fleet.fleet.split(":")[1]
    assert text.strip() == (
        f"Port {port} of 127.0.0.1 is taken. Stop the other program or change the port. [port_in_use]"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret": "nowhere"}, "state_missing"),
        ({"unknown": 1}, "file_format"),
        ({"parent": 1 << 30}, "state_missing"),
        ({"host": "192.0.2.1"}, "option_invalid"),
    ],
)
def test_an_unusable_configuration_is_one_line(
    cold_fleet: Fleet, changes: dict[str, Any], reason: str
) -> None:
    code, text = failed_start(cold_fleet, cold_fleet.config(**changes))
    assert code in (1, 2)
    assert len(text.splitlines()) == 1
    assert f"[{reason}]" in text


def test_the_server_ends_with_a_killed_parent(cold_fleet: Fleet) -> None:
    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'cloister.server.superlink', sys.argv[1]])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", parent, str(cold_fleet.config())]
    process = cold_fleet.spawn(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]  # the pid, then the server's own ready line
    pid = next(int(line) for line in lines if line.strip().isdigit())
    assert any("fleet" in line for line in lines)
    process.kill()
    process.wait()
    until(lambda: _is_gone(pid), "the server's end")


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


# What survives kill -9


def test_a_killed_site_recovers_its_message_from_the_journal(own_fleet: Fleet) -> None:
    fleet = own_fleet
    folder = fleet.folder / "north"
    victim = fleet.processes[1]

    def kill_and_restart() -> None:
        until((folder / "hung").exists, "work at north")
        assert (folder / "message").exists()
        victim.kill()
        victim.wait()
        fleet.site("north")

    for name in ("south", "west"):  # these two do not hang
        (fleet.folder / name).mkdir(exist_ok=True)
        (fleet.folder / name / "hung").touch()
    killer = threading.Thread(target=kill_and_restart)
    killer.start()
    answers = run(fleet, [b"hang", b"after"])
    killer.join()
    assert {name: envelope(reply) for name, reply in answers[b"hang"].items()} == {
        name: b"hang from " + name.encode() for name in NAMES
    }
    assert set(answers[b"after"]) == set(NAMES)
    assert asked(fleet, "north") == ["hang", "hang", "after"]
    assert asked(fleet, "south") == ["hang", "after"]


_SERVER_APP = """\
import json, sys
from pathlib import Path
from tests.fleet import asks
from cloister.server.runtime import Runtime, RuntimeSettings

values = json.loads(Path(sys.argv[1]).read_text())
paths = {name: Path(values.pop(name)) for name in ("authority", "certificate", "key", "secret")}
runtime = Runtime(RuntimeSettings(**paths, **values))
answers = {}
with runtime.acquire() as session:
    Path("token").write_text(json.dumps(session.token.to_json()))
    session.run(asks(("north", "south", "west"), [b"one", b"hang"], answers))
"""


def test_a_killed_serverapp_is_continued_with_its_token(own_fleet: Fleet) -> None:
    fleet = own_fleet
    values = vars(fleet.settings()).items()
    settings = {name: value if isinstance(value, float) else str(value) for name, value in values}
    (fleet.folder / "runtime.json").write_text(json.dumps(settings))
    runtime = fleet.runtime()
    run_id = runtime.start_run(bundle.build(), PLAN)
    victim = fleet.spawn([sys.executable, "-c", _SERVER_APP, "runtime.json"])
    until(lambda: all((fleet.folder / name / "hung").exists() for name in NAMES), "the second round")
    victim.kill()
    victim.wait()
    assert runtime.status(run_id) == "running"
    token = TaskToken.from_json(json.loads((fleet.folder / "token").read_text()))
    assert token.run_id == run_id
    for process in fleet.processes[1:4]:  # they hang, and find their journals
        process.kill()
        process.wait()
    for name in NAMES:
        fleet.site(name)
    answers: dict[bytes, dict[int, Message]] = {}
    with runtime.resume(token) as session:
        session.run(asks(NAMES, [b"again"], answers))
    assert len(answers[b"again"]) == len(NAMES)
    assert runtime.status(run_id) == "finished:completed"
    runtime.close()


def test_sites_come_back_to_a_server_that_was_killed_and_forgot_everything(own_fleet: Fleet) -> None:
    fleet = own_fleet
    assert set(run(fleet, [b"before"])[b"before"]) == set(NAMES)
    assert fleet.server is not None
    fleet.server.kill()
    fleet.server.wait()
    fleet.start()
    assert set(run(fleet, [b"later"])[b"later"]) == set(NAMES)


def test_a_message_that_flower_gives_up_on_is_lost_and_not_a_reply(own_fleet: Fleet) -> None:
    fleet = own_fleet
    runtime = fleet.runtime()
    runtime.start_run(bundle.build(), PLAN)
    seen: list[Message] = []
    app = ServerApp()

    @app.main()
    def main(grid: Any, context: Any) -> None:
        node = online(grid, NAMES)["north"]
        north = fleet.processes[1]
        north.send_signal(signal.SIGTERM)  # it signs off
        assert north.wait(LONG_S) == 0
        (sent,) = grid.push_messages([message(node, b"nobody")])
        until(lambda: seen.extend(grid.pull_messages([sent])) or sent in grid.lost, "the loss")
        assert list(grid.pull_messages([sent])) == []

    with runtime.acquire() as session:
        session.run(app)
    runtime.close()
    assert seen == []


def test_the_server_ends_in_order_when_told_to(own_fleet: Fleet) -> None:
    assert own_fleet.server is not None
    own_fleet.server.send_signal(signal.SIGTERM)
    assert own_fleet.server.wait(LONG_S) == 0
