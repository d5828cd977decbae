"""The server's side of a secure sum; ``rounds`` says what is done and why in this order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cloister.privacy.errors import AggregationError, UpdateError
from cloister.privacy.secagg import masking, shares
from cloister.privacy.secagg.masking import Mask
from cloister.privacy.secagg.rounds import (
    SEED,
    SURVIVORS,
    Identities,
    Masked,
    Opening,
    Words,
    commitment,
    is_vector,
    self_mask,
    share_digest,
    survivors_bytes,
)
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.wire.signed import Signed


@dataclass
class ServerSum:
    """The server's side of one secure sum.

    Attributes:
        terms: of the job.
        at: the sum.
        identities: everybody's public identity by name.
    """

    terms: SumTerms
    at: At
    identities: Identities
    _total: Words = field(init=False)
    _commitments: dict[str, str] = field(default_factory=dict, init=False)
    _shares: dict[str, Mapping[str, bytes]] = field(default_factory=dict, init=False)
    _digests: dict[str, Mapping[str, str]] = field(default_factory=dict, init=False)
    _fixed: tuple[str, ...] = field(default=(), init=False)
    _signatures: dict[str, Signed] = field(default_factory=dict, init=False)
    _openings: dict[str, Opening] = field(default_factory=dict, init=False)
    _held: dict[str, dict[int, bytes]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._total = np.zeros(self.terms.length(self.at.round), dtype=np.uint32)

    def add(self, site: str, masked: Masked) -> None:
        """Adds a site's masked vector and forgets it.

        Raises:
            AggregationError: ``sum_unknown`` (not a site of the plan, or heard before), ``sum_over``,
                ``share_malformed``.
            UpdateError: ``update_shape``.
        """
        if site not in self.terms.sites or site in self._commitments:
            raise AggregationError("sum_unknown", f"{site} was not waited for.")
        if self._fixed:
            raise AggregationError("sum_over", f"{site} came after the survivor set was fixed.")
        if not set(masked.shares) == set(masked.digests) == set(self.terms.sites) - {site}:
            raise AggregationError("share_malformed", f"{site} did not give every other site a share.")
        if not is_vector(masked.words, self.terms.length(self.at.round)):
            raise UpdateError("update_shape", f"{site} sent a vector of another shape than the plan's.")
        np.add(self._total, masked.words, out=self._total)
        self._commitments[site] = masked.commitment
        self._shares[site] = dict(masked.shares)
        self._digests[site] = dict(masked.digests)

    def survivors(self) -> tuple[str, ...]:
        """Fixes the survivor set: everybody who was added.

        Raises:
            AggregationError: ``below_n_min``; the set is not fixed then, and more may be added.
        """
        found = tuple(name for name in self.terms.sites if name in self._commitments)
        if len(found) < self.terms.minimum:
            raise AggregationError(
                "below_n_min", f"{len(found)} survivors are fewer than the {self.terms.minimum} of the plan."
            )
        self._fixed = found
        return found

    def signed(self, site: str, signature: Signed) -> None:
        """Takes a survivor's signature.

        Raises:
            AggregationError: ``sum_unknown``, ``model_differs``.
            ChannelError: ``signature_invalid``.
        """
        self._check_survivor(site)
        if signature.open(self.identities[site], SURVIVORS) != survivors_bytes(
            self.terms, self.at, self._fixed
        ):
            raise AggregationError("model_differs", f"{site} signed another set, sum or model.")
        self._signatures[site] = signature

    def signatures(self) -> dict[str, Signed]:
        """What survivors want to see before they open anything.

        Raises:
            AggregationError: ``too_few_signatures``.
        """
        if len(self._signatures) < self.terms.threshold:
            raise AggregationError(
                "too_few_signatures",
                f"{len(self._signatures)} survivors have signed; {self.terms.threshold} must.",
                "This sum is given up; nothing was opened.",
            )
        return dict(self._signatures)

    def opened(self, site: str, opening: Opening) -> None:
        """Takes what a survivor opened.

        Raises:
            AggregationError: ``sum_unknown``, ``commitment_mismatch``, ``reveal_malformed``.
        """
        self._check_survivor(site)
        if commitment(self.terms, self.at, site, opening.seed) != self._commitments[site]:
            raise AggregationError("commitment_mismatch", f"{site} opened another seed than it committed to.")
        missing = set(self.terms.sites) - set(self._fixed)
        if set(opening.pairs) != missing or any(len(key) != SEED for key in opening.pairs.values()):
            raise AggregationError("reveal_malformed", f"{site} did not open its keys with missing sites.")
        self._openings[site] = opening

    def openers(self) -> tuple[str, ...]:
        """Survivors that have opened their seed."""
        return tuple(name for name in self._fixed if name in self._openings)

    def lost(self) -> tuple[str, ...]:
        """Survivors that have not opened their seed."""
        return tuple(name for name in self._fixed if name not in self._openings)

    def shares_for(self, holder: str) -> dict[str, bytes]:
        """The encrypted shares of lost survivors' seeds that a site should open.

        Raises:
            AggregationError: ``sum_lost``: a lost site's masks with missing sites cannot be taken out any
                more.
        """
        if set(self.terms.sites) - set(self._fixed) and self.lost():
            raise AggregationError(
                "sum_lost",
                f"{', '.join(self.lost())} went away after signing, while other sites were missing.",
                "This round is given up; nothing of it can be opened.",
            )
        if holder not in self._openings:
            raise AggregationError("sum_unknown", f"{holder} has not opened its own seed.")
        return {name: self._shares[name][holder] for name in self.lost()}

    def recovered(self, holder: str, opened: Mapping[str, bytes]) -> None:
        """Takes the shares that a site opened.

        Raises:
            AggregationError: ``sum_unknown``, ``reveal_malformed``, ``commitment_mismatch`` for a share that
                is not the one that was given; nothing of the answer is taken then.
        """
        self._check_survivor(holder)
        if not set(self.lost()) <= set(opened) <= set(self._fixed):
            raise AggregationError("reveal_malformed", f"{holder} opened other shares than it was asked for.")
        for name, share in opened.items():
            if (
                holder == name
                or share_digest(self.terms, self.at, name, holder, share) != self._digests[name][holder]
            ):
                raise AggregationError("commitment_mismatch", f"{holder} opened a forged share of {name}.")
        for name, share in opened.items():
            self._held.setdefault(name, {})[self.terms.sites.index(holder)] = share

    def total(self) -> Words:
        """The sum over the survivors, modulo 2^32.

        Raises:
            AggregationError: ``too_few_shares``: a lost site's seed cannot be rebuilt; ``share_malformed``;
                ``sum_unknown`` before the survivor set was fixed.
        """
        if not self._fixed:
            raise AggregationError("sum_unknown", "No survivor set was fixed yet.")
        seeds = {name: opening.seed for name, opening in self._openings.items()}
        seeds |= {name: self._rebuilt(name) for name in self.lost()}
        masks = [self_mask(self.terms, self.at, name, seed, -1) for name, seed in seeds.items()]
        for name, opening in self._openings.items():
            place = self.terms.sites.index(name)
            for gone, key in opening.pairs.items():
                masks.append(Mask(key, -1 if place < self.terms.sites.index(gone) else 1))
        total = self._total.copy()
        masking.apply(total, masks)
        return total

    def _rebuilt(self, name: str) -> bytes:
        """A lost site's seed from T of its shares."""
        held = self._held.get(name, {})
        if len(held) >= self.terms.threshold:
            seed = shares.combine(held, self.terms.threshold)
            if commitment(self.terms, self.at, name, seed) == self._commitments[name]:
                return seed
        raise AggregationError(
            "too_few_shares",
            f"The mask of {name} cannot be taken out: {len(held)} shares of {self.terms.threshold}, or it "
            "gave shares of something else.",
            "This round is given up; what was opened are random masks.",
        )

    def _check_survivor(self, site: str) -> None:
        if site not in self._fixed:
            raise AggregationError("sum_unknown", f"{site} is no survivor of this sum.")
