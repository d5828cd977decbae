"""The document ``crosswalk.json``: the mapping of rules to what is relevant to them in this bundle."""

from __future__ import annotations

from cloister.privacy.canonical import Json
from cloister.privacy.evidence.crosswalk import mapping, shown
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.papers.forms import DISCLAIMER, as_json


def crosswalk(evidence: Evidence) -> bytes:
    """``crosswalk.json``."""
    found, there = mapping(), shown(evidence)
    entries: dict[str, Json] = {
        name: {"path": one.path, "what": one.what, "grade": one.grade.word} for name, one in there.items()
    }
    rows: list[Json] = [
        {
            "id": row.id,
            "source": row.source,
            "asks": row.asks,
            "source_checked": row.source_checked,
            "status": row.status,
            "evidence_relevant": [entries[name] for name in row.shows],
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
