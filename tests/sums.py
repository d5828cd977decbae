"""A consortium that adds up in secret, in this process: real keys and real state machines, no sockets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.secagg import keys
from cloister.privacy.secagg.keys import Introduction, JobKey, PairKeys
from cloister.privacy.secagg.rounds import Masked
from cloister.privacy.secagg.server import ServerSum
from cloister.privacy.secagg.site import SiteSums
from cloister.privacy.secagg.terms import At, SumTerms

MODEL = canonical.digest(b"model")
PARAMETERS = 50
NAMES = ("north", "south", "west", "coast", "hill", "lake")


@cache
def identity(name: str) -> PrivateIdentity:
    return PrivateIdentity.generate(name, "site")


def terms_of(sites: int = 4, minimum: int | None = None, **changes: object) -> SumTerms:
    least = SumTerms.least_threshold(sites)
    values = {
        "job": canonical.digest(b"plan"),
        "roster": canonical.digest(b"roster"),
        "sites": NAMES[:sites],
        "parameters": PARAMETERS,
        "threshold": least,
        "minimum": least if minimum is None else minimum,
    }
    return SumTerms(**(values | changes))  # type: ignore[arg-type]


def at(number: int = 1, step: int = 0, attempt: int = 1, model: str = MODEL) -> At:
    return At(number, step, attempt, model)


def agreed(terms: SumTerms) -> dict[str, PairKeys]:
    """The key agreement of all sites, every message through its signed form."""
    own = {name: JobKey.generate() for name in terms.sites}
    peers = {name: identity(name).public for name in terms.sites}
    signed = [Introduction.make(terms, own[name], identity(name)) for name in terms.sites]
    known = keys.introductions(terms, signed, peers)
    given = {name: keys.agree(terms, known, identity(name)) for name in terms.sites}
    chains = {}
    for name in terms.sites:
        inbox = [(carried[name], peers[giver]) for giver, (_, carried) in given.items() if name in carried]
        chains[name] = given[name][0] | keys.accept(terms, known, own[name], name, inbox)
    return {name: PairKeys(terms, name, 0, chain) for name, chain in chains.items()}


@cache
def _agreed(terms: SumTerms) -> dict[str, dict[str, bytes]]:
    return {name: pair.chains for name, pair in agreed(terms).items()}


@dataclass
class Adders:
    """Sites with vectors of their own and a server, step by step."""

    terms: SumTerms
    sites: dict[str, SiteSums] = field(default_factory=dict)
    inputs: dict[str, NDArray[np.uint32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        peers = {name: identity(name).public for name in self.terms.sites}
        random = np.random.default_rng(3)
        for name, chains in _agreed(self.terms).items():
            pairs = PairKeys(self.terms, name, 0, dict(chains))
            self.sites[name] = SiteSums(self.terms, identity(name), peers, pairs)
            self.inputs[name] = random.integers(0, 2**32, self.terms.parameters, dtype=np.uint32)

    def server(self, place: At) -> ServerSum:
        return ServerSum(self.terms, place, {name: identity(name).public for name in self.terms.sites})

    def seed(self, name: str, place: At) -> bytes:
        return bytes.fromhex(canonical.digest(place.bound(name, self.terms)).removeprefix("sha256:"))

    def masked(self, name: str, place: At) -> Masked:
        return self.sites[name].mask(place, self.inputs[name].copy(), self.seed(name, place))

    def expected(self, names: Iterable[str]) -> NDArray[np.uint32]:
        return np.sum([self.inputs[name] for name in names], axis=0, dtype=np.uint32)

    def run(
        self,
        place: At,
        *,
        missing: Iterable[str] = (),
        unsigned: Iterable[str] = (),
        unopened: Iterable[str] = (),
    ) -> NDArray[np.uint32]:
        """One whole sum, with sites that go away before they upload, sign or open."""
        gone, silent, shut = set(missing), set(unsigned), set(unopened) | set(unsigned)
        server = self.server(place)
        for name in self.terms.sites:
            if name not in gone:
                server.add(name, self.masked(name, place))
        survivors = server.survivors()
        for name in survivors:
            if name not in silent:
                server.signed(name, self.sites[name].sign(place, survivors))
        signatures = server.signatures()
        for name in survivors:
            if name not in shut:
                server.opened(name, self.sites[name].open(place, survivors, signatures))
        for name in survivors:
            if name not in shut and server.lost():
                server.recovered(name, self.sites[name].recover(place, server.shares_for(name)))
        return server.total()


def states(adders: Adders) -> Mapping[str, bytes]:
    """What each site would have on disk."""
    return {name: canonical.encode(site.to_json()) for name, site in adders.sites.items()}
