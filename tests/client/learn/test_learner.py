"""A site's learner takes no records of another unit of privacy than the plan's."""

from __future__ import annotations

import pytest

from cloister.client.learn.learner import require_unit
from cloister.client.site.records import Records
from cloister.privacy import canonical
from cloister.privacy.errors import PlanError
from cloister.privacy.plan import Plan
from tests.plans import persons_json, plan_json

RECORD = Plan.from_bytes(canonical.encode(plan_json()))
PERSON = Plan.from_bytes(canonical.encode(persons_json()))  # at most 8 rows each


def records(rows: int, *, persons: bool) -> Records:
    return Records(("t",) * rows, ("x",) * rows, ("one",) * rows if persons else None)


@pytest.mark.parametrize(("plan", "persons"), [(RECORD, False), (PERSON, True)])
def test_records_of_the_plans_unit_are_taken(plan: Plan, persons: bool) -> None:
    require_unit(plan, "north", records(8, persons=persons))


@pytest.mark.parametrize(
    ("plan", "found"),
    [
        (RECORD, records(8, persons=True)),
        (PERSON, records(8, persons=False)),
        (PERSON, records(9, persons=True)),
    ],
)
def test_others_are_refused(plan: Plan, found: Records) -> None:
    with pytest.raises(PlanError) as caught:
        require_unit(plan, "north", found)
    assert caught.value.id == "plan_conflict"
