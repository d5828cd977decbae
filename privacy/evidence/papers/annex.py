"""The technical documentation items of Annex IV of the EU AI Act (Regulation 2024/1689), by number.

Each item is filled from the evidence, or says that the provider must supply it. The numbering and the short
titles are written down from memory and marked so; whoever files the document compares them with the text.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloister.privacy.canonical import Json
from cloister.privacy.evidence import reading
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.papers.forms import DISCLAIMER, answer, as_json, missing
from cloister.privacy.evidence.software import Ran

ITEMS: Mapping[str, str] = {
    "1(a)": "intended purpose, provider, version and its relation to earlier ones",
    "1(b)": "interaction with hardware and software that is not part of the system",
    "1(c)": "versions of relevant software and requirements on updates",
    "1(d)": "forms in which it is placed on the market or put into service",
    "1(e)": "hardware on which it is intended to run",
    "1(f)": "where it is a component: photographs or drawings of the product",
    "1(g)": "user interface for the deployer",
    "1(h)": "instructions for use",
    "2(a)": "methods and steps of development, pre-trained parts",
    "2(b)": "design specifications, logic and key design choices",
    "2(c)": "system architecture and computing resources",
    "2(d)": "data requirements, provenance and characteristics of the data",
    "2(e)": "assessment of human oversight measures",
    "2(f)": "pre-determined changes",
    "2(g)": "validation and testing, metrics, test logs and dated, signed test reports",
    "2(h)": "cybersecurity measures",
    "3": "monitoring, functioning and control: capabilities, limitations, accuracy, foreseeable risks",
    "4": "appropriateness of the performance metrics",
    "5": "risk management system",
    "6": "relevant changes through the lifecycle",
    "7": "harmonised standards applied",
    "8": "EU declaration of conformity",
    "9": "post-market monitoring system and plan",
}
"""Number -> what it asks for, shortened."""


def annex(evidence: Evidence) -> bytes:
    """``annex-iv.json``."""
    filled = {
        "1(a)": _purpose(evidence),
        "1(c)": _versions(evidence),
        "2(a)": _methods(evidence),
        "2(b)": _choices(evidence),
        "2(c)": _resources(evidence),
        "2(d)": _data(evidence),
        "2(g)": _testing(evidence),
        "2(h)": _security(evidence),
        "3": _limits(),
        "6": _changes(evidence),
    }
    items: dict[str, Json] = {
        number: {"asks": asks, "answers": [*filled.get(number, []), missing("provider")]}
        for number, asks in ITEMS.items()
    }
    return as_json(
        {
            "form": "items of Annex IV of Regulation (EU) 2024/1689",
            "version": 1,
            "text_checked": False,
            "kind": evidence.kind,
            "job": evidence.job,
            "note": f"{DISCLAIMER} Numbers and titles are from memory: compare them with the text in force.",
            "items": items,
        }
    )


def _purpose(evidence: Evidence) -> list[Json]:
    return [
        answer(evidence.purpose, Grade.DECLARED, "plan.json"),
        answer({"job": evidence.job, "model": evidence.model.digest}, Grade.RECORDED, "evidence.json#/model"),
    ]


def _versions(evidence: Evidence) -> list[Json]:
    codes = sorted({party.code for party in (evidence.plan.lead, *evidence.plan.sites)})
    return [
        answer({"code_digests": [*codes]}, Grade.PROVEN, "plan.json", "bom.cdx.json"),
        *(
            answer(
                _ran_on(one),
                Grade.RECORDED,
                "evidence.json#/software",
                "report.html#s8",
            )
            for one in evidence.software
        ),
    ]


def _ran_on(one: Ran) -> Json:
    versions: dict[str, Json] = {str(name): version for name, version in one.versions.items()}
    return {"party": one.party, "python": one.python, **versions, "packages_digest": one.installed}


def _methods(evidence: Evidence) -> list[Json]:
    plan, training = evidence.plan, evidence.plan.training
    method = (
        f"{plan.method} over all records of {len(plan.sites)} sites"
        if training.analytic
        else f"{plan.method}, {training.rounds} rounds of {training.steps} steps at {len(plan.sites)} "
        f"sites, optimiser {training.optimizer}, sampling rate {training.rate:g}"
    )
    base: Json = {"pre_trained": plan.base.name, "digest": plan.base.digest}
    if plan.task.table:
        base = {"pre_trained": "none", "columns": [*plan.task.table.names], "digest": plan.base.digest}
    return [answer(method, Grade.PROVEN, "plan.json"), answer(base, Grade.PROVEN, "plan.json")]


def _choices(evidence: Evidence) -> list[Json]:
    found: list[Json] = []
    worst = reading.Worst.of(evidence)
    if worst:
        text = (
            f"differential privacy per {evidence.plan.privacy.unit}: epsilon at most {worst.epsilon} at "
            f"delta {worst.delta}"
        )
        found.append(answer(text, Grade.DERIVED, "dp-registry.yaml", "report.html#s3"))
    else:
        found.append(answer("no differential privacy", Grade.PROVEN, "plan.json"))
    on = "on" if evidence.plan.aggregation.secure else "off"
    return [*found, answer(f"secure aggregation {on}", Grade.PROVEN, "plan.json")]


def _resources(evidence: Evidence) -> list[Json]:
    used: Json = {"seconds": evidence.seconds, "peak_memory_bytes": evidence.peak_memory}
    return [
        answer(f"{evidence.model.parameters} trained numbers", Grade.PROVEN, "plan.json"),
        answer(used, Grade.RECORDED, "evidence.json#/seconds"),
    ]


def _data(evidence: Evidence) -> list[Json]:
    return [
        answer(
            {"site": site.name, "dataset": site.dataset, "rows_band": [site.rows.low, site.rows.high]},
            Grade.PROVEN,
            "plan.json",
        )
        for site in evidence.plan.sites
    ]


def _testing(evidence: Evidence) -> list[Json]:
    accuracy = evidence.accuracy
    if accuracy is None or reading.too_few(int(accuracy.test_rows)):
        return [answer("no accuracy was measured that can be printed", Grade.NOT_KNOWN)]
    low, high = reading.interval(accuracy.federated, int(accuracy.test_rows))
    value: Json = {
        "metric": "accuracy",
        "value": f"{accuracy.federated:.4f}",
        "interval_95": [f"{low:.4f}", f"{high:.4f}"],
        "test_rows": accuracy.test_rows,
        "signed_by_responsible_persons": False,
    }
    return [answer(value, Grade.RECORDED, "evidence.json#/accuracy", "report.html#s7")]


def _security(evidence: Evidence) -> list[Json]:
    seen: Json = [{"site": one.site, "tls": one.tls, "group": one.group} for one in evidence.channels]
    refused = sum(len(done.refused) for done in evidence.rounds)
    return [
        answer({"channels": seen}, Grade.RECORDED, "evidence.json#/channels")
        if evidence.channels
        else answer("no channel is recorded", Grade.NOT_KNOWN),
        answer(f"{refused} updates were refused", Grade.RECORDED, "evidence.json#/rounds"),
    ]


def _limits() -> list[Json]:
    return [answer("the limits that the report prints", Grade.DECLARED, "report.html#s9")]


def _changes(evidence: Evidence) -> list[Json]:
    return [
        answer(
            f"{len(evidence.rounds)} closed rounds, each with a model digest",
            Grade.RECORDED,
            "evidence.json#/rounds",
        )
    ]
