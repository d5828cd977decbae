"""Certificates as TLS sees them, and requests that must not be answered."""

from __future__ import annotations

import json
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.privacy.channel import tls
from cloister.privacy.channel.certificates import (
    Authority,
    common_name,
    fingerprint,
    key_pem,
    new_tls_key,
    signing_request,
    under_password,
)
from cloister.privacy.errors import ChannelError, StateError
from tests.waiting import LONG_S

VECTORS = Path(__file__).parents[2] / "vectors" / "channel"
REQUESTS = json.loads((VECTORS / "requests.json").read_text())
CERTIFICATE = (VECTORS / "certificate.pem").read_text()
# by `openssl x509 -in certificate.pem -noout -fingerprint -sha256`
FINGERPRINT = (VECTORS / "certificate.sha256").read_text().strip()

SITES, OPERATOR = Authority.create("hospitals sites"), Authority.create("hospitals operator")


def parsed(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def der(key: Any) -> bytes:
    return bytes(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


# Requests


def test_a_known_request_is_answered_for_its_key_and_the_name_of_the_authoritys_choice() -> None:
    pem = SITES.issue(REQUESTS["good"].encode(), "north", days=90)
    certificate = parsed(pem)
    assert der(certificate.public_key()).hex() == REQUESTS["public_key"]
    assert common_name(pem) == common_name(pem.decode()) == "north"
    certificate.verify_directly_issued_by(parsed(SITES.certificate_pem))
    with pytest.raises(ValueError):
        certificate.verify_directly_issued_by(parsed(OPERATOR.certificate_pem))


def test_a_certificate_is_a_clients_leaf_for_its_days() -> None:
    certificate = parsed(SITES.issue(signing_request(new_tls_key(), "x"), "north", days=90))
    days = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert days == timedelta(days=90, minutes=5)  # the minutes are for clocks that run behind
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


@pytest.mark.parametrize("case", REQUESTS["broken"], ids=lambda case: case["why"])
def test_broken_requests_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ChannelError) as caught:
        SITES.issue(case["pem"].encode(), "north")
    assert caught.value.id == "certificate_invalid"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_altered_request_is_refused_or_means_the_same(data: st.DataObject) -> None:
    good = x509.load_pem_x509_csr(REQUESTS["good"].encode()).public_bytes(serialization.Encoding.DER)
    altered = bytearray(good)
    altered[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    body = ssl.DER_cert_to_PEM_cert(bytes(altered)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    try:
        pem = SITES.issue(body.encode(), "north")
    except ChannelError:
        return
    assert der(parsed(pem).public_key()).hex() == REQUESTS["public_key"]


# Reading


def test_the_fingerprint_is_that_of_openssl() -> None:
    assert fingerprint(CERTIFICATE) == fingerprint(CERTIFICATE.encode()) == FINGERPRINT
    assert common_name(CERTIFICATE) == "north"


@pytest.mark.parametrize("pem", ["", "certificate", "\u00fc", CERTIFICATE[:200], REQUESTS["good"]])
@pytest.mark.parametrize("read", [fingerprint, common_name])
def test_what_is_no_certificate_is_refused(read: Any, pem: str) -> None:
    for data in (pem, pem.encode()):
        with pytest.raises(ChannelError) as caught:
            read(data)
        assert caught.value.id == "certificate_invalid"


def test_a_certificate_with_a_malformed_subject_is_refused() -> None:
    """Its outside holds: the subject is parsed only when it is asked for."""
    good = parsed(CERTIFICATE.encode()).public_bytes(serialization.Encoding.DER)
    assert good.count(b"\x0c\x05north") == 1
    altered = good.replace(b"\x0c\x05north", b"\x0d\x05north")  # no kind of text
    with pytest.raises(ChannelError) as caught:
        common_name(ssl.DER_cert_to_PEM_cert(altered))
    assert caught.value.id == "certificate_invalid"


# Authorities on disk


def test_an_authority_survives_its_folder(tmp_path: Path) -> None:
    SITES.save(tmp_path, "sites")
    loaded = Authority.load(tmp_path, "sites")
    assert loaded.certificate_pem == SITES.certificate_pem
    assert (tmp_path / "sites.key").stat().st_mode & 0o777 == 0o600
    pem = loaded.issue(signing_request(new_tls_key(), "x"), "north")
    parsed(pem).verify_directly_issued_by(parsed(SITES.certificate_pem))


@pytest.mark.parametrize("missing", ["sites.key", "sites.pem"])
def test_half_an_authority_is_none(tmp_path: Path, missing: str) -> None:
    SITES.save(tmp_path, "sites")
    (tmp_path / missing).unlink()
    with pytest.raises(StateError) as caught:
        Authority.load(tmp_path, "sites")
    assert caught.value.id == "state_missing"


def test_an_authority_whose_key_others_can_read_is_refused(tmp_path: Path) -> None:
    SITES.save(tmp_path, "sites")
    (tmp_path / "sites.key").chmod(0o640)
    with pytest.raises(StateError) as caught:
        Authority.load(tmp_path, "sites")
    assert caught.value.id == "permissions"


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("sites.key", b""),
        ("sites.key", b"key"),
        ("sites.key", key_pem(new_tls_key())),
        ("sites.pem", b""),
        ("sites.pem", OPERATOR.certificate_pem),
    ],
    ids=["no key", "no PEM", "another key", "no certificate", "another certificate"],
)
def test_a_damaged_authority_is_refused(tmp_path: Path, file: str, data: bytes) -> None:
    SITES.save(tmp_path, "sites")
    (tmp_path / file).write_bytes(data)
    with pytest.raises(StateError) as caught:
        Authority.load(tmp_path, "sites")
    assert caught.value.id == "state_damaged"


# TLS, in memory


class Ends:
    """A server and a client of mutual TLS, each from PEM files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def server(self, pair: tuple[bytes, bytes], trusts: Authority) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file("s.pem", pair[1]), self.file("s.key", pair[0]))
        context.load_verify_locations(cadata=trusts.certificate_pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
        return context

    def client(self, pair: tuple[bytes, bytes], trusts: Authority) -> ssl.SSLContext:
        context = tls.client_context(
            self.file("a.pem", trusts.certificate_pem),
            self.file("c.pem", pair[1]),
            self.file("c.key", pair[0]),
        )
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context


def shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """The version agreed on; ``SSLError`` where an end refuses the other."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends[1].write(b"x")
    assert ends[0].read(1) == b"x"
    return ends[0].version()


def refused(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> bool:
    with pytest.raises(ssl.SSLError) as caught:
        shake(server, client, host)
    return not isinstance(caught.value, ssl.SSLWantReadError)  # that would be a handshake without an end


SERVER = SITES.server("lead", ("localhost", "127.0.0.1", "::1"))
NORTH = SITES.client("north")


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_both_ends_accept_each_other_over_tls_13(ends: Ends, host: str) -> None:
    assert shake(ends.server(SERVER, SITES), ends.client(NORTH, SITES), host) == "TLSv1.3"


def test_a_certificate_that_answers_a_request_is_accepted(ends: Ends) -> None:
    key = new_tls_key()
    pair = key_pem(key), SITES.issue(signing_request(key, "x"), "north")
    assert shake(ends.server(SERVER, SITES), ends.client(pair, SITES), "localhost") == "TLSv1.3"


@pytest.mark.parametrize(
    ("server", "trusts", "client", "trusted", "host"),
    [
        (SERVER, SITES, NORTH, SITES, "example.org"),
        (SERVER, SITES, NORTH, SITES, "10.0.0.1"),
        (SERVER, OPERATOR, NORTH, SITES, "localhost"),
        (SERVER, SITES, NORTH, OPERATOR, "localhost"),
        (SERVER, SITES, OPERATOR.client("operator"), SITES, "localhost"),
        (SERVER, SITES, SITES.client("north", days=-0.001), SITES, "localhost"),
        (SITES.server("lead", ("localhost",), days=-0.001), SITES, NORTH, SITES, "localhost"),
        (NORTH, SITES, NORTH, SITES, "localhost"),
        (SERVER, SITES, SERVER, SITES, "localhost"),
    ],
    ids=[
        "another host",
        "another address",
        "server trusts another authority",
        "client trusts another authority",
        "client of another authority",
        "client's certificate is over",
        "server's certificate is over",
        "a client as the server",
        "a server as a client",
    ],
)
def test_an_end_that_is_not_right_is_refused(
    ends: Ends, server: Any, trusts: Authority, client: Any, trusted: Authority, host: str
) -> None:
    assert refused(ends.server(server, trusts), ends.client(client, trusted), host)


def test_a_caller_refuses_tls_12(ends: Ends) -> None:
    server = ends.server(SERVER, SITES)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    assert refused(server, ends.client(NORTH, SITES))


def test_a_leaf_signs_nothing(ends: Ends) -> None:
    key = new_tls_key()
    leaf = Authority(key, SITES.issue(signing_request(key, "x"), "north"))
    assert refused(ends.server(SERVER, SITES), ends.client(leaf.client("south"), SITES))


def test_a_real_connection_shows_each_end_the_certificate_of_the_other(ends: Ends) -> None:
    server, client = ends.server(SERVER, SITES), ends.client(NORTH, SITES)

    def answer(listener: socket.socket) -> bytes | None:
        with listener.accept()[0] as plain, server.wrap_socket(plain, server_side=True) as line:
            line.sendall(line.recv(5))
            return line.getpeercert(binary_form=True)

    with ThreadPoolExecutor() as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONG_S)
        seen = pool.submit(answer, listener)
        plain = socket.create_connection(listener.getsockname(), timeout=LONG_S)
        with client.wrap_socket(plain, server_hostname="127.0.0.1") as line:
            line.sendall(b"hello")
            assert line.recv(5) == b"hello"
            assert line.version() == "TLSv1.3"
            shown = line.getpeercert(binary_form=True)
    assert shown == parsed(SERVER[1]).public_bytes(serialization.Encoding.DER)
    assert seen.result() == parsed(NORTH[1]).public_bytes(serialization.Encoding.DER)


# The chain, as a verifier that is not OpenSSL sees it


def builder(trusts: Authority) -> verification.PolicyBuilder:
    """Web rules, but for a client's names: a certificate of ours has none, it is known by its digest."""
    leaf = verification.ExtensionPolicy.permit_all().require_present(
        x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, None
    )
    return (
        verification.PolicyBuilder()
        .store(verification.Store([parsed(trusts.certificate_pem)]))
        .extension_policies(ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=leaf)
    )


def test_a_clients_chain_ends_at_its_own_authority_only() -> None:
    leaf = parsed(SITES.issue(signing_request(new_tls_key(), "x"), "north"))
    chain = builder(SITES).build_client_verifier().verify(leaf, []).chain
    assert chain == [leaf, parsed(SITES.certificate_pem)]
    with pytest.raises(verification.VerificationError):
        builder(OPERATOR).build_client_verifier().verify(leaf, [])


def test_a_servers_chain_holds_for_its_hosts_under_the_rules_of_the_web() -> None:
    store = verification.Store([parsed(SITES.certificate_pem)])
    leaf = parsed(SITES.server("lead", ("lead.example", "10.1.2.3"))[1])
    web = verification.PolicyBuilder().store(store)
    assert web.build_server_verifier(x509.DNSName("lead.example")).verify(leaf, [])[0] == leaf
    for other in (x509.DNSName("other.example"), x509.DNSName("a.lead.example")):
        with pytest.raises(verification.VerificationError):
            web.build_server_verifier(other).verify(leaf, [])


def test_a_key_under_a_password_opens_with_that_password_only(tmp_path: Path) -> None:
    key, certificate = SITES.client("north")
    files = Ends(tmp_path)
    trusted, own = files.file("a.pem", SITES.certificate_pem), files.file("c.pem", certificate)
    hidden = under_password(key, "a password")
    assert hidden.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert not set(hidden.splitlines()[1:-1]) & set(key.splitlines())
    tls.client_context(trusted, own, files.file("c.key", hidden), "a password")
    tls.client_context(trusted, own, files.file("clear.key", key), "not asked for")
    for wrong in ("", "another"):
        with pytest.raises(ChannelError) as caught:  # and nobody is asked at the terminal
            tls.client_context(trusted, own, tmp_path / "c.key", wrong)
        assert caught.value.id == "certificate_invalid"


@pytest.mark.parametrize("pem", [b"", b"garbage", under_password(SITES.client("north")[0], "one")])
def test_what_is_no_key_in_clear_is_damaged(pem: bytes) -> None:
    with pytest.raises(StateError) as caught:
        under_password(pem, "password")
    assert caught.value.id == "state_damaged"
