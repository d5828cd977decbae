"""The HTTP proxy between this site and its lead, as the environment names it.

Both connections, httpx for Flower and gRPC for the consortium service, take the decision from here, because
they read the environment each in its own way: one knows ``HTTPS_PROXY``, the other only ``https_proxy``.
The proxy is asked to CONNECT; TLS goes through it from end to end, so it reads nothing.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from cloister.privacy.errors import TransportError


@dataclass(frozen=True)
class Proxy:
    """A proxy that takes CONNECT.

    Attributes:
        host, port: where it listens.
        url: all of it; it may hold a password.
        user, password: for it, "" for none.
    """

    host: str
    port: int
    url: str = field(repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def proxy_for(address: str, named: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy through which ``host:port`` is reached, None for none.

    Args:
        address: of the lead.
        named: scheme -> proxy; of the environment if None. ``https``, then ``all``; ``no`` lists hosts,
            domains and networks (``10.0.0.0/8``) that are reached directly.

    Raises:
        TransportError: ``proxy_refused``, what is named is no ``http://host:port``.
    """
    named = urllib.request.getproxies_environment() if named is None else named
    url = named.get("https") or named.get("all") or ""
    if not url or _direct(address, named):
        return None
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        parts, port = urlsplit("http:"), 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise TransportError(
            "proxy_refused",
            "The environment names a proxy that is not of the form http://host:port.",
            "Correct https_proxy, or unset it.",
        )
    return Proxy(parts.hostname, port, url, unquote(parts.username or ""), unquote(parts.password or ""))


def _direct(address: str, named: Mapping[str, str]) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if urllib.request.proxy_bypass_environment(host, dict(named)):  # type: ignore[attr-defined]
        return True
    try:
        own = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(_holds(part.strip(), own) for part in named.get("no", "").split(","))


def _holds(network: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return "/" in network and address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def grpc_options(address: str) -> list[tuple[str, int | str]]:
    """Channel options that make gRPC go the way of ``proxy_for``; raises as it."""
    proxy = proxy_for(address)
    if proxy is None:
        return [("grpc.enable_http_proxy", 0)]
    return [("grpc.enable_http_proxy", 1), ("grpc.http_proxy", proxy.url)]
