"""What ``cloister site doctor`` looks at: this machine, the site's folder, and the way to the lead."""

from __future__ import annotations

import base64
import http.client
import importlib.metadata
import os
import secrets
import socket
import sqlite3
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import psutil

from cloister.client.consortium import Line
from cloister.client.policy_review import policies
from cloister.client.proxy import Proxy, proxy_for
from cloister.client.reconciliation import compare
from cloister.client.site import sharing
from cloister.client.site.entries import VERSION, Entries
from cloister.client.site.folder import SECRETS, SiteFolder, Stored
from cloister.privacy import checkup, code, durable
from cloister.privacy.channel import certificates, tls
from cloister.privacy.channel.facts import FACTS_CONTEXT, Facts
from cloister.privacy.checkup import Finding, examine
from cloister.privacy.errors import CloisterError
from cloister.privacy.plan import Plan
from cloister.privacy.wire import consortium_pb2 as pb
from cloister.privacy.wire.signed import Signed

TIMEOUT_S = 10.0
TOLERATED_S, NOTED_S = 30.0, 2.0
_NVIDIA = Path("/proc/driver/nvidia/version")
_REJOIN = "Ask the lead for a new invite."
_FIREWALL = "Ask the network's administrators to let outbound TCP through, or set https_proxy."


def findings(site: SiteFolder, plans: tuple[Plan, ...] = ()) -> Iterator[Finding]:
    """Every check of a site, one after the other; the way to the lead only where it has joined.

    Args:
        site: its folder.
        plans: those that wait or run here: the installed code must be theirs.
    """
    yield checkup.permissions(site.path, os.geteuid(), SECRETS)
    yield checkup.disk(site.path)
    yield examine("writing", lambda: checkup.writing(site.path))
    yield checkup.memory(psutil.virtual_memory().available)
    yield gpu()
    yield ntp()
    yield examine("keys", lambda: keys(site))
    yield from policies(site)
    yield from versions(plans)
    yield examine("ledger", lambda: databases(site))
    yield examine("event log", lambda: checkup.log(site.path / "log", site.identity.public))
    if not site.joined:
        yield Finding("lead", "warning", "this site is not a member yet.", "cloister site join INVITE")
        return
    try:
        member, key = site.membership, site.tls_key
    except CloisterError as error:
        yield Finding("lead", "failed", f"{error.what} [{error.id}]", error.do)
        return
    yield checkup.certificate("site", member.certificate.encode(), datetime.now(UTC), _REJOIN)
    yield checkup.certificate("authority", member.authority.encode(), datetime.now(UTC), _REJOIN)
    yield from way(member, key)


def keys(site: SiteFolder) -> Finding:
    """Whether the keys of the site open; raises ``StateError`` or ``IdentityError``."""
    certificates.under_password(site.tls_key, "probe")
    how = "under the key of vault.json" if (site.path / "vault.json").exists() else "in clear (docs/keys.md)"
    return Finding("keys", "ok", f"the keys of {site.name} open; they are {how}.")


def databases(site: SiteFolder) -> Finding:
    """Whether SQLite finds the ledger whole, and it is what this folder's event log says.

    Raises:
        StateError: ``state_damaged`` or ``permissions`` of ``config.json``.
        LogError: ``event_malformed``.
    """
    path, shared = sharing.place(site), site.ledger is not None
    if not path.exists():
        if shared or sharing.logged(site):
            return Finding("ledger", "failed", f"{path} is gone.", "Put it back: docs/backup.md")
        return Finding("ledger", "ok", "there is none yet: no dataset was registered.")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            if database.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                return _held_to_log(site, Entries(database))
    except sqlite3.Error:
        pass
    return Finding("ledger", "failed", f"{path} is damaged.", "Restore it from a backup.")


