"""The outcome of a demo: every figure beside what it must be compared with, as a value and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from cloister.client.site.datasets import Datasets
from cloister.privacy.dp import accounting
from cloister.privacy.evidence import derive
from cloister.privacy.evidence.reading import statement_of
from cloister.privacy.plan import Plan
from cloister.privacy.step.prv import prv_epsilon
from cloister.simulations.baselines import Baselines
from cloister.simulations.demo import DATASET, Run

_SHARED = (
    "The noise is shared: it protects against the server, outsiders and up to {t} of the other sites acting "
    "together, as long as secure aggregation holds; what one site sends would be protected less by itself."
)


@dataclass(frozen=True)
class Outcome:
    """What a demo found.

    Attributes:
        run: the federation.
        baselines: what it is compared with, on the same test set.
        federated: accuracy of the federated model on the common test set.
        own: site name -> accuracy of the federated model on the site's own held-out records.
        majority: accuracy of always answering the most frequent class.
        peak_memory: bytes resident over all processes, at the highest.
    """

    run: Run
    baselines: Baselines
    federated: float
    own: Mapping[str, float]
    majority: float
    peak_memory: int

    @property
    def private(self) -> bool:
        """Whether the plan promises privacy."""
        return self.run.plan.privacy.mode != "off"

    @property
    def worst_site(self) -> str:
        """The site whose own held-out records the federated model serves worst."""
        return min(self.own, key=lambda name: self.own[name])

    def to_json(self) -> dict[str, Any]:
        """The value of ``result.json``."""
        base, progress = self.baselines, self.run.job.progress
        return {
            "accuracy": {
                "federated": self.federated,
                "federated_without_privacy": base.federated if self.private else self.federated,
                "pooled": base.pooled.plain,
                "pooled_private": base.pooled.private,
                "tfidf": base.tfidf,
                "majority": self.majority,
                "worst_site": self.own[self.worst_site],
                "sites": {
                    name: {
                        "local_only": pair.plain,
                        "local_only_private": pair.private,
                        "federated": self.federated,
                        "federated_on_own_records": self.own[name],
                    }
                    for name, pair in base.alone.items()
                },
            },
            "epsilon": {name: epsilon(self.run, name) for name in self.run.sites},
            "rounds": self.run.plan.training.rounds,
            "seconds": self.run.seconds,
            "bytes_up": progress["bytes_up"],
            "bytes_down": progress["bytes_down"],
            "peak_memory_bytes": self.peak_memory,
            "model_digest": progress["model"],
            "plan_digest": self.run.plan.digest,
            "secure": self.run.plan.aggregation.secure,
            "statement": statement_of(self.run.plan).to_json(),
            "bundle": None,
        }


def epsilon(run: Run, name: str) -> dict[str, Any]:
    """What a site spent, by its ledger, with the other accountants beside the ruling number."""
    plan, privacy = run.plan, run.plan.privacy
    if privacy.mode == "off":
        return {"value": None, "delta": None, "unit": privacy.unit, "mode": "off", "accountants": {}}
    ledger = Datasets(run.sites[name]).ledger
    spent = [row.reservation.mechanism for row in ledger.rows(DATASET) if row.kind == "reserved"]
    accountants = accounting.accountants(spent, privacy.delta)
    return {
        "value": ledger.epsilon(DATASET),
        "delta": privacy.delta,
        "unit": privacy.unit,
        "mode": privacy.mode,
        "accountants": {**accountants, "prv": prv_epsilon(spent, privacy.delta)},
        "rounds_charged": len(spent),
        "audit": audit(run, name),
        "plan_target": plan.privacy.epsilon,
        **({"outside": derive.outside(plan, list(run.sites[name].log.entries()))} if plan.joint else {}),
    }


def audit(run: Run, name: str) -> dict[str, Any] | None:
    """What the phantom units of the job showed at a site, as evidence; None if it did not come to that."""
    return derive.audited(run.plan, run.sites[name].log.entries())


def table(outcome: Outcome) -> Table:
    """The table that a demo ends with."""
    plan, base = outcome.run.plan, outcome.baselines
    private = plan.privacy.mode != "off"
    title = f"Accuracy on {plan.purpose}" + (
        f", epsilon {plan.privacy.epsilon:g} per {plan.privacy.unit}" if private else ", NO PRIVACY"
    )
    found = Table(title=title, title_justify="left")
    found.add_column("trained on")
    found.add_column("without privacy", justify="right")
    found.add_column("private" if private else "", justify="right")
    for name, pair in base.alone.items():
        found.add_row(f"{name} alone", _percent(pair.plain), _percent(pair.private))
    found.add_section()
    label = "all sites, federated"
    found.add_row(
        f"[bold]{label}[/bold]",
        _bold(_percent(base.federated if private else outcome.federated)),
        _bold(_percent(outcome.federated) if private else ""),
    )
    worst = outcome.worst_site
    worst_text = f"{_percent(outcome.own[worst])}"
    found.add_row(
        f"  on {worst}'s own held-out records (worst site)",
        *(("", worst_text) if private else (worst_text, "")),
    )
    found.add_section()
    found.add_row("all records in one place", _percent(base.pooled.plain), _percent(base.pooled.private))
    if base.tfidf is not None:
        found.add_row("TF-IDF and logistic regression, all records", _percent(base.tfidf), "")
    found.add_row("always the most frequent class", _percent(outcome.majority), "")
    return found


def reading(outcome: Outcome) -> list[str]:
    """What the table says, in plain sentences, good or bad."""
    plan, base = outcome.run.plan, outcome.baselines
    private = plan.privacy.mode != "off"
    alone = {name: pair.private if private else pair.plain for name, pair in base.alone.items()}
    behind = [name for name, value in alone.items() if value is not None and value >= outcome.federated]
    kind = " at the same epsilon" if private else ""
    gain = outcome.federated - float(np.mean([value for value in alone.values() if value is not None]))
    lines = [_promise(plan)]
    lines.append(f"Federation gains {100 * gain:+.1f} points over the average site alone{kind}.")
    if behind:
        lines.append(f"It does not beat {', '.join(behind)} alone.")
    if base.tfidf is not None and outcome.federated < base.tfidf:
        lines.append("Word counts on pooled records, without privacy, are better than the federated model.")
    if private and base.pooled.private is not None:
        lines.append(
            f"Pooling all records would give {_percent(base.pooled.private)} at this epsilon, "
            f"{_percent(base.pooled.plain)} without privacy: there it costs "
            f"{100 * (base.pooled.plain - base.pooled.private):.1f} points."
        )
    if base.federated is not None:
        lines.append(
            f"Privacy costs the federation {100 * (base.federated - outcome.federated):.1f} points: trained "
            f"without it, in one process, it has {_percent(base.federated)}."
        )
    if private:
        lines.append(_audited(outcome))
    covered = "Test figures are not covered by epsilon. " if private else ""
    lines.append(f"{covered}{plan.aggregation.visibility}.")
    if plan.aggregation.rounding:
        lines.append(f"{plan.aggregation.rounding}.")
    return lines


def _audited(outcome: Outcome) -> str:
    """What phantom units showed, over all sites."""
    found = [audit(outcome.run, name) for name in outcome.run.sites]
    bounds = [float(one["bound"]) for one in found if one]
    if len(bounds) < len(found):
        return "The pipeline of a site was not audited: see report.html."
    refuted = sum(float(one["bound"]) > float(one["claimed"]) or one["failed"] for one in found if one)
    verdict = f"{refuted} sites REFUTE what is claimed" if refuted else "the claim is not refuted"
    return (
        f"Phantom units in every step: pipeline lower bound {min(bounds):.2f} to {max(bounds):.2f} by site; "
        f"{verdict}. A low bound proves nothing."
    )


def _promise(plan: Plan) -> str:
    """Who is protected by epsilon against what difference; or that nobody is."""
    privacy = plan.privacy
    if privacy.mode == "off":
        return (
            "This run has no privacy guarantee: nothing was clipped, no noise was added, and records may be "
            "inferred from the updates and from the model."
        )
    if privacy.unit == "person":
        promise = (
            "Epsilon is per person: it bounds what adding or removing one person with all rows, at most "
            f"{plan.most_rows} of which count, can change at one site."
        )
    else:
        promise = (
            "Epsilon is per record, not per person: it bounds what adding or removing one row can change at "
            "one site. Somebody with several rows is protected less."
        )
    return f"{promise} {_SHARED.format(t=plan.aggregation.colluding)}" if plan.joint else promise


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _bold(text: str) -> str:
    return f"[bold]{text}[/bold]" if text else ""
