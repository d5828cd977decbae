"""The evidence of a demo: every party's own part, and the figures that only a demo can measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloister.client.jobs import Jobs as SiteJobs
from cloister.client.rulings import Rulings
from cloister.client.site.canaries import opened
from cloister.privacy.evidence.bundle import Bundle, Contents
from cloister.privacy.evidence.derive import Said
from cloister.privacy.evidence.kinds import rounded_up
from cloister.privacy.evidence.log import now
from cloister.privacy.evidence.part import Part
from cloister.server.dossier import contents
from cloister.simulations import demo
from cloister.simulations.outcome import Outcome, epsilon
from cloister.simulations.played import checked


def gather(outcome: Outcome, test_rows: int) -> Contents:
    """What the bundle of a finished demo is made of: each site makes its part from its own folder."""
    run = outcome.run
    parts = [
        Part.make(
            site.log,
            site.identity,
            run.plan,
            Rulings(site).evidence(run.plan) | opened(SiteJobs(site).find(run.plan.digest).folder),
        )
        for site in run.sites.values()
    ]
    return contents(run.lead, run.job, parts, _said(outcome, test_rows))


def bundle(outcome: Outcome, made: Contents) -> Bundle:
    """The bundle, signed by everybody, after the check that anybody can repeat.

    Raises:
        EvidenceError: ``bundle_altered``, it does not verify: a bug, which must not be hidden.
    """
    everybody = (outcome.run.lead.identity, *(site.identity for site in outcome.run.sites.values()))
    return checked(made.bundle(*everybody), made.keys)


def _said(outcome: Outcome, test_rows: int) -> Said:
    run = outcome.run
    accounts = {name: epsilon(run, name)["accountants"] for name in run.sites}
    return Said(
        created=now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=f"{run.seconds:.1f}",
        peak_memory=str(outcome.peak_memory),
        accuracy=_accuracy(outcome, test_rows),
        scores=dict(_scores(outcome)),
        prv={name: rounded_up(found["prv"]) for name, found in accounts.items() if "prv" in found},
    )


def _accuracy(outcome: Outcome, test_rows: int) -> dict[str, Any]:
    base = outcome.baselines
    return {
        "test_rows": str(test_rows),
        "federated": outcome.federated,
        "pooled": base.pooled.plain,
        "pooled_private": base.pooled.private,
        "tfidf": base.tfidf,
        "worst_site": {"name": outcome.worst_site, "accuracy": outcome.own[outcome.worst_site]},
        "sites": [
            {
                "name": name,
                "local_only": pair.plain,
                "local_only_private": pair.private,
                "federated": outcome.federated,
                "test_rows": None,
            }
            for name, pair in base.alone.items()
        ],
    }


def _scores(outcome: Outcome) -> Iterator[tuple[tuple[str, int], float | None]]:
    """Each site's own accuracy round by round."""
    for name, site in outcome.run.sites.items():
        for line in demo.site_progress(site, outcome.run.plan):
            yield (name, line["round"]), line["accuracy"]
