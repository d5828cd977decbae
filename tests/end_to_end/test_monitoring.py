"""A lead and a site that are watched: JSON lines and figures of real processes, past a proxy."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.hands import hands, until
from tests.ports import free_port
from tests.waiting import LONG_S


@contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that notes what it is asked for and answers nothing."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as door:

        def take() -> None:
            while True:
                try:
                    caller, _ = door.accept()
                except OSError:
                    return
                with caller:
                    asked.append(caller.recv(1000))

        threading.Thread(target=take, daemon=True).start()
        yield door.getsockname()[1], asked
        door.shutdown(socket.SHUT_RDWR)


def figures(port: int) -> dict[str, float]:
    """``name{labels}`` -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            ",".join([s.name, *s.labels.values()]): s.value for family in families for s in family.samples
        }


def objects(said: str) -> list[dict[str, Any]]:
    """Every line is an object, but perhaps the one that is being written."""
    return [json.loads(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lead_behind_a_proxy_and_its_site_are_watched(tmp_path: Path) -> None:
    of_lead, of_site = str(free_port()), str(free_port())
    with listening() as (port, asked), hands(tmp_path, https_proxy=f"http://127.0.0.1:{port}") as person:
        ports = ("--port-fleet", str(free_port()), "--port-consortium", str(free_port()))
        person.do("lead", "init", "--dir", "lead", "--name", "hospitals", "--host", "127.0.0.1", *ports)
        lead = person.start("lead", "lead", "up", "--dir", "lead", "--metrics", of_lead, "--json")
        lead.hear("is up at")
        person.do("lead", "invite", "north", "--dir", "lead", "--out", "north.invite")
        person.environment["no_proxy"] = "127.0.0.1"  # of the site: its lead is not behind the proxy
        person.do("site", "init", "--dir", "north", "--name", "north")
        person.do("site", "join", "north.invite", "--dir", "north")
        site = person.start("north", "site", "up", "--dir", "north", "--metrics", of_site, "--json")
        site.hear("is up")
        until(lambda: figures(int(of_lead)).get("cloister_site_connected,north") == 1, "the site at the lead")
        until(lambda: (tmp_path / "north" / "fleet").exists(), "Flower at the site")
        assert figures(int(of_site))["cloister_certificate_end_timestamp_seconds,site"] > 1.7e9
        assert figures(int(of_lead))["process_resident_memory_bytes"] > 1 << 20
        assert site.end() == 0
        assert lead.end() == 0
        assert asked == []
        told = objects(lead.said)
        assert "hospitals is up at" in told[0]["text"]
        assert {"roster.changed"} <= {one["event"]["type"] for one in told if "event" in one}
        assert all({"time", "level"} <= one.keys() for one in (*told, *objects(site.said)))
