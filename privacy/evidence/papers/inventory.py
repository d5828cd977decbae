"""An entry for a model inventory: the fields after what SR 26-2 and OCC Bulletin 2026-13 ask for.

Each field is filled from the evidence, with its grade and the events that it rests on, or says that the
organisation must supply it. Materiality, validation and approval are never filled. The letters leave
generative models outside their scope; the entry says so of one.
"""

from __future__ import annotations

from cloister.privacy.canonical import Json
from cloister.privacy.evidence import reading
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.grades import Grade
from cloister.privacy.evidence.happenings import resting
from cloister.privacy.evidence.papers.forms import DISCLAIMER, answer, as_json, missing
from cloister.privacy.evidence.sensitivity import strengths

_OUTPUTS = {
    "sequence-classification": "one of the labels, for a text",
    "token-classification": "one of the labels, for each word of a text",
    "causal-lm": "text",
    "tabular-classification": "one of the labels, for a row of a table",
}
_TRIGGERS = (
    "another base model",
    "other sites or classes",
    "a refused or lost site in many rounds",
    "accuracy on new records below the interval that was measured",
    "other software than is listed under dependencies",
    "a paper behind the data that has ended, or a site that withdrew",
)
_LIMITATIONS = (
    "what differential privacy bounds is the influence of one unit, not what is true of a population",
    "accuracies are not covered by epsilon",
    "groups of people were not compared",
    "robustness against changed or hostile inputs was not tried",
    "nobody outside the project has reviewed the software",
)
_ASSUMPTIONS = (
    "test records resemble those of later use",
    "labels are right",
    "sites' records may differ in kind and number",
    "each site recorded what it did",
)


def inventory(evidence: Evidence) -> bytes:
    """``inventory.json``."""
    generative = evidence.plan.task.generates
    scope = "outside" if generative else "inside"
    return as_json(
        {
            "form": "entry for a model inventory, after SR 26-2 and OCC Bulletin 2026-13",
            "version": 1,
            "text_checked": False,
            "kind": evidence.kind,
            "job": evidence.job,
            "note": f"{DISCLAIMER} The fields follow public summaries of the letters. A model of this kind "
            f"is {scope} what they cover; which models an organisation holds to them, it decides.",
            "fields": {name: [*found] for name, found in _fields(evidence).items()},
        }
    )


def _fields(evidence: Evidence) -> dict[str, list[dict[str, Json]]]:
    return {
        "id": _identity(evidence),
        "name": [_said(evidence, f"{evidence.consortium} adapter", Grade.DECLARED, "plan")],
        "purpose": [_said(evidence, evidence.purpose, Grade.DECLARED, "plan")],
        "kind": [_said(evidence, _kind(evidence), Grade.PROVEN, "plan")],
        "owner": [missing("organisation")],
        "base_model": _base(evidence),
        "developers": _developers(evidence),
        "inputs": _inputs(evidence),
        "outputs": [_said(evidence, _outputs(evidence), Grade.PROVEN, "plan")],
        "assumptions": [answer([*_ASSUMPTIONS], Grade.DECLARED, "report.html#s12")],
        "limitations": [answer([*_LIMITATIONS], Grade.DECLARED, "report.html#s9")],
        "outcomes": _outcomes(evidence),
        "privacy": _privacy(evidence),
        "sensitivity_to_epsilon": _sensitivity(evidence),
        "monitoring_triggers": [answer([*_TRIGGERS], Grade.DECLARED, "report.html#s12")],
        "dependencies": _dependencies(evidence),
        "dates": _dates(evidence),
        **{
            name: [missing("organisation")]
            for name in ("materiality_tier", "validation", "approval", "monitoring_results")
        },
    }


def _said(
    evidence: Evidence, text: Json, grade: Grade, *about: str, paths: tuple[str, ...] = ("plan.json",)
) -> dict[str, Json]:
    """An answer with the events that it rests on."""
    return {**answer(text, grade, *paths), "events": [*resting(evidence.sources, about)]}


def _identity(evidence: Evidence) -> list[dict[str, Json]]:
    model: Json = {"model_digest": evidence.model.digest, "trained_numbers": evidence.model.parameters}
    return [
        _said(evidence, model, Grade.RECORDED, "model", paths=("evidence.json#/model",)),
        _said(evidence, {"job": evidence.job}, Grade.PROVEN, "plan"),
    ]


def _kind(evidence: Evidence) -> str:
    return "generative" if evidence.plan.task.generates else "discriminative"


def _base(evidence: Evidence) -> list[dict[str, Json]]:
    plan = evidence.plan
    if plan.task.table:
        none: Json = {"base_model": "none", "columns": [*plan.task.table.names], "digest": plan.base.digest}
        return [_said(evidence, none, Grade.PROVEN, "plan")]
    licence = plan.base.licence
    return [
        _said(evidence, {"name": plan.base.name, "digest": plan.base.digest}, Grade.PROVEN, "plan"),
        _said(
            evidence,
            {"licence": licence or "not declared"},
            Grade.DECLARED if licence else Grade.NOT_KNOWN,
            "plan",
        ),
    ]


