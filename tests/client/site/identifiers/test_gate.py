"""The step at a site: what its log has of it."""

from __future__ import annotations

import pytest

from cloister.client.site.folder import SiteFolder
from cloister.client.site.identifiers import detection, gate
from cloister.client.site.identifiers.findings import Counts
from cloister.client.site.records import Records
from cloister.privacy.errors import InputError

PARTS = (Records(("Mail ada@example.org", "fine"), ("a", "b")), Records(("H1234567 here",), ("a",)))


@pytest.fixture
def site(tmp_path):
    folder = SiteFolder.create(tmp_path / "north", "north")
    (folder.path / "identifiers.json").write_text('{"hospital-number": "H[0-9]{7}"}')
    return folder


def scans(site):
    return [event.body for event in site.log.entries() if event.type == "deid.scan"]


def test_off_does_nothing(site):
    assert gate.passed(site, "notes", "off", PARTS) == (PARTS, None)
    assert scans(site) == []


@pytest.mark.parametrize("action", ["warn", "mask"])
def test_all_parts_are_screened_and_one_event_has_bands(site, action):
    parts, counts = gate.passed(site, "notes", action, PARTS)
    assert counts == Counts(3, 2, {"email": 1, "hospital-number": 1}, {"email": 1, "hospital-number": 1})
    masked = [("Mail [EMAIL]", "fine"), ("[HOSPITAL-NUMBER] here",)]
    assert [part.texts for part in parts] == (masked if action == "mask" else [part.texts for part in PARTS])
    [body] = scans(site)
    assert body["action"] == action
    assert body["detector"] == detection.digest()
    assert body["email"] == body["own"] == body["card"] == body["texts"] == "0-15"


def test_a_refusal_is_in_the_log_and_counts_all_parts(site):
    with pytest.raises(InputError) as refusal:
        gate.passed(site, "notes", "refuse", PARTS)
    assert refusal.value.id == "identifiers_found"
    assert "2 of 3 texts" in refusal.value.what
    assert "email 1, hospital-number 1" in refusal.value.what
    assert [body["action"] for body in scans(site)] == ["refuse"]
    assert b"example" not in b"".join(
        path.read_bytes() for path in (site.path / "log").rglob("*") if path.is_file()
    )


def test_the_event_names_the_job_that_the_dataset_is_opened_for(site):
    job = f"sha256:{'ab' * 32}"
    gate.passed(site, "notes", "warn", PARTS, job)
    assert [event.job for event in site.log.entries() if event.type == "deid.scan"] == [job]


def test_broken_patterns_stop_it(site):
    (site.path / "identifiers.json").write_text("{")
    with pytest.raises(InputError) as refusal:
        gate.passed(site, "notes", "warn", PARTS)
    assert refusal.value.id == "patterns_malformed"
    assert scans(site) == []
