"""A record of processing for each site, prefilled: the points of GDPR Art. 30(1)(a) to (g).

The software knows what it did; purposes, contacts, categories, transfers and retention are the controller's.
"""

from __future__ import annotations

from cloister.privacy.canonical import Json
from cloister.privacy.evidence.evidence import Evidence, Guarantee
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.papers.forms import DISCLAIMER, answer, as_json, missing

_FORMS = {
    "sequence-classification": "texts with one label each",
    "token-classification": "texts with tagged words",
    "causal-lm": "instructions with answers",
    "tabular-classification": "rows of a table with one label each",
}


def record(evidence: Evidence, site: str) -> bytes:
    """``ropa/<site>.json`` of one site of the plan."""
    (party,) = [one for one in evidence.plan.sites if one.name == site]
    bands: dict[str, Json] = {"rows": [party.rows.low, party.rows.high]}
    if party.persons:
        bands["persons"] = [party.persons.low, party.persons.high]
    points: dict[str, Json] = {
        "a": {
            "asks": "name and contact details of the controller, any joint controller, the representative "
            "and the data protection officer",
            "platform_name": answer(site, Grade.PROVEN, "plan.json"),
            "contacts": missing("controller"),
        },
        "b": {
            "asks": "purposes of the processing",
            "declared": answer(evidence.purpose, Grade.DECLARED, "plan.json"),
            "lawful_basis": missing("controller"),
        },
        "c": {
            "asks": "categories of data subjects and of personal data",
            "dataset": answer(party.dataset, Grade.PROVEN, "plan.json"),
            "size_bands": answer(bands, Grade.PROVEN, "plan.json"),
            "form": answer(_FORMS[evidence.plan.task.kind], Grade.PROVEN, "plan.json"),
            "categories": missing("controller"),
        },
        "d": {"asks": "categories of recipients", "recipients": _recipients(evidence, site)},
        "e": {
            "asks": "transfers to a third country or international organisation",
            "transfers": missing("controller"),
        },
        "f": {"asks": "time limits for erasure, where possible", "limits": missing("controller")},
        "g": {
            "asks": "general description of the security measures, where possible",
            "measures": _measures(evidence, site),
            "organisational": missing("controller"),
        },
    }
    return as_json(
        {
            "form": "record of processing, prefilled after GDPR Art. 30(1)(a) to (g)",
            "version": 1,
            "kind": evidence.kind,
            "site": site,
            "job": evidence.job,
            "recorded_at": evidence.created,
            "note": DISCLAIMER,
            "points": points,
        }
    )


def _recipients(evidence: Evidence, site: str) -> list[Json]:
    sent = [moved.bytes_up for moved in evidence.traffic if moved.site == site]
    what = "sealed updates" + (", masked so that only a sum can be opened" if _secure(evidence) else "")
    lead = answer(
        {"recipient": evidence.plan.lead.name, "what": what, "bytes": sent[0] if sent else None},
        Grade.RECORDED if sent else Grade.NOT_KNOWN,
        "evidence.json#/traffic",
    )
    holders = answer(
        {"recipient": "every site of the plan", "what": "the model after each round", "bytes": None},
        Grade.DECLARED,
        "plan.json",
    )
    return [lead, holders]


def _measures(evidence: Evidence, site: str) -> list[Json]:
    stated = [one for one in evidence.privacy if one.site == site]
    seen = [one for one in evidence.channels if one.site == site]
    return [
        *(_privacy(one) for one in stated),
        *(
            answer(f"TLS {one.tls}, key exchange {one.group}", Grade.RECORDED, "evidence.json#/channels")
            for one in seen
        ),
        answer(f"secure aggregation {'on' if _secure(evidence) else 'off'}", Grade.PROVEN, "plan.json"),
        answer("messages sealed for the lead and signed by the site", Grade.DECLARED, "events/"),
        answer("an append-only, signed log of events at the site", Grade.RECORDED, "events/", "heads/"),
    ]


def _privacy(stated: Guarantee) -> dict[str, Json]:
    if stated.epsilon is None:
        return answer("no differential privacy", Grade.PROVEN, "plan.json")
    text = f"differential privacy per {stated.unit}: epsilon {stated.epsilon} at delta {stated.delta}"
    return answer(text, Grade.DERIVED, "evidence.json#/privacy")


def _secure(evidence: Evidence) -> bool:
    return evidence.plan.aggregation.secure
