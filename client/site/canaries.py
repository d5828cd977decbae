"""Canaries: false records of the site's own, put among its records by coins, to measure what a model keeps.

A plan may ask for them. Each is a few random words under a random class, made from the operating system's
randomness and from no record. A fair coin, tossed before the first round and bound in the event log, decides
whether a canary is trained on; those that are, are units like any other: sampled, clipped, noised, charged.
After the job the site guesses the coins from the finished model (``client.attacks``).

Formal guarantees:
    Words, classes and coins are independent of all records. So what a site tells of its canaries after the
    job follows from the released model and from things that no record went into: it is covered by the job's
    epsilon. With more units in a step nobody's noise gets less.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mnemonic import Mnemonic

from cloister.client.site.records import Records
from cloister.privacy import canonical
from cloister.privacy.dp import membership
from cloister.privacy.dp.audit import Coins
from cloister.privacy.dp.membership import Floats
from cloister.privacy.entropy import KeyStream
from cloister.privacy.errors import StateError
from cloister.privacy.evidence.opening import Opening, bound
from cloister.privacy.plan import Plan
from cloister.privacy.vault import CLEAR, Vault

WORDS = 4
"""Words of a canary: few, so that one differs from the next in more than noise."""
FILE, OPENING = "canaries.json", "opening.json"
_KEY = 32


@dataclass(frozen=True, eq=False)
class Canaries:
    """The canaries of one job at one site.

    Attributes:
        job: the plan's digest.
        labels: the plan's classes.
        key: what words and classes are made from.
        coins: which of them are trained on.
    """

    job: str
    labels: tuple[str, ...]
    key: bytes
    coins: Coins

    @classmethod
    def make(cls, plan: Plan) -> Canaries:
        """New ones, as many as the plan asks for."""
        key, coins = secrets.token_bytes(_KEY), Coins.toss(plan.canaries or 0)
        return cls(plan.digest, plan.task.labels, key, coins)

    def __len__(self) -> int:
        return len(self.coins.included)

    @property
    def guesses(self) -> int:
        """How many coins will be guessed: fixed with their number."""
        return membership.guesses_of(len(self))

    @property
    def commitment(self) -> str:
        """Digest of job, texts and coins: binds the site to them and tells nobody what they are."""
        return bound(self.job, self.guesses, self.key.hex(), self.coins.to_json())

    def opening(self, scores: Floats) -> Opening:
        """What they were and what an attack guessed of them: for after the job, when it tells nothing.

        Args:
            scores: of the attack, shape (m,).
        """
        told_in, told_out = membership.told(scores, self.guesses)
        coins = self.coins.to_json()
        return Opening(
            job=self.job,
            key=self.key.hex(),
            included=str(coins["included"]),
            nonce=str(coins["nonce"]),
            told_in=tuple(sorted(map(int, told_in))),
            told_out=tuple(sorted(map(int, told_out))),
        )

    def records(self, *, persons: bool) -> Records:
        """All of them, in order, each of a person of its own where persons are known."""
        stream, words, number = KeyStream(self.key), _words(), len(self)
        chosen = stream.words(number * WORDS).reshape(number, WORDS) % np.uint64(len(words))
        classes = stream.words(number) % np.uint64(len(self.labels))
        return Records(
            texts=tuple(" ".join(words[int(place)] for place in row) for row in chosen),
            labels=tuple(self.labels[int(place)] for place in classes),
            persons=tuple(self._person(place) for place in range(number)) if persons else None,
        )

    def _person(self, place: int) -> str:
        """The id of somebody who does not exist, of the form that ids of persons have here."""
        return hmac.new(self.key, f"canary {place}".encode(), hashlib.sha256).hexdigest()

    def among(self, train: Records) -> Records:
        """The records of a site, and after them the canaries whose coin says so."""
        own = self.records(persons=train.persons is not None).take(np.flatnonzero(self.coins.included))
        persons = None if train.persons is None else train.persons + (own.persons or ())
        return Records(train.texts + own.texts, train.labels + own.labels, persons)

    def to_bytes(self) -> bytes:
        """Canonical JSON, for the site's own disk: whoever reads it knows the coins."""
        return canonical.encode(
            {"v": 1, "job": self.job, "key": self.key.hex(), "coins": self.coins.to_json()}
        )

    @classmethod
    def from_bytes(cls, data: bytes, plan: Plan) -> Canaries:
        """What ``to_bytes`` wrote; raises ``StateError`` ``state_damaged`` for anything else."""
        damaged = StateError("state_damaged", "The file of the canaries is not that of this job.")
        value: Any = canonical.decode(data, otherwise=damaged)
        try:
            found = cls(plan.digest, plan.task.labels, bytes.fromhex(value["key"]), _coins(value["coins"]))
            stated = (value["v"], value["job"], len(found.key), len(found))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged from error
        if stated != (1, plan.digest, _KEY, plan.canaries):
            raise damaged
        return found


def canaries_of(plan: Plan, folder: Path, vault: Vault = CLEAR) -> Canaries | None:
    """The canaries of a job, from its folder or made there; None where the plan has none.

    Raises:
        StateError: the file cannot be used or written.
    """
    if plan.canaries is None:
        return None
    path = folder / FILE
    if path.exists():
        return Canaries.from_bytes(vault.read(path), plan)
    made = Canaries.make(plan)
    vault.write(path, made.to_bytes())
    return made


def opened(folder: Path) -> dict[str, bytes]:
    """Digest -> bytes of the opening of a job's canaries, where they were opened."""
    path = folder / OPENING
    if not path.exists():
        return {}
    data = path.read_bytes()
    return {canonical.digest(data): data}


def _coins(value: Mapping[str, Any]) -> Coins:
    return Coins.from_json(value)


@cache
def _words() -> Sequence[str]:
    """The 2,048 English words of BIP 39: public, and about nobody."""
    return tuple(Mnemonic("english").wordlist)
