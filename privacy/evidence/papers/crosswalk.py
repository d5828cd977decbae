"""Which parts of a bundle are evidence relevant to which rule: dated data, not a judgement.

The mapping stands in ``crosswalk-1.json``, with the day it was written down and, per row, whether its
source was re-read. A row says what the bundle shows, how sure that is here, and what the organisation itself
must attest. Nothing in it says that a rule is met.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter

from cloister.privacy.canonical import Json
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.papers.forms import DISCLAIMER, as_json
from cloister.privacy.frozen import Part

_DATA = Path(__file__).with_name("crosswalk-1.json")


class Row(Part):
    """One rule.

    Attributes:
        source, asks: the rule, and what it asks for, shortened.
        source_checked: ``public text`` or a part of it was re-read; ``memory`` was not.
        status: what to know about the rule itself.
        shows: id of what the bundle shows (``_shown``).
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


def crosswalk(evidence: Evidence) -> bytes:
    """``crosswalk.json``."""
    found, shown = mapping(), _shown(evidence)
    rows: list[Json] = [
        {
            "id": row.id,
            "source": row.source,
            "asks": row.asks,
            "source_checked": row.source_checked,
            "status": row.status,
            "evidence_relevant": [shown[name] for name in row.shows],
            "organisation_must_attest": row.attest,
        }
        for row in found.rows
    ]
    return as_json(
        {
            "form": "evidence relevant to legal and supervisory rules",
            "version": found.version,
            "as_of": found.as_of,
            "kind": evidence.kind,
            "job": evidence.job,
            "model_kind": "generative" if evidence.plan.task.generates else "discriminative",
            "note": f"{DISCLAIMER} The mapping is dated and the rules change. Rows marked 'memory' were "
            "written down without re-reading the text.",
            "rows": rows,
        }
    )


def _secure(evidence: Evidence) -> tuple[str, str, Grade]:
    """Where secure aggregation stands, as far as anything of it does."""
    if not evidence.sums:
        said = "on" if evidence.plan.aggregation.secure else "off"
        return ("plan.json", f"secure aggregation {said}", Grade.PROVEN)
    place = "plan.json, evidence.json#/sums, report.html#s10"
    return (place, "secure aggregation on: who was in each sum, and what was opened", Grade.RECORDED)


def _shown(evidence: Evidence) -> dict[str, Json]:
    """What this bundle shows, by id: where it stands, and its grade in this job."""
    epsilon = any(one.epsilon for one in evidence.privacy)
    sent, seen = bool(evidence.traffic), bool(evidence.channels)
    entries: dict[str, tuple[str, str, Grade]] = {
        "log": ("events/, heads/", "each party's signed, hash-chained events of this job", Grade.RECORDED),
        "chain": ("heads/", "no event of this job was altered or left out of its log", Grade.PROVEN),
        "terms": ("plan.json", "the terms of the job and who approved them", Grade.PROVEN),
        "consent": ("approvals/", "each site's signed decision", Grade.RECORDED),
        "epsilon": (
            "evidence.json#/privacy, dp-registry.yaml",
            "the guarantee of each site",
            Grade.DERIVED if epsilon else Grade.NOT_KNOWN,
        ),
        "traffic": (
            "evidence.json#/traffic",
            "how many bytes left each site, and to whom",
            Grade.RECORDED if sent else Grade.NOT_KNOWN,
        ),
        "channel": (
            "evidence.json#/channels",
            "the connections as the lead's end saw them",
            Grade.RECORDED if seen else Grade.NOT_KNOWN,
        ),
        "secagg": _secure(evidence),
        "ledger": (
            "evidence.json#/ledgers, report.html#s10",
            "each site's ledger before and after the job, with charges of rounds that came to nothing",
            Grade.RECORDED if evidence.ledgers else Grade.NOT_KNOWN,
        ),
        "refusals": ("evidence.json#/rounds", "who was refused or lost, and why", Grade.RECORDED),
        "materials": (
            "bom.cdx.json",
            "model, base model, code and datasets by digest or name",
            Grade.RECORDED,
        ),
        "accuracy": (
            "evidence.json#/accuracy",
            "accuracy on test records",
            Grade.RECORDED if evidence.accuracy else Grade.NOT_KNOWN,
        ),
        "record": ("ropa/", "a prefilled record of processing per site", Grade.DECLARED),
        "annex": ("annex-iv.json", "items of Annex IV as far as the software knows them", Grade.DECLARED),
        "limits": ("report.html#s9", "what is not shown", Grade.DECLARED),
        "attacks": ("report.html#s13", "attacks that were not tried on the model", Grade.NOT_KNOWN),
        "data": (
            "evidence.json#/datasets, report.html#s18",
            "what each site wrote of its data, in bands and digests, and what detectors found in texts",
            Grade.RECORDED if evidence.datasets else Grade.NOT_KNOWN,
        ),
        "egress": (
            "report.html#s11",
            "a sheet for the decision whether the model may leave",
            Grade.NOT_KNOWN,
        ),
        "nothing": ("", "nothing in this bundle", Grade.NOT_KNOWN),
    }
    return {
        name: {"path": path, "what": what, "grade": grade.word}
        for name, (path, what, grade) in entries.items()
    }
