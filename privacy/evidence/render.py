"""The report: one self-contained HTML page, a pure function of the evidence.

No clock, no file but the template, no script, nothing remote: the same evidence gives the same bytes.
All prose stands in the template, which is kept by version; this module hands it the evidence, what
``reading`` makes of it, the plots, and the ways to write numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from cloister.privacy.evidence import plots, reading
from cloister.privacy.evidence.evidence import REASONS, Accuracy, Evidence, Guarantee, lower_bound
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.plan import Unit

_TEMPLATES = Path(__file__).with_name("templates")
_MANY = 8
"""More sites than this are not listed one by one in sentences and plots; the tables list them all."""
LEVELS: Mapping[Unit, str] = {"person": "person-level", "record": "record-level, not person-level"}
"""How a headline names each unit of privacy."""


def render(evidence: Mapping[str, Any]) -> str:
    """The report of a run as HTML.

    Args:
        evidence: JSON of ``privacy.evidence.evidence.Evidence``.

    Raises:
        InputError: ``evidence_malformed``.
    """
    found = Evidence.from_json(evidence)
    return _template(found.version).render(_context(found))


@cache
def _template(version: int) -> Template:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "size": size,
        "grouped": grouped,
        "decimal": decimal,
        "duration": duration,
        "listing": reading.listing,
        "meaning": REASONS.__getitem__,
    }
    return environment.get_template(f"report-{version}.html")


def _context(evidence: Evidence) -> dict[str, Any]:
    accuracy = evidence.accuracy
    return {
        "e": evidence,
        "plan": evidence.plan,
        "private": evidence.plan.privacy.mode != "off",
        "secure": evidence.plan.aggregation.secure,
        "unit": evidence.plan.privacy.unit,
        "level": LEVELS[evidence.plan.privacy.unit],
        "codes": [*dict.fromkeys(party.code for party in (evidence.plan.lead, *evidence.plan.sites))],
        "many": _MANY,
        "grade": {grade.name.lower(): grade for grade in Grade},
        "contributors": [
            site.name
            for site in evidence.plan.sites
            if any(site.name in done.accepted for done in evidence.rounds)
        ],
        "worst": reading.Worst.of(evidence),
        "ceiling": ceiling,
        "even_odds": lambda stated: reading.even_odds(float(stated.epsilon), float(stated.delta)),
        "several": reading.several(evidence),
        "statement": reading.statement_of(evidence.plan),
        "most_refuted": _most_refuted,
        "missing": reading.missing(evidence),
        "least": min((len(done.accepted) for done in evidence.rounds if done.accepted), default=None),
        "unopened": sum(not done.accepted for done in evidence.rounds),
        "datasets": {site.name: site.dataset for site in evidence.plan.sites},
        "interval": reading.interval,
        "too_few": reading.too_few,
        "minimum_cell": reading.MINIMUM_CELL,
        "comparisons": [*reading.comparisons(accuracy)] if accuracy else [],
        "accuracy_plot": _accuracy_plot(evidence),
        "epsilon_plot": _epsilon_plot(evidence),
        "bars": plots.shares(_bars(accuracy)) if accuracy else None,
    }


def _most_refuted(stated: Guarantee) -> str:
    """The bound of an audit whose every guess is right."""
    if stated.audit is None or stated.delta is None:
        return ""
    guesses = int(stated.audit.guesses)
    return lower_bound(guesses, guesses, int(stated.audit.phantoms), float(stated.delta))


def _accuracy_plot(evidence: Evidence) -> plots.LinePlot | None:
    series: dict[str, list[tuple[int, float]]] = {}
    for point in sorted(evidence.progress, key=lambda point: point.round):
        if point.accuracy is not None:
            series.setdefault(point.site, []).append((point.round, point.accuracy))
    return plots.over_rounds(series, percent=True, worst="low")


def _epsilon_plot(evidence: Evidence) -> plots.LinePlot | None:
    series: dict[str, list[tuple[int, float]]] = {}
    for point in sorted(evidence.progress, key=lambda point: point.round):
        if point.epsilon is not None:
            series.setdefault(point.site, []).append((point.round, point.epsilon))
    budgets = [float(stated.budget) for stated in evidence.privacy if stated.budget]
    return plots.over_rounds(series, percent=False, worst="high", limit=min(budgets, default=None))


def _bars(accuracy: Accuracy) -> list[tuple[str, float, str]]:
    rows = [
        ("Federated", accuracy.federated, "ours"),
        ("All records in one place, same privacy", accuracy.pooled_private, "private"),
        ("All records in one place, no privacy", accuracy.pooled, "plain"),
        ("Word counts (TF-IDF) in one place, no privacy", accuracy.tfidf, "plain"),
    ]
    for site in accuracy.sites if len(accuracy.sites) <= _MANY else ():
        rows.append((f"{site.name} alone, same privacy", site.local_only_private, "private"))
        rows.append((f"{site.name} alone, no privacy", site.local_only, "plain"))
    return [(label, value, look) for label, value, look in rows if value is not None]


def percent(share: float) -> str:
    """A share in per cent with one decimal."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def ceiling(share: float) -> str:
    """A share in per cent, rounded up to two decimals: for upper bounds."""
    return f"{math.ceil(10_000 * share - 1e-9) / 100:.2f}\N{NO-BREAK SPACE}%"


def grouped(whole: str) -> str:
    """A whole number with commas between thousands."""
    return f"{int(whole):,}"


def decimal(number: str) -> str:
    """A number without an exponent."""
    return f"{Decimal(number):f}"


def size(whole: str) -> str:
    """A number of bytes in the largest unit that leaves a number of at least 1."""
    number, unit = float(whole), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.{0 if unit == 'bytes' else 2}f}\N{NO-BREAK SPACE}{unit}"


def duration(seconds: str) -> str:
    """A time in hours, minutes and seconds."""
    whole = round(float(seconds))
    hours, minutes = divmod(whole // 60, 60)
    parts = ((hours, "h"), (minutes, "min"), (whole % 60, "s"))
    return " ".join(f"{n}\N{NO-BREAK SPACE}{u}" for n, u in parts if n) or "under 1\N{NO-BREAK SPACE}s"
