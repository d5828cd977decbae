"""The audit that every private job carries: phantom units with coordinates of their own.

A site adds ``PHANTOMS`` units to its real ones. A phantom has no document; it owns one coordinate behind
those of the model, and its gradient is far longer than the bound there and zero elsewhere. Phantoms are
drawn in the same call of the sampler as real units, cut and summed by the same code, and noised by the same
call. A fair coin, tossed before the first round and committed to in the site's event log, decides whether a
phantom takes part at all. Their coordinates never leave the site and never touch the model.

At the end the site, as the strongest attacker would, scores each phantom by the log-likelihood ratio of
what its coordinate showed, calls the ``GUESSES / 2`` highest "took part" and as many lowest "did not", and
compares with the coins. So many right answers refute every epsilon below a *pipeline lower bound*
(``tails.epsilon_lower_bound``). After every round, five checks compare what was seen with what a sound
pipeline shows; one that fails (probability below 10^-9 a check where all is sound) ends in ``audit_failed``
before the round's update is sealed, and so does every later one of the job at this site:

- ``steps``: as many noised steps were seen as are charged;
- ``scale``: the noise on coordinates of phantoms that took no part has the plan's variance;
- ``fresh``: that noise is independent from step to step and from coordinate to coordinate;
- ``reach``: phantoms that took part show the clipping bound times the plan's rate on average;
- ``sampler``: phantoms are drawn as often, and as unevenly, as independent coins draw them.

What it cannot see: whether gradients are right and every tensor is in them (the engines refuse what they
do not cover, and tests compare them with a loop over single units); a fault that treats real units or real
coordinates otherwise than phantoms; noise that somebody else knows, as when two sites share a seed; a site
that lies. The bound is a lower bound: a small one proves nothing. With 200 guesses it cannot pass 4.2.

Formal guarantees:
    In a pipeline that does what this module assumes, phantom coordinates are independent of all records:
    neither the bound nor the checks say anything about them. In one that does not, nothing is promised
    of these numbers, either.

Source: Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846), with
canaries that are coordinates ("Dirac canaries") of units that do not exist.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister.privacy import canonical
from cloister.privacy.dp import tails
from cloister.privacy.dp.sampling import Indices
from cloister.privacy.errors import StateError, UpdateError

Floats: TypeAlias = NDArray[np.float64]

PHANTOMS = 1000
GUESSES = 200
FALSE_ALARM = 1e-9
"""At most how probable it is that one check fails in a sound pipeline."""

_NONCE = 32


@dataclass(frozen=True, eq=False)
class Coins:
    """Which phantoms take part: secret until somebody wants to check the commitment.

    Attributes:
        included: bool, shape (m,).
        nonce: keeps the commitment from being guessed.
    """

    included: NDArray[np.bool_]
    nonce: bytes

    @classmethod
    def toss(cls, phantoms: int = PHANTOMS) -> Coins:
        """Fair coins from the operating system."""
        bits = np.unpackbits(np.frombuffer(secrets.token_bytes(math.ceil(phantoms / 8)), dtype=np.uint8))
        return cls(bits[:phantoms].astype(np.bool_), secrets.token_bytes(_NONCE))

    def to_json(self) -> dict[str, canonical.Json]:
        """The coins as JSON."""
        text = "".join("1" if coin else "0" for coin in self.included)
        return {"included": text, "nonce": self.nonce.hex()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Coins:
        """The coins that ``to_json`` wrote; raises ``ValueError`` or the like for anything else."""
        text = str(value["included"])
        if not text or not set(text) <= {"0", "1"} or len(nonce := bytes.fromhex(value["nonce"])) != _NONCE:
            raise ValueError("not coins")
        return cls(np.array([bit == "1" for bit in text], dtype=np.bool_), nonce)


@dataclass(frozen=True)
class Pipeline:
    """What the plan says of every attempt at a round.

    Attributes:
        noise_multiplier: sigma > 0, the noise in units of the bound.
        rate: the sampling rate in (0, 1].
        steps: how many steps there are, empty samples included.
    """

    noise_multiplier: float
    rate: float
    steps: int


@dataclass(eq=False)
class Tally:
    """What the phantoms' coordinates have shown so far, in units of the bound.

    Attributes:
        steps: how many steps were seen.
        scores: the log-likelihood ratio of each phantom, shape (m,).
        taken: how often the sampler took each, its coin aside, shape (m,).
        noise: the sum over steps of the noise of each, over sigma, shape (m,); for those who took part,
            of what was seen.
        squares: the sum over steps and phantoms that took no part of the square of that.
        sums: the sum over steps of the square of its sum over those phantoms.
    """

    scores: Floats
    taken: Indices
    noise: Floats
    steps: int = 0
    squares: float = 0.0
    sums: float = 0.0

    @classmethod
    def empty(cls, phantoms: int) -> Tally:
        """Nothing seen."""
        return cls(np.zeros(phantoms), np.zeros(phantoms, dtype=np.int64), np.zeros(phantoms))

    def copy(self) -> Tally:
        """The same, in arrays of its own."""
        return Tally(
            self.scores.copy(), self.taken.copy(), self.noise.copy(), self.steps, self.squares, self.sums
        )

    def to_json(self) -> dict[str, canonical.Json]:
        """The tally as JSON."""
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], phantoms: int) -> Tally:
        """What ``to_json`` wrote; raises ``ValueError`` or the like for anything else."""
        arrays = {name: np.array(value[name], dtype=np.float64) for name in ("scores", "taken", "noise")}
        if any(array.shape != (phantoms,) or not np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("not a tally")
        taken = arrays.pop("taken").astype(np.int64)
        steps, squares, sums = value["steps"], float(value["squares"]), float(value["sums"])
        if type(steps) is not int or steps < 0 or not (0 <= squares < math.inf and 0 <= sums < math.inf):
            raise ValueError("not a tally")
        return cls(taken=taken, **arrays, steps=steps, squares=squares, sums=sums)


@dataclass(frozen=True)
class Result:
    """What a job's audit says.

    Attributes:
        correct: how many of ``guesses`` were right.
        guesses: fixed beforehand.
        bound: the pipeline lower bound at 95 % confidence.
    """

    correct: int
    guesses: int
    bound: float


@dataclass(eq=False)
class Watch:
    """Watches the steps of one attempt at a round.

    Attributes:
        place: round and attempt.
        tally: of this attempt and, unless it was kept before, of all that were kept.
        steps: how many were seen in this attempt.
    """

    pipeline: Pipeline
    coins: Coins
    place: tuple[int, int]
    tally: Tally
    steps: int = 0

    def taking_part(self, drawn: Indices) -> Indices:
        """The drawn phantoms whose coin lets them take part.

        Args:
            drawn: what the sampler took, int64, shape (k,), from 0 to m - 1.
        """
        self.tally.taken[drawn] += 1
        return drawn[self.coins.included[drawn]]

    def observe(self, noised: NDArray[np.float32], bound: float) -> None:
        """Takes note of the phantoms' coordinates of one step.

        Args:
            noised: shape (m,).
            bound: the clipping bound of the step.
        """
        seen = noised.astype(np.float64) / bound
        sigma, tally = self.pipeline.noise_multiplier, self.tally
        self.steps += 1
        tally.steps += 1
        tally.scores += _log_likelihood_ratio(seen, self.pipeline)
        tally.noise += seen / sigma
        silent = seen[~self.coins.included] / sigma
        tally.squares += float(silent @ silent)
        tally.sums += float(silent.sum()) ** 2


def _log_likelihood_ratio(seen: Floats, pipeline: Pipeline) -> Floats:
    """log of q N(x; 1, sigma) + (1 - q) N(x; 0, sigma) over N(x; 0, sigma)."""
    q = pipeline.rate
    there = math.log(q) + (2 * seen - 1) / (2 * pipeline.noise_multiplier**2)
    ratio: Floats = np.logaddexp(math.log1p(-q), there) if q < 1 else there
    return ratio


@dataclass(eq=False)
class Audit:
    """The audit of one job at one site, from the coins to the result.

    Attributes:
        job: the plan's digest.
        pipeline: what the plan says of every step.
        coins: tossed once.
        tally: of all rounds that were kept.
        last: round and attempt that were kept last; attempts never go backwards.
        failed: names of the checks that failed once; nothing is trained after that.
    """

    job: str
    pipeline: Pipeline
    coins: Coins
    tally: Tally
    last: tuple[int, int] = field(default=(0, 0))
    failed: tuple[str, ...] = ()

    @classmethod
    def begin(cls, job: str, pipeline: Pipeline, phantoms: int = PHANTOMS) -> Audit:
        """A new audit."""
        return cls(job, pipeline, Coins.toss(phantoms), Tally.empty(phantoms))

    @property
    def phantoms(self) -> int:
        """m."""
        return len(self.coins.included)

    @property
    def guesses(self) -> int:
        """How many guesses will be made."""
        return min(GUESSES, self.phantoms)

    @property
    def commitment(self) -> str:
        """Digest of job, coins and nonce: binds the site to its coins and tells nobody what they are."""
        return canonical.digest_of({"job": self.job, "guesses": self.guesses, **self.coins.to_json()})

    def watch(self, round: int, attempt: int) -> Watch:
        """For the steps of one attempt; nothing is kept of it until ``keep``.

        What was computed before a crash may be computed again, from the same key streams. The second time
        it is looked at by itself, and not kept.

        Raises:
            UpdateError: ``audit_failed``, in this attempt or before.
        """
        self._refuse_failed()
        place = (round, attempt)
        tally = self.tally.copy() if place > self.last else Tally.empty(self.phantoms)
        return Watch(self.pipeline, self.coins, place, tally)

    def keep(self, watch: Watch) -> None:
        """Checks what was seen up to the end of an attempt and keeps it.

        Raises:
            UpdateError: ``audit_failed``. That is kept, and ends the job at this site: another attempt, or a
                lead that asks until it suits, finds it failed.
        """
        failed = [name for name, chance in self.checks(watch.tally) if chance < FALSE_ALARM]
        if watch.steps != self.pipeline.steps:
            failed.insert(0, "steps")
        self.failed = tuple(dict.fromkeys(failed))
        self._refuse_failed()
        if watch.place > self.last:
            self.tally, self.last = watch.tally, watch.place

    def _refuse_failed(self) -> None:
        if self.failed:
            raise UpdateError(
                "audit_failed",
                f"What the phantom units saw is not what the plan says: {', '.join(self.failed)}.",
                "Nothing was sent. Do not train with this installation; report it.",
            )

    def checks(self, tally: Tally) -> Iterator[tuple[str, float]]:
        """Each check by name, with the most probable that a sound pipeline looks as bad."""
        out, steps = ~self.coins.included, tally.steps
        silent, sigma, rate = int(out.sum()), self.pipeline.noise_multiplier, self.pipeline.rate
        active = self.phantoms - silent
        if not steps:
            return
        if silent:
            yield "scale", tails.chi_square(tally.squares / (silent * steps), silent * steps)
            totals = float(tally.noise[out] @ tally.noise[out]) / (silent * steps)
            yield "fresh", tails.chi_square(totals, silent)
            yield "fresh", tails.chi_square(tally.sums / (silent * steps), steps)
        if active:
            # Hits are 0 or 1 and so sub-Gaussian with proxy 1/4; noise adds its variance.
            reached = sigma * float(tally.noise[~out].sum())
            proxy = active * steps * (sigma**2 + 1 / 4)
            yield "reach", tails.sub_gaussian(reached - active * steps * rate, proxy)
        yield "sampler", tails.binomial(int(tally.taken.sum()), self.phantoms * steps, rate)
        yield "sampler", tails.dispersion(tally.taken, steps, rate)

    def result(self, delta: float) -> Result:
        """Guesses the coins, compares, and says what that refutes at ``delta``."""
        half = self.guesses // 2
        order = np.argsort(self.tally.scores, kind="stable")
        included = self.coins.included
        correct = int((~included[order[:half]]).sum() + included[order[self.phantoms - half :]].sum())
        bound = tails.epsilon_lower_bound(correct, 2 * half, self.phantoms, delta)
        return Result(correct, 2 * half, bound)

    def to_bytes(self) -> bytes:
        """The audit as canonical JSON, for the site's own disk: whoever reads it knows the coins."""
        return canonical.encode(
            {
                "v": 1,
                "job": self.job,
                "noise_multiplier": self.pipeline.noise_multiplier,
                "rate": self.pipeline.rate,
                "steps": self.pipeline.steps,
                "coins": self.coins.to_json(),
                "tally": self.tally.to_json(),
                "last": list(self.last),
                "failed": list(self.failed),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, job: str, pipeline: Pipeline) -> Audit:
        """The audit that ``to_bytes`` wrote.

        Raises:
            StateError: ``state_damaged``, it is not one, or of another job or plan.
        """
        damaged = StateError("state_damaged", "The file of the audit is not that of this job.")
        value = canonical.decode(data, otherwise=damaged)
        try:
            coins = Coins.from_json(value["coins"])
            last, failed = tuple(value["last"]), tuple(value["failed"])
            tally = Tally.from_json(value["tally"], len(coins.included))
            found = Pipeline(float(value["noise_multiplier"]), float(value["rate"]), value["steps"])
            stated = (value["v"], value["job"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged from error
        sound = (
            stated == (1, job)
            and found == pipeline
            and [type(number) for number in last] == [int, int]
            and all(isinstance(name, str) for name in failed)
        )
        if not sound:
            raise damaged
        return cls(job, pipeline, coins, tally, (last[0], last[1]), failed)
