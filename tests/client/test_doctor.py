"""Each check of `cloister site doctor`, where all is well and where it is not."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloister.client import doctor
from cloister.client.consortium import Consortium
from cloister.client.doctor import Reached
from cloister.client.policy_review import found, policies
from cloister.client.proxy import proxy_for
from cloister.client.site import sharing
from cloister.client.site.folder import SECRETS, SiteFolder
from cloister.privacy import checkup
from cloister.privacy.channel.certificates import Authority, key_pem, new_tls_key, signing_request
from cloister.privacy.checkup import Finding
from cloister.privacy.cli import main
from cloister.privacy.errors import StateError, TransportError
from cloister.server.enrolment import Addresses
from tests.policies import policy
from tests.ports import free_port
from tests.proxy import ConnectProxy
from tests.service import Service
from tests.shared import folders, ledger, mechanism, plan_of, reserve

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


class _Quiet(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A real consortium service, and beside it a fleet port of the same certificate and the same demands."""
    with Service(tmp_path) as service, http.server.HTTPServer(("127.0.0.1", 0), _Quiet) as fleet:
        lead = service.lead.path
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=lead / "authorities/sites.pem")
        context.verify_mode, context.minimum_version = ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(lead / "tls/server.pem", lead / "tls/server.key")
        fleet.socket = context.wrap_socket(fleet.socket, server_side=True)
        thread = threading.Thread(target=fleet.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        service.addresses = Addresses(service.addresses.service, f"127.0.0.1:{fleet.server_port}")
        yield service
        fleet.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def findings(site: SiteFolder) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.findings(SiteFolder.open(site.path))}


def away(behind: Service, **changes: str) -> SiteFolder:
    """A member whose lead is, by its invite, at another address."""
    site = behind.member("north")
    path = site.path / "membership.json"
    value = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))
    return site


def test_a_healthy_site(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: type("M", (), {"available": 8 << 30}))
    site = service.member("north")
    site.log.head()
    before = sorted(path.name for path in site.path.rglob("*"))
    assert main(["site", "doctor", "--dir", str(site.path)]) == 0
    text = capsys.readouterr().out
    assert "TLSv1.3, TLS_" in text
    assert "answers under the lead's keys: TLS 1.3, X25519MLKEM768." in text
    assert "ok       clock: this clock is " in text
    assert "failed" not in text
    assert sorted(path.name for path in site.path.rglob("*")) == before


