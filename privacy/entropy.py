"""Randomness that nobody else can predict, seed or draw twice.

A job's randomness at a site starts from one root secret of the operating system. A ratchet moves it
forward round by round and deletes what is behind: whoever takes the machine after round 7 learns nothing
of the noise of round 6. Each stream's key binds job, purpose, round, step, attempt and the digest of the
incoming model, so that no two steps, retries or models ever share a keystream.

Formal guarantees:
    Under the assumption that HKDF-SHA256 and AES-256 are pseudorandom, streams of different contexts are
    indistinguishable from independent uniform bytes to anybody without the ratchet's current state.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from numpy.typing import NDArray

from cloister.privacy import canonical, durable
from cloister.privacy.errors import EntropyError, StateError
from cloister.privacy.vault import CLEAR, Vault, read_json

_KEY = 32


class KeyStream:
    """An AES-256-CTR keystream under a key that is used for nothing else. It never rewinds."""

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def bytes(self, n: int) -> bytes:
        """The next ``n`` bytes."""
        return self._cipher.update(bytes(n))

    def words(self, n: int) -> NDArray[np.uint64]:
        """The next ``n`` words of 64 bits, shape (n,)."""
        return np.frombuffer(self.bytes(8 * n), dtype="<u8")

    def uniform(self, n: int) -> NDArray[np.float64]:
        """The next ``n`` multiples of 2^-53 in [0, 1), shape (n,)."""
        return (self.words(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Entropy(Protocol):
    """A job's source of key streams at one site."""

    def advance(self, round: int) -> None:
        """Starts a round, or starts it anew after a failure; earlier rounds are gone for good."""
        ...

    def stream(self, purpose: str, *, round: int, step: int = 0, attempt: int = 1, model: str) -> KeyStream:
        """The key stream of one purpose at one place of the run; each is given once."""
        ...


class _Chain:
    """The ratchet without its file: where it stands and which streams were given in this round."""

    def __init__(self, job: str, round: int, key: bytes) -> None:
        self.job, self.round, self.key = job, round, key
        self._given: set[bytes] = set()

    def at(self, round: int) -> _Chain:
        """The chain at the start of this round or a later one."""
        if round < self.round:
            raise EntropyError(
                "ratchet_behind", f"The ratchet stands at round {self.round}; round {round} is gone."
            )
        key = self.key
        for _ in range(self.round, round):
            key = HKDFExpand(hashes.SHA256(), _KEY, b"cloister/ratchet/1").derive(key)
        return _Chain(self.job, round, key)

    def stream(self, purpose: str, round: int, step: int, attempt: int, model: str) -> KeyStream:
        if round != self.round:
            raise EntropyError("ratchet_behind", f"The ratchet stands at round {self.round}, not {round}.")
        info = canonical.encode(
            {
                "v": 1,
                "job": self.job,
                "purpose": purpose,
                "round": round,
                "step": step,
                "attempt": attempt,
                "model": model,
            }
        )
        if info in self._given:
            raise EntropyError("key_already_used", f"The stream {purpose} of step {step} was given already.")
        self._given.add(info)
        return KeyStream(HKDFExpand(hashes.SHA256(), _KEY, b"cloister/stream/1" + info).derive(self.key))


class Ratchet:
    """The product's entropy: one secret file a job, moved forward and synced before any key is given.

    Args:
        path: the state file; made on first use from the operating system's randomness.
        job: the plan's digest.
        vault: how the folder keeps secrets.

    Raises:
        EntropyError: ``ratchet_unwritable``.
        StateError: ``state_damaged``, ``permissions``.
    """

    def __init__(self, path: Path, job: str, vault: Vault = CLEAR) -> None:
        self._path, self._vault = path, vault
        durable.sweep(path)  # a crash may have left a state that would outlive its round
        if path.exists():
            self._chain = self._load(job)
        else:
            self._chain = self._kept(_Chain(job, 0, secrets.token_bytes(_KEY)))

    def advance(self, round: int) -> None:
        """Moves to a round; the new state is on disk, and the old key gone from it, when this returns."""
        after = self._chain.at(round)
        # Kept first: after a failed write this object still stands where it stood.
        self._chain = after if round == self._chain.round else self._kept(after)

    def stream(self, purpose: str, *, round: int, step: int = 0, attempt: int = 1, model: str) -> KeyStream:
        """See ``Entropy``.

        Raises:
            EntropyError: ``ratchet_behind`` or ``key_already_used``.
        """
        return self._chain.stream(purpose, round, step, attempt, model)

    def _load(self, job: str) -> _Chain:
        value = read_json(self._vault, self._path)
        damaged = StateError("state_damaged", f"{self._path} is not the ratchet of this job.")
        try:
            chain = _Chain(value["job"], value["round"], bytes.fromhex(value["key"]))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged from error
        if chain.job != job or len(chain.key) != _KEY or type(chain.round) is not int or chain.round < 0:
            raise damaged
        return chain

    def _kept(self, chain: _Chain) -> _Chain:
        state: dict[str, canonical.Json] = {"job": chain.job, "round": chain.round, "key": chain.key.hex()}
        try:
            self._vault.write(self._path, canonical.encode(state))
        except StateError as error:
            raise EntropyError("ratchet_unwritable", error.what, error.do) from error
        return chain


class FixedEntropy:
    """Entropy from a known seed, for tests and simulations only.

    No flag, file or variable of the product can choose it: it is passed to a constructor.
    """

    def __init__(self, seed: bytes, job: str = "") -> None:
        key = HKDF(hashes.SHA256(), _KEY, salt=None, info=b"cloister/fixed/1").derive(seed)
        self._chain = _Chain(job, 0, key)

    def advance(self, round: int) -> None:
        """See ``Entropy``."""
        self._chain = self._chain.at(round)

    def stream(self, purpose: str, *, round: int, step: int = 0, attempt: int = 1, model: str) -> KeyStream:
        """See ``Entropy``; moves forward by itself, so that tests of a single step need not."""
        if round > self._chain.round:
            self.advance(round)
        return self._chain.stream(purpose, round, step, attempt, model)
