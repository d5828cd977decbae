"""The report: one self-contained HTML page, a pure function of the evidence and the language.

No clock, no file but the template and the words, no script, nothing remote: the same evidence gives the same
bytes. The template is kept by version, the prose by language (``language``); this module hands the template
the evidence, what ``reading`` makes of it, the plots, and the ways to write numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from cloister.privacy.clauses import Unit
from cloister.privacy.evidence import crosswalk, plots, promises, reading, sensitivity, software
from cloister.privacy.evidence.datasets import needed
from cloister.privacy.evidence.evidence import Accuracy, Evidence, Guarantee, lower_bound
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.happenings import MOST_CITED, Decided, resting
from cloister.privacy.evidence.language import Language, language
from cloister.privacy.evidence.recall import Recall, recalls
from cloister.privacy.evidence.vocabulary import IDENTIFIERS
from cloister.privacy.plan import Plan

_TEMPLATES = Path(__file__).with_name("templates")
_MANY = 8
"""More sites than this are not listed one by one in sentences and plots; the tables list them all."""
LEVELS: Mapping[Unit, str] = {"person": "person-level", "record": "record-level, not person-level"}
"""How a headline names each unit of privacy."""


def render(evidence: Mapping[str, Any], name: str = "en") -> str:
    """The report of a run as HTML.

    Args:
        evidence: JSON of ``privacy.evidence.evidence.Evidence``.
        name: of a language of ``language.LANGUAGES``.

    Raises:
        InputError: ``evidence_malformed``.
    """
    return written(Evidence.from_json(evidence), name)


def written(found: Evidence, name: str) -> str:
    """The same of evidence that has been read already."""
    return _template(found.version).render(_context(found, language(name)))


def lines_by_grade(page: str) -> dict[Grade, int]:
    """How many lines of a page have each grade; the legend of its cover, which names each once, is no line.

    Whatever parties named is escaped, so a tag in the page is one of the template.
    """
    return {grade: page.count(f'<span class="grade {slug(grade)}">') - 1 for grade in Grade}


def slug(grade: Grade) -> str:
    """How the page's style calls a grade."""
    return grade.name.lower().replace("_", "-")


@cache
def _template(version: int) -> Template:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        optimized=False,  # what it would fold once is evaluated once
    )
    environment.filters |= {"percent": percent, "grouped": grouped, "decimal": decimal}
    return environment.get_template(f"report-{version}.html")


def _context(evidence: Evidence, words: Language) -> dict[str, Any]:
    accuracy = evidence.accuracy
    worst_site = accuracy.worst_site if accuracy else None
    plan = evidence.plan
    return {
        "e": evidence,
        "w": words,
        "t": words.say,
        "n": words.count,
        "plan": plan,
        "private": plan.privacy.mode != "off",
        "secure": plan.aggregation.secure,
        "unit": plan.privacy.unit,
        "codes": [*dict.fromkeys(party.code for party in (plan.lead, *plan.sites))],
        "many": _MANY,
        "grade": {grade.name.lower(): grade for grade in Grade},
        "slug": slug,
        "lines_by_grade": lines_by_grade,
        "none_counted": dict.fromkeys(Grade, 0),
        "state": reading.State.of(evidence),
        "by_site": lambda field: reading.by_site(evidence, field),
        "contributors": [
            site.name for site in plan.sites if any(site.name in done.accepted for done in evidence.rounds)
        ],
        "worst": reading.Worst.of(evidence),
        "ceiling": ceiling,
        "even_odds": lambda stated: reading.even_odds(float(stated.epsilon), float(stated.delta)),
        "several": reading.several(evidence),
        "statement": [*promises.lines(reading.statement_of(plan), words)],
        "most_refuted": _most_refuted,
        "missing": _missing(evidence, words),
        "datasets": {site.name: site.dataset for site in plan.sites},
        "opened": {opened.site: opened for opened in evidence.datasets},
        "most_columns": max(needed(plan, site.name) for site in plan.sites),
        "columns_read": _columns_read(evidence),
        "refused_columns": [one for one in evidence.decisions if _refuses_columns(plan, one)],
        "recalls": _recalls(evidence),
        "strengths": sensitivity.strengths(evidence),
        "rules": crosswalk.lines(evidence, words.name),
        "rules_as_of": crosswalk.mapping().as_of,
        "ran": {one.party: one for one in evidence.software},
        "by_version": software.by_version,
        "differing": software.differing(evidence.software),
        "reached": _reached(evidence),
        "withdrawn": [*dict.fromkeys(i.about for i in evidence.incidents if i.type == "site.withdrew")],
        "unchecked": sum(int(i.times) for i in evidence.incidents if i.type == "step.unchecked"),
        "interval": reading.interval,
        "too_few": reading.too_few,
        "minimum_cell": reading.MINIMUM_CELL,
        "worst_shown": worst_site is not None and worst_site.name not in _held(accuracy),
        "comparisons": [*reading.comparisons(accuracy)] if accuracy else [],
        "accuracy_plot": _accuracy_plot(evidence, words),
        "epsilon_plot": _epsilon_plot(evidence, words),
        "bars": plots.shares(_bars(accuracy, words)) if accuracy else None,
        **_survivors(evidence),
        **_citations(evidence),
    }


