"""What a site opened for the job is what the plan names: dataset, bands, unit, cap, and no columns besides.

Whether the bands are true is the site's word. Where the log says nothing of the data, so does the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cloister.privacy.clauses import Rows, Site
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, unfounded
from cloister.privacy.evidence.datasets import needed
from cloister.privacy.evidence.events import Event
from cloister.privacy.plan import Plan

_CHECK = "data"


def opened(case: Case) -> Findings:
    """Every opening of data, change and search of the job is of the plan's dataset, as it was offered."""
    for name in case.sites:
        for one in case.of_job(name) if name in case.writers else ():
            if one.event.type in ("dataset.opened", "dataset.changed", "deid.scan"):
                for reason in _faults(case.plan, name, one.event):
                    yield unfounded(_CHECK, one.id, reason)


def _faults(plan: Plan, name: str, event: Event) -> Iterator[str]:
    body: Mapping[str, Any] = event.body
    agreed = _agreed(plan.site(name))
    if body["dataset"] != agreed["dataset"]:
        yield "it is about another dataset than the plan names"
    elif event.type == "dataset.opened":
        for field in sorted(agreed):
            if body.get(field) != agreed[field]:
                yield f"{field} of the data is not what the plan names"
        if body.get("read", 0) > needed(plan, name):
            yield "more columns are read than the plan's task needs"


def _agreed(site: Site) -> dict[str, Any]:
    persons = site.persons
    return {
        "dataset": site.dataset,
        "unit": site.unit,
        "rows": _band(site.rows),
        "persons": persons and _band(persons),
        "cap": persons and persons.most_rows,
    }


def _band(rows: Rows) -> str:
    return f"{rows.low}-{rows.high}"
