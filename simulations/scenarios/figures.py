"""What a comparison says of each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloister.simulations.scenarios.calibration import Calibration

_Z = 1.959964


@dataclass(frozen=True)
class Figures:
    """What one method reached.

    Attributes:
        accuracy: on the common test records; the mean over noise seeds where there is noise. Of tags it is
            the F1 of whole entities (``Measure``).
        interval: 95 % for that many test records, of Wilson or, for F1, of documents drawn anew: how well
            they measure it.
        seeds: the same of each noise seed.
        sites: site name -> accuracy on its own rows that nobody trained on.
        common: site name -> accuracy on the common test rows of the model that the site would use.
        way: how it was trained, in words.
        epsilon: of the ledger at its highest over sites, for one unit; None without privacy.
        noise_factor: noise over that of pooling at the same epsilon; 0 without privacy.
        bytes_up: what one site sent, before sealing and signing.
        sums: secure sums that were opened.
        path: (sums, bytes up, accuracy) on the common test on the way there, for a federated method.
        calibration: of the probabilities, where all sites have one model; the mean over noise seeds.
        groups: group of test rows -> accuracy, where a column is named and all sites have one model.
        loss: of answers, the mean over test rows of that of a letter; its exponential is the perplexity.
    """

    accuracy: float
    interval: tuple[float, float]
    seeds: tuple[float, ...]
    sites: Mapping[str, float]
    common: Mapping[str, float]
    way: str
    epsilon: float | None = None
    noise_factor: float = 0.0
    bytes_up: int = 0
    sums: int = 0
    path: tuple[tuple[int, int, float], ...] = ()
    calibration: Calibration | None = None
    groups: Mapping[str, float] = field(default_factory=dict)
    loss: float | None = None

    @property
    def worst_site(self) -> str:
        """The site that it serves worst, on the site's own rows."""
        return min(self.sites, key=lambda name: self.sites[name])


@dataclass(frozen=True)
class Measure:
    """What a figure of accuracy is, in words.

    Attributes:
        name: of the figure.
        records: what was answered, in the plural.
        least: what the lowest line of the comparison is.
    """

    name: str = "accuracy"
    records: str = "rows"
    least: str = "most frequent class"

    @property
    def title(self) -> str:
        """At the beginning of a line."""
        return self.name[0].upper() + self.name[1:]


RIGHT = Measure()
FOUND = Measure("entity F1", "sentences", "no entity anywhere")
NEXT = Measure("right next letters", "rows", "the base model as it was")


@dataclass(frozen=True)
class Comparison:
    """All methods of one run.

    Attributes:
        methods: name -> figures; see ``METHODS``.
        simple: accuracy of the simple model on all rows pooled, and what it is.
        majority: of always answering the most frequent class; of answers, of the base model as it was.
        seconds: wall time of each part.
        curves: private federated method -> (epsilon, accuracy) by the same way, ascending; one noise seed.
        loss: of answers, that of the base model as it was.
    """

    methods: Mapping[str, Figures]
    simple: tuple[float, str]
    majority: float
    seconds: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    loss: float | None = None


METHODS = {
    "local_only": "each site alone",
    "local_only_private": "each site alone, private",
    "pooled": "all rows pooled",
    "pooled_private": "all rows pooled, private",
    "federated_ridge": "federated: one analytic round",
    "federated_local": "federated, private: local noise",
    "federated_joint": "federated, private: joint noise",
}
"""Every method on frozen features, in the order in which they are shown."""
AVERAGED = {"federated_averaging": "federated: averaging"}
"""What is shown beside them of tags and answers: on tags an analytic round does badly, answers have none."""
WORDS = METHODS | AVERAGED
"""Every method there is, in words."""
OPEN = (*AVERAGED, "federated_ridge")
"""Federated methods without privacy, the better one first."""
PRIVATE = frozenset({"local_only_private", "pooled_private", "federated_local", "federated_joint"})
"""Those that keep the target."""


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``rows`` (Wilson 1927)."""
    square = _Z**2 / rows
    centre = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / rows + square / (4 * rows)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