def _held_to_log(site: SiteFolder, entries: Entries) -> Finding:
    found = compare(sharing.logged(site), entries.budgets(), entries.rows())
    who = entries.sharers() if entries.version == VERSION else ()
    what = f"SQLite finds {sharing.place(site)} whole, and it is what the event log says"
    if len(who) > 1:
        what += f"; {', '.join(one.path for one in who)} share it"
    late = [one.path for one in who if not one.settled]
    mine = site.ledger
    if found.altered:
        return Finding(
            "ledger", "failed", "rows are not what the event log says.", "Find out who wrote in it."
        )
    if mine is not None and mine.id not in {one.id for one in who}:
        return Finding(
            "ledger",
            "failed",
            f"{sharing.place(site)} does not know this folder.",
            f"cloister site share {sharing.home(site).path} --dir {site.path}",
        )
    if late:
        do = "Start the agent of each once; until then nothing is charged."
        return Finding("ledger", "failed", f"it may lack charges of {', '.join(late)}.", do)
    if found.charges:
        missing = f"it lacks {len(found.charges)} budgets or charges of the event log."
        return Finding("ledger", "warning", missing, "Start the agent: it adds them.")
    if found.notes and not found.interrupted:
        missing = f"{len(found.notes)} notes of what was spent or released are gone; charges are whole."
        return Finding("ledger", "warning", missing, "Nothing is to be done; say so to an auditor.")
    return Finding("ledger", "ok", f"{what}.")


def gpu() -> Finding:
    """Whether there is an NVIDIA driver; a site trains on its processor without one."""
    if _NVIDIA.exists():
        return Finding("gpu", "ok", "there is an NVIDIA driver; `site up --device cuda` uses the GPU.")
    return Finding("gpu", "ok", "there is no NVIDIA driver; training runs on the processor.")


def ntp() -> Finding:
    """Whether the system says that its clock is kept right."""
    command = ["/usr/bin/timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return Finding("ntp", "ok", "this system does not say; see the clock below.")
    if answer == "yes":
        return Finding("ntp", "ok", "the system keeps its clock synchronised.")
    return Finding("ntp", "warning", "the system's clock is not synchronised.", "timedatectl set-ntp true")


def versions(plans: tuple[Plan, ...]) -> Iterator[Finding]:
    """The versions that run here, and whether each plan names this code."""
    named = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("cloister", "flwr", "torch"))
    own = code.installed()
    yield Finding("versions", "ok", f"{named}; code {own[7:19]}.")
    for plan in plans:
        if plan.lead.code != own:
            yield Finding(
                "code",
                "failed",
                f"plan {plan.digest[7:19]} names code {plan.lead.code[7:19]}, not this.",
                "Install the release that the lead runs.",
            )


# The way to the lead


@dataclass(frozen=True)
class Reached:
    """A TLS connection that answered.

    Attributes:
        how: version and cipher.
        date: the other side's clock, None where it does not say.
        seconds: from question to answer.
    """

    how: str
    date: datetime | None
    seconds: float


def way(member: Stored, key: bytes) -> Iterator[Finding]:
    """Names, proxy, both ports under the site's certificate, and the lead's clock."""
    try:
        proxy = proxy_for(member.fleet)
    except CloisterError as error:
        yield Finding("proxy", "failed", f"{error.what} [{error.id}]", error.do)
        return
    if proxy is None:
        yield Finding("proxy", "ok", "the environment names none for the lead.")
        for host in sorted({_host(member.fleet), _host(member.service)}):
            yield resolved(host)
    else:
        yield Finding("proxy", "ok", f"{proxy.host}:{proxy.port} is asked to CONNECT; it resolves names.")
        yield resolved(proxy.host)
    yield from fleet(member, key, proxy)
    yield examine("consortium service", lambda: service(member, key))


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def resolved(host: str) -> Finding:
    """Whether a name has an address."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        what = f"{host} has no address."
        return Finding("name", "failed", what, "Check /etc/resolv.conf and the name with the lead.")
    return Finding("name", "ok", f"{host} is {found[0][4][0]}.")


def fleet(member: Stored, key: bytes, proxy: Proxy | None) -> Iterator[Finding]:
    """The fleet port and the lead's clock."""
    check = "fleet port"
    try:
        reached = reach(member, key, proxy)
    except ssl.SSLError as error:
        what = f"TLS 1.3 with {member.fleet} failed: {error.reason or 'unknown'}."
        yield Finding(check, "failed", what, "Check the clock; nothing between may open TLS.")
    except (OSError, http.client.HTTPException) as error:
        if proxy is not None:
            what = f"{proxy.host}:{proxy.port} did not connect to {member.fleet}: {_cause(error)}."
            yield Finding("proxy", "failed", what, "Ask its administrators to allow CONNECT there.")
        else:
            yield Finding(check, "failed", f"{member.fleet}: {_cause(error)}.", _FIREWALL)
    else:
        yield Finding(check, "ok", f"{member.fleet} answers: {reached.how}.")
        yield clock(reached, datetime.now(UTC))


