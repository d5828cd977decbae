from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cloister.privacy.errors import CloisterError
from cloister.server.folder import LeadFolder, Settings

PRIVATE = 0o077


def make(path: Path, **changes: Any) -> LeadFolder:
    return LeadFolder.create(path, Settings(**({"consortium": "hospitals"} | changes)))


def reason(action: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        action()
    return caught.value.id


def test_a_new_folder_holds_a_whole_consortium(tmp_path: Path) -> None:
    made = make(tmp_path / "lead", host="lead.example.org", port_fleet=1, port_consortium=2)
    found = LeadFolder.open(tmp_path / "lead")
    assert found.settings == made.settings
    assert found.settings.addresses.service == "lead.example.org:2"
    assert found.settings.addresses.fleet == "lead.example.org:1"
    assert found.enrolment.roster.lead == found.identity.public == made.identity.public
    assert found.enrolment.roster.sites == ()


def test_an_address_of_ipv6_is_written_with_brackets(tmp_path: Path) -> None:
    assert make(tmp_path / "lead", host="::1").settings.addresses.service == "[::1]:8441"


def test_every_secret_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = make(tmp_path / "lead")
    folder.log.append("log.heartbeat")
    paths = [folder.path, *folder.path.rglob("*")]
    open_ones = [path for path in paths if path.stat().st_mode & PRIVATE]
    assert {path.suffix for path in open_ones} <= {".pem", ".json"}  # public halves, behind a closed door
    assert not any(path.is_dir() for path in open_ones)


@pytest.mark.parametrize(
    ("name", "authority", "other"),
    [("server", "sites", "operator"), ("loopback", "operator", "sites"), ("operator", "operator", "sites")],
)
def test_each_certificate_is_vouched_for_by_one_authority(
    tmp_path: Path, name: str, authority: str, other: str
) -> None:
    folder = make(tmp_path / "lead")
    certificate = x509.load_pem_x509_certificate(folder.tls(name).certificate)
    right, wrong = (
        x509.load_pem_x509_certificate(folder.authority(door).certificate_pem) for door in (authority, other)
    )
    certificate.verify_directly_issued_by(right)
    with pytest.raises(ValueError, match=r"[Ii]ssuer"):
        certificate.verify_directly_issued_by(wrong)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "lead")
    before = {path: path.read_bytes() for path in (tmp_path / "lead").rglob("*") if path.is_file()}
    assert reason(lambda: make(tmp_path / "lead")) == "folder_in_use"
    assert {path: path.read_bytes() for path in before} == before


def test_a_host_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    for host in ("", "a b", "http://lead", "-lead", "lead;", "x" * 300):
        assert reason(lambda host=host: make(tmp_path / "lead", host=host)) == "option_invalid"
    assert not (tmp_path / "lead").exists()


def test_one_process_runs_the_consortium(tmp_path: Path) -> None:
    folder = make(tmp_path / "lead")
    with folder.running():
        assert reason(lambda: LeadFolder.open(folder.path).running().__enter__()) == "state_locked"
    with folder.running():
        pass


def test_other_folders_are_not_a_leads(tmp_path: Path) -> None:
    assert reason(lambda: LeadFolder.open(tmp_path)) == "state_missing"


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "lead")
    (folder.path / "config.json").write_bytes(b'{"version":2}')
    assert reason(lambda: folder.path and LeadFolder.open(folder.path).settings) == "state_damaged"


def test_an_authority_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    folder = make(tmp_path / "lead")
    (folder.path / "authorities" / "sites.key").chmod(0o644)
    assert reason(lambda: folder.authority("sites")) == "permissions"
