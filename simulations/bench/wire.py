"""Two network namespaces and a cable between them: what a counter on the cable reads was really sent.

The lead and its Flower server stand on one end, the sites on the other, so traffic between the lead's
own two processes stays on its loopback interface and is counted apart. The cable carries packets of up
to 64 KiB, as a loopback interface does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloister.privacy.errors import StateError

LEAD, SITES = "10.77.0.1", "10.77.0.2"
"""The addresses of the cable's two ends."""

_CABLE, _FAR, _MTU, _START_S = "cable", "far", "65535", 10.0
_RECEIVED, _SENT = 0, 8


def isolation() -> list[str]:
    """The command that runs another one in a network namespace of its own; empty where none can be made."""
    if not all(shutil.which(tool) for tool in ("ip", "nsenter", "unshare")):
        return []
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    return command if subprocess.run([*command, "true"], check=False).returncode == 0 else []


def counted(interface: str) -> tuple[int, int]:
    """Bytes that an interface of this namespace has received and sent so far."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            values = numbers.split()
            return int(values[_RECEIVED]), int(values[_SENT])
    return 0, 0


@dataclass(frozen=True)
class Cable:
    """The cable as the lead's end sees it.

    Attributes:
        prefix: put before a command, it runs at the sites' end.
    """

    prefix: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """What went over it, both directions, each byte once."""
        return sum(counted(_CABLE))


@contextmanager
def cable() -> Iterator[Cable]:
    """Lays a cable from this namespace, which must be one of our own, to a new one.

    Raises:
        StateError: ``state_missing``, the system's tools refuse.
    """
    _ip("link", "set", "lo", "up")
    keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])  # noqa: S607
    try:
        _await_namespace(keeper.pid)
        there = ("nsenter", "--target", str(keeper.pid), "--net")
        _ip("link", "add", _CABLE, "mtu", _MTU, "type", "veth", "peer", "name", _FAR)
        _ip("link", "set", _FAR, "mtu", _MTU, "netns", str(keeper.pid))
        _ip("address", "add", f"{LEAD}/24", "dev", _CABLE)
        _ip("link", "set", _CABLE, "up")
        _ip("link", "set", "lo", "up", at=there)
        _ip("address", "add", f"{SITES}/24", "dev", _FAR, at=there)
        _ip("link", "set", _FAR, "up", at=there)
        yield Cable(there)
    finally:
        keeper.kill()
        keeper.wait()


def cut(seconds: float) -> None:
    """Takes the cable down at this process's end; it is up again after some seconds, whoever lives then."""
    here = Path("/proc/self/net/dev").read_text()  # of this namespace, which /sys need not be
    name = next(name for name in (_CABLE, _FAR) if f"{name}:" in here)
    _ip("link", "set", name, "down")
    again = f"sleep {seconds}; exec ip link set {name} up"
    subprocess.Popen(["sh", "-c", again], start_new_session=True)  # noqa: S607  # our own words


def _await_namespace(process: int) -> None:
    own, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + _START_S
    while Path(f"/proc/{process}/ns/net").readlink() == own:
        if time.monotonic() > deadline:
            raise StateError("state_missing", "A second network namespace was not made in time.")
        time.sleep(0.01)


def _ip(*arguments: str, at: tuple[str, ...] = ()) -> None:
    done = subprocess.run([*at, "ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise StateError("state_missing", f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
