"""A site's learner takes no records of another unit of privacy than the plan's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloister.client.learn import learner, tasks
from cloister.client.learn.learner import SiteLearner, require_unit
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


def test_the_model_is_loaded_to_the_device_that_the_site_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def load(base: Any, device: str) -> None:
        raise Seen(device)

    monkeypatch.setattr(learner, "agreed_layout", lambda plan, base: None)
    monkeypatch.setattr(tasks, "load_encoder", load)
    given: Any = (RECORD, "north", None, (records(8, persons=False),) * 2, None, tmp_path)
    for more, wanted in (((), "cpu"), (("cuda:1",), "cuda:1")):
        with pytest.raises(Seen, match=wanted):
            SiteLearner(*given, *more)
