"""The gate of the consortium service: every call passes it before anything of the service runs.

For each call, in this order: how often this certificate calls; TLS 1.3, hybrid post-quantum group and a
client certificate; a certificate that the lead issued and that has not expired; a method that its holder
may call. A fault of any kind ends the call with an error id and nothing else.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from cloister.privacy.channel.facts import NOT_SEEN, Facts
from cloister.privacy.errors import ChannelError, CloisterError, EnrolmentError, TransportError
from cloister.privacy.evidence.log import EventLog
from cloister.server.enrolment import Caller, Enrolment

_LOG = logging.getLogger(__name__)
_FOR_INVITES = "/cloister.Consortium/Enrol"
_REMEMBERED = 4096
"""Connections, and buckets, that are remembered; the oldest are forgotten first."""


@dataclass(frozen=True)
class Limits:
    """What one caller, and all together, may ask of the service.

    Attributes:
        rate: calls a second of one certificate, over time.
        burst: calls that one certificate may make at once.
        message: bytes of the largest message that is taken.
        streams: calls at the same time on one connection.
        calls: calls at the same time, all callers together; each connected site needs one.
    """

    rate: float = 20.0
    burst: int = 60
    message: int = 256 << 10
    streams: int = 16
    calls: int = 256


class Buckets:
    """A token bucket for each key: ``burst`` tokens, refilled at ``rate`` a second."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether there was a token for ``key``."""
        now = self._clock()
        level, then = self._levels.pop(key, (float(self._burst), now))
        level = min(self._burst, level + (now - then) * self._rate)
        allowed = level >= 1
        self._levels[key] = (level - 1 if allowed else level, now)
        if len(self._levels) > _REMEMBERED:
            self._levels.popitem(last=False)
        return allowed


class Gate(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Stands before every method of the server, health included.

    Args:
        enrolment: knows whose certificate is whose.
        log: the lead's event log.
        certificate: fingerprint of the lead's server certificate.
        limits: how often a caller may call.
    """

    def __init__(self, enrolment: Enrolment, log: EventLog, certificate: str, limits: Limits) -> None:
        self._enrolment = enrolment
        self._log = log
        self._certificate = certificate
        self._buckets = Buckets(limits.rate, limits.burst)
        self._muted: set[str] = set()
        self._connections: OrderedDict[tuple[str, str], None] = OrderedDict()

    def facts(self, context: Any) -> Facts:
        """What is known of a call's connection."""
        return Facts.seen(context.auth_context(), self._certificate)

    def caller(self, context: Any) -> Caller:
        """Who calls, by the certificate of the connection."""
        return self._enrolment.caller(self.facts(context).client)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wraps a method; one of a shape that the service does not use is treated as unknown."""
        handler = continuation(details)
        if handler is None:
            return None
        if handler.unary_unary:
            make, guarded = grpc.unary_unary_rpc_method_handler, self._unary(handler, details.method)
        elif handler.unary_stream:
            make, guarded = grpc.unary_stream_rpc_method_handler, self._stream(handler, details.method)
        else:
            return None
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _unary(self, handler: Any, method: str) -> Callable[[Any, Any], Any]:
        def guarded(request: Any, context: Any) -> Any:
            try:
                self._admit(method, context)
                return handler.unary_unary(request, context)
            except Exception as error:
                refuse(context, error)

        return guarded

    def _stream(self, handler: Any, method: str) -> Callable[[Any, Any], Iterator[Any]]:
        def guarded(request: Any, context: Any) -> Iterator[Any]:
            try:
                self._admit(method, context)
                yield from handler.unary_stream(request, context)
            except Exception as error:
                refuse(context, error)

        return guarded
