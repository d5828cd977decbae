"""Figures for Prometheus, scraped as Prometheus does and read with its own parser."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloister.client.figures import SiteFigures
from cloister.client.site.datasets import Datasets
from cloister.privacy import canonical
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import CloisterError
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.metrics import Families, endpoint
from cloister.server.figures import LeadFigures
from cloister.server.folder import LeadFolder, Settings
from tests.hands import write_records
from tests.known import party
from tests.ports import free_port
from tests.site_keys import keyed_site
from tests.waiting import LONG_S

JOB = canonical.digest(b"plan")
Samples = dict[str, dict[tuple[str, ...], float]]


def scraped(port: int) -> Samples:
    """Name -> the values of its labels, in the order of their names -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LONG_S) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = (
                sample.value
            )
    return found


def shown(log: EventLog, families: Families) -> Samples:
    port = free_port()
    with endpoint(str(port), log, families):
        return scraped(port)


def test_events_and_their_reasons_are_counted_onwards(tmp_path: Path) -> None:
    log, port = EventLog.open(tmp_path / "log", party("north")), free_port()
    outcome = {"accepted": [], "refused": [], "lost": []}
    with endpoint(f"127.0.0.1:{port}", log, lambda: ()):
        log.append("round.aborted", job=JOB, round=1, reason="stopped", **outcome)
        first = scraped(port)
        log.append("round.aborted", job=JOB, round=2, reason="below_minimum", **outcome)
        second = scraped(port)
    assert first["cloister_events_total"] == {("log.opened",): 1, ("round.aborted",): 1}
    assert second["cloister_events_total"]["round.aborted",] == 2
    assert second["cloister_event_reasons_total"] == {
        ("below_minimum", "round.aborted"): 1,
        ("stopped", "round.aborted"): 1,
    }
    assert second["process_resident_memory_bytes"][()] > 1 << 20
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_no_address_is_no_endpoint(tmp_path: Path) -> None:
    with endpoint("", EventLog.open(tmp_path / "log", party("north")), lambda: ()):
        pass


@pytest.mark.parametrize("address", ["here", "127.0.0.1", "127.0.0.1:", ":0", "127.0.0.1:65536", "1:2:x"])
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    log = EventLog.open(tmp_path / "log", party("north"))
    with (
        pytest.raises(CloisterError, check=lambda e: e.id == "option_invalid"),
        endpoint(address, log, tuple),
    ):
        pass


def test_a_port_in_use_is_said_so(tmp_path: Path) -> None:
    log = EventLog.open(tmp_path / "log", party("north"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = str(taken.getsockname()[1])
        with (
            pytest.raises(CloisterError, check=lambda e: e.id == "port_in_use"),
            endpoint(address, log, tuple),
        ):
            pass


def test_a_site_shows_what_its_ledger_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = keyed_site(tmp_path / "north")
    datasets = Datasets(site)
    datasets.register(write_records(tmp_path / "n.csv", 1), "notes", ("text", "department"), (8.0, 1e-5))
    datasets.ledger.reserve("notes", JOB, 1, 1, GaussianSteps(2.0, 0.5, 3))
    figures = SiteFigures(site)
    monkeypatch.setattr(SiteFigures, "certificates", {})
    found = shown(site.log, figures)
    assert found["cloister_epsilon_limit"] == {("notes",): 8.0}
    assert found["cloister_epsilon_spent"] == {("notes",): pytest.approx(datasets.ledger.epsilon("notes"))}
    assert 0 < found["cloister_epsilon_spent"]["notes",] < 8


def test_a_lead_shows_who_is_connected_and_when_its_certificate_ends(tmp_path: Path) -> None:
    lead = LeadFolder.create(tmp_path / "lead", Settings(consortium="hospitals"))
    found = shown(lead.log, LeadFigures(lead, frozenset))
    assert found["cloister_certificate_end_timestamp_seconds"]["server",] > 1.7e9
    assert "cloister_site_connected" not in found  # nobody is a member yet
