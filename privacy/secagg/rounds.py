"""Secure aggregation of one job: what a site does, what the server does, and in which order.

This docstring is the specification; ``docs/secure-aggregation.md`` argues why it holds. Neither side does any
input or output here: values come in, values go out, and the site's state is handed to its driver to be on
disk *before* an answer leaves.

*Keys.* Once a job, all pairs of sites share a chain of keys (``keys``).

*Mask.* For a sum ``At(round, step, attempt, model)`` site i has a vector x of words modulo 2^32 and a seed b
from its ratchet. It sends

- y = x + PRG(b) + sum over peers j of ± PRG(k_ij): plus where i comes first in the plan, else minus;
- a commitment, the digest of b with i and the sum's place;
- for every peer a share of b, T of which rebuild it, encrypted under a key of that pair and this sum, and the
  digest of that share, by which the server tells a share that is passed on from a forged one.

*Survive.* The server names the survivor set U: the sites whose y it holds. A site signs U if it is in U, U
is a subset of the plan's sites with at least n_min members, and it has signed no other set in this round.

*Open.* The server shows T signatures of members of U over the same U, sum and model. Only then a site opens
its own b, and its key k_id for every site d that is *not* in U. Of a site in U it never opens a pair key, of
one that is not in U never a share: the two kinds together would bare that site's update.

*Recover.* Members of U that went away before they opened b: the others each give their share of it, as the
server hands it to them. T shares rebuild b, which must fit the commitment.

If one site is missing and another goes away between signing and opening, the sum is lost: only those two know
the key of their mask. What the others opened by then are random masks.

*Sum.* The server takes all PRG(b) and, for every missing d, the ± PRG(k_id) out of the sum of all y. What is
left is the sum of x over U. The masks between members of U cancelled each other.

*Surplus.* Where the plan takes surplus noise back (``surplus``), step 1 of a round adds up noise alone. A
site masks it after it opened step 0, for the set that it signed there, and signs no other set: that sum is
over the same survivors, or is not opened.

There is one survivor set and one sum a round and step, and one attempt at it: a sum that failed after a site
had signed is given up, and the next one has fresh samples and noise. Until then the same bytes may be sent
again as often as needed, also by a site that comes late.

Formal guarantees:
    Argued in ``docs/secure-aggregation.md``, not proved, and not reviewed by outsiders: for terms that
    ``SumTerms`` takes, a server and t sites that do as they please learn of the other sites' vectors of one
    sum nothing but their sum over U, and there are at least n_min - t of these. They can make the sum fail
    or be wrong. With no noise in x, sums over different sets in different rounds can be subtracted.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.errors import AggregationError, EntropyError, StateError, UpdateError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.secagg import masking, shares
from cloister.privacy.secagg.keys import PairKeys
from cloister.privacy.secagg.masking import Mask
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.wire.signed import Signed

Words = NDArray[np.uint32]
Identities = Mapping[str, PublicIdentity]

SURVIVORS = "cloister/secagg-survivors/1"
SEED = 32
_NONCE = 12


def survivors_bytes(terms: SumTerms, at: At, survivors: tuple[str, ...]) -> bytes:
    """What the members of a survivor set sign."""
    return at.bound(SURVIVORS, terms, survivors=list(survivors))


def commitment(terms: SumTerms, at: At, site: str, seed: bytes) -> str:
    """The digest that binds a site to its seed."""
    return canonical.digest(at.bound("cloister/secagg-seed/1", terms, site=site, seed=seed.hex()))


def share_digest(terms: SumTerms, at: At, giver: str, holder: str, share: bytes) -> str:
    """What a site says of the share that it gave a peer; the share's own randomness hides it."""
    return canonical.digest(
        at.bound("cloister/secagg-share/1", terms, giver=giver, holder=holder, share=share.hex())
    )


def _self_mask(terms: SumTerms, at: At, site: str, seed: bytes, sign: int) -> Mask:
    info = at.bound("cloister/secagg-self/1", terms, site=site)
    return Mask(HKDFExpand(hashes.SHA256(), SEED, info).derive(seed), sign)


