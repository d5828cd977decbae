"""The keys of pairwise masks: agreed once a job, moved forward each round, used once each.

Before round 1 every site makes a key pair for the job (ML-KEM-768 and X25519) and signs its public half: an
*introduction*. For each pair the earlier site of the plan's order seals a fresh secret for the later one,
under HPKE, and signs the sealed bytes: an *agreement*. Both derive the pair's root from it by HKDF, bound to
job, roster, both introductions and the agreement. The server only carries what is signed.

A root is a chain: with each round it moves one step forward and the old key is forgotten, so that whoever
takes a site's machine after round 7 cannot rebuild the masks of round 6. From the chain's key at a round come
the keys of single sums, bound to round, step, attempt and model: one for the mask of the pair, one each way
for the shares that are kept for each other.

Formal guarantees:
    If one of ML-KEM-768 and X25519 holds, HKDF-SHA256 is a pseudorandom function, and the signatures cannot
    be forged, nobody but the two sites of a pair can tell a key of theirs from random bytes; keys of
    different uses, sums, rounds, pairs and jobs are independent.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from cloister.privacy import canonical
from cloister.privacy.channel import sealing
from cloister.privacy.errors import AggregationError, EntropyError, StateError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.wire.signed import Signed

INTRODUCTION, AGREEMENT = "cloister/secagg-introduction/1", "cloister/secagg-agreement/1"
_KEY = 32
_MLKEM_PUBLIC, _PUBLIC = 1184, 1184 + 32


class JobKey:
    """A site's own key pair of one job; thrown away when all agreements are made."""

    def __init__(self, mlkem_seed: bytes, x25519_seed: bytes) -> None:
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(mlkem_seed)
        exchange = x25519.X25519PrivateKey.from_private_bytes(x25519_seed)
        self._seeds = (mlkem_seed, x25519_seed)
        self.private = hpke.MLKEM768X25519PrivateKey(kem, exchange)
        self.public = kem.public_key().public_bytes_raw() + exchange.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> JobKey:
        """From the operating system's randomness."""
        return cls(
            mlkem.MLKEM768PrivateKey.generate().private_bytes_raw(),
            x25519.X25519PrivateKey.generate().private_bytes_raw(),
        )

    def to_json(self) -> dict[str, canonical.Json]:
        """The secret seeds, for the site's own disk."""
        return {"mlkem768": self._seeds[0].hex(), "x25519": self._seeds[1].hex()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> JobKey:
        """What ``to_json`` wrote; raises ``ValueError`` or the like for anything else."""
        return cls(bytes.fromhex(value["mlkem768"]), bytes.fromhex(value["x25519"]))


@dataclass(frozen=True)
class Introduction:
    """A site's public key of one job, as it signed it.

    Attributes:
        site: who it is of.
        key: ML-KEM-768, then X25519: 1216 bytes.
        digest: of the signed bytes.
    """

    site: str
    key: bytes
    digest: str

    @staticmethod
    def make(terms: SumTerms, key: JobKey, site: PrivateIdentity) -> Signed:
        """Signs the public half of a key for a job."""
        content: canonical.Json = {
            "v": 1,
            "job": terms.job,
            "site": site.public.name,
            "key": key.public.hex(),
        }
        return Signed.make(canonical.encode(content), site, INTRODUCTION)

    @classmethod
    def open(cls, terms: SumTerms, signed: Signed, site: PublicIdentity) -> Introduction:
        """The introduction of ``site``, whose key can be used.

        Raises:
            ChannelError: ``signature_invalid``.
            AggregationError: ``key_unusable``: of another job or site, malformed, or of small order.
        """
        content = signed.open(site, INTRODUCTION)
        unusable = AggregationError("key_unusable", f"The key of {site.name} for this job cannot be used.")
        value = canonical.decode(content, otherwise=unusable)
        try:
            key = bytes.fromhex(value["key"])
        except (KeyError, TypeError, ValueError) as error:
            raise unusable from error
        stated = {"v": 1, "job": terms.job, "site": site.name, "key": key.hex()}
        if value != stated or len(key) != _PUBLIC:
            raise unusable
        found = cls(site.name, key, canonical.digest(content))
        found.sealing_key()
        return found

    def sealing_key(self) -> hpke.MLKEM768X25519PublicKey:
        """The key that others seal for; raises ``AggregationError`` ``key_unusable``."""
        try:
            kem = mlkem.MLKEM768PublicKey.from_public_bytes(self.key[:_MLKEM_PUBLIC])
            exchange = x25519.X25519PublicKey.from_public_bytes(self.key[_MLKEM_PUBLIC:])
            x25519.X25519PrivateKey.generate().exchange(exchange)  # only this tells a point of small order
            return hpke.MLKEM768X25519PublicKey(kem, exchange)
        except ValueError as error:
            raise AggregationError(
                "key_unusable", f"The key of {self.site} for this job is malformed or of small order."
            ) from error


def introductions(
    terms: SumTerms, signed: Iterable[Signed], identities: Mapping[str, PublicIdentity]
) -> dict[str, Introduction]:
    """Everybody's introduction by name, whatever order they came in.

    Raises:
        ChannelError: ``signature_invalid``.
        AggregationError: ``key_unusable``, or ``keys_missing``: not exactly one of each site.
    """
    found: dict[str, Introduction] = {}
    for one in signed:
        name = _field(one, "site")
        if name not in terms.sites or name in found:
            raise AggregationError(
                "keys_missing", "Keys of one site came twice, or of a site not in the plan."
            )
        found[name] = Introduction.open(terms, one, identities[name])
    if set(found) != set(terms.sites):
        missing = ", ".join(name for name in terms.sites if name not in found)
        raise AggregationError("keys_missing", f"No keys for this job came from {missing}.")
    halves = [half for one in found.values() for half in (one.key[:_MLKEM_PUBLIC], one.key[_MLKEM_PUBLIC:])]
    if len(set(halves)) != len(halves):
        raise AggregationError("key_unusable", "Two sites gave the same key for this job.")
    return found


def agree(
    terms: SumTerms, known: Mapping[str, Introduction], site: PrivateIdentity
) -> tuple[dict[str, bytes], dict[str, Signed]]:
    """Fresh secrets for the pairs with all later sites.

    Whoever calls this keeps both on disk before the agreements leave: a second call gives other secrets.

    Returns:
        (root of each pair, signed agreement to carry to each peer), by the peer's name.
    """
    me = site.public.name
    roots: dict[str, bytes] = {}
    carried: dict[str, Signed] = {}
    for peer in terms.sites[terms.sites.index(me) + 1 :]:
        secret = secrets.token_bytes(_KEY)
        sealed = sealing.wrap_for(secret, known[peer].sealing_key(), _info(terms, known, me, peer))
        content = canonical.encode(_agreement(terms, known, me, peer) | {"sealed": sealed.hex()})
        carried[peer] = Signed.make(content, site, AGREEMENT)
        roots[peer] = _root(terms, secret, content)
    return roots, carried


def accept(
    terms: SumTerms,
    known: Mapping[str, Introduction],
    key: JobKey,
    me: str,
    agreements: Iterable[tuple[Signed, PublicIdentity]],
) -> dict[str, bytes]:
    """The roots of the pairs with all earlier sites, from what those sent.

    Args:
        terms: of the job.
        known: everybody's introduction.
        key: this site's own key of the job.
        me: this site's name.
        agreements: each with the identity of the site that it should be from.

    Raises:
        ChannelError: ``signature_invalid`` or ``seal_invalid``.
        AggregationError: ``key_unusable``: for another job, pair or key; ``keys_missing``: not exactly one
            of each earlier site.
    """
    roots: dict[str, bytes] = {}
    for signed, peer in agreements:
        content = signed.open(peer, AGREEMENT)
        unusable = AggregationError("key_unusable", f"What {peer.name} agreed to is not for this pair.")
        value = canonical.decode(content, otherwise=unusable)
        if not isinstance(value, dict) or peer.name not in terms.sites or peer.name in roots:
            raise unusable
        try:
            sealed = bytes.fromhex(value["sealed"])
        except (KeyError, TypeError, ValueError) as error:
            raise unusable from error
        if value != _agreement(terms, known, peer.name, me) | {"sealed": sealed.hex()}:
            raise unusable
        secret = sealing.unwrap_with(sealed, key.private, _info(terms, known, peer.name, me))
        roots[peer.name] = _root(terms, secret, content)
    if set(roots) != set(terms.sites[: terms.sites.index(me)]):
        raise AggregationError("keys_missing", "Some site has not agreed on keys with this one.")
    return roots


def _field(signed: Signed, name: str) -> Any:
    """A field of something signed, before anything of it is believed."""
    refusal = AggregationError("key_unusable", "A key for this job is malformed.")
    value = canonical.decode(signed.content, otherwise=refusal)
    if not isinstance(value, dict):
        raise refusal
    return value.get(name)


def _agreement(
    terms: SumTerms, known: Mapping[str, Introduction], giver: str, taker: str
) -> dict[str, canonical.Json]:
    return {
        "v": 1,
        "job": terms.job,
        "roster": terms.roster,
        "from": known[giver].digest,
        "to": known[taker].digest,
    }


def _info(terms: SumTerms, known: Mapping[str, Introduction], giver: str, taker: str) -> bytes:
    return canonical.encode({"use": AGREEMENT, **_agreement(terms, known, giver, taker)})


def _root(terms: SumTerms, secret: bytes, agreement: bytes) -> bytes:
    info = canonical.encode({"v": 1, "use": "cloister/pair/1", "agreement": canonical.digest(agreement)})
    return HKDF(hashes.SHA256(), _KEY, canonical.raw(terms.roster), info).derive(secret)


def confirmation(root: bytes) -> str:
    """What both ends of a pair must say of its root; it tells nobody else anything about it."""
    return HKDFExpand(hashes.SHA256(), _KEY, b"cloister/pair-confirmation/1").derive(root).hex()


@dataclass
class PairKeys:
    """A site's keys with all others, at one round; it only moves forward.

    Attributes:
        me: this site's name.
        round: where the chains stand; 0 before the first.
        chains: the key of each pair at this round, by the peer's name.
    """

    terms: SumTerms
    me: str
    round: int
    chains: dict[str, bytes]

    def __post_init__(self) -> None:
        if set(self.chains) != set(self.terms.sites) - {self.me}:
            raise AggregationError("keys_missing", "Keys are not agreed with every other site.")

    def advance(self, number: int) -> None:
        """Moves to a round, for good.

        Raises:
            EntropyError: ``ratchet_behind``.
        """
        if number < self.round:
            raise EntropyError("ratchet_behind", f"The pair keys stand at round {self.round}, past {number}.")
        for _ in range(self.round, number):
            self.chains = {
                peer: HKDFExpand(hashes.SHA256(), _KEY, b"cloister/pair-ratchet/1").derive(key)
                for peer, key in self.chains.items()
            }
        self.round = number

    def mask(self, peer: str, at: At) -> bytes:
        """The key of the mask that this site adds or subtracts, and ``peer`` the other way round."""
        low, high = sorted((self.me, peer), key=self.terms.sites.index)
        return self._key(peer, at, "mask", low, high)

    def share(self, peer: str, at: At, giver: str) -> bytes:
        """The key under which ``giver``, one of the two, hands the other a share of its seed."""
        return self._key(peer, at, "share", giver, peer if giver == self.me else self.me)

    def sign(self, peer: str) -> int:
        """+1 where this site comes before ``peer`` in the plan, else -1."""
        return 1 if self.terms.sites.index(self.me) < self.terms.sites.index(peer) else -1

    def _key(self, peer: str, at: At, use: str, one: str, other: str) -> bytes:
        if at.round != self.round:
            raise EntropyError(
                "ratchet_behind", f"The pair keys stand at round {self.round}, not {at.round}."
            )
        info = at.bound(f"cloister/pair-{use}/1", self.terms, one=one, other=other)
        return HKDFExpand(hashes.SHA256(), _KEY, info).derive(self.chains[peer])

    def to_json(self) -> dict[str, canonical.Json]:
        """The secret chains, for the site's own disk."""
        return {"round": self.round, "chains": {peer: key.hex() for peer, key in self.chains.items()}}

    @classmethod
    def from_json(cls, terms: SumTerms, me: str, value: Mapping[str, Any]) -> PairKeys:
        """What ``to_json`` wrote.

        Raises:
            StateError: ``state_damaged``.
        """
        damaged = StateError("state_damaged", "The keys of secure aggregation are damaged.")
        try:
            chains = {peer: bytes.fromhex(key) for peer, key in value["chains"].items()}
            number = value["round"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged from error
        if type(number) is not int or number < 0 or any(len(key) != _KEY for key in chains.values()):
            raise damaged
        return cls(terms, me, number, chains)
