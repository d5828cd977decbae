from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.privacy import canonical
from cloister.privacy.channel.certificates import Authority, fingerprint
from cloister.privacy.channel.facts import POST_QUANTUM, CallerSide, Facts, ListenerSide
from cloister.privacy.channel.tls import client_context
from cloister.privacy.errors import ChannelError

CERTIFICATE = Authority.create("a").client("north")[1]
OWN, SERVER = fingerprint(CERTIFICATE), canonical.digest(b"server")
GOOD = {
    "ssl_tls_version": [b"TLSv1.3"],
    "ssl_negotiated_key_exchange_group": [b"X25519MLKEM768"],
    "x509_pem_cert": [CERTIFICATE],
}
NONCE = b"\1" * 32


def reason(**changes: list[bytes] | None) -> str:
    """The id with which an ``auth_context`` is refused."""
    context = {name: value for name, value in (GOOD | changes).items() if value is not None}
    with pytest.raises(ChannelError) as caught:
        Facts.seen(context, SERVER).check()
    return caught.value.id


def test_a_good_connection_passes() -> None:
    facts = Facts.seen(GOOD, SERVER)
    facts.check()
    assert facts == Facts("1.3", "X25519MLKEM768", OWN, SERVER)


@pytest.mark.parametrize(
    "version", [None, [], [b""], [b"TLSv1.2"], [b"TLSv1.1"], [b"1.3"], [b"\xff"]], ids=repr
)
def test_any_other_version_is_refused(version: list[bytes] | None) -> None:
    assert reason(ssl_tls_version=version) == "tls_version_too_low"


@pytest.mark.parametrize(
    "group", [None, [], [b""], [b"X25519"], [b"prime256v1"], [b"MLKEM1024"], [b"x25519mlkem768"]], ids=repr
)
def test_any_other_group_is_refused(group: list[bytes] | None) -> None:
    assert reason(ssl_negotiated_key_exchange_group=group) == "tls_group_not_pq"


@pytest.mark.parametrize("certificate", [None, [], [b""]], ids=repr)
def test_no_certificate_is_refused(certificate: list[bytes] | None) -> None:
    assert reason(x509_pem_cert=certificate) == "client_cert_missing"


def test_a_malformed_certificate_is_refused() -> None:
    assert reason(x509_pem_cert=[b"-----BEGIN CERTIFICATE-----"]) == "certificate_invalid"


@given(st.binary(max_size=30))
def test_no_other_name_of_a_group_passes(name: bytes) -> None:
    facts = Facts.seen(GOOD | {"ssl_negotiated_key_exchange_group": [name]}, SERVER)
    if name.decode("utf-8", "replace") not in POST_QUANTUM:
        with pytest.raises(ChannelError):
            facts.check()


def test_a_statement_tells_the_same_facts() -> None:
    facts = Facts.seen(GOOD, SERVER)
    assert Facts.stated(facts.statement(NONCE), NONCE, OWN) == facts


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nonce": "00" * 32}, "wrong_context"),
        ({"client": SERVER}, "wrong_context"),
        ({"server": "none"}, "wrong_context"),
        ({"more": 1}, "wrong_context"),
        ({"tls": ["1.3"]}, "wrong_context"),
        ({"group": "ROT13"}, "wrong_context"),
        ({"tls": "1.2"}, "tls_version_too_low"),
        ({"group": "X25519"}, "tls_group_not_pq"),
        ({"group": "not-seen"}, "tls_group_not_pq"),
    ],
)
def test_a_statement_on_anything_else_is_refused(changes: dict[str, Any], expected: str) -> None:
    value = canonical.decode(Facts.seen(GOOD, SERVER).statement(NONCE)) | changes
    with pytest.raises(ChannelError) as caught:
        Facts.stated(canonical.encode(value), NONCE, OWN)
    assert caught.value.id == expected


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'"x"', b"{ }", b"\xff"])
def test_bytes_that_are_no_statement_are_refused(data: bytes) -> None:
    with pytest.raises(ChannelError) as caught:
        Facts.stated(data, NONCE, OWN)
    assert caught.value.id == "wrong_context"


def connected(folder: Path) -> tuple[list[ssl.SSLObject], list[bytes]]:
    """Both ends of a connection of TLS 1.3, the caller's first, and their certificates, PEM."""
    authority = Authority.create("sites")
    pairs = {"north": authority.client("north"), "server": authority.server("server", ("localhost",))}
    authority.save(folder, "sites")
    for name, (key, certificate) in pairs.items():
        (folder / f"{name}.key").write_bytes(key)
        (folder / f"{name}.pem").write_bytes(certificate)
    caller = client_context(folder / "sites.pem", folder / "north.pem", folder / "north.key")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.load_verify_locations(folder / "sites.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        caller.wrap_bio(one, other, server_hostname="localhost"),
        server.wrap_bio(other, one, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    return ends, [certificate for _, certificate in pairs.values()]


def test_a_caller_sees_version_cipher_and_the_other_certificate_itself(tmp_path: Path) -> None:
    (connection, _), (_, certificate) = connected(tmp_path)
    seen = CallerSide.seen(connection)
    assert seen is not None
    assert (seen.tls, seen.server) == ("1.3", fingerprint(certificate))
    assert seen.cipher.startswith("TLS_")
    assert seen.fields(OWN) == {
        "route": "flower",
        "tls": "1.3",
        "cipher": seen.cipher,
        "group": "not-seen",
        "local": OWN,
        "remote": fingerprint(certificate),
    }


def test_a_listener_sees_the_same_from_the_other_end(tmp_path: Path) -> None:
    (caller, listener), (own, certificate) = connected(tmp_path)
    seen, theirs = ListenerSide.seen(listener, "north"), CallerSide.seen(caller)
    assert theirs is not None
    assert (seen.tls, seen.cipher, seen.client) == ("1.3", theirs.cipher, fingerprint(own))
    event, other = seen.fields(fingerprint(certificate)), theirs.fields(fingerprint(own))
    assert event == {**other, "local": other["remote"], "remote": other["local"]}
    assert ListenerSide(**canonical.decode(canonical.encode(dict(seen.told())))) == seen


def test_of_a_connection_that_is_not_open_nothing_is_seen() -> None:
    fresh = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a")
    assert CallerSide.seen(fresh) is None
