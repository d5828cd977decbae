"""The phantom audit: silent where a pipeline is sound, loud where it is not, the same after a restart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from cloister.privacy import canonical
from cloister.privacy.dp import accounting, audit, sampling
from cloister.privacy.dp.audit import Audit, Coins, Pipeline, Tally
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import StateError, UpdateError

JOB = canonical.digest(b"job")
PLAN = Pipeline(1.1, 0.1, 10)
BOUND = 0.5


@dataclass
class Machine:
    """A pipeline of phantoms alone, sound unless told otherwise."""

    sigma: float = PLAN.noise_multiplier
    rate: float = PLAN.rate
    reach: float = 1.0
    shared: bool = False
    scalar: bool = False
    shuffled: bool = False
    same_sample: bool = False
    steps: int = 10
    seed: bytes = b"one"

    def round(self, found: Audit, number: int, attempt: int = 1) -> None:
        entropy = FixedEntropy(self.seed)
        watch = found.watch(number, attempt)
        m = found.phantoms
        order = np.random.default_rng(number).permutation(m)
        for step in range(1, self.steps + 1):
            stream = entropy.stream("noise", round=number, attempt=attempt, step=step, model="")
            seed = np.zeros(8, np.uint32) if self.shared else np.frombuffer(stream.bytes(32), np.uint32)
            random = np.random.default_rng(seed)
            if self.shuffled:
                size = round(m * self.rate)
                drawn = np.sort(order[(step - 1) * size : step * size])
            else:
                other = 1 if self.same_sample else step
                place = 1 if self.same_sample else number
                fresh = FixedEntropy(self.seed).stream("sampling", round=place, step=other, model="")
                drawn = sampling.poisson(m, self.rate, fresh)
            active = watch.taking_part(drawn)
            seen = np.zeros(m)
            seen[active] = self.reach
            seen += self.sigma * random.standard_normal(1 if self.scalar else m)
            watch.observe((BOUND * seen).astype(np.float32), BOUND)
        found.keep(watch)


def begun() -> Audit:
    random = np.random.default_rng(7)
    coins = Coins(random.random(audit.PHANTOMS) < 0.5, bytes(32))
    return Audit(JOB, PLAN, coins, Tally.empty(audit.PHANTOMS))


@pytest.mark.parametrize("seed", [b"one", b"two", b"three"])
def test_a_sound_pipeline_passes_and_its_claim_stands(seed: bytes) -> None:
    found = begun()
    for number in range(1, 11):
        Machine(seed=seed).round(found, number)
    result = found.result(1e-5)
    claimed = accounting.epsilon([GaussianSteps(PLAN.noise_multiplier, PLAN.rate, 100)], 1e-5)
    assert 0.3 < result.bound < claimed
    assert result.guesses == audit.GUESSES
    assert min(chance for _, chance in found.checks(found.tally)) > 1e-4


FAULTS = {
    "no noise": (Machine(sigma=0.0), "scale"),
    "halved noise": (Machine(sigma=0.55), "scale"),
    "a third less noise": (Machine(sigma=1.1 * 2 / 3), "scale"),
    "half as much more noise": (Machine(sigma=1.1 * 3 / 2), "scale"),
    "noise twice": (Machine(sigma=1.1 * 2**0.5), "scale"),
    "the same noise in every step": (Machine(shared=True), "fresh"),
    "one number as noise for all coordinates": (Machine(scalar=True), "fresh"),
    "no clipping": (Machine(reach=10.0), "reach"),
    "a third more than the rate": (Machine(rate=0.1 * 4 / 3), "sampler"),
    "two thirds of the rate": (Machine(rate=0.1 * 2 / 3), "sampler"),
    "shuffled batches": (Machine(shuffled=True), "sampler"),
    "a step without noise that nobody saw": (Machine(steps=9), "steps"),
    "the same sample in every step": (Machine(same_sample=True), "sampler"),
}


@pytest.mark.parametrize(("machine", "check"), FAULTS.values(), ids=FAULTS)
def test_a_fault_ends_the_first_round(machine: Machine, check: str) -> None:
    found = begun()
    with pytest.raises(UpdateError) as caught:
        machine.round(found, 1)
    assert caught.value.id == "audit_failed"
    assert check in caught.value.what
    assert (found.tally.steps, found.last) == (0, (0, 0))
    for again in (found, Audit.from_bytes(found.to_bytes(), JOB, PLAN)):
        with pytest.raises(UpdateError, match=check):  # it stays failed, for a lead that asks once more
            Machine().round(again, 1, attempt=2)


def test_a_weak_sign_is_found_in_the_end() -> None:
    found, machine = begun(), Machine(reach=0.0)  # units that are lost: less than the noise of one round
    with pytest.raises(UpdateError, match="reach"):
        for number in range(1, 5):
            machine.round(found, number)
    assert found.last >= (1, 1)


def test_without_noise_the_guesses_refute_any_small_claim() -> None:
    found = begun()
    watch = found.watch(1, 1)
    for _ in range(100):
        watch.observe(np.where(found.coins.included, BOUND, 0).astype(np.float32), BOUND)
    assert audit.Audit(JOB, PLAN, found.coins, watch.tally).result(1e-5).bound > 4.15


def test_what_is_computed_twice_is_counted_once() -> None:
    found = begun()
    machine = Machine()
    machine.round(found, 1)
    kept = found.to_bytes()
    machine.round(found, 1)
    assert found.to_bytes() == kept
    machine.round(found, 1, attempt=2)
    machine.round(found, 2)
    assert (found.tally.steps, found.last) == (30, (2, 1))


def test_a_second_look_is_checked_as_well() -> None:
    found = begun()
    Machine().round(found, 1)
    with pytest.raises(UpdateError):
        Machine(sigma=0.0).round(found, 1)


def test_after_a_restart_it_goes_on() -> None:
    found = begun()
    Machine().round(found, 1)
    again = Audit.from_bytes(found.to_bytes(), JOB, PLAN)
    assert (again.commitment, again.last) == (found.commitment, (1, 1))
    for one in (found, again):
        Machine().round(one, 2)
    assert again.to_bytes() == found.to_bytes()


def test_the_commitment_binds_to_the_coins_and_does_not_tell_them() -> None:
    one, two = Audit.begin(JOB, PLAN), Audit.begin(JOB, PLAN)
    assert one.commitment != two.commitment
    assert 400 < one.coins.included.sum() < 600
    same_coins = Audit(JOB, PLAN, Coins(one.coins.included, two.coins.nonce), one.tally)
    other_job = Audit(canonical.digest(b"other"), PLAN, one.coins, one.tally)
    assert len({one.commitment, same_coins.commitment, other_job.commitment}) == 3


def broken(path: str, value: object) -> bytes:
    found = canonical.decode(begun().to_bytes())
    *above, last = path.split(".")
    place = found
    for name in above:
        place = place[name]
    place[last] = value
    return canonical.encode(found)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b"not JSON",
        broken("v", 2),
        broken("job", canonical.digest(b"other")),
        broken("rate", 0.2),
        broken("steps", 11),
        broken("noise_multiplier", None),
        broken("last", [1]),
        broken("coins.included", "01x"),
        broken("coins.included", "01"),
        broken("coins.nonce", "00"),
        broken("tally.scores", [0.0]),
        broken("tally.steps", "many"),
        broken("tally.steps", -1),
        broken("tally.squares", -1.0),
        broken("last", [5.5, 1]),
        broken("failed", [1]),
        broken("coins.included", ""),
    ],
)
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(StateError) as caught:
        Audit.from_bytes(data, JOB, PLAN)
    assert caught.value.id == "state_damaged"


def test_full_batches_are_watched_too() -> None:
    found = Audit(JOB, Pipeline(1.1, 1.0, 10), begun().coins, Tally.empty(audit.PHANTOMS))
    Machine(rate=1.0).round(found, 1)
    with pytest.raises(UpdateError, match="sampler"):
        Machine(rate=0.9).round(found, 2)
