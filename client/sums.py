"""A site's side of secure aggregation in one job: its keys and sums, on disk before an answer leaves.

One file holds the whole state: the site's key of the job until it has agreed with every other site, then the
chains of its pairs and where it stands in the newest sum. Whatever changes it is written and synced before
the answer is given back; only then it counts in memory, so a failed write or a refusal changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cloister.privacy import canonical, durable
from cloister.privacy.errors import AggregationError, StateError
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.secagg import keys
from cloister.privacy.secagg.keys import Introduction, JobKey, PairKeys
from cloister.privacy.secagg.rounds import Masked
from cloister.privacy.secagg.site import SiteSums
from cloister.privacy.secagg.terms import At, SumTerms
from cloister.privacy.update import Encoded
from cloister.privacy.vault import CLEAR, Vault, read_json
from cloister.privacy.wire import sums as wire
from cloister.privacy.wire.signed import Signed

_T = TypeVar("_T")
_WORD = np.dtype("<u4")


@dataclass(frozen=True)
class _Agreeing:
    """Where the agreement on keys stands.

    Attributes:
        key: this site's key of the job; None once it has agreed with everybody.
        introduction: the same, signed.
        known: digest of the introductions that it agreed on; "" before.
        roots: the roots of the pairs with later sites.
        carried: what it agreed with each of those.
        introductions: everybody's, as it took them.
        confirmed: what it says of each pair's key, once it has them all.
    """

    key: JobKey | None
    introduction: Signed
    known: str = ""
    introductions: tuple[Signed, ...] = ()
    confirmed: dict[str, str] = field(default_factory=dict)
    roots: dict[str, bytes] = field(default_factory=dict)
    carried: dict[str, Signed] = field(default_factory=dict)


class SecureSums:
    """Secure aggregation of one job at one site.

    Args:
        terms: those of the approved plan.
        identity: the site's keys.
        peers: everybody's public identity by name, of the approved roster.
        path: the state's file.
        vault: how the folder keeps secrets.

    Raises:
        StateError: ``state_damaged``, ``permissions``, ``state_unwritable`` or ``disk_full``.
    """

    def __init__(
        self,
        terms: SumTerms,
        identity: PrivateIdentity,
        peers: Mapping[str, PublicIdentity],
        path: Path,
        vault: Vault = CLEAR,
    ) -> None:
        self.terms, self._identity, self._peers = terms, identity, peers
        self._path, self._vault = path, vault
        durable.sweep(path)  # a crash may have left keys that would outlive their round
        if path.exists():
            self._agreeing, self._sums = self._load()
        else:
            key = JobKey.generate()
            self._keep(_Agreeing(key, Introduction.make(terms, key, identity)), None)

    # Keys

    def introduce(self) -> bytes:
        """This site's signed key of the job, always the same."""
        return wire.signed_to_bytes(self._agreeing.introduction)

    def agree(self, content: bytes | bytearray) -> bytes:
        """Takes everybody's keys and gives what was agreed with each later site, always the same.

        Raises:
            ChannelError: ``envelope_malformed``, ``signature_invalid``.
            AggregationError: ``key_unusable``, ``keys_missing``; also for other keys than the first time.
        """
        signed = wire.signatures_from_bytes(content)
        digest = canonical.digest(bytes(content))
        standing = self._agreeing
        if standing.confirmed and not standing.introductions:
            raise AggregationError("key_unusable", "This site's keys are in use; they are agreed on once.")
        if not standing.known:
            known = keys.introductions(self.terms, signed.values(), self._peers)
            if known[self._me].digest != canonical.digest(standing.introduction.content):
                raise AggregationError(
                    "key_unusable", "The key that goes round as this site's is not its own."
                )
            roots, carried = keys.agree(self.terms, known, self._identity)
            taken = tuple(signed.values())
            self._keep(
                replace(standing, known=digest, introductions=taken, roots=roots, carried=carried), None
            )
        elif digest != standing.known:
            raise AggregationError("key_unusable", "Other keys go round now than this site agreed on.")
        return wire.signatures_to_bytes(self._agreeing.carried)

    def adopt(self, content: bytes | bytearray) -> bytes:
        """Takes what earlier sites agreed with this one, and confirms the key of every pair.

        Its own key of the job is then forgotten.

        Raises:
            ChannelError: ``envelope_malformed``, ``signature_invalid``, ``seal_invalid``.
            AggregationError: ``key_unusable``, ``keys_missing``.
        """
        agreements = wire.signatures_from_bytes(content)
        standing = self._agreeing
        if standing.confirmed:
            return wire.confirmations_to_bytes(standing.confirmed)
        if not standing.known or standing.key is None:
            raise AggregationError("keys_missing", "This site has not been told everybody's keys.")
        if not set(agreements) <= set(self._peers):
            raise AggregationError("key_unusable", "Somebody agreed on keys who is not in the plan.")
        known = keys.introductions(self.terms, standing.introductions, self._peers)
        inbox = [(signed, self._peers[giver]) for giver, signed in agreements.items()]
        chains = standing.roots | keys.accept(self.terms, known, standing.key, self._me, inbox)
        pairs = PairKeys(self.terms, self._me, 0, chains)
        confirmed = {peer: keys.confirmation(root) for peer, root in chains.items()}
        self._keep(
            replace(standing, key=None, roots={}, confirmed=confirmed),
            SiteSums(self.terms, self._identity, self._peers, pairs),
        )
        return wire.confirmations_to_bytes(confirmed)

    @property
    def agreed(self) -> bool:
        """Whether this site has its keys with all others."""
        return bool(self._agreeing.confirmed)

    # Sums

    def mask(self, at: At, encoded: Encoded, seed: bytes, over: tuple[str, ...] = ()) -> Masked:
        """An encoded update under all masks; see ``SiteSums.mask``."""
        words = np.frombuffer(encoded.content, dtype=_WORD).astype(np.uint32)
        return self._step(lambda sums: sums.mask(at, words, seed, over))

    def surplus(self, at: At, content: bytes | bytearray) -> tuple[str, ...]:
        """The survivor set for which this site may give its surplus noise; see ``SiteSums.surplus``."""
        survivors = wire.survivors_from_bytes(content)
        self._agreed_sums().surplus(at, survivors)
        return survivors

    def sign(self, at: At, content: bytes | bytearray) -> bytes:
        """The signature of a survivor set; see ``SiteSums.sign``."""
        survivors = wire.survivors_from_bytes(content)
        return wire.signed_to_bytes(self._step(lambda sums: sums.sign(at, survivors)))

    def open(self, at: At, content: bytes | bytearray) -> bytes:
        """This site's seed and its keys with missing sites; see ``SiteSums.open``."""
        survivors, signatures = wire.open_from_bytes(content)
        return wire.opening_to_bytes(self._step(lambda sums: sums.open(at, survivors, signatures)))

    def recover(self, at: At, content: bytes | bytearray) -> bytes:
        """This site's shares of lost survivors' seeds; see ``SiteSums.recover``."""
        lost = wire.shares_from_bytes(content)
        return wire.shares_to_bytes(self._step(lambda sums: sums.recover(at, lost)))

    def admit(self, at: At) -> None:
        """Refuses a sum that could not be masked, before anything is trained or charged for it.

        Raises:
            AggregationError: ``keys_missing``, or as ``SiteSums.admit``.
        """
        self._agreed_sums().admit(at)

    def finish(self) -> None:
        """Forgets all keys: the job is over."""
        if self._sums is not None:
            self._keep(self._agreeing, None)

    @property
    def round(self) -> int:
        """The round of the newest sum; 0 before the first."""
        return self._sums.at.round if self._sums and self._sums.at else 0

    @property
    def survivors(self) -> tuple[str, ...]:
        """The survivor set that was signed in the newest round; empty before."""
        return (self._sums.survivors or self._sums.over) if self._sums else ()

    @property
    def signed(self) -> bool:
        """Whether this site has signed a survivor set for the newest sum."""
        return self._sums is not None and bool(self._sums.survivors)

    @property
    def opened(self) -> bool:
        """Whether this site has opened its mask in the newest sum."""
        return self._sums is not None and self._sums.opened

    def _step(self, action: Callable[[SiteSums], _T]) -> _T:
        """Acts on the state, and gives the answer once the new state is on disk.

        With the first sum the lead is past the agreement: what was said in it is not kept any longer, for
        the file is written three times a sum.
        """
        standing = self._agreed_sums()
        sums = replace(standing, keys=replace(standing.keys))
        answer = action(sums)
        self._keep(replace(self._agreeing, introductions=(), carried={}), sums)
        return answer

    def _agreed_sums(self) -> SiteSums:
        if self._sums is None:
            raise AggregationError("keys_missing", "This site has not agreed on keys with every other.")
        return self._sums

    # The file

    @property
    def _me(self) -> str:
        return self._identity.public.name

    def _keep(self, standing: _Agreeing, sums: SiteSums | None) -> None:
        """Writes a new state, and then takes it on."""
        value: dict[str, canonical.Json] = {
            "v": 1,
            "job": self.terms.job,
            "key": standing.key.to_json() if standing.key else None,
            "introduction": standing.introduction.to_json(),
            "known": standing.known,
            "introductions": [one.to_json() for one in standing.introductions],
            "roots": {peer: root.hex() for peer, root in standing.roots.items()},
            "carried": {peer: one.to_json() for peer, one in standing.carried.items()},
            "confirmed": standing.confirmed,
            "sums": sums.to_json() if sums else None,
        }
        self._vault.write(self._path, canonical.encode(value))
        self._agreeing, self._sums = standing, sums

    def _load(self) -> tuple[_Agreeing, SiteSums | None]:
        value: Any = read_json(self._vault, self._path)
        damaged = StateError("state_damaged", f"{self._path} is not the state of this job.")
        try:
            if (value["v"], value["job"]) != (1, self.terms.job):
                raise damaged
            standing = _Agreeing(
                JobKey.from_json(value["key"]) if value["key"] else None,
                Signed.from_json(value["introduction"]),
                value["known"],
                tuple(Signed.from_json(one) for one in value["introductions"]),
                dict(value["confirmed"]),
                {peer: bytes.fromhex(root) for peer, root in value["roots"].items()},
                {peer: Signed.from_json(one) for peer, one in value["carried"].items()},
            )
            sums = value["sums"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged from error
        if sums is None:
            return standing, None
        return standing, SiteSums.from_json(self.terms, self._identity, self._peers, sums)