@dataclass(frozen=True, eq=False)
class Masked:
    """What a site uploads.

    Attributes:
        words: y, uint32, shape (d,).
        commitment: to the seed of its own mask.
        shares: of that seed, encrypted, by the name of the peer that each is for.
        digests: of these shares, by the same names.
    """

    words: Words
    commitment: str
    shares: Mapping[str, bytes]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Opening:
    """What a survivor opens.

    Attributes:
        seed: of its own mask.
        pairs: the key of its mask with each site that is not in the survivor set.
    """

    seed: bytes
    pairs: Mapping[str, bytes]


@dataclass
class SiteSums:
    """A site's side of all secure sums of a job.

    Every method checks, then changes the state, then answers. Its driver writes ``to_json`` to disk before
    the answer leaves.

    Attributes:
        terms: of the job.
        identity: the site's keys.
        peers: everybody's public identity by name.
        keys: with all other sites.
        at: the sum that it is in; None before the first.
        seed: of its own mask in that sum.
        survivors: the set that it signed in that sum's round and step; empty before.
        opened: whether it has opened its seed.
        sent: digest of the masked vector of that sum.
        over: the only survivor set that the sum may have; empty where it is any.
    """

    terms: SumTerms
    identity: PrivateIdentity
    peers: Identities
    keys: PairKeys
    at: At | None = None
    seed: bytes = b""
    survivors: tuple[str, ...] = ()
    opened: bool = False
    sent: str = ""
    over: tuple[str, ...] = ()

    @property
    def me(self) -> str:
        """This site's name."""
        return self.identity.public.name

    def mask(self, at: At, words: Words, seed: bytes, over: tuple[str, ...] = ()) -> Masked:
        """Masks a vector in place.

        The same vector may be masked again before anything of its sum was signed: after a crash between
        this and the storing of the answer, with the same seed from the same ratchet. Another vector never:
        the difference of the two would be bare.

        Args:
            at: the sum; later than every one before.
            words: x, uint32, shape (d,); holds y afterwards.
            seed: 32 bytes from the site's ratchet, used for nothing else.
            over: the only survivor set that will be signed for this sum; empty for any.

        Raises:
            AggregationError: ``sum_over``, ``survivor_set_fixed``, ``model_differs``.
            EntropyError: ``key_already_used``, the seed served before.
            ValueError: another shape, type or size.
        """
        if not _is_vector(words, self.terms.parameters) or len(seed) != SEED:
            raise ValueError("a secure sum needs d words of 32 bits in a row and a seed of 32 bytes")
        again = self.admit(at)
        if again != (seed == self.seed):
            raise EntropyError("key_already_used", "The seed of a mask serves one sum, and one sum has one.")
        self.keys.advance(at.round)
        pairs = [Mask(self.keys.mask(peer, at), self.keys.sign(peer)) for peer in self._others()]
        masking.apply(words, [_self_mask(self.terms, at, self.me, seed, 1), *pairs])
        sent = canonical.digest(words.tobytes())
        if again and sent != self.sent:
            raise AggregationError("sum_over", f"Another vector of round {at.round} was masked before.")
        self.at, self.seed, self.survivors, self.opened, self.sent = at, seed, (), False, sent
        self.over = over
        return self._masked(at, words, seed)

    def surplus(self, at: At, survivors: tuple[str, ...]) -> None:
        """Checks that this site may give its surplus noise in a sum, before it works any out.

        Raises:
            AggregationError: ``surplus_refused``: the sum is not the one that follows the step under way
                here, that step was not opened here yet, or it had another survivor set.
        """
        now = self.at
        again = now == at and self.over == survivors and bool(survivors)
        follows = now is not None and self.opened and now.step == 0 and at == replace(now, step=1)
        if not again and not (follows and survivors == self.survivors):
            raise AggregationError(
                "surplus_refused",
                f"Surplus noise of round {at.round} was asked for before its sum was opened here, after it "
                "was over, or for other survivors than signed.",
                "Nothing was given; the lead goes on without it.",
            )

    def admit(self, at: At) -> bool:
        """Whether a sum that may be masked now was masked before.

        Asked before anything is trained or charged for it.

        Raises:
            AggregationError: ``sum_over``, ``survivor_set_fixed``, ``model_differs``.
        """
        current = self.at
        if current is None or (at.round, at.step) > (current.round, current.step):
            return False
        if self.survivors and (at.round, at.step) == (current.round, current.step):
            raise AggregationError(
                "survivor_set_fixed", f"A survivor set of round {at.round} was signed; no attempt follows it."
            )
        if at.order < current.order:
            raise AggregationError(
                "sum_over", f"Round {at.round}, step {at.step} was asked for again after it was over."
            )
        if at.order == current.order and at != current:
            raise AggregationError(
                "model_differs", f"Round {at.round} was asked for again with another global model."
            )
        return at == current

    def _others(self) -> list[str]:
        return [name for name in self.terms.sites if name != self.me]

    def _masked(self, at: At, words: Words, seed: bytes) -> Masked:
        parts = shares.split(seed, self.terms.threshold, len(self.terms.sites))
        given = {peer: parts[self.terms.sites.index(peer)] for peer in self._others()}
        return Masked(
            words,
            commitment(self.terms, at, self.me, seed),
            {peer: _seal(self.keys.share(peer, at, self.me), share) for peer, share in given.items()},
            {peer: share_digest(self.terms, at, self.me, peer, share) for peer, share in given.items()},
        )

    def sign(self, at: At, survivors: tuple[str, ...]) -> Signed:
        """Signs a survivor set, the only one of its round and step.

        Raises:
            AggregationError: ``sum_unknown``, ``model_differs``, ``survivors_invalid``, ``below_n_min``,
                ``survivor_set_fixed``.
        """
        self._check_place(at)
        _check_survivors(self.terms, survivors, self.me)
        if any(fixed and survivors != fixed for fixed in (self.survivors, self.over)):
            raise AggregationError(
                "survivor_set_fixed", f"Another survivor set of round {at.round} was signed here before."
            )
        self.survivors = survivors
        return Signed.make(survivors_bytes(self.terms, at, survivors), self.identity, SURVIVORS)

    def open(self, at: At, survivors: tuple[str, ...], signatures: Mapping[str, Signed]) -> Opening:
        """Opens this site's own mask and those with missing sites, once enough survivors signed.

        Raises:
            AggregationError: ``sum_unknown``, ``model_differs``, ``survivor_set_fixed``,
                ``too_few_signatures``.
            ChannelError: ``signature_invalid``.
        """
        self._check_place(at)
        if not self.survivors or survivors != self.survivors:
            raise AggregationError("survivor_set_fixed", "This survivor set was not signed here.")
        self._check_signatures(at, signatures)
        self.opened = True
        missing = [name for name in self.terms.sites if name not in survivors]
        return Opening(self.seed, {name: self.keys.mask(name, at) for name in missing})

    def _check_signatures(self, at: At, signatures: Mapping[str, Signed]) -> None:
        statement = survivors_bytes(self.terms, at, self.survivors)
        for name, signed in signatures.items():
            if name not in self.survivors:
                raise AggregationError("too_few_signatures", "Somebody signed who is no survivor.")
            if signed.open(self.peers[name], SURVIVORS) != statement:
                raise AggregationError("model_differs", f"{name} signed another set, sum or model.")
        if len(signatures) < self.terms.threshold:
            raise AggregationError(
                "too_few_signatures", f"{len(signatures)} of {self.terms.threshold} survivors have signed."
            )

    def recover(self, at: At, lost: Mapping[str, bytes]) -> dict[str, bytes]:
        """This site's shares of the seeds of survivors that were lost before they opened them.

        Args:
            at: the sum.
            lost: the share that each gave this site, encrypted, by its name.

        Raises:
            AggregationError: ``sum_unknown``, ``too_few_signatures`` before the set was opened,
                ``both_kinds_requested`` for a site that is not in the set, ``share_malformed``.
        """
        self._check_place(at)
        if not self.opened:
            raise AggregationError("too_few_signatures", "The survivor set was not opened here yet.")
        strangers = [name for name in lost if name not in self.survivors or name == self.me]
        if strangers:
            raise AggregationError(
                "both_kinds_requested", f"Shares of {', '.join(map(str, strangers))} are not to be opened."
            )
        if len(self.survivors) - len(lost) < self.terms.threshold:
            raise AggregationError(
                "too_few_shares", "Too few survivors are left to open the lost ones' masks."
            )
        return {name: self._open_share(at, name, sealed) for name, sealed in lost.items()}

    def _open_share(self, at: At, giver: str, sealed: bytes) -> bytes:
        try:
            return AESGCM(self.keys.share(giver, at, giver)).decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        except (InvalidTag, ValueError) as error:
            raise AggregationError("share_malformed", f"The share of {giver} does not open here.") from error

    def _check_place(self, at: At) -> None:
        if self.at is None or at.order != self.at.order:
            raise AggregationError("sum_unknown", f"Round {at.round}, step {at.step} is not under way here.")
        if at != self.at:
            raise AggregationError("model_differs", "The global model of this round is another one here.")

    def to_json(self) -> dict[str, canonical.Json]:
        """The secret state, for the site's own disk."""
        return {
            "v": 1,
            "job": self.terms.job,
            "keys": self.keys.to_json(),
            "at": None if self.at is None else vars(self.at),
            "seed": self.seed.hex(),
            "survivors": list(self.survivors),
            "opened": self.opened,
            "sent": self.sent,
            "over": list(self.over),
        }

    @classmethod
    def from_json(
        cls, terms: SumTerms, identity: PrivateIdentity, peers: Identities, value: Mapping[str, Any]
    ) -> SiteSums:
        """What ``to_json`` wrote.

        Raises:
            StateError: ``state_damaged``.
        """
        damaged = StateError("state_damaged", "The state of secure aggregation is damaged.")
        try:
            at = None if value["at"] is None else At(**value["at"])
            seed, survivors = bytes.fromhex(value["seed"]), tuple(value["survivors"])
            keys = PairKeys.from_json(terms, identity.public.name, value["keys"])
            opened, sent = value["opened"], value["sent"]
            over = tuple(value.get("over", ()))  # states of earlier releases have none
            sound = (
                (value["v"], value["job"]) == (1, terms.job)
                and survivors == tuple(name for name in terms.sites if name in survivors)
                and over == tuple(name for name in terms.sites if name in over)
                and survivors in ((), over or survivors)
                and type(opened) is bool
                and isinstance(sent, str)
                and len(seed) == (0 if at is None else SEED)
                and (at is None or at.round == keys.round)
            )
        except (AggregationError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged from error
        if not sound:
            raise damaged
        return cls(terms, identity, peers, keys, at, seed, survivors, opened, sent, over)


def _is_vector(words: object, parameters: int) -> bool:
    """Words of 32 bits in a row, shape (d,)."""
    return (
        isinstance(words, np.ndarray)
        and words.shape == (parameters,)
        and words.dtype == np.uint32
        and words.flags.c_contiguous
    )


def _seal(key: bytes, share: bytes) -> bytes:
    """A share under the key of its pair, direction and sum; the nonce is fresh in case it is made again."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, share, None)


def _check_survivors(terms: SumTerms, survivors: tuple[str, ...], me: str) -> None:
    """A survivor set in the plan's order, large enough, with this site in it."""
    if survivors != tuple(name for name in terms.sites if name in survivors) or me not in survivors:
        raise AggregationError(
            "survivors_invalid", "A survivor set is no subset of the plan's sites, or lacks this one."
        )
    if len(survivors) < terms.minimum:
        raise AggregationError(
            "below_n_min", f"{len(survivors)} survivors are fewer than the {terms.minimum} of the plan."
        )


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
        self._total = np.zeros(self.terms.parameters, dtype=np.uint32)

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
        if not _is_vector(masked.words, self.terms.parameters):
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
        masks = [_self_mask(self.terms, self.at, name, seed, -1) for name, seed in seeds.items()]
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