def _recalls(evidence: Evidence) -> dict[str, list[Recall]]:
    """Digest of the detectors that sites ran -> how much these find of each kind that was measured."""
    ran = dict.fromkeys(scan.detector for opened in evidence.datasets for scan in opened.scans)
    found = {detector: recalls(detector, IDENTIFIERS) for detector in ran}
    return {detector: [one for one in rows if one.others or one.ours] for detector, rows in found.items()}


def _columns_read(evidence: Evidence) -> dict[str, list[str]]:
    """Sites that read no more columns than the plan's task needs, and those that read more."""
    told = [
        (one.site, int(one.read) > needed(evidence.plan, one.site)) for one in evidence.datasets if one.read
    ]
    return {
        "most": [site for site, more in told if not more],
        "more": [site for site, more in told if more],
    }


def _refuses_columns(plan: Plan, one: Decided) -> bool:
    """Whether a policy refused the columns of a table, which stand in the place of a base model."""
    return plan.task.table is not None and one.outcome == "refuse" and "models.base" in one.rules


def _reached(evidence: Evidence) -> dict[str, str]:
    """Site -> what its ledger stood at after the last round that it was charged for, rounded up."""
    points = sorted(evidence.progress, key=lambda point: point.round)
    return {one.site: f"{math.ceil(one.epsilon * 1000) / 1000:.3f}" for one in points if one.epsilon}


def _survivors(evidence: Evidence) -> dict[str, Any]:
    counts = [(len(done.accepted), done.round) for done in evidence.rounds if done.accepted]
    least = min(counts, default=None)
    return {
        "least": least[0] if least else None,
        "smallest": [f"round.{least[1]}"] if least else [],
        "unopened": sum(not done.accepted for done in evidence.rounds),
    }


def _citations(evidence: Evidence) -> dict[str, Any]:
    """Ways to name events: those that what a line is about rests on, and where each stands on the page."""
    return {
        "about": lambda kinds, names: [f"{kind}.{name}" for name in names for kind in kinds],
        "cited": lambda about: resting(evidence.sources, about),
        "anchor": lambda event: "event-" + event.replace("/", "-"),
        "most_cited": MOST_CITED,
        "all_events": sum(int(log.size) for log in evidence.logs),
        "scanned": {one.party for one in evidence.decisions if one.type == "deid.scan"},
    }


def _missing(evidence: Evidence, words: Language) -> list[dict[str, Any]]:
    return [
        {
            "site": gone.site,
            "how": gone.how,
            "reason": gone.reason,
            "meaning": words.meaning(gone.reason),
            "rounds": words.spans(gone.numbers),
            "about": [f"round.{number}" for number in gone.numbers],
        }
        for gone in reading.missing(evidence)
    ]


def _most_refuted(stated: Guarantee) -> str:
    """The bound of an audit whose every guess is right."""
    if stated.audit is None or stated.delta is None:
        return ""
    guesses = int(stated.audit.guesses)
    return lower_bound(guesses, guesses, int(stated.audit.phantoms), float(stated.delta))


def _held(accuracy: Accuracy | None) -> set[str]:
    """Sites whose figures are held back, as few test records are behind them."""
    if accuracy is None:
        return set()
    return {s.name for s in accuracy.sites if reading.too_few(int(s.test_rows or accuracy.test_rows))}


def _accuracy_plot(evidence: Evidence, words: Language) -> plots.LinePlot | None:
    held = _held(evidence.accuracy)
    series: dict[str, list[tuple[int, float]]] = {}
    for point in sorted(evidence.progress, key=lambda point: point.round):
        if point.accuracy is not None and point.site not in held:
            series.setdefault(point.site, []).append((point.round, point.accuracy))
    return plots.over_rounds(series, percent=True, worst="low", together=_together(words))


def _epsilon_plot(evidence: Evidence, words: Language) -> plots.LinePlot | None:
    series: dict[str, list[tuple[int, float]]] = {}
    for point in sorted(evidence.progress, key=lambda point: point.round):
        if point.epsilon is not None:
            series.setdefault(point.site, []).append((point.round, point.epsilon))
    budgets = [float(stated.budget) for stated in evidence.privacy if stated.budget]
    limit = min(budgets, default=None)
    return plots.over_rounds(series, percent=False, worst="high", limit=limit, together=_together(words))


def _together(words: Language) -> tuple[str, str]:
    return words.words["plot_all"], words.words["plot_sites"]


def _bars(accuracy: Accuracy, words: Language) -> list[tuple[str, float, str]]:
    rows = [
        (words.say("bar_federated"), accuracy.federated, "ours"),
        (words.say("bar_pooled_private"), accuracy.pooled_private, "private"),
        (words.say("bar_pooled"), accuracy.pooled, "plain"),
        (words.say("bar_tfidf"), accuracy.tfidf, "plain"),
    ]
    for site in accuracy.sites if len(accuracy.sites) <= _MANY else ():
        if site.name not in _held(accuracy):
            name = site.name
            rows.append((words.say("bar_alone_private", site=name), site.local_only_private, "private"))
            rows.append((words.say("bar_alone", site=name), site.local_only, "plain"))
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
