"""What a site opened for the job is what the plan names: the dataset, its bands, its unit and its cap.

Whether the bands are true is the site's word. Where the log says nothing of the data, so does the report.
"""

from __future__ import annotations

from typing import Any

from cloister.privacy.clauses import Rows, Site
from cloister.privacy.evidence.checks.case import Case
from cloister.privacy.evidence.checks.findings import Findings, unfounded

_CHECK = "data"


def opened(case: Case) -> Findings:
    """Every opening of data, change and search of the job is of the plan's dataset, as it was offered."""
    for name in case.sites:
        if name not in case.writers:
            continue
        agreed = _agreed(case.plan.site(name))
        for one in case.of_job(name):
            if one.event.type not in ("dataset.opened", "dataset.changed", "deid.scan"):
                continue
            body = one.event.body
            if body["dataset"] != agreed["dataset"]:
                yield unfounded(_CHECK, one.id, "it is about another dataset than the plan names")
            elif one.event.type == "dataset.opened":
                for field in sorted(agreed):
                    if body.get(field) != agreed[field]:
                        yield unfounded(_CHECK, one.id, f"{field} of the data is not what the plan names")


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
