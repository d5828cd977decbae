"""Canaries: false records of the site's own, put among its records by coins, to measure what a model keeps.

A plan may ask for them. Each is a few random words under a random class, or with an answer of random words
where answers are learnt, made from the operating system's randomness and from no record. A fair coin, tossed
before the first round and bound in the event log, decides whether a canary is trained on; those that are, are
units like any other: sampled, clipped, noised, charged. After the job the site guesses the coins from the
finished model, and asks one that writes for the answers (``client.attacks``).

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
from numpy.typing import NDArray

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
ANSWER_WORDS = 3
"""Words of an answer: 2^33 of them, so that nobody comes upon one by chance."""
FILE, OPENING = "canaries.json", "opening.json"
_KEY = 32


@dataclass(frozen=True, eq=False)
class Canaries:
    """The canaries of one job at one site.

    Attributes:
        job: the plan's digest.
        labels: the plan's classes; none where answers are learnt.
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

    def opening(self, scores: Floats, recited: NDArray[np.bool_] | None = None) -> Opening:
        """What they were and what an attack guessed of them: for after the job, when it tells nothing.

        Args:
            scores: of the attack, shape (m,).
            recited: those whose answer the model gives word for word, where it writes; shape (m,).
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
            recited=None if recited is None else tuple(map(int, np.flatnonzero(recited))),
        )

    def records(self, *, persons: bool) -> Records:
        """All of them, in order, each of a person of its own where persons are known."""
        stream, words, number = KeyStream(self.key), _words(), len(self)
        chosen = stream.words(number * WORDS).reshape(number, WORDS) % np.uint64(len(words))
        return Records(
            texts=_spelled(chosen),
            labels=self._answers(stream),
            persons=tuple(self._person(place) for place in range(number)) if persons else None,
            kind="sequence-classification" if self.labels else "causal-lm",
        )

    def _answers(self, stream: KeyStream) -> tuple[str, ...]:
        """A class for each, or random words."""
        number = len(self)
        if self.labels:
            classes = stream.words(number) % np.uint64(len(self.labels))
            return tuple(self.labels[int(place)] for place in classes)
        chosen = stream.words(number * ANSWER_WORDS).reshape(number, ANSWER_WORDS)
        return _spelled(chosen % np.uint64(len(_words())))

    def _person(self, place: int) -> str:
        """The id of somebody who does not exist, of the form that ids of persons have here."""
        return hmac.new(self.key, f"canary {place}".encode(), hashlib.sha256).hexdigest()

    def among(self, train: Records) -> Records:
        """The records of a site, and after them the canaries whose coin says so."""
        own = self.records(persons=train.persons is not None).take(np.flatnonzero(self.coins.included))
        persons = None if train.persons is None else train.persons + (own.persons or ())
        return Records(train.texts + own.texts, train.labels + own.labels, persons, kind=own.kind)

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


def _spelled(chosen: NDArray[np.uint64]) -> tuple[str, ...]:
    """Rows of places in the list as texts."""
    return tuple(" ".join(_words()[int(place)] for place in row) for row in chosen)


@cache
def _words() -> Sequence[str]:
    """The 2,048 English words of BIP 39: public, and about nobody."""
    return tuple(Mnemonic("english").wordlist)
