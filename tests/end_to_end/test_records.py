"""Records never leave a site: not in what it sends, not in what anybody writes down, not by an accident."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.by_hand import MARKER, ByHand

pytestmark = pytest.mark.slow

FAILING = Path(__file__).with_name("failing_site.py")
FORMS = {
    MARKER.encode(),
    MARKER.lower().encode(),
    MARKER.encode().hex().encode(),
    MARKER.encode("utf-16-le"),
    *(base64.b64encode(b"\0" * shift + MARKER.encode())[4:-4] for shift in range(3)),
}
"""What the marker looks like in plain text, in hexadecimal, in UTF-16 and at each offset in base64."""


@pytest.fixture(scope="module")
def failed(by_hand: ByHand) -> Iterator[Any]:
    """Where a job stands in whose first round south failed with a record in the exception."""
    assert by_hand.sites["south"].end() == 0
    by_hand.hands.environment["RECORD"] = f"Mrs {MARKER}"
    program = (sys.executable, str(FAILING))
    arguments = ("site", "up", "--dir", "south", "--model", str(by_hand.model))
    by_hand.sites["south"] = south = by_hand.hands.start("south", *arguments, program=program)
    job = by_hand.propose("--privacy", "off", "--rounds", "2", "--minimum", "1")
    by_hand.approve(job)
    yield by_hand.ended(job)
    assert MARKER in south.said  # the person at the site can read what happened
    assert south.end() == 0
    by_hand.site_up("south")


def holding(place: Path) -> set[Path]:
    """The files that hold the marker in any form."""
    files = (path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place) for path in files if any(form in path.read_bytes() for form in FORMS)}


def test_a_failure_with_a_record_in_it_reaches_the_lead_as_its_id(failed: Any) -> None:
    assert failed["state"] == "finished"
    assert failed["progress"]["standings"] == {"north": "accepted"}


def test_no_record_is_anywhere_but_at_its_site(by_hand: ByHand, failed: Any) -> None:
    found = holding(by_hand.hands.place)
    assert found == {Path("south.csv"), Path("south.out")}
    assert {"lead", "lead.out", "north", "north.out"} <= {path.name for path in by_hand.hands.place.iterdir()}
    assert (by_hand.hands.place / "lead" / "flower" / "superlink.log").exists()
