"""The bill of materials: CycloneDX 1.6 with the model, what it builds on, and its model card.

Datasets are named and never described beyond the public bands of their size. Cloister's digests are over
canonical encodings or manifests, not over one file, so they stand as properties and not as file hashes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from cloister.privacy.canonical import Json
from cloister.privacy.clauses import Dense
from cloister.privacy.evidence import reading
from cloister.privacy.evidence.evidence import Accuracy, Evidence
from cloister.privacy.evidence.papers.forms import DISCLAIMER, as_json
from cloister.privacy.evidence.vocabulary import Library
from cloister.privacy.plan import Plan
from cloister.privacy.task import PIPELINES

_OUTPUTS = {
    "sequence-classification": "one of the agreed labels",
    "token-classification": "one of the agreed labels for each word",
    "causal-lm": "text",
    "tabular-classification": "one of the agreed labels",
}
_NAMESPACE = uuid.UUID("7a5a1f5e-4c36-5b1e-9a55-0d8d6d0c7a11")
"""Any fixed number: with it the same evidence gets the same serial number."""


def bom(evidence: Evidence) -> bytes:
    """``bom.cdx.json``."""
    plan = evidence.plan
    codes = [*dict.fromkeys(party.code for party in (plan.lead, *plan.sites))]
    data: list[str] = [f"dataset:{site.name}" for site in plan.sites]
    below: list[str] = [] if plan.task.table else ["base-model"]
    libraries = sorted({(name, said) for one in evidence.software for name, said in one.versions.items()})
    refs = [*below, *(f"code:{number}" for number in range(len(codes))), *data]
    refs += [f"library:{name}@{said}" for name, said in libraries]
    return as_json(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, evidence.job + evidence.model.digest)}",
            "version": 1,
            "metadata": {
                "timestamp": evidence.created,
                "component": _model(evidence),
                "properties": _properties(job=evidence.job, kind=evidence.kind, note=DISCLAIMER),
            },
            "components": [
                *(
                    {
                        "bom-ref": ref,
                        "type": "machine-learning-model",
                        "name": plan.base.name,
                        **_licences(plan),
                        "properties": _properties(manifest_digest=plan.base.digest),
                    }
                    for ref in below
                ),
                *(
                    {
                        "bom-ref": f"code:{number}",
                        "type": "application",
                        "name": "cloister",
                        "description": "The code that the plan asks its parties to run.",
                        "properties": _properties(code_digest=code),
                    }
                    for number, code in enumerate(codes)
                ),
                *_datasets(evidence),
                *(
                    {
                        "bom-ref": f"library:{name}@{said}",
                        "type": "library",
                        "name": name,
                        "version": said,
                        "purl": f"pkg:pypi/{name}@{said.replace('+', '%2B')}",
                        "properties": _properties(parties=", ".join(_parties(evidence, name, said))),
                    }
                    for name, said in libraries
                ),
            ],
            "dependencies": [
                {"ref": "model", "dependsOn": [*refs]},
                *({"ref": ref, "dependsOn": []} for ref in refs),
            ],
        }
    )


def _parties(evidence: Evidence, library: Library, version: str) -> list[str]:
    """Who says that it ran on this version."""
    return [one.party for one in evidence.software if one.versions.get(library) == version]


def _licences(plan: Plan) -> dict[str, Json]:
    """What the lead declared of the base model, in the form's word for what nobody checked."""
    licence = plan.base.licence
    return {"licenses": [{"license": {"name": licence, "acknowledgement": "declared"}}]} if licence else {}


def _properties(**values: str) -> list[Json]:
    return [{"name": f"cloister:{name}", "value": value} for name, value in values.items()]


def _model(evidence: Evidence) -> dict[str, Json]:
    plan = evidence.plan
    return {
        "bom-ref": "model",
        "type": "machine-learning-model",
        "name": f"{evidence.consortium} adapter",
        "version": evidence.job[7:23],
        "description": evidence.purpose,
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": PIPELINES[plan.task.kind],
                "architectureFamily": "dense" if plan.task.table else "transformer",
                "modelArchitecture": _architecture(plan),
                "datasets": [{"ref": f"dataset:{site.name}"} for site in plan.sites],
                "inputs": [{"format": "row of a table" if plan.task.table else "text"}],
                "outputs": [{"format": _OUTPUTS[plan.task.kind]}],
            },
            "quantitativeAnalysis": {"performanceMetrics": [*_metrics(evidence.accuracy)]},
            "considerations": {
                "useCases": [f"{evidence.purpose} (as the lead declared it)"],
                "technicalLimitations": [
                    "Accuracies are not covered by epsilon.",
                    "Values outside of a column's public range are cut to it."
                    if plan.task.table
                    else "The base model is public and may have seen these records before.",
                    "Nobody outside the project has reviewed the software.",
                ],
                "ethicalConsiderations": [*_risks(evidence)],
            },
        },
        "properties": _properties(
            model_digest=evidence.model.digest,
            trained_numbers=evidence.model.parameters,
            label_count=str(len(plan.task.labels)),
        ),
    }


def _architecture(plan: Plan) -> str:
    adapter = plan.adapter
    if isinstance(adapter, Dense):
        return f"{adapter.words}, without a base model"
    lora = f"LoRA of rank {adapter.rank} and " if adapter.top_layers else ""
    head = "no head" if plan.task.kind == "causal-lm" else "a linear head"
    return f"{plan.base.name} with {lora}{head}"


def _datasets(evidence: Evidence) -> Iterator[Json]:
    for site in evidence.plan.sites:
        bands = {"rows_band": f"{site.rows.low}-{site.rows.high}"}
        if site.persons:
            bands["persons_band"] = f"{site.persons.low}-{site.persons.high}"
        yield {
            "bom-ref": f"dataset:{site.name}",
            "type": "data",
            "name": f"{site.name}/{site.dataset}",
            "description": "Stays at its site; named here, with no content.",
            "data": [{"type": "dataset", "name": site.dataset, "classification": "not declared"}],
            "properties": _properties(**bands),
        }


def _metrics(accuracy: Accuracy | None) -> Iterator[Json]:
    if accuracy is None:
        return
    rows = [("common test records", accuracy.federated, int(accuracy.test_rows))]
    for site in accuracy.sites:
        if site.federated is not None and site.test_rows is not None:
            rows.append((f"test records of {site.name}", site.federated, int(site.test_rows)))
    for where, share, number in rows:
        if reading.too_few(number):
            continue
        low, high = reading.interval(share, number)
        yield {
            "type": "accuracy",
            "value": f"{share:.4f}",
            "slice": f"{where} ({number})",
            "confidenceInterval": {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"},
        }


def _risks(evidence: Evidence) -> Iterator[Json]:
    worst = reading.Worst.of(evidence)
    if worst is None:
        yield {
            "name": "Records may be inferred from the model.",
            "mitigationStrategy": "None: there is no differential privacy.",
        }
        return
    yield {
        "name": "Whether a record was used may be inferred from the model.",
        "mitigationStrategy": (
            f"Differential privacy per {evidence.plan.privacy.unit}, epsilon at most {worst.epsilon} at "
            f"delta {worst.delta}, derived from what the sites recorded."
        ),
    }
