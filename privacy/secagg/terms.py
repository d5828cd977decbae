"""The terms of secure aggregation in one job, and the place of one secure sum in it.

What the terms must satisfy, n sites, threshold T, minimum n_min, t sites that may collude with the server:

- ``n_min - t >= 2``: behind every sum that is opened stand at least two sites that nobody else knows;
- ``T > (n + t) / 2``: two different survivor sets of one round cannot both find T signatures, for honest
  sites sign one set a round and only t sites sign whatever they are asked;
- ``T <= n_min <= n``: a set that may be opened has enough members to sign it and to hold T shares.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloister.privacy import canonical
from cloister.privacy.errors import AggregationError
from cloister.privacy.secagg.shares import MOST_HOLDERS

_MOST = 10**6


@dataclass(frozen=True)
class SumTerms:
    """What every site approved and signed with the plan; the server cannot change any of it.

    Attributes:
        job: the plan's digest, which holds all that is not here: ring, range, model, weights.
        roster: digest of the roster.
        sites: all sites of the plan, in its order; a site's position is the number of its share.
        parameters: d, the length of a vector.
        threshold: T, how many sites must sign a survivor set, and hold shares of a seed.
        minimum: n_min, the fewest sites that a sum is opened for.
        colluding: t >= 1, how many sites may put together what they know, and the server with them.
        first: the length of the vectors of round 1, where they are others; 0 where they are not.

    Raises:
        AggregationError: ``terms_too_weak``.
    """

    job: str
    roster: str
    sites: tuple[str, ...]
    parameters: int
    threshold: int
    minimum: int
    colluding: int = 1
    first: int = 0

    def length(self, round: int) -> int:
        """The length of the vectors of a round's sums."""
        return self.first if self.first and round == 1 else self.parameters

    def __post_init__(self) -> None:
        n, t = len(self.sites), self.colluding
        numbers = (self.threshold, self.minimum, t, self.parameters, self.first)
        sound = (
            all(type(number) is int for number in numbers)
            and t >= 1
            and n <= MOST_HOLDERS
            and self.minimum - t >= 2
            and 2 * self.threshold > n + t
            and self.threshold <= self.minimum <= n == len(set(self.sites))
            and self.parameters >= 1
            and self.first >= 0
        )
        if not sound:
            raise AggregationError(
                "terms_too_weak",
                f"{n} sites with threshold {self.threshold}, minimum {self.minimum} and {t} colluding do not "
                "protect a single update.",
                f"Take 3 to {MOST_HOLDERS} sites, a minimum of at least 2 more than may collude, and a "
                "threshold above half of all sites and colluders together.",
            )

    @classmethod
    def least_threshold(cls, sites: int, colluding: int = 1) -> int:
        """The smallest T for n sites of which t may collude: floor((n + t) / 2) + 1."""
        return (sites + colluding) // 2 + 1


@dataclass(frozen=True)
class At:
    """One secure sum of a job.

    Attributes:
        round: counted from 1.
        step: of a round that has several sums; 0 where it has one, as all jobs of this release do.
        attempt: counted from 1.
        model: digest of the global model that every site starts from.

    Raises:
        AggregationError: ``sum_unknown``, no sum is there.
    """

    round: int
    step: int
    attempt: int
    model: str

    def __post_init__(self) -> None:
        numbers = (self.round, self.step, self.attempt)
        if any(type(number) is not int for number in numbers) or not (
            1 <= self.round <= _MOST and 0 <= self.step <= _MOST and 1 <= self.attempt <= _MOST
        ):
            raise AggregationError("sum_unknown", "A secure sum is named by numbers that no plan has.")
        if not canonical.is_digest(self.model):
            raise AggregationError("sum_unknown", "A secure sum is named without the digest of its model.")

    @property
    def order(self) -> tuple[int, int, int]:
        """Sums of a job follow each other in this order."""
        return (self.round, self.step, self.attempt)

    def bound(self, use: str, terms: SumTerms, **more: canonical.Json) -> bytes:
        """Canonical bytes that name a use, this sum and its job: what keys and signatures are bound to."""
        return canonical.encode(
            {"v": 1, "use": use, "job": terms.job, "roster": terms.roster, **vars(self), **more}
        )
