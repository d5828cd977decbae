"""When a party must say what it ran on, and when nothing ran that it could say it of."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.privacy.canonical import digest
from cloister.privacy.evidence.checks.case import Case, Log, Writer
from cloister.privacy.evidence.checks.software import told
from cloister.privacy.evidence.events import GENESIS, Event
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.part import Shown
from tests.reports import evidence

PLAN = Evidence.from_json(evidence()).plan
LEAD, SITE = PLAN.lead, PLAN.sites[0]


def found(party: Any, *types: str) -> list[tuple[str, str]]:
    """What the check finds in the log of a party: events by their types, of a process that ``comes``."""
    bodies: dict[str, dict[str, Any]] = {
        "comes": {"occasion": "start"},
        "begins": {"occasion": "job"},
        "software.recorded": {"code": party.code},
        "other code": {"code": digest(b"other code")},
    }
    kinds = {"comes": "clock.status", "begins": "clock.status", "other code": "software.recorded"}
    shown = [
        Shown(_event(party.name, place, kinds.get(one, one), bodies.get(one, {}), one != "comes"), b"", ())
        for place, one in enumerate(types)
    ]
    nothing: Any = None
    writer = Writer((Log("", nothing, tuple(shown), (), ()),))
    case = Case(nothing, PLAN, {}, nothing, {party.name: writer}, {})
    return [(one.place.partition("/")[2], one.reason) for one in told(case)]


def _event(writer: str, seq: int, type_: str, body: dict[str, Any], own: bool) -> Event:
    job = PLAN.digest if own else None
    return Event(writer, seq, "2026-11-24T14:11:40.000Z", type_, job, None, body, GENESIS)


BEGUN = ("comes", "begins", "software.recorded")
ROUND = ("budget.reserved", "dp.step_summary", "update.sent")


@pytest.mark.parametrize("work", ["dp.step_summary", "update.sent"])
def test_a_site_that_works_has_said_what_it_runs_on(work: str) -> None:
    assert found(SITE, *BEGUN, *ROUND, *ROUND, *BEGUN, work) == []
    assert found(SITE, "begins", work, work) == [("1", "the work begins and no event says what it ran on")]


@pytest.mark.parametrize("left", [("comes",), ("begins",), ("comes", "begins")])
def test_a_process_that_came_in_the_middle_says_it_too(left: tuple[str, ...]) -> None:
    """Whichever of what it wrote is left in the log."""
    ((place, reason),) = found(SITE, *BEGUN, *ROUND, *left, *ROUND)
    assert (place, reason) == (str(7 + len(left)), "the work begins anew and no event says what it ran on")


def test_a_site_that_came_again_and_did_nothing_more_owes_nothing() -> None:
    assert found(SITE, *BEGUN, *ROUND, "comes") == []


def test_a_site_that_never_worked_may_be_charged_after_a_restore() -> None:
    """A copy from between approval and job is charged the whole plan, of which nothing has run."""
    assert found(SITE, "approval.granted", "log.opened", *["budget.reserved"] * 3, "site.withdrew") == []


def test_a_lead_says_it_each_time_that_it_goes_on() -> None:
    began = (*BEGUN, "job.started", "round.closed")
    assert found(LEAD, *began, "begins", "software.recorded", "job.resumed") == []
    ((place, reason),) = found(LEAD, *began, "job.resumed", "round.closed")
    assert (place, "anew" in reason) == ("5", True)


def test_other_code_than_the_plans_is_found_wherever_it_stands() -> None:
    said = f"{SITE.name} ran other code than the plan names"
    assert found(SITE, *BEGUN, *ROUND, "begins", "other code", *ROUND) == [("7", said)]
