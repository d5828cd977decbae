from __future__ import annotations

import subprocess
import sys

import pytest

from cloister.simulations.bench import wire

SENDER = "import socket; s = socket.create_connection(('{address}', {port})); s.sendall(bytes(1_000_000))"
LEAD = f"""
import socket, subprocess, sys
from cloister.simulations.bench import wire
with wire.cable() as cable, socket.create_server((wire.LEAD, 0)) as server:
    before, inner = cable.bytes, wire.counted("lo")
    port = server.getsockname()[1]
    code = {SENDER!r}.format(address=wire.LEAD, port=port)
    with subprocess.Popen([*cable.prefix, sys.executable, "-c", code]) as sender:
        taken, _ = server.accept()
        while taken.recv(1 << 20):
            pass
    print(cable.bytes - before, wire.counted("lo") == inner)
"""


@pytest.mark.slow
def test_the_cable_counts_what_is_sent_over_it_once_and_nothing_else() -> None:
    isolation = wire.isolation()
    if not isolation:
        pytest.skip("no network namespace can be made here")
    done = subprocess.run(
        [*isolation, sys.executable, "-c", LEAD], capture_output=True, text=True, timeout=60, check=True
    )
    counted, quiet = done.stdout.split()
    assert 1_000_000 < int(counted) < 1_030_000
    assert quiet == "True"


def test_an_interface_that_is_not_there_has_counted_nothing() -> None:
    assert wire.counted("nowhere") == (0, 0)
    assert wire.counted("lo")[0] > 0
