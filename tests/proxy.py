"""A tiny HTTP proxy on loopback that takes CONNECT, and says what it was asked for.

with ConnectProxy() as proxy:
    monkeypatch.setenv("https_proxy", proxy.url)
    ...
assert proxy.asked == ["localhost:8441"]
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class ConnectProxy:
    """A proxy in threads; it refuses every CONNECT with 403 if ``refuses``."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.asked: list[str] = []
        self.carried: list[int] = []  # bytes of each piece that went through
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._server, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                self._open.append(caller)
                threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (more := caller.recv(1)):
                    return
                head += more
            method, target, _ = head.split(b"\r\n")[0].decode().split()
            assert method == "CONNECT"
            self.asked.append(target)
            if self.refuses:
                caller.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                caller.close()
                return
            host, _, port = target.rpartition(":")
            there = socket.create_connection((host.strip("[]"), int(port)))
            self._open.append(there)
            caller.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=self._copy, args=(there, caller), daemon=True).start()
            self._copy(caller, there)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.carried.append(len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
