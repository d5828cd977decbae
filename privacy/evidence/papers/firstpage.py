"""The first page by itself, in the languages of the catalogues: twelve plain sentences, each with its grade.

The sentences stand in ``words/<language>.json``, the layout in ``templates/first-1.html``. Names, purpose
and digests are printed as they are; everything else comes from the catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from cloister.privacy.evidence import reading
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.render import ceiling, decimal

_HOME = Path(__file__).parents[1]
LANGUAGES = ("en", "zh")

Words: TypeAlias = Mapping[str, str]
Line: TypeAlias = tuple[str, Grade]


@cache
def words(language: str) -> Words:
    """The catalogue of a language."""
    found: Words = json.loads((_HOME / "words" / f"{language}.json").read_text(encoding="utf-8"))
    return found


def page(evidence: Evidence, language: str) -> bytes:
    """``first-page.<language>.html``, self-contained and without script."""
    found = words(language)
    shown = _template(evidence.version).render(
        e=evidence,
        w=found,
        lines=[*_who(evidence, found), *_limits(evidence, found), *_rest(evidence, found)],
    )
    return shown.encode()


@cache
def _template(version: int) -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HOME / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"first-{version}.html")


def _who(evidence: Evidence, w: Words) -> Iterator[Line]:
    plan = evidence.plan
    sites = [site.name for site in plan.sites]
    there = {name for done in evidence.rounds for name in done.accepted}
    refused, lost = (
        (
            sum(len(absences) for absences in kind)
            for kind in zip(*((done.refused, done.lost) for done in evidence.rounds), strict=True)
        )
        if evidence.rounds
        else (0, 0)
    )
    yield w["who"].format(lead=plan.lead.name, count=len(sites), sites=w["comma"].join(sites)), Grade.PROVEN
    yield w["purpose"].format(purpose=evidence.purpose), Grade.DECLARED
    counts = {"count": len(there), "all": len(sites), "rounds": len(evidence.rounds)}
    yield w["took_part"].format(**counts), Grade.RECORDED
    yield w["missing"].format(refused=refused, lost=lost), Grade.RECORDED
    if evidence.traffic:
        total = sum(int(moved.bytes_up) for moved in evidence.traffic)
        said = w["left"].format(parameters=evidence.model.parameters, bytes=f"{total:,}")
        yield said, Grade.DECLARED
    else:
        yield w["left_unknown"], Grade.NOT_KNOWN
    if plan.aggregation.secure:
        yield w["seen_secure"].format(minimum=plan.aggregation.minimum_sites), Grade.DECLARED
    else:
        yield w["seen_open"], Grade.PROVEN


def _limits(evidence: Evidence, w: Words) -> Iterator[Line]:
    worst, plan = reading.Worst.of(evidence), evidence.plan
    if worst is None:
        grade = Grade.PROVEN if plan.privacy.mode == "off" else Grade.RECORDED
        yield from ((w[name], grade) for name in ("limit_none", "one_none", "rows_none", "sites_none"))
        return
    unit, several = w[plan.privacy.unit], reading.several(evidence)
    said = w["limit"].format(unit=unit, epsilon=worst.epsilon, delta=decimal(worst.delta))
    yield said, Grade.DERIVED
    yield w["one"].format(unit=unit, odds=ceiling(worst.odds)), Grade.DERIVED
    rows = [more for more in several if more.what == "rows"]
    if rows and rows[-1].odds is not None:
        said = w["rows_record"].format(rows=rows[-1].number, odds=ceiling(rows[-1].odds))
        yield said, Grade.DERIVED
    elif rows:
        yield w["rows_none"], Grade.DERIVED
    else:
        yield w["rows_person"].format(rows=plan.most_rows), Grade.PROVEN
    parts = [_at_sites(more, w) for more in several if more.what == "sites"]
    if parts:
        yield w["sites_odds"].format(list=w["comma"].join(parts)), Grade.NOT_KNOWN
    else:
        yield w["sites_none"], Grade.NOT_KNOWN


def _at_sites(more: reading.Several, w: Words) -> str:
    if more.odds is None:
        return w["sites_each_none"].format(number=more.number)
    return w["sites_each"].format(number=more.number, odds=ceiling(more.odds))


def _rest(evidence: Evidence, w: Words) -> Iterator[Line]:
    yield w["unprotected"], Grade.DECLARED
    yield f"{w['attacked' if evidence.attacks else 'untested']} {w['check']}", Grade.NOT_KNOWN
