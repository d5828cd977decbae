"""The gate of the consortium service: every call passes it before anything of the service runs.

For each call, in this order: how often this certificate calls; TLS 1.3, hybrid post-quantum group and a
client certificate; a certificate that the lead issued and that has not expired; a method that its holder
may call. A fault of any kind ends the call with an error id and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from cloister.privacy.channel.facts import Facts
from cloister.privacy.errors import ChannelError, CloisterError, EnrolmentError, TransportError
from cloister.privacy.evidence.log import EventLog
from cloister.server.enrolment import Enrolment
from cloister.server.membership import Caller

logger = logging.getLogger(__name__)
_FOR_INVITES = "/cloister.Consortium/Enrol"
_FOR_FORMER = "/cloister.Consortium/Succeed"
_METHODS = {
    "/grpc.health.v1.Health/Check",
    *(
        f"/cloister.Consortium/{name}"
        for name in (
            *("Open", "Enrol", "Roster", "Offer", "Proposals", "Decide", "Status", "Watch", "Exchange"),
            *("Heads", "Succeed", "Successions", "Withdraw", "Wanted", "HandOver", "Bundle", "Sign"),
            *("Endorse", "Endorsements", "Policy"),
        )
    ),
}
_CODES = {"rate_limited": grpc.StatusCode.RESOURCE_EXHAUSTED}
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
        calls: calls at the same time, all callers together; each connected site needs two that stay open
            (``Watch`` and ``Exchange``), and one more for a moment whenever it asks for something.
    """

    rate: float = 20.0
    burst: int = 60
    message: int = 256 << 10
    streams: int = 16
    calls: int = 512


LIMITS = Limits()


class Buckets:
    """A token bucket for each key: ``burst`` tokens, refilled at ``rate`` a second."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._mutex = threading.Lock()
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether there was a token for ``key``."""
        with self._mutex:
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
        self._noted = _Noted()

    def facts(self, context: Any) -> Facts:
        """What is known of a call's connection."""
        return Facts.seen(context.auth_context(), self._certificate)

    def caller(self, context: Any) -> Caller:
        """Who calls, by the certificate of the connection."""
        return self._enrolment.caller(self.facts(context).client)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Wraps the methods that are listed here; every other one is treated as unknown."""
        handler = continuation(details) if details.method in _METHODS else None
        if handler is not None and handler.unary_unary:
            call = handler.unary_unary
            make, guarded = grpc.unary_unary_rpc_method_handler, self._unary(call, details.method)
        elif handler is not None and handler.stream_unary:
            call = handler.stream_unary
            make, guarded = grpc.stream_unary_rpc_method_handler, self._unary(call, details.method)
        elif handler is not None and handler.unary_stream:
            call = handler.unary_stream
            make, guarded = grpc.unary_stream_rpc_method_handler, self._stream(call, details.method)
        elif handler is not None and handler.stream_stream:
            call = handler.stream_stream
            make, guarded = grpc.stream_stream_rpc_method_handler, self._stream(call, details.method)
        else:
            return None
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    def _unary(self, call: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Any]:
        def guarded(request: Any, context: Any) -> Any:
            with _fence(context):
                self._admit(method, context)
                return call(request, context)

        return guarded

    def _stream(self, call: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Iterator[Any]]:
        def guarded(request: Any, context: Any) -> Iterator[Any]:
            with _fence(context):
                self._admit(method, context)
                yield from call(request, context)

        return guarded

    def _admit(self, method: str, context: Any) -> None:
        facts = self.facts(context)
        if not self._buckets.take(facts.client):
            self._refused("auth.failed", facts, "rate_limited")
            raise TransportError("rate_limited", "A caller makes too many calls.")
        try:
            facts.check()
            caller = self._enrolment.caller(facts.client)
        except ChannelError as error:
            self._refused("channel.refused", facts, error.id)
            raise
        if caller.invite and method != _FOR_INVITES:
            self._refused("auth.failed", facts, "not_enrolled")
            raise EnrolmentError("not_enrolled", f"An invite for {caller.name} was used to call {method}.")
        if caller.former and method != _FOR_FORMER:
            self._refused("channel.refused", facts, "certificate_invalid")
            raise ChannelError("certificate_invalid", f"{caller.name} has a newer certificate.")
        if self._noted.first(context.peer(), facts.client):
            remote, local = facts.client, self._certificate
            self._log.append("channel.opened", party=caller.name, **facts.fields(local, remote))

    def _refused(self, kind: str, facts: Facts, reason: str) -> None:
        """Logs a refusal, each reason and caller once a minute: nobody fills the disk through the log."""
        if not self._noted.first(reason, facts.client, int(time.monotonic() // 60)):
            return
        fields: dict[str, Any] = {"route": "consortium", "reason": reason}
        if kind == "auth.failed":
            fields |= {"method": "mtls", **({"certificate": facts.client} if facts.client else {})}
        else:
            fields |= {"tls": facts.tls, "group": facts.group}
            fields |= {"remote": facts.client} if facts.client else {}
        self._log.append(kind, **fields)


class _Noted:
    """What was noted already, at most ``_REMEMBERED`` of it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._seen: OrderedDict[tuple[Any, ...], None] = OrderedDict()

    def first(self, *key: Any) -> bool:
        """Whether ``key`` is new; it is noted now."""
        with self._mutex:
            if key in self._seen:
                return False
            self._seen[key] = None
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            return True


@contextmanager
def _fence(context: Any) -> Iterator[None]:
    """Lets nothing but the id of an error through to the caller."""
    try:
        yield
    except CloisterError as error:
        context.abort(_CODES.get(error.id, grpc.StatusCode.PERMISSION_DENIED), error.id)
    except Exception:
        logger.exception("A call of the consortium service failed.")
        context.abort(grpc.StatusCode.INTERNAL, "internal")
