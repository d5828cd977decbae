"""Secure sums in one process: both sides' real state machines, with real keys, without sockets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.entropy import Entropy
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.secagg import keys
from cloister.privacy.secagg.keys import Introduction, JobKey, PairKeys
from cloister.privacy.secagg.rounds import SEED
from cloister.privacy.secagg.server import ServerSum
from cloister.privacy.secagg.site import SiteSums
from cloister.privacy.secagg.terms import At, SumTerms

Words: TypeAlias = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Opened:
    """A sum that was opened.

    Attributes:
        words: modulo 2^32, shape (d,).
        survivors: over whom it is, in the plan's order.
    """

    words: Words
    survivors: tuple[str, ...]


class Sums(Protocol):
    """Opens the sum of the sites' words."""

    def open(self, at: At, words: Iterable[tuple[str, bytes]], *, over: tuple[str, ...] = ()) -> Opened:
        """The sum over those who sent something.

        Args:
            at: which sum it is; each is asked for once.
            words: sites, each with its encoded vector of little-endian words of 32 bits; one after the other.
            over: for surplus noise, the survivors of the sum that it is in; empty for any sum.
        """
        ...


@dataclass(frozen=True, eq=False)
class OpenSums:
    """The same sums without masks, for searches: bit for bit what ``MaskedSums`` opens.

    Attributes:
        sites: in the plan's order.
    """

    sites: tuple[str, ...]

    def open(self, at: At, words: Iterable[tuple[str, bytes]], *, over: tuple[str, ...] = ()) -> Opened:  # noqa: ARG002
        """See ``Sums``."""
        total: Words = np.zeros(1, dtype=np.uint32)
        sent = set()
        for name, content in words:
            total = total + np.frombuffer(content, dtype="<u4")
            sent.add(name)
        return Opened(total, tuple(name for name in self.sites if name in sent))


class MaskedSums:
    """A consortium that adds up in secret.

    Args:
        terms: of the job.
        identities: everybody's keys.
        entropies: each site's source of seeds.

    Raises:
        AggregationError: as the state machines do.
    """

    def __init__(
        self, terms: SumTerms, identities: Mapping[str, PrivateIdentity], entropies: Mapping[str, Entropy]
    ) -> None:
        self._terms, self._entropies = terms, entropies
        self._peers = {name: identities[name].public for name in terms.sites}
        pairs = agreed(terms, identities)
        self._sites = {
            name: SiteSums(terms, identities[name], self._peers, pairs[name]) for name in terms.sites
        }

    def open(
        self,
        at: At,
        words: Iterable[tuple[str, bytes]],
        silent: Collection[str] = (),
        *,
        over: tuple[str, ...] = (),
    ) -> Opened:
        """See ``Sums``.

        Args:
            at: which sum it is.
            words: of each site; who is left out has dropped out before it sent anything.
            silent: sites that sent and then went away, before they signed.
            over: see ``Sums``.

        Raises:
            AggregationError: ``below_n_min``, ``too_few_signatures``, ``sum_lost``, ``surplus_refused``.
        """
        server = ServerSum(self._terms, at, self._peers)
        for name, content in words:
            if over:
                self._sites[name].surplus(at, over)
            stream = self._entropies[name].stream(
                "secagg", round=at.round, step=at.step, attempt=at.attempt, model=at.model
            )
            vector = np.frombuffer(content, dtype="<u4").copy()
            server.add(name, self._sites[name].mask(at, vector, stream.bytes(SEED), over))
        survivors = server.survivors()
        there = [name for name in survivors if name not in silent]
        for name in there:
            server.signed(name, self._sites[name].sign(at, survivors))
        signatures = server.signatures()
        for name in there:
            server.opened(name, self._sites[name].open(at, survivors, signatures))
        if server.lost():
            for name in there:
                server.recovered(name, self._sites[name].recover(at, server.shares_for(name)))
        return Opened(server.total(), survivors)


def agreed(terms: SumTerms, identities: Mapping[str, PrivateIdentity]) -> dict[str, PairKeys]:
    """The key agreement of all pairs of sites, every message in its signed form."""
    own = {name: JobKey.generate() for name in terms.sites}
    peers = {name: identities[name].public for name in terms.sites}
    signed = [Introduction.make(terms, own[name], identities[name]) for name in terms.sites]
    known = keys.introductions(terms, signed, peers)
    given = {name: keys.agree(terms, known, identities[name]) for name in terms.sites}
    found = {}
    for name in terms.sites:
        inbox = [(carried[name], peers[giver]) for giver, (_, carried) in given.items() if name in carried]
        chains = given[name][0] | keys.accept(terms, known, own[name], name, inbox)
        found[name] = PairKeys(terms, name, 0, chains)
    return found


def job_of(*parts: canonical.Json) -> str:
    """A digest that names a job of a simulation."""
    return canonical.digest(canonical.encode(list(parts)))
