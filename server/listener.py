"""A TLS listener for an ASGI app: uvicorn, with mutual TLS 1.3 and the caller's name in every call.

Formal guarantees:
    A call reaches the app only over TLS 1.3 and under a certificate that the listener's authority
    signed; the common name of that certificate is in the call's state as ``certificate``, its
    fingerprint as ``fingerprint``.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import uvicorn
from pydantic import Field
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cloister.privacy.channel.facts import ListenerSide
from cloister.privacy.errors import ChannelError, InputError, UsageError
from cloister.privacy.frozen import Part
from cloister.server.longpoll import App

_KEEP_ALIVE, _LAST_WORDS = 75, 1  # seconds; callers that do not read never say goodbye

File = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Door(Part):
    """One listener.

    Attributes:
        port: 0 lets the system choose.
        authority: file with the certificate that vouches for callers, PEM.
        certificate: file with the listener's own certificate, PEM.
        key: file with the key of that certificate, PEM.
    """

    port: Port = 0
    authority: File
    certificate: File
    key: File


Seen: TypeAlias = Callable[[ListenerSide], None]
"""Told what this end sees of a connection."""


class _Peer(HttpToolsProtocol):
    """Puts common name and fingerprint of the caller's certificate into the state of every call."""

    seen: ClassVar[Seen]

    def connection_made(self, transport: Any) -> None:
        """A connection whose handshake is done; its certificate was verified."""
        super().connection_made(transport)
        subject = transport.get_extra_info("peercert").get("subject", ())
        names = [value for part in subject for kind, value in part if kind == "commonName"]
        facts = ListenerSide.seen(transport.get_extra_info("ssl_object"), names[0] if names else "")
        self.app_state = {**self.app_state, "certificate": facts.name, "fingerprint": facts.client}
        type(self).seen(facts)


class Listener(uvicorn.Server):
    """A uvicorn server that says when it is ready and leaves signals to us."""

    def __init__(
        self,
        gate: App,
        door: Door,
        lifespan: Literal["on", "off"],
        password: str = "",
        seen: Seen = lambda _: None,
    ) -> None:
        config = uvicorn.Config(
            gate,
            http=type("_Reporting", (_Peer,), {"seen": staticmethod(seen)}),
            ws="none",
            lifespan=lifespan,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_LAST_WORDS,
            ssl_certfile=door.certificate,
            ssl_keyfile=door.key,
            ssl_keyfile_password=password,
            ssl_ca_certs=door.authority,
            ssl_cert_reqs=ssl.CERT_REQUIRED,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise ChannelError(
                "certificate_invalid", f"{door.certificate}, its key or {door.authority} cannot be used."
            ) from error
        if config.ssl is None:
            raise ChannelError("certificate_invalid", f"{door.certificate} was not used.")
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to accept connections."""
        await super().startup(sockets)
        if self.started:
            self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Two servers must not fight over signals."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: ``port_in_use``.
        UsageError: ``option_invalid``, the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise InputError(
                "port_in_use",
                f"Port {port} of {host} is taken.",
                "Stop the other program or change the port.",
            ) from error
        raise UsageError("option_invalid", f"{host} cannot be listened on: {error.strerror}.") from error


def address(bound: socket.socket) -> str:
    """``host:port`` of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
