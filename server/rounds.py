"""One round at the aggregator, as a state machine without I/O.

The rules:

- only invited sites may answer, each once; a second answer changes nothing and is named;
- an answer is added to the running sum when it arrives and is then dropped; only a robust rule, which
  compares updates, keeps each until the round closes;
- a site is in exactly one state: waiting, accepted, refused (with the reason) or lost;
- a round closes with a mean change only if at least the plan's minimum of sites was accepted;
  otherwise it raises, and the global model stays what it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cloister.privacy.codecs import coding
from cloister.privacy.errors import RoundError
from cloister.privacy.plan import Plan
from cloister.privacy.secagg import quantisation
from cloister.privacy.secagg.encoding import Pieces, Sum, encode
from cloister.privacy.secagg.terms import At
from cloister.privacy.update import Delta, Vector
from cloister.server.aggregation.rules import aggregate

WAITING, ACCEPTED, REFUSED, LOST = "waiting", "accepted", "refused", "lost"


@dataclass(frozen=True)
class Standing:
    """Where a site stands in a round: its state, and the id of the reason where it failed."""

    state: str
    reason: str = ""


@dataclass
class Round:
    """A round that is under way.

    Attributes:
        plan: the plan of the job.
        number: counted from 1.
        attempt: counted from 1; a resend of the same task keeps it.
        model: digest of the global model that sites start from.
        invited: the names of the sites that were asked.
        step: 0, or that of the sum of surplus noise.
    """

    plan: Plan
    number: int
    attempt: int
    model: str
    invited: tuple[str, ...]
    step: int = 0
    standings: dict[str, Standing] = field(init=False)
    _singles: dict[str, Vector] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.standings = dict.fromkeys(self.invited, Standing(WAITING))

    @cached_property
    def _sum(self) -> Sum:
        return Sum(self.plan.ring)

    def accept(self, site: str, pieces: Pieces) -> None:
        """Adds a site's encoded update to the sum, or to those that a robust rule compares.

        Raises:
            RoundError: ``site_failed``, the site was not asked or has answered already.
            UpdateError: the content is not what the plan says; the site stands as refused.
        """
        self._check_waiting(site)
        weight = self.plan.weight(site)
        if codec := self.plan.aggregation.codec:
            values = coding.decode(codec, b"".join(pieces), self.plan.adapter.parameters)
            pieces = [encode(Delta(values, ()), weight, self.plan.ring).content]
        if self.plan.aggregation.robust is None:
            self._sum.add(pieces, weight)
        else:
            self._singles[site] = Sum.single(self.plan.ring, pieces, weight)
        self.standings[site] = Standing(ACCEPTED)

    def note(self, site: str) -> None:
        """Notes an answer that is kept elsewhere: a masked update, or one that is no update.

        Raises:
            RoundError: ``site_failed``, as in ``accept``.
        """
        self._check_waiting(site)
        self.standings[site] = Standing(ACCEPTED)

    def refuse(self, site: str, reason: str) -> None:
        """Notes that a site's answer cannot be used, or that the site itself refuses."""
        self._check_waiting(site)
        self.standings[site] = Standing(REFUSED, reason)

    def lose(self, site: str, reason: str) -> None:
        """Notes that a site went away or did not answer in time."""
        self._check_waiting(site)
        self.standings[site] = Standing(LOST, reason)

    def _check_waiting(self, site: str) -> None:
        if self.standings.get(site) != Standing(WAITING):
            raise RoundError("site_failed", f"{site} was not waited for in round {self.number}.")

    def of(self, state: str) -> tuple[str, ...]:
        """The sites in a state, in the order of the plan."""
        return tuple(name for name, standing in self.standings.items() if standing.state == state)

    def close(self) -> Vector:
        """The weighted mean of the accepted updates, or what stands in its place: float32, shape (d,).

        Raises:
            RoundError: as ``check``.
        """
        self.check()
        robust = self.plan.aggregation.robust
        if robust is None:
            return self._sum.mean()
        return aggregate(robust, np.stack([self._singles[site] for site in self.of(ACCEPTED)]))

    def close_with(self, words: NDArray[np.uint32]) -> Vector:
        """The same from the opened sum over all accepted sites, shape (d,), modulo 2^32 or 2^bits.

        Raises:
            RoundError: as ``check``.
            UpdateError: ``update_range``, with few bits, for a sum that honest sites cannot give.
        """
        self.check()
        accepted, few = self.of(ACCEPTED), self.plan.quantisation
        weight = sum(self.plan.weight(site) for site in accepted)
        if few is None:
            return Sum.of(self.plan.ring, words, weight).mean()
        place = At(self.number, 0, self.attempt, self.model)
        return quantisation.mean(words, few, place, len(accepted), weight)

    def check(self) -> None:
        """Checks that enough sites were accepted.

        Raises:
            RoundError: ``below_minimum``, naming every site that is missing and why; or
                ``nothing_aggregated``.
        """
        accepted, minimum = self.of(ACCEPTED), self.plan.aggregation.minimum_sites
        missing = ", ".join(
            f"{n}: {s.reason or s.state}" for n, s in self.standings.items() if s.state != ACCEPTED
        )
        if not accepted:
            raise RoundError("nothing_aggregated", f"Round {self.number} got no update ({missing}).")
        if len(accepted) < minimum:
            raise RoundError(
                "below_minimum",
                f"Round {self.number} got {len(accepted)} updates of at least {minimum} ({missing}).",
                "Bring the missing sites back and resume, or propose a plan without them.",
            )
