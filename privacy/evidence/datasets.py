"""The data of a job, as the sites that opened them wrote down: bands, digests, and what detectors found.

Nothing here is an exact number of records or persons, a value or a name of a column. The fingerprint of a
dataset is keyed by a secret of its site (``client.site.fingerprint``): it tells whether data changed, and
nothing of them to anybody who does not hold the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cloister.privacy.clauses import Digest, Name, Unit
from cloister.privacy.evidence.events import Event
from cloister.privacy.evidence.happenings import Logs, of_data
from cloister.privacy.evidence.kinds import Whole
from cloister.privacy.evidence.vocabulary import IDENTIFIERS
from cloister.privacy.frozen import Part
from cloister.privacy.plan import Plan

Band = Annotated[str, Field(pattern=r"^(0|[1-9]\d{0,11})-[1-9]\d{0,11}$")]
LOWEST = "0-15"
"""The band in which nothing found looks like a few findings (``client.site.identifiers.screening``)."""


class Scan(Part):
    """A search for identifiers in a dataset's texts.

    Attributes:
        action: what became of what was found.
        detector: digest of the detectors that ship.
        texts: band of the number of texts.
        found: kind -> band of the number of findings, for every kind; in the order of ``IDENTIFIERS``.
    """

    action: Literal["warn", "mask", "refuse"]
    detector: Digest
    texts: Band
    found: Mapping[str, Band]

    @property
    def more(self) -> list[tuple[str, str]]:
        """Kinds of which more was found than the lowest band holds."""
        return [(kind, self.found[kind]) for kind in IDENTIFIERS if self.found[kind] != LOWEST]

    @model_validator(mode="after")
    def _every_kind(self) -> Self:
        if self.found.keys() != {*IDENTIFIERS}:
            raise ValueError("a search does not say of every kind how much was found")
        return self


class Opened(Part):
    """A dataset as its site opened it for a job, by its first opening.

    Attributes:
        rows, persons: bands of the numbers of training rows and of persons; None at record level.
        cap: the most rows of one person that count; None likewise.
        columns: digest of the names of the columns that were used.
        read: how many columns that were; None where the log does not say.
        commitment: the keyed fingerprint of the data.
        times: how often the job opened it.
        others: how many of these openings showed other data, bands or columns than the first.
        scans: searches for identifiers; those that found the same stand once.
    """

    site: Name
    dataset: Name
    unit: Unit
    rows: Band
    persons: Band | None
    cap: Whole | None
    columns: Digest | None
    read: Whole | None = None
    commitment: Digest | None
    times: Whole
    others: Whole
    scans: tuple[Scan, ...]


def needed(plan: Plan, site: str) -> int:
    """The most columns that a site needs to read for the plan's task."""
    task = plan.task
    learnt = len(task.table.columns) + 1 if task.table else 3 if task.pair else 2
    return learnt + (plan.site(site).persons is not None)


def datasets(plan: Plan, logs: Logs) -> list[dict[str, Any]]:
    """What each site that a bundle shows wrote down of the plan's data, in the plan's order."""
    found = (_opened(plan, site.name, logs.get(site.name, ())) for site in plan.sites)
    return [one for one in found if one is not None]


def _opened(plan: Plan, name: str, events: Iterable[Event]) -> dict[str, Any] | None:
    own = of_data(plan, name, events)
    opened = [event.body for event in own if event.type == "dataset.opened"]
    if not opened:
        return None
    first = opened[0]
    return {
        "site": name,
        **{field: first[field] for field in ("dataset", "unit", "rows")},
        **{field: first.get(field) for field in ("persons", "columns", "commitment")},
        **{field: None if first.get(field) is None else str(first[field]) for field in ("cap", "read")},
        "times": str(len(opened)),
        "others": str(sum(dict(body) != dict(first) for body in opened)),
        "scans": [*_scans(event.body for event in own if event.type == "deid.scan")],
    }


def _scans(bodies: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    for body in map(dict, bodies):
        if body not in seen:
            seen.append(body)
            said = {name: body[name] for name in ("action", "detector", "texts")}
            yield {**said, "found": {kind: body[kind] for kind in IDENTIFIERS}}
