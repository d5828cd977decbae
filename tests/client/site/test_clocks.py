"""Nothing in ledger or log is ordered by the time of day: a clock that jumps changes nothing that counts."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.client.site.ledger import Ledger
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.errors import BudgetError
from cloister.privacy.evidence.log import EventLog, verify_log
from cloister.privacy.evidence.witnessing import Witness, show
from cloister.privacy.identity import PrivateIdentity

NORTH, LEAD = PrivateIdentity.generate("north", "site"), PrivateIdentity.generate("lead", "lead")
STEP = GaussianSteps(2.0, 0.5, 5)
JOB = "sha256:" + "1" * 64
START = datetime(2026, 1, 1, tzinfo=UTC)


def worked(folder: Path, offsets: list[int]) -> tuple[list[float], list[str], int]:
    """Rounds of a site whose clock stands where ``offsets`` say; totals, types of events, the lead's size.

    Events of the clock itself are left out of both. The lead sees every head; the log is opened anew for each
    round, as after a restart.
    """
    witness = Witness(folder / "lead", LEAD, EventLog.open(folder / "lead" / "log", LEAD))
    held = 0
    for number, offset in enumerate(offsets, start=1):
        log = EventLog.open(
            folder / "log", NORTH, clock=lambda offset=offset: START + timedelta(seconds=offset)
        )
        ledger = Ledger(folder / "ledger.sqlite", log)
        ledger.open_budget("notes", "record", 1000.0, 1e-5)
        reservation = ledger.reserve("notes", JOB, number, 1, STEP)
        ledger.spend(reservation, [STEP])
        head, proofs = show(log, [held] if held else [])
        assert witness.take(NORTH.public, head, proofs.get(held, ()))
        held = head.size
    verify_log(folder / "log", NORTH.public)
    rows = Ledger(folder / "ledger.sqlite").rows("notes")
    types = [event.type for event in log.entries()]
    others = [kind for kind in types if kind != "clock.stepped"]
    return [row.total for row in rows], others, held - (len(types) - len(others))


JUMPS = st.lists(st.integers(-50 * 365 * 86_400, 50 * 365 * 86_400), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None)
@given(JUMPS)
def test_a_clock_that_jumps_changes_no_total_and_no_head(offsets: list[int]) -> None:
    with tempfile.TemporaryDirectory() as place:
        jumping = worked(Path(place) / "jumping", offsets)
        steady = worked(Path(place) / "steady", list(range(len(offsets))))
        assert jumping == steady


def test_what_was_spent_before_the_clock_went_back_still_counts(tmp_path: Path) -> None:
    for year in (2040, 1990):
        log = EventLog.open(tmp_path / "log", NORTH, clock=lambda year=year: datetime(year, 1, 1, tzinfo=UTC))
        ledger = Ledger(tmp_path / "ledger.sqlite", log)
        ledger.open_budget("notes", "record", 8.0, 1e-5)
        if year == 2040:
            ledger.reserve("notes", JOB, 1, 1, GaussianSteps(1.0, 1.0, 1))
            spent = ledger.epsilon("notes")
    assert ledger.epsilon("notes") == spent
    with pytest.raises(BudgetError):
        ledger.reserve("notes", JOB, 2, 1, GaussianSteps(1.0, 1.0, 5))
