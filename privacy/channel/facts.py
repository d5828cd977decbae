"""What one end saw of a TLS connection, and whether that is enough.

The lead's end sees all of it (gRPC's ``auth_context``); a site's end sees none of it through gRPC's
Python interface, so the lead states what it saw, signed by its identity over a nonce of the site.

Formal guarantees:
    ``check`` passes only connections of TLS 1.3 with a hybrid post-quantum group and a client
    certificate; what was not seen counts as absent. The statement proves to a site that the holder of
    the lead's keys saw a connection under the site's own certificate. It does not bind the TLS session
    itself (gRPC's Python interface gives no exporter), so an attacker who can forge the certificates
    of both ends could relay it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloister.privacy import canonical
from cloister.privacy.channel.certificates import fingerprint
from cloister.privacy.errors import ChannelError

FACTS_CONTEXT = "cloister/channel/1"
TLS_13 = "1.3"
POST_QUANTUM = frozenset({"X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024"})
"""The hybrid groups of draft-ietf-tls-ecdhe-mlkem."""

NOT_SEEN, OTHER = "not-seen", "other"
_CIPHERS = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
_VERSIONS = {"": NOT_SEEN, "TLSv1.3": TLS_13, "TLSv1.2": "1.2"}
_GROUPS = {"": NOT_SEEN, "X25519": "X25519", "prime256v1": "P-256", "secp384r1": "P-384"} | {
    name: name for name in POST_QUANTUM
}
_MEMBERS = ("client", "group", "nonce", "server", "tls")


@dataclass(frozen=True)
class Facts:
    """One connection.

    Attributes:
        tls: ``1.3``, ``1.2`` or ``not-seen``.
        group: name of the key exchange group, ``other`` or ``not-seen``.
        client: fingerprint of the caller's certificate, "" where there is none.
        server: fingerprint of the lead's certificate.
    """

    tls: str
    group: str
    client: str
    server: str

    @classmethod
    def seen(cls, context: Mapping[str, Sequence[bytes]], server: str) -> Facts:
        """The facts in gRPC's ``auth_context`` at the lead.

        Args:
            context: property -> its values.
            server: fingerprint of the lead's own certificate.

        Raises:
            ChannelError: ``certificate_invalid``, the caller's certificate is malformed.
        """
        certificate = _first(context, "x509_pem_cert")
        return cls(
            tls=_VERSIONS.get(_first(context, "ssl_tls_version"), NOT_SEEN),
            group=_GROUPS.get(_first(context, "ssl_negotiated_key_exchange_group"), OTHER),
            client=fingerprint(certificate.encode()) if certificate else "",
            server=server,
        )

    def check(self) -> None:
        """Refuses a connection that is not good enough.

        Raises:
            ChannelError: ``client_cert_missing``, ``tls_version_too_low`` or ``tls_group_not_pq``.
        """
        if not self.client:
            raise ChannelError("client_cert_missing", "The caller presented no certificate.")
        if self.tls != TLS_13:
            raise ChannelError("tls_version_too_low", f"The connection is of TLS {self.tls}; 1.3 is needed.")
        if self.group not in POST_QUANTUM:
            raise ChannelError(
                "tls_group_not_pq",
                f"The key exchange of the connection is {self.group}, not a hybrid post-quantum group.",
            )

    def statement(self, nonce: bytes) -> bytes:
        """The canonical bytes that the lead signs."""
        return canonical.encode({**vars(self), "nonce": nonce.hex()})

    @classmethod
    def stated(cls, data: bytes, nonce: bytes, client: str) -> Facts:
        """The facts of a statement whose signature was verified, checked.

        Args:
            data: what the lead signed.
            nonce: what this site sent.
            client: fingerprint of the certificate that this site presented.

        Raises:
            ChannelError: ``wrong_context``, the statement is on another connection; or as ``check``.
        """
        refusal = ChannelError("wrong_context", "The lead's statement is not on this connection.")
        value: Any = canonical.decode(data, otherwise=refusal)
        if not _is_statement(value) or value.pop("nonce") != nonce.hex() or value["client"] != client:
            raise refusal
        facts = cls(**value)
        facts.check()
        return facts

    def fields(self, local: str, remote: str) -> dict[str, Any]:
        """The fields of an event on this connection, seen from the end whose certificate is ``local``."""
        seen = {"tls": self.tls, "cipher": NOT_SEEN, "group": self.group}
        return {"route": "consortium", **seen, "local": local, "remote": remote}


@dataclass(frozen=True)
class CallerSide:
    """What a caller's own end sees of a connection of Python's ``ssl``, which does not tell the group.

    Attributes:
        tls: as in ``Facts``.
        cipher: name of the cipher suite, ``other`` or ``not-seen``.
        server: fingerprint of the certificate that the other end showed.
    """

    tls: str
    cipher: str
    server: str

    @classmethod
    def seen(cls, connection: Any) -> CallerSide | None:
        """The facts of an open connection (``ssl.SSLSocket`` or ``ssl.SSLObject``); None for a closed one."""
        try:
            version, chosen = connection.version(), connection.cipher()
            shown = connection.getpeercert(True)  # by place: the object that httpx gives knows no names
        except (OSError, ValueError):
            return None
        if not (version and chosen and shown):
            return None
        cipher = chosen[0] if chosen[0] in _CIPHERS else OTHER
        return cls(_VERSIONS.get(version, NOT_SEEN), cipher, canonical.digest(shown))

    def fields(self, local: str) -> dict[str, Any]:
        """The fields of an event on this connection to Flower; ``local`` is this end's certificate."""
        seen = {"tls": self.tls, "cipher": self.cipher, "group": NOT_SEEN}
        return {"route": "flower", **seen, "local": local, "remote": self.server}


@dataclass(frozen=True)
class ListenerSide:
    """What a listener's own end sees of a connection of Python's ``ssl``, which does not tell the group.

    Attributes:
        name: the common name of the caller's certificate.
        tls, cipher: as in ``CallerSide``.
        client: fingerprint of the certificate that the caller showed.
    """

    name: str
    tls: str
    cipher: str
    client: str

    @classmethod
    def seen(cls, connection: Any, name: str) -> ListenerSide:
        """The facts of a connection (``ssl.SSLObject``) whose caller was verified."""
        version, chosen = connection.version(), connection.cipher()
        cipher = chosen[0] if chosen and chosen[0] in _CIPHERS else OTHER
        shown = canonical.digest(connection.getpeercert(True))
        return cls(name, _VERSIONS.get(version or "", NOT_SEEN), cipher, shown)

    def fields(self, local: str) -> dict[str, Any]:
        """The fields of an event on this connection to Flower; ``local`` is this end's certificate."""
        seen = {"tls": self.tls, "cipher": self.cipher, "group": NOT_SEEN}
        return {"route": "flower", **seen, "local": local, "remote": self.client}

    def told(self) -> dict[str, str]:
        """As JSON, for the process that keeps the log; ``ListenerSide(**told)`` reads it."""
        return dict(vars(self))


def _is_statement(value: object) -> bool:
    if not isinstance(value, dict) or tuple(sorted(value)) != _MEMBERS:
        return False
    words = value["tls"] in (*_VERSIONS.values(),) and value["group"] in (*_GROUPS.values(), OTHER)
    return words and canonical.is_digest(value["client"]) and canonical.is_digest(value["server"])


def _first(context: Mapping[str, Sequence[bytes]], name: str) -> str:
    values = context.get(name, ())
    return values[0].decode("utf-8", "replace") if values else ""
