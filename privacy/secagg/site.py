"""A site's side of secure sums; ``rounds`` says what is done and why in this order."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloister.privacy import canonical
from cloister.privacy.errors import AggregationError, EntropyError, StateError
from cloister.privacy.identity import PrivateIdentity
from cloister.privacy.secagg import masking, shares
from cloister.privacy.secagg.keys import PairKeys
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

_NONCE = 12


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
        if not is_vector(words, self.terms.length(at.round)) or len(seed) != SEED:
            raise ValueError("a secure sum needs d words of 32 bits in a row and a seed of 32 bytes")
        again = self.admit(at)
        if again != (seed == self.seed):
            raise EntropyError("key_already_used", "The seed of a mask serves one sum, and one sum has one.")
        self.keys.advance(at.round)
        pairs = [Mask(self.keys.mask(peer, at), self.keys.sign(peer)) for peer in self._others()]
        masking.apply(words, [self_mask(self.terms, at, self.me, seed, 1), *pairs])
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