def _cause(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip(".").lower()


def reach(member: Stored, key: bytes, proxy: Proxy | None) -> Reached:
    """Asks the fleet port for nothing, under the site's own certificate.

    Raises:
        OSError, http.client.HTTPException: it cannot be reached, or TLS fails.
    """
    host, port = _host(member.fleet), int(member.fleet.rpartition(":")[2])
    with closing(_connection(host, port, proxy, _context(member, key))) as connection:
        connection.connect()
        negotiated = connection.sock
        how = f"{negotiated.version()}, {negotiated.cipher()[0]}"
        started = time.monotonic()
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("date")
        seconds = time.monotonic() - started
    return Reached(how, parsedate_to_datetime(date) if date else None, seconds)


def _context(member: Stored, key: bytes) -> ssl.SSLContext:
    password = secrets.token_hex(32)
    with (
        tempfile.TemporaryDirectory() as made
    ):  # TLS takes keys from files only; this one is under a password
        authority, certificate, private = files = [Path(made) / name for name in ("a.pem", "c.pem", "k.pem")]
        parts = (member.authority.encode(), member.certificate.encode())
        for path, data in zip(files, (*parts, certificates.under_password(key, password)), strict=True):
            durable.write(path, data)
        return tls.client_context(authority, certificate, private, password)


def _connection(host: str, port: int, proxy: Proxy | None, context: ssl.SSLContext) -> Any:
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=TIMEOUT_S, context=context)
    headers = {}
    if proxy.user:
        pair = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {pair}"
    connection.set_tunnel(host, port, headers)
    return connection


def clock(reached: Reached, now: datetime) -> Finding:
    """How far this clock is from the lead's; HTTP tells whole seconds."""
    if reached.date is None:
        return Finding("clock", "warning", "the lead did not tell its time.", "Compare the clocks by hand.")
    offset, accuracy = (now - reached.date).total_seconds() - 0.5, 0.5 + reached.seconds
    what = f"this clock is {offset:+.1f} s from the lead's, known to {accuracy:.1f} s."
    excess = abs(offset) - accuracy
    if excess > TOLERATED_S:
        return Finding("clock", "failed", what, "Set the clock, here or there: timedatectl set-ntp true")
    if excess > NOTED_S:
        return Finding("clock", "warning", what, "Keep the clock synchronised: timedatectl set-ntp true")
    return Finding("clock", "ok", what)


def service(member: Stored, key: bytes) -> Finding:
    """What the lead's end saw of a connection to the consortium service, verified.

    Raises:
        TransportError: it cannot be reached or refuses.
        ChannelError: the answer is not of the lead, or the connection is weaker than it must be.
    """
    line = Line(
        member.service, authority=member.authority, key=key, certificate=member.certificate, timeout=TIMEOUT_S
    )
    with closing(line):
        nonce = secrets.token_bytes(32)
        answer = Signed.of(line.ask("Open", pb.Challenge(nonce=nonce)))
        facts = Facts.stated(answer.open(member.leader, FACTS_CONTEXT), nonce, line.certificate)
    what = f"{member.service} answers under the lead's keys: TLS {facts.tls}, {facts.group}."
    return Finding("consortium service", "ok", what)
