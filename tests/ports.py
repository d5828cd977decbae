"""Ports of loopback that nobody takes between the moment they are found and the moment they are listened on.

The system gives its own ports (``bind`` to 0, and every connection that goes out) to whoever asks next, so
one that was free a moment ago may be in use when a server at last starts. Those here lie below that range,
and each process of tests has a block of its own for as long as it runs.
"""

from __future__ import annotations

import atexit
import socket
from itertools import cycle

_BLOCKS = range(10_000, 20_000, 100)
"""Below 32,768, where Linux's own begin, and below those of ``simulations.processes.free_ports``."""


def free_port() -> int:
    """A port that nothing listens on; it is not given again before all others of the block were."""
    return next(port for port in _ports if _free(port))


def _free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _claim() -> tuple[socket.socket, range]:
    """The first block that no other process has: its name is taken until this process ends."""
    for start in _BLOCKS:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0cloister-tests-{start}")
        except OSError:
            name.close()
        else:
            return name, range(start, start + _BLOCKS.step)
    raise OSError("no block of ports is left for this process of tests")


_name, _block = _claim()
atexit.register(_name.close)
_ports = cycle(_block)
