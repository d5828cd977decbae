"""Figures for Prometheus: what both sides count alike, and the endpoint that shows them.

An endpoint exists only where one is asked for, has no key and no password, and so belongs on the loopback
interface or behind a proxy that knows who may look. It shows operations: events, jobs, rounds, certificates,
memory. Nothing of it depends on a record but through the ledger, whose epsilon is public in the log: no loss,
no batch size, no norm, no accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock

from cryptography import x509
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cloister.privacy.errors import InputError, UsageError
from cloister.privacy.evidence.log import EventLog

Families = Callable[[], Iterable[Metric]]


class Tally(Collector):
    """How often each type of event was written, and each reason given; reads the log onwards at each look."""

    def __init__(self, log: EventLog) -> None:
        self._log, self._place, self._mutex = log, 0, Lock()
        self._types: Counter[str] = Counter()
        self._reasons: Counter[tuple[str, str]] = Counter()

    def collect(self) -> Iterator[Metric]:
        """Two counters."""
        with self._mutex:
            events, self._place = self._log.since(self._place)
            for event in events:
                self._types[event.type] += 1
                if isinstance(reason := event.body.get("reason"), str):
                    self._reasons[event.type, reason] += 1
        written = CounterMetricFamily("cloister_events", "Events written to the log.", labels=["type"])
        for kind, count in sorted(self._types.items()):
            written.add_metric([kind], count)
        yield written
        given = CounterMetricFamily(
            "cloister_event_reasons",
            "Events that give an error id as their reason.",
            labels=["type", "reason"],
        )
        for (kind, reason), count in sorted(self._reasons.items()):
            given.add_metric([kind, reason], count)
        yield given


class Figures(Collector):
    """Families that are worked out at each look."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The families."""
        return self._families()


def gauge(name: str, meaning: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """A gauge with one label; names end in their unit."""
    family = GaugeMetricFamily(f"cloister_{name}", meaning, labels=[label])
    for value, figure in values.items():
        family.add_metric([value], figure)
    return family


def ends(certificates: Mapping[str, bytes]) -> GaugeMetricFamily:
    """When certificates end, from their PEM."""
    found = {name: x509.load_pem_x509_certificate(pem) for name, pem in certificates.items()}
    return gauge(
        "certificate_end_timestamp_seconds",
        "When a certificate ends.",
        "certificate",
        {name: one.not_valid_after_utc.timestamp() for name, one in found.items()},
    )


@contextmanager
def endpoint(address: str, log: EventLog, families: Families) -> Iterator[None]:
    """Answers ``GET /metrics`` while it is open; nothing where ``address`` is empty.

    Args:
        address: ``HOST:PORT``, or ``PORT`` of the loopback interface.
        log: what is counted.
        families: the figures of this side.

    Raises:
        UsageError: ``option_invalid``, it is no address.
        InputError: ``port_in_use``.
    """
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(
            "option_invalid", f"{address} is not HOST:PORT.", "For example: --metrics 127.0.0.1:9464"
        )
    registry = CollectorRegistry()
    for collector in (Tally(log), Figures(families)):
        registry.register(collector)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(int(port), host or "127.0.0.1", registry)
    except OSError as error:
        raise InputError(
            "port_in_use", f"Metrics cannot be shown at {address}: {error.strerror}.", "Choose another port."
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
