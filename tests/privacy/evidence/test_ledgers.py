"""What a report says of each site's ledger follows from its log, and tells of other jobs the sum alone."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.privacy.errors import InputError
from cloister.privacy.evidence.events import GENESIS, Event
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.ledgers import accounts
from tests.privacy.evidence.test_render import lines, page, section
from tests.reports import evidence, with_ledgers, without_privacy

PLAN = Evidence.from_json(evidence()).plan
LEAD, SITE, DATASET = PLAN.lead.name, PLAN.sites[0].name, PLAN.sites[0].dataset


def event(type_: str, round: int | None = None, writer: str = SITE, **body: Any) -> Event:
    job = None if type_ == "budget.opened" else PLAN.digest
    return Event(writer, 0, "2026-11-24T14:11:40.000Z", type_, job, round, body, GENESIS)


def charged(number: int, total: float, **body: Any) -> list[Event]:
    """A round at the site, from its charge to what left."""
    kinds = ("reserved", "spent", "released")
    said = {"dataset": DATASET, "total": total}
    return [event(f"budget.{kind}", number, **said, **(body if kind == "reserved" else {})) for kind in kinds]


OPENED = event("budget.opened", dataset=DATASET, epsilon=10.0)


def closed(number: int, *accepted: str) -> Event:
    return event("round.closed", number, LEAD, accepted=[*accepted])


def told(*events: Event, lead: tuple[Event, ...] = ()) -> dict[str, Any]:
    site = [Event(**{**vars(one), "seq": n}) for n, one in enumerate(events)]
    at_lead = [Event(**{**vars(one), "seq": n}) for n, one in enumerate(lead)]
    (found,) = accounts(PLAN, {LEAD: at_lead, SITE: site})
    return found


def test_a_ledger_is_told_from_before_the_first_charge_to_after_the_last_entry() -> None:
    first, second = charged(1, 3.1, before=2.0001), charged(2, 3.6, before=3.1)
    found = told(OPENED, *first, *second, lead=(closed(1, SITE), closed(2, SITE)))
    assert (found["before"], found["after"], found["limit"]) == ("2.001", "3.600", "10")
    assert [found[kind] for kind in ("reserved", "spent", "released")] == ["2", "2", "2"]
    assert (found["unused"], found["events"]) == ([], [f"{SITE}/{n}" for n in (0, 1, 6)])


def test_a_charge_whose_result_is_in_no_model_is_without_use() -> None:
    lost, failed = charged(2, 2.0)[:1], charged(3, 3.0)
    aborted = event("round.aborted", 3, LEAD, reason="sum_lost")
    lead = (closed(1, SITE), closed(2, PLAN.sites[1].name), aborted)
    found = told(OPENED, *charged(1, 1.0, before=0.0), *lost, *failed, lead=lead)
    assert found["unused"] == [2, 3]
    assert (found["reserved"], found["spent"], found["released"]) == ("3", "2", "2")
    assert f"{SITE}/4" in found["events"]


def test_what_is_not_told_is_not_made_up() -> None:
    assert told(OPENED, *charged(1, 1.0))["before"] is None
    assert told(*charged(1, 1.0, before=0.0))["limit"] is None
    nothing = told(OPENED)
    assert (nothing["before"], nothing["after"], nothing["reserved"]) == (None, None, "0")
    other = told(OPENED, event("budget.reserved", 1, dataset="others", total=5.0, before=4.0))
    assert other["after"] is None
    off = Evidence.from_json(without_privacy()).plan
    assert accounts(off, {SITE: [OPENED]}) == []


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda one: one.update(after=None), "where something was charged"),
        (lambda one: one.update(reserved="0"), "where something was charged"),
        (lambda one: one.update(unused=[*range(1, 100)]), "than were charged"),
        (lambda one: one.update(site="nobody"), "not in the plan"),
        (lambda one: one.update(events=[f"{SITE}/99999"]), "not those that"),
    ],
)
def test_what_no_ledger_could_hold_is_not_read(spoil: Any, why: str) -> None:
    value = with_ledgers()
    Evidence.from_json(value)
    spoil(value["ledgers"][0])
    with pytest.raises(InputError, match=why):
        Evidence.from_json(value)


def test_the_page_has_the_ledger_of_every_site() -> None:
    tenth = section(page(with_ledgers()), 10)
    first, second, third, fourth = tenth.tags("tbody")[1].tags("tr")
    assert "Before 1.250" in first.text()
    assert "reserved 8, spent 8, released 8 Charged without use –" in first.text()
    assert "Charged without use rounds 3 and 6–8" in second.text()
    assert (first.grades(), third.grades()) == (["Recorded"], ["Not known"])
    assert "Before not known" in third.text()
    assert "nothing was charged" in fourth.text()
    (trials,) = [line for line in lines(tenth) if "tried on the same data" in line.text()]
    assert trials.grades() == ["Not known"]
    assert "the log of no site holds a charge of this job" in tenth.text()
    assert "which are statistics" not in tenth.text()  # the plan has no analytic round


def test_where_no_ledger_is_recorded_the_page_says_nothing_of_one() -> None:
    assert "The ledger before and after" not in section(page(evidence()), 10).text()
    assert "The ledger before and after" not in section(page(without_privacy()), 10).text()
