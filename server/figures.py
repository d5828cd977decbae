"""What a lead shows Prometheus of itself: jobs, rounds, sites, bytes, its certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from cloister.privacy.metrics import ends, gauge
from cloister.server.folder import SERVER, LeadFolder
from cloister.server.jobs import OPEN, Job, Jobs


@dataclass(frozen=True)
class LeadFigures:
    """The figures of a lead.

    Attributes:
        lead: its folder.
        present: the names of the sites that are connected now.
    """

    lead: LeadFolder
    present: Callable[[], Iterable[str]]

    def __call__(self) -> Iterator[Metric]:
        """See ``privacy.metrics.Families``."""
        jobs = list(Jobs(self.lead.jobs, self.lead.vault))
        states = Counter(job.state for job in jobs)
        yield gauge("jobs", "Jobs by state.", "state", dict(sorted(states.items())))
        present = set(self.present())
        members = (site.name for site in self.lead.enrolment.roster.sites)
        yield gauge(
            "site_connected",
            "Whether a member is connected.",
            "site",
            {n: float(n in present) for n in members},
        )
        yield from _progress([job for job in jobs if job.state in OPEN])
        yield ends({"server": self.lead.tls(SERVER).certificate})


def _progress(jobs: list[Job]) -> Iterator[Metric]:
    """How far open jobs are, and what they moved."""
    done = GaugeMetricFamily("cloister_job_round", "The round that a job is in.", labels=["job"])
    planned = GaugeMetricFamily("cloister_job_rounds", "The rounds of its plan.", labels=["job"])
    moved = GaugeMetricFamily(
        "cloister_job_envelope_bytes", "Bytes of envelopes in this process.", labels=["job", "direction"]
    )
    for job in jobs:
        name, progress = job.plan.digest[7:19], job.progress
        done.add_metric([name], progress.get("round", 0))
        planned.add_metric([name], job.plan.training.rounds)
        for direction in ("up", "down"):
            moved.add_metric([name, direction], progress.get(f"bytes_{direction}", 0))
    yield from (done, planned, moved)
