"""X.509 certificates for mutual TLS: P-256 with ECDSA, because TLS stacks refuse Ed25519 leaves.

A lead has two authorities: one signs sites and the server, the other signs the operator. So a site's
certificate opens nothing of the operator's.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloister.privacy import canonical, durable
from cloister.privacy.errors import ChannelError, StateError
from cloister.privacy.vault import CLEAR, Vault

_SKEW = timedelta(minutes=5)
_PEM, _PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
_AUTHORITY_DAYS = 3650


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key in PEM, PKCS #8, without a passphrase."""
    return key.private_bytes(_PEM, _PKCS8, serialization.NoEncryption())


def under_password(pem: bytes, password: str) -> bytes:
    """A private key in PEM under a password, for programs that read keys from files only.

    Raises:
        StateError: ``state_damaged``, ``pem`` is no key of a certificate.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StateError("state_damaged", "A TLS key is damaged.", "Restore it from a backup.") from error
    return key.private_bytes(_PEM, _PKCS8, serialization.BestAvailableEncryption(password.encode()))


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A request in PEM for a certificate over ``key``; the authority decides on every other field."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(_PEM)


def fingerprint(pem: bytes | str) -> str:
    """``sha256:…`` of a certificate's DER bytes.

    Raises:
        ChannelError: ``certificate_invalid``.
    """
    return canonical.digest(_certificate(pem).public_bytes(serialization.Encoding.DER))


def common_name(pem: bytes | str) -> str:
    """The common name of a certificate, or ""; raises ``ChannelError`` ``certificate_invalid``."""
    names = _certificate(pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _certificate(pem: bytes | str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
        certificate.subject  # noqa: B018  # parsed only when asked for, so a malformed one is refused here
        return certificate
    except (ValueError, x509.InvalidVersion) as error:
        raise ChannelError(
            "certificate_invalid", "Something that should be a certificate is none."
        ) from error


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its key and its own certificate.

    Attributes:
        key: secret, P-256.
        certificate_pem: what others trust.
    """

    key: ec.EllipticCurvePrivateKey
    certificate_pem: bytes

    @classmethod
    def create(cls, name: str) -> Authority:
        """A new authority with a certificate of ten years."""
        key = new_tls_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key(), _AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        return cls(key, builder.sign(key, hashes.SHA256()).public_bytes(_PEM))

    def save(self, folder: Path, name: str, vault: Vault = CLEAR) -> None:
        """Writes ``NAME.key``, as ``vault`` keeps secrets, and ``NAME.pem``."""
        durable.write(folder / f"{name}.pem", self.certificate_pem, mode=0o644)
        vault.write(folder / f"{name}.key", key_pem(self.key))

    @classmethod
    def load(cls, folder: Path, name: str, vault: Vault = CLEAR) -> Authority:
        """Reads an authority that ``save`` wrote.

        Raises:
            StateError: ``state_missing``, ``state_damaged``, ``state_sealed`` or ``permissions``, others may
                read the key.
        """
        secret = vault.read(folder / f"{name}.key")
        try:
            key = serialization.load_pem_private_key(secret, password=None)
            pem = (folder / f"{name}.pem").read_bytes()
            certified = _certificate(pem).public_key()
        except FileNotFoundError as error:
            raise StateError("state_missing", f"{folder} holds no authority {name}.") from error
        except (ValueError, TypeError, UnsupportedAlgorithm, ChannelError) as error:
            raise StateError("state_damaged", f"The authority {name} is damaged.") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certified:
            raise StateError("state_damaged", f"The authority {name} has a key of another kind.")
        return cls(key, pem)

    def issue(self, request_pem: bytes, name: str, days: float = 90) -> bytes:
        """A client certificate in PEM for ``name`` over the key of a request, whose own fields are ignored.

        Raises:
            ChannelError: ``certificate_invalid``, the request is malformed or not signed by its key.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem)
            valid, key = request.is_signature_valid, request.public_key()
        except (ValueError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise ChannelError("certificate_invalid", "A certificate request is malformed.") from error
        if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ChannelError("certificate_invalid", "A certificate request is not signed by a P-256 key.")
        return self._sign(key, name, days, ExtendedKeyUsageOID.CLIENT_AUTH)

    def client(self, name: str, days: float = 90) -> tuple[bytes, bytes]:
        """A new key and a client certificate for it, both PEM: for the operator and for invites."""
        key = new_tls_key()
        return key_pem(key), self._sign(key.public_key(), name, days, ExtendedKeyUsageOID.CLIENT_AUTH)

    def server(self, name: str, hosts: tuple[str, ...], days: float = 365) -> tuple[bytes, bytes]:
        """A new key and a server certificate for host names or addresses, both PEM."""
        key = new_tls_key()
        alternatives = x509.SubjectAlternativeName([_host(host) for host in hosts])
        return key_pem(key), self._sign(
            key.public_key(), name, days, ExtendedKeyUsageOID.SERVER_AUTH, alternatives
        )

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        days: float,
        purpose: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None = None,
    ) -> bytes:
        issuer = _certificate(self.certificate_pem).subject
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, issuer, key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(authority=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(own, critical=False)
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(_PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _SKEW).not_valid_after(now + timedelta(days=days))


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