def _developers(evidence: Evidence) -> list[dict[str, Json]]:
    return [
        _said(
            evidence,
            {"party": one.name, "role": one.role, "keys": one.identity},
            Grade.PROVEN,
            "plan",
            f"party.{one.name}",
            paths=("plan.json", "keys.json"),
        )
        for one in evidence.parties
    ]


def _inputs(evidence: Evidence) -> list[dict[str, Json]]:
    opened = {one.site: one for one in evidence.datasets}
    found = []
    for site in evidence.plan.sites:
        said: dict[str, Json] = {"site": site.name, "dataset": site.dataset}
        one = opened.get(site.name)
        if one is None:
            said["rows_band"] = f"{site.rows.low}-{site.rows.high}"
            found.append(_said(evidence, said, Grade.PROVEN, "plan"))
            continue
        said |= {"rows_band": one.rows, "persons_band": one.persons, "most_rows_of_a_person": one.cap}
        said |= {"columns_digest": one.columns, "fingerprint": one.commitment}
        path = ("evidence.json#/datasets", "report.html#s18")
        found.append(_said(evidence, said, Grade.RECORDED, f"data.{site.name}", paths=path))
    return found


def _outputs(evidence: Evidence) -> Json:
    task = evidence.plan.task
    return {"form": _OUTPUTS[task.kind], "labels": [*task.labels]}


def _outcomes(evidence: Evidence) -> list[dict[str, Json]]:
    """Accuracies with their 95 % intervals; figures on few test records are held back."""
    accuracy = evidence.accuracy
    rows = [] if accuracy is None else [("common test records", accuracy.federated, accuracy.test_rows)]
    for site in accuracy.sites if accuracy else ():
        if site.federated is not None and site.test_rows is not None:
            rows.append((f"test records of {site.name}", site.federated, site.test_rows))
    found = []
    for where, share, number in rows:
        if reading.too_few(int(number)):
            continue
        low, high = reading.interval(share, int(number))
        said: Json = {
            "metric": "accuracy",
            "on": where,
            "test_rows": number,
            "value": f"{share:.4f}",
            "interval_95": [f"{low:.4f}", f"{high:.4f}"],
        }
        found.append(
            _said(evidence, said, Grade.RECORDED, paths=("evidence.json#/accuracy", "report.html#s7"))
        )
    return found or [answer("not measured", Grade.NOT_KNOWN)]


def _privacy(evidence: Evidence) -> list[dict[str, Json]]:
    worst = reading.Worst.of(evidence)
    if worst is None:
        return [_said(evidence, "no differential privacy", Grade.PROVEN, "plan")]
    text = (
        f"differential privacy per {evidence.plan.privacy.unit}: epsilon at most {worst.epsilon} at delta "
        f"{worst.delta}"
    )
    paths = ("evidence.json#/privacy", "report.html#s3")
    return [_said(evidence, text, Grade.DERIVED, f"privacy.{worst.site}", paths=paths)]


def _sensitivity(evidence: Evidence) -> list[dict[str, Json]]:
    found = [
        _said(
            evidence,
            {"noise_times": one.factor, "noise_multiplier": one.noise, "epsilon": one.epsilon},
            Grade.DERIVED,
            f"privacy.{one.site}",
            paths=("evidence.json#/privacy", "report.html#s12"),
        )
        for one in strengths(evidence)
    ]
    return [*found, answer("how accuracy changes with epsilon was not measured in this job", Grade.NOT_KNOWN)]


def _dependencies(evidence: Evidence) -> list[dict[str, Json]]:
    found = []
    for one in evidence.software:
        versions: dict[str, Json] = {str(name): said for name, said in one.versions.items()}
        said: dict[str, Json] = {"party": one.party, "python": one.python, **versions}
        said |= {"packages_digest": one.installed, "code_digest": one.code}
        paths = ("evidence.json#/software", "report.html#s8")
        found.append(_said(evidence, said, Grade.RECORDED, f"software.{one.party}", paths=paths))
    return found or [answer("not recorded", Grade.NOT_KNOWN)]


def _dates(evidence: Evidence) -> list[dict[str, Json]]:
    state = reading.State.of(evidence)
    found = [
        _said(evidence, {"entry_made": evidence.created}, Grade.RECORDED, paths=("evidence.json#/created",))
    ]
    if state.started:
        ran: Json = {"started": state.started, "finished": state.finished}
        found.append(_said(evidence, ran, Grade.RECORDED, "job", paths=("events/",)))
    else:
        found.append(answer("start and end of the job are not recorded", Grade.NOT_KNOWN))
    if state.until:
        until: Json = {"papers_hold_until": state.until}
        found.append(
            _said(evidence, until, Grade.RECORDED, paths=("evidence.json#/consents", "report.html#s15"))
        )
    return found
