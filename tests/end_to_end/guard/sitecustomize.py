"""Python imports this at its start: notes every attempt to reach anything but this machine.

What is noted goes to the file that ``OUTSIDE`` names. C code (gRPC) does not pass here; the test in a
network of its own covers it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

_FILE = Path(os.environ["OUTSIDE"])
_INSIDE = ("127.", "::1", "localhost")


def _note(host: object) -> None:
    name = host.decode() if isinstance(host, bytes) else str(host)
    if host is not None and not name.startswith(_INSIDE):
        with _FILE.open("a") as file:
            file.write(f"{name}\n")


def _guarded(name: str) -> None:
    real = getattr(socket.socket, name)

    def connect(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple):
            _note(address[0])
        return real(self, address)

    setattr(socket.socket, name, connect)


def _looked_up(name: str) -> None:
    real = getattr(socket, name)

    def look(host: Any, *arguments: Any, **options: Any) -> Any:
        _note(host)
        return real(host, *arguments, **options)

    setattr(socket, name, look)


for method in ("connect", "connect_ex"):
    _guarded(method)
for function in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    _looked_up(function)
