"""An entry for the registry of differential privacy deployments that OpenDP and NIST keep, tier 3.

Source: the schema of ``opendp/deployments-registry-data`` (MIT). The status is ``Draft``: whether an entry
is handed in is for the lead to say, and the registry's board approves it.
"""

from __future__ import annotations

from cloister.privacy.canonical import Json
from cloister.privacy.dp.statement import NOT_COVERED
from cloister.privacy.evidence import reading
from cloister.privacy.evidence.evidence import Evidence
from cloister.privacy.evidence.papers.forms import DISCLAIMER, as_yaml
from cloister.privacy.plan import Plan

_KINDS = {
    "demo": "A demo on one machine; no organisation took part. Not to be handed in as a deployment.",
    "simulation": "A simulation by one program; no organisation took part. Not to be handed in as a "
    "deployment.",
    "federation": "Every party ran its own machine.",
}


def entry(evidence: Evidence) -> bytes:
    """``dp-registry.yaml``. A plan without privacy gives tier 1: there is no guarantee to describe."""
    worst = reading.Worst.of(evidence)
    deployment: dict[str, Json] = {"basic": _basic(evidence)}
    if worst:
        deployment |= {
            "dp_variant": _variant(evidence),
            "privacy_loss": _loss(evidence, worst),
            "deployment_model": _model(evidence.plan),
            "accounting": _accounting(evidence),
            "implementation": _implementation(evidence.plan),
        }
    deployment["administrative"] = {
        "notes": f"{_KINDS[evidence.kind]} Written from the evidence of job {evidence.job}. {DISCLAIMER}",
        "registry_authors": [evidence.plan.lead.name],
    }
    return as_yaml(
        {
            "url_slug": f"{evidence.consortium}-{evidence.job[7:19]}",
            "status": "Draft",
            "tier": 3 if worst else 1,
            "deployment": deployment,
        }
    )


def _basic(evidence: Evidence) -> dict[str, Json]:
    plan = evidence.plan
    return {
        "name": evidence.purpose,
        "data_curators": [site.name for site in plan.sites],
        "intended_use": f"{evidence.purpose} (as the lead declared it)",
        "data_product_type": "Machine learning model",
        "data_product_region": "not declared",
        "description": (
            f"A {plan.task.described}: {evidence.model.parameters} numbers "
            f"trained by {len(plan.sites)} sites "
            + ("without a base model." if plan.task.table else f"on top of {plan.base.name}.")
        ),
        "publication_date": evidence.created[:10],
    }


_DOMAINS = {
    "sequence-classification": "Any set of labelled texts at each site; the classes are fixed beforehand.",
    "token-classification": "Any set of texts with tagged words at each site; the tags are fixed beforehand.",
    "causal-lm": "Any set of instructions with answers at each site.",
    "tabular-classification": "Any set of labelled rows at each site; columns, ranges and classes are fixed "
    "beforehand, and values outside of a range are cut to it.",
}


def _variant(evidence: Evidence) -> dict[str, Json]:
    outside = [NOT_COVERED[name] for name in reading.statement_of(evidence.plan).not_covered]
    return {
        "variant_name": "Approximate DP",
        "data_domain": _DOMAINS[evidence.plan.task.kind],
        "unprotected_quantities": "; ".join(outside),
    }


def _loss(evidence: Evidence, worst: reading.Worst) -> dict[str, Json]:
    plan = evidence.plan
    person = plan.privacy.unit == "person"
    sites = ", ".join(f"{one.site} {one.epsilon}" for one in evidence.privacy)
    several = [
        f"{more.number} {'records at one site' if more.what == 'rows' else 'sites'} {more.epsilon or 'none'}"
        for more in reading.several(evidence)
    ]
    return {
        "privacy_unit": "Person at one site" if person else "Record (not person)",
        "privacy_unit_details": (
            "Neighbouring datasets differ by one person, added to or removed from one site's data with all "
            f"rows under one id, of which at most {plan.most_rows} are used."
            if person
            else "Neighbouring datasets differ by one row, added to or removed from one site's data."
        ),
        "privacy_parameters": {"epsilon": float(worst.epsilon), "delta": float(worst.delta)},
        "privacy_parameters_details": (
            f"The largest of all sites. Epsilon by site: {sites}. Epsilon of somebody who counts more than "
            f"once, at the same delta: {'; '.join(several)}. Derived from noise, rate and steps as the sites "
            "recorded them; a site that added less noise than it recorded has a larger epsilon."
        ),
    }


def _model(plan: Plan) -> dict[str, Json]:
    joint = plan.joint
    return {
        "model_name": "Federated",
        "model_name_details": (
            "Each site adds a share of the noise; secure aggregation opens nothing but the sum."
            if joint
            else "Each site clips and adds all of its noise before anything leaves it."
        ),
        "actors": (
            f"The lead {plan.lead.name} and its server, {len(plan.sites)} sites, and whoever holds the final "
            "model. "
            + (
                f"The guarantee holds against all of them, of the sites up to {plan.aggregation.colluding} "
                "acting together, if secure aggregation holds. "
                if joint
                else "The guarantee of a site holds against all of them. "
            )
            + "Each site is trusted with its own records and noise; nothing here shows that it did not lie."
        ),
        "release_type": "Many releases",
        "release_type_details": (
            f"The model after each of {plan.training.rounds} rounds goes to every site. The budget of a "
            "dataset is a limit for all jobs and is not renewed by itself."
        ),
        "data_source_type": "Static",
        "access_type": "Non-interactive",
    }


def _accounting(evidence: Evidence) -> dict[str, Json]:
    return {
        "post_processing": "Updates are added up and applied to the model; nothing is charged for that.",
        "composition": (
            "Rényi accounting over all steps of all rounds, failed and repeated ones too; "
            f"{len(evidence.rounds)} rounds are closed. Over several sites "
            + ("one noise covers all of them." if evidence.plan.joint else "the sites' ledgers add up.")
        ),
    }


def _implementation(plan: Plan) -> dict[str, Json]:
    privacy, training = plan.privacy, plan.training
    sampler = "the full batch" if training.rate == 1 else f"Poisson sampling at rate {training.rate:g}"
    kind = "Exact discrete Gaussian noise, in shares," if plan.joint else "Gaussian noise"
    return {
        "preprocessing_and_hyperparameter_tuning": (
            "Settings that were chosen by trying them on the same data outside the ledger are not accounted; "
            "whether any were is not known."
        ),
        "mechanisms": (
            f"{kind} of multiplier {privacy.noise_multiplier:g} on sums clipped to {privacy.bound:g} a "
            f"{privacy.unit}, with {sampler}. Noise comes from a cryptographic generator of random "
            + (
                "numbers and is added to whole numbers."
                if plan.joint
                else "numbers, is drawn in float64 and rounded to a public grid; no statistical distance is "
                "charged to delta for it."
            )
        ),
        "justification": "Chosen by the lead and approved by each site; the reasons are not recorded.",
    }