def test_a_failure_is_exit_code_1_also_for_programs(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    site = away(service, fleet=f"127.0.0.1:{free_port()}")
    assert main(["site", "doctor", "--dir", str(site.path), "--json"]) == 1
    checks = {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["fleet port"]["standing"] == "failed"
    assert "connection refused" in checks["fleet port"]["what"]
    assert "outbound TCP" in checks["fleet port"]["do"]
    assert checks["consortium service"]["standing"] == "ok"


def test_a_wrong_port_of_the_consortium_service(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 1.0)
    found = findings(away(service, service=f"127.0.0.1:{free_port()}"))["consortium service"]
    assert found.standing == "failed"
    assert "[unreachable]" in found.what


def test_a_name_that_has_no_address(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 1.0)
    found = doctor.resolved("lead.invalid")
    assert (found.standing, found.what) == ("failed", "lead.invalid has no address.")
    assert doctor.resolved("127.0.0.1").standing == "ok"


def test_a_lead_of_another_authority(service: Service, tmp_path: Path) -> None:
    Authority.create("other").save(tmp_path, "other")
    found = findings(away(service, authority=(tmp_path / "other.pem").read_text()))
    assert found["fleet port"].standing == "failed"
    assert "TLS 1.3" in found["fleet port"].what


def test_a_site_that_has_not_joined(service: Service) -> None:
    assert findings(service.site("north"))["lead"].standing == "warning"


def test_open_permissions(service: Service) -> None:
    site = service.site("north")
    assert findings(site)["permissions"].standing == "ok"
    site.path.chmod(0o750)
    assert findings(site)["permissions"].standing == "failed"
    site.path.chmod(0o700)
    (site.path / "tls/site.key").chmod(0o640)
    found = findings(site)
    assert found["permissions"].standing == "failed"
    assert "[permissions]" in found["keys"].what
    assert checkup.permissions(site.path, os.geteuid() + 1).standing == "failed"


@pytest.mark.parametrize("name", ["jobs/3f9a/sums.json", "jobs/3f9a/audit.json", "jobs/3f9a/ratchet.key"])
def test_secrets_whatever_their_names_end_in(tmp_path: Path, name: str) -> None:
    path = SiteFolder.create(tmp_path / "north", "north").path
    secret, plain = path / name, path / "jobs/3f9a/plan.json"
    secret.parent.mkdir(parents=True)
    for file in (secret, plain):
        file.write_bytes(b"{}")
        file.chmod(0o644)
    found = checkup.permissions(path, os.geteuid(), SECRETS)
    assert (found.standing, "1 of its secret files" in found.what) == ("failed", True)
    secret.chmod(0o600)
    assert checkup.permissions(path, os.geteuid(), SECRETS).standing == "ok"


def policy_lines(site: SiteFolder) -> list[str]:
    return [found.line() for found in policies(site)]


def test_the_policy_of_a_new_site_and_what_it_leaves_open(tmp_path: Path) -> None:
    site = SiteFolder.create(tmp_path / "north", "north")
    first, *open_ = policy_lines(site)
    assert first.startswith("ok       policy: policy.yaml is in force until ")
    assert len(open_) > 5
    assert all(line.startswith("ok       policy: ") and " sets no limit. " in line for line in open_)
    assert (
        "ok       policy: lead.consortia sets no limit. Plans of these consortia are looked at: "
        "all that there are." in open_
    )
    assert not (site.path / "policy").exists()  # looked at, not put in force
    assert [*site.log.entries()][1:] == []


def test_what_is_wrong_with_a_policy(tmp_path: Path) -> None:
    site = SiteFolder.create(tmp_path / "north", "north")
    file = site.path / "policy.yaml"
    text = file.read_text()
    file.write_text(text.replace("modes: [joint, local]", "modes: []"))
    assert policy_lines(site)[0].startswith(
        "failed   policy: privacy.modes refuses every plan. Privacy must be one of: none."
    )
    file.write_text(text.replace("  rounds: 1000", "  round: 1000"))
    (line,) = policy_lines(site)
    assert "training.round: there is no such key" in line
    assert "[policy_malformed] Everything is refused." in line
    file.write_text(text)
    file.chmod(0o620)
    assert "Others can write" in policy_lines(site)[0]
    assert "chmod 600" in policy_lines(site)[0]
    file.unlink()
    assert "[policy_missing] Everything is refused. Write one:" in policy_lines(site)[0]


def test_a_policy_that_ends(tmp_path: Path) -> None:
    def standing(day: str) -> str:
        return next(found(policy(valid__begins="2026-03-01", valid__ends="2026-03-31"), day)).line()

    assert standing("2026-03-10").startswith("ok ")
    assert standing("2026-03-20").startswith("warning  policy: policy.yaml is in force until 2026-03-31")
    for day, rule in (("2026-04-01", "valid.ends"), ("2026-02-28", "valid.begins")):
        assert standing(day).startswith(f"failed   policy: {rule} refuses every plan.")


@pytest.mark.parametrize(
    ("free", "inodes", "standing"),
    [
        (1 << 24, 10**6, "failed"),
        (1 << 28, 10**6, "warning"),
        (1 << 33, 10**6, "ok"),
        (1 << 33, 10, "failed"),
    ],
)
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, inodes: int, standing: str) -> None:
    values = {"f_bavail": free >> 12, "f_frsize": 4096, "f_files": 10**7, "f_favail": inodes}
    monkeypatch.setattr(checkup.os, "statvfs", lambda _: type("Statvfs", (), values))
    assert checkup.disk(tmp_path).standing == standing


def test_a_disk_that_does_not_take_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StateError("disk_full", "The disk is full.", "Make room.")

    assert checkup.examine("writing", lambda: checkup.writing(tmp_path)).standing == "ok"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(checkup.durable, "write", full)
    found = checkup.examine("writing", lambda: checkup.writing(tmp_path))
    assert found == Finding("writing", "failed", "The disk is full. [disk_full]", "Make room.")


@pytest.mark.parametrize(("mib", "standing"), [(100, "failed"), (500, "warning"), (4000, "ok")])
def test_memory(mib: int, standing: str) -> None:
    assert checkup.memory(mib << 20).standing == standing


@pytest.mark.parametrize(("days", "standing"), [(-1, "failed"), (0, "ok"), (80, "warning"), (91, "failed")])
def test_certificates(days: float, standing: str) -> None:
    pem = Authority.create("sites").issue(signing_request(new_tls_key(), "north"), "north")
    found = checkup.certificate("site", pem, datetime.now(UTC) + timedelta(days=days), "Join again.")
    assert found.standing == standing
    assert bool(found.do) == (standing != "ok")


def test_what_is_no_certificate() -> None:
    assert checkup.certificate("site", key_pem(new_tls_key()), NOW, "Join again.").standing == "failed"


def test_a_damaged_ledger(service: Service) -> None:
    site = service.site("north")
    path = site.path / "ledger.sqlite"
    assert doctor.databases(site).line().startswith("ok       ledger: there is none yet")
    ledger(site).open_budget("notes", "record", 8.0, 1e-5)
    assert doctor.databases(site).line().endswith("whole, and it is what the event log says.")
    data = bytearray(path.read_bytes())
    data[4096 : 4096 + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    assert doctor.databases(site).line().startswith(f"failed   ledger: {path} is damaged.")
    path.write_bytes(b"no database at all" * 100)
    assert findings(site)["ledger"].standing == "failed"
    path.unlink()
    assert doctor.databases(site).line().startswith(f"failed   ledger: {path} is gone.")


def test_a_ledger_that_is_not_what_the_log_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, plan = SiteFolder.create(tmp_path / "north", "north"), plan_of(1)
    ledger(site).open_budget("notes", "record", 50.0, 1e-5)
    reservation = reserve(site, plan, 1)
    ledger(site).spend(reservation, [mechanism(plan)])
    reserve(site, plan, 2)
    whole = (site.path / "ledger.sqlite").read_bytes()

    def after(statement: str) -> str:
        (site.path / "ledger.sqlite").write_bytes(whole)
        with closing(sqlite3.connect(site.path / "ledger.sqlite")) as database, database:
            database.executescript("DROP TRIGGER entries_UPDATE; DROP TRIGGER entries_DELETE")
            database.execute(statement)
        return doctor.databases(site).line()

    assert "it lacks 1 budgets or charges of the event log." in after("DELETE FROM entries WHERE round = 2")
    assert "1 notes of what was spent or released are gone" in after(
        "DELETE FROM entries WHERE kind = 'spent'"
    )
    assert "rows are not what the event log says." in after("UPDATE entries SET total = 0 WHERE round = 2")
    assert [event.type for event in site.log.entries()][-1] == "budget.reserved", "it changes nothing"


def test_a_shared_ledger(tmp_path: Path) -> None:
    owner, other = folders(tmp_path)
    for site in (owner, other):
        line = doctor.databases(site).line()
        assert line.startswith(f"ok       ledger: SQLite finds {owner.path.resolve()}/ledger.sqlite whole")
        assert line.endswith(f"; {owner.path.resolve()}, {other.path.resolve()} share it.")
    sharing.doubt(other)
    sharing.settle(owner)
    line = doctor.databases(owner).line()
    assert line.startswith(f"failed   ledger: it may lack charges of {other.path.resolve()}. Start the agent")
    stranger = SiteFolder.create(tmp_path / "stranger", "south")
    ledger(stranger).open_budget("notes", "record", 8.0, 1e-5)
    shutil.copy(stranger.path / "ledger.sqlite", owner.path / "ledger.sqlite")
    assert f"does not know this folder. cloister site share {owner.path}" in doctor.databases(other).line()
    (owner.path / "ledger.sqlite").unlink()
    assert "is gone. Put it back" in doctor.databases(other).line()
    assert not (owner.path / "ledger.sqlite").exists()


def test_a_damaged_log(service: Service) -> None:
    site = service.member("north")
    with Consortium(site) as member:
        member.open()
    site.log.head()
    assert findings(site)["event log"].standing == "ok"
    (path,) = (path for path in (site.path / "log").glob("*.jsonl"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"party":"lead"', b'"party":"laed"', 1))
    assert path.read_bytes() != data
    assert findings(site)["event log"].standing == "failed"


@pytest.mark.parametrize(
    ("seconds", "standing"), [(0, "ok"), (2, "ok"), (10, "warning"), (-10, "warning"), (-120, "failed")]
)
def test_clock(seconds: float, standing: str) -> None:
    reached = Reached("TLSv1.3", NOW, seconds=0.1)
    assert doctor.clock(reached, NOW + timedelta(seconds=seconds + 0.5)).standing == standing


def test_a_lead_that_tells_no_time() -> None:
    assert doctor.clock(Reached("TLSv1.3", None, 0.1), NOW).standing == "warning"


# The proxy


def test_every_way_to_the_lead_goes_through_the_proxy(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = service.member("north")
    with ConnectProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)  # gRPC by itself knows the lower case only
        found = findings(site)
        assert found["fleet port"].standing == found["consortium service"].standing == "ok"
        with Consortium(site) as member:
            assert member.roster().consortium == "hospitals"
    assert {site.membership.fleet, site.membership.service} == set(proxy.asked)


def test_a_proxy_that_refuses(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 1.0)
    site = service.member("north")
    with ConnectProxy(refuses=True) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        found = findings(site)
    assert found["proxy"].standing == "failed"
    assert "403" in found["proxy"].what
    assert found["consortium service"].standing == "failed"


def test_a_proxy_that_is_none(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    site = service.member("north")
    monkeypatch.setenv("https_proxy", "socks5://user:secret@proxy:1080")
    found = findings(site)["proxy"]
    assert found.standing == "failed"
    assert "secret" not in found.line()


@pytest.mark.parametrize(
    ("named", "host"),
    [
        ({}, None),
        ({"https": "http://proxy:3128"}, "proxy"),
        ({"https": "proxy:3128"}, "proxy"),
        ({"all": "http://proxy:3128"}, "proxy"),
        ({"http": "http://proxy:3128"}, None),
        ({"https": "http://proxy:3128", "no": "example.org"}, None),
        ({"https": "http://proxy:3128", "no": "example.com"}, "proxy"),
        ({"https": "http://proxy:3128", "no": "*"}, None),
    ],
)
def test_which_proxy(named: dict[str, str], host: str | None) -> None:
    found = proxy_for("lead.example.org:8440", named)
    assert (found and found.host) == host


@pytest.mark.parametrize(
    ("network", "direct"), [("10.0.0.0/8", True), ("192.168.0.0/16", False), ("x/y", False)]
)
def test_networks_without_proxy(network: str, direct: bool) -> None:
    found = proxy_for("10.1.2.3:8440", {"https": "http://proxy:3128", "no": network})
    assert (found is None) == direct


@pytest.mark.parametrize("url", ["socks5://proxy:1", "https://proxy:1", "http://", "http://proxy:none"])
def test_what_is_no_proxy(url: str) -> None:
    with pytest.raises(TransportError) as caught:
        proxy_for("lead.example.org:8440", {"https": url})
    assert caught.value.id == "proxy_refused"
