"""What a site shows Prometheus of itself: budgets, jobs, the way to the lead, its certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric

from cloister.client.jobs import Jobs
from cloister.client.site.datasets import Datasets
from cloister.client.site.folder import SiteFolder
from cloister.privacy.metrics import ends, gauge


@dataclass(frozen=True)
class SiteFigures:
    """The figures of a site; its folder says all of them but whether the lead can be reached.

    Attributes:
        site: its folder.
    """

    site: SiteFolder

    def __call__(self) -> Iterator[Metric]:
        """See ``privacy.metrics.Families``."""
        ledger = Datasets(self.site).ledger
        budgets = {budget.dataset: budget for budget in ledger.budgets()}
        yield gauge(
            "epsilon_limit", "The budget of a dataset.", "dataset", {n: b.epsilon for n, b in budgets.items()}
        )
        yield gauge(
            "epsilon_spent",
            "What the ledger has reserved or spent of it, by the ruling account.",
            "dataset",
            {name: ledger.epsilon(name) for name in budgets},
        )
        states = Counter(job.state for job in Jobs(self.site))
        yield gauge("jobs", "Jobs by state.", "state", dict(sorted(states.items())))
        yield ends(self.certificates)

    @property
    def certificates(self) -> dict[str, bytes]:
        """The site's certificate, in PEM."""
        return {"site": self.site.membership.certificate.encode()}
