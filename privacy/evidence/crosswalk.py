"""Which parts of a bundle are evidence relevant to which rule: dated data, not a judgement.

The mapping stands in ``crosswalk-1.json``, with the day it was written down and, per row, whether its
source was re-read. A row says what the bundle shows, how sure that is here, and what the organisation itself
must attest. Nothing in it says that a rule is met. Other languages than English have its texts in
``words/crosswalk.<language>.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.frozen import Part

_DATA = Path(__file__).with_name("crosswalk-1.json")
_WORDS = Path(__file__).with_name("words")


class Row(Part):
    """One rule.

    Attributes:
        source, asks: the rule, and what it asks for, shortened.
        source_checked: ``public text`` or a part of it was re-read; ``memory`` was not.
        status: what to know about the rule itself.
        shows: id of what the bundle shows (``shown``).
        attest: what only the organisation can say.
    """

    id: str = Field(pattern=r"^[a-z0-9-]{2,40}$")
    source: str
    asks: str
    source_checked: Literal["public text", "memory"]
    status: str
    shows: tuple[str, ...] = Field(min_length=1)
    attest: str


class Crosswalk(Part):
    """The mapping and its day."""

    version: Literal[1]
    as_of: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    rows: tuple[Row, ...]


@cache
def mapping() -> Crosswalk:
    """The mapping of this release."""
    return TypeAdapter(Crosswalk).validate_json(_DATA.read_bytes())


WHAT: Mapping[str, str] = {
    "log": "each party's signed, hash-chained events of this job",
    "chain": "no event of this job was altered or left out of its log",
    "clocks": "gaps, and the clock of each party",
    "terms": "the terms of the job and who approved them",
    "consent": "each site's signed decision",
    "epsilon": "the guarantee of each site",
    "traffic": "how many bytes left each site, and to whom",
    "channel": "the connections as their ends wrote them down",
    "secagg_on": "secure aggregation on",
    "secagg_off": "secure aggregation off",
    "secagg_sums": "secure aggregation on: who was in each sum, and what was opened",
    "ledger": "each site's ledger before and after the job, with charges of rounds that came to nothing",
    "refusals": "who was refused or lost, and why",
    "materials": "model, base model, code, libraries and datasets by digest, version or name",
    "accuracy": "accuracy on test records",
    "record": "a prefilled record of processing per site",
    "annex": "items of Annex IV as far as the software knows them",
    "inventory": "an entry for a model inventory as far as the software knows it",
    "limits": "what is not shown",
    "attacks_some": "attacks on the model that sites ran, and what was not tried",
    "attacks_none": "attacks that were not tried on the model",
    "data": "what each site wrote of its data, in bands and digests, and what detectors found in texts",
    "egress": "a sheet for the decision whether the model may leave",
    "nothing": "nothing in this bundle",
}
"""Key -> what a bundle shows, in English."""


@dataclass(frozen=True)
class Shown:
    """Something that a bundle shows.

    Attributes:
        key: of ``WHAT``.
        path: where it stands in the bundle; "" where nothing does.
        grade: in this job.
    """

    key: str
    path: str
    grade: Grade

    @property
    def what(self) -> str:
        """It in English."""
        return WHAT[self.key]


def shown(evidence: Evidence) -> dict[str, Shown]:
    """What this bundle shows, by the ids that rows name."""

    def where(key: str, path: str, grade: Grade, there: object = True) -> Shown:
        return Shown(key, path, grade if there else Grade.NOT_KNOWN)

    attacked = bool(evidence.attacks)
    return {
        "log": where("log", "events/, heads/", Grade.RECORDED),
        "chain": where("chain", "heads/", Grade.PROVEN),
        "clocks": where("clocks", "evidence.json#/clocks, report.html#s17", Grade.RECORDED, evidence.clocks),
        "terms": where("terms", "plan.json", Grade.PROVEN),
        "consent": where("consent", "approvals/", Grade.RECORDED),
        "epsilon": where(
            "epsilon",
            "evidence.json#/privacy, dp-registry.yaml",
            Grade.DERIVED,
            any(one.epsilon for one in evidence.privacy),
        ),
        "traffic": where("traffic", "evidence.json#/traffic", Grade.RECORDED, evidence.traffic),
        "channel": where("channel", "evidence.json#/channels", Grade.RECORDED, evidence.channels),
        "secagg": _secure(evidence),
        "ledger": where(
            "ledger", "evidence.json#/ledgers, report.html#s10", Grade.RECORDED, evidence.ledgers
        ),
        "refusals": where("refusals", "evidence.json#/rounds", Grade.RECORDED),
        "materials": where("materials", "bom.cdx.json", Grade.RECORDED),
        "accuracy": where("accuracy", "evidence.json#/accuracy", Grade.RECORDED, evidence.accuracy),
        "record": where("record", "ropa/", Grade.DECLARED),
        "annex": where("annex", "annex-iv.json", Grade.DECLARED),
        "inventory": where("inventory", "inventory.json", Grade.DECLARED),
        "limits": where("limits", "report.html#s9", Grade.DECLARED),
        "attacks": where(
            "attacks_some" if attacked else "attacks_none",
            "evidence.json#/attacks, report.html#s3" if attacked else "report.html#s13",
            Grade.RECORDED,
            attacked,
        ),
        "data": where("data", "evidence.json#/datasets, report.html#s18", Grade.RECORDED, evidence.datasets),
        "egress": where("egress", "report.html#s11", Grade.NOT_KNOWN),
        "nothing": where("nothing", "", Grade.NOT_KNOWN),
    }


def _secure(evidence: Evidence) -> Shown:
    """Where secure aggregation stands, as far as anything of it does."""
    if evidence.sums:
        return Shown("secagg_sums", "plan.json, evidence.json#/sums, report.html#s10", Grade.RECORDED)
    return Shown(f"secagg_{'on' if evidence.plan.aggregation.secure else 'off'}", "plan.json", Grade.PROVEN)


@dataclass(frozen=True)
class Line:
    """A row as a page prints it.

    Attributes:
        source: the rule, as it is cited in any language.
        asks, status, attest: in the page's language.
        read: whether its text, or a part of it, was read again.
        shows: what is relevant to it in the page's language, with where it stands and its grade.
        grade: the weakest of these.
    """

    source: str
    asks: str
    status: str
    attest: str
    read: bool
    shows: tuple[tuple[str, str, Grade], ...]
    grade: Grade


def lines(evidence: Evidence, language: str) -> list[Line]:
    """The rows of the mapping for a page, in a language of ``language.LANGUAGES``."""
    found, said = shown(evidence), _said(language)
    order = [*Grade]
    return [
        Line(
            source=row.source,
            **{field: said["rows"][row.id][field] for field in ("asks", "status", "attest")},
            read=row.source_checked != "memory",
            shows=tuple((said["what"][found[i].key], found[i].path, found[i].grade) for i in row.shows),
            grade=max((found[i].grade for i in row.shows), key=order.index),
        )
        for row in mapping().rows
    ]


@cache
def _said(language: str) -> Mapping[str, Any]:
    """What the mapping says in a language."""
    if language == "en":
        return {"what": WHAT, "rows": {row.id: row.model_dump() for row in mapping().rows}}
    found: dict[str, Any] = json.loads((_WORDS / f"crosswalk.{language}.json").read_text(encoding="utf-8"))
    return found
