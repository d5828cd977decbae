"""Faults of private training that go unnoticed elsewhere, planted in the real code, and what notices each.

A *check* runs real code and raises where something is wrong. Each is shown to pass as the code stands; then
a fault is planted and the check must raise. The audit's check runs in every private job, the refusals of the
engines wherever a model is trained; the comparison with a loop over single units runs in the tests alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cloister.client.learn.adapters import Classifier
from cloister.client.learn.documents import Labelled
from cloister.client.learn.features import Tokens
from cloister.client.learn.training import Guard, LocalTrainer, Moment, Settings
from cloister.privacy.dp import noise, sampling
from cloister.privacy.dp.audit import Audit, Pipeline
from cloister.privacy.entropy import Entropy, FixedEntropy, KeyStream, Ratchet
from cloister.privacy.errors import CloisterError
from cloister.privacy.layout import Layout
from cloister.privacy.step import rows
from cloister.privacy.step.coverage import engine_for
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.hooks import HooksEngine
from cloister.privacy.step.interface import MicroBatch
from cloister.privacy.update import Clipped, Noised
from tests import models

Monkey: TypeAlias = pytest.MonkeyPatch
Check: TypeAlias = Callable[[], None]

JOB = "sha256:" + "a5" * 32
DOCUMENTS = 16
OWNER = np.arange(DOCUMENTS) // 2
SETTINGS = Settings(
    steps=10,
    rate=0.1,
    expected_units=8,
    optimizer="sgd",
    head_rate=0.1,
    adapter_rate=0.1,
    guard=Guard(bound=1.0, noise_multiplier=1.1),
)


def trainer_of(placed: Classifier, audit: Audit | None = None) -> LocalTrainer:
    features = Tokens(models.documents(DOCUMENTS))
    return LocalTrainer(placed, Labelled(placed, features, models.labels(DOCUMENTS)), OWNER, audit)


def moment(number: int = 1) -> Moment:
    return Moment(number, 1, JOB)


class Checks:
    """What is run against the code, sound or not."""

    @staticmethod
    def audit(rate: float = SETTINGS.rate) -> None:
        """A round of private training with phantom units in it, as in every private job."""
        placed = models.classifier(top_layers=1)
        pipeline = Pipeline(1.1, rate, SETTINGS.steps)
        trainer = trainer_of(placed, Audit.begin(JOB, pipeline))
        start = models.vector(placed.layout.size)
        trainer.train(start, replace(SETTINGS, rate=rate), FixedEntropy(b"audit"), moment())

    @staticmethod
    def audit_of_empty_batches() -> None:
        """The same where nearly every sample is empty."""
        Checks.audit(rate=0.0005)

    @staticmethod
    def loop() -> None:
        """The clipped sum of a step against a loop that takes one unit at a time."""
        for engine in (FusedEngine, HooksEngine):
            placed = models.classifier(top_layers=1)
            trainer = trainer_of(placed)
            made = engine(placed, placed.layout, placed.trained)
            made.clipped(trainer._batches(np.array([3, 5])), 1.0)  # what a step before may leave behind
            found = made.clipped(trainer._batches(np.arange(8)), 1.0)
            np.testing.assert_allclose(found.values, one_at_a_time(placed), rtol=0, atol=1e-6)

    @staticmethod
    def loop_with_a_broken_unit() -> None:
        """A unit whose loss is not finite counts as zero and harms nobody else."""
        for engine in (FusedEngine, HooksEngine):
            toy = Toy()
            made = engine(toy, toy.layout, dict(toy.named_parameters()))
            found = made.clipped([toy.batch([[0.3, 0.4], [float("nan"), 1.0]])], 1.0)
            np.testing.assert_allclose(found.values, [0.3, 0.4], atol=1e-6)

    @staticmethod
    def noise_of_its_own(folder: Path, entropy: Callable[[Path], Entropy]) -> None:
        """Two sites that seed every global generator alike still have noise that is not alike."""
        seen = []
        for name in ("north", "south"):
            np.random.seed(42)
            torch.manual_seed(42)
            source = entropy(folder / name)
            source.advance(1)
            stream = source.stream("noise", round=1, step=1, model=JOB)
            seen.append(noise.gaussian(Clipped(np.zeros(1000, dtype=np.float32), 1.0), 1.0, stream).values)
        assert abs(np.corrcoef(*seen)[0, 1]) < 0.2  # six standard errors

    @staticmethod
    def coverage(without: str | None = None, *, twice: bool = False) -> None:
        """The engines take a model only if every trainable tensor is clipped and noised, once."""
        placed = models.classifier(top_layers=1)
        layout = Layout(tuple(part for part in placed.layout.tensors if part[0] != without))
        trained = {name: placed.trained[name] for name, _ in layout.tensors}
        made = engine_for(placed, layout, trained)
        trainer = trainer_of(placed)
        if twice:
            placed.classify = lambda pooled: placed.head(pooled) + placed.head(pooled)  # type: ignore[method-assign]
        made.clipped(trainer._batches(np.arange(2)), 1.0)


def one_at_a_time(placed: Classifier) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The sum over units of the gradient of their summed losses, each cut to norm 1."""
    total = np.zeros(placed.layout.size)
    tokens, labels = Tokens(models.documents(DOCUMENTS)), torch.from_numpy(models.labels(DOCUMENTS))
    for unit in range(8):
        gradient = np.zeros(placed.layout.size)
        for row in np.flatnonzero(unit == OWNER):
            loss = cross_entropy(tokens.logits(placed, np.array([row])), labels[row : row + 1])
            parts = torch.autograd.grad(loss, [placed.trained[name] for name, _ in placed.layout.tensors])
            gradient += torch.cat([part.reshape(-1) for part in parts]).double().numpy()
        total += gradient * min(1.0, 1 / (float(np.linalg.norm(gradient)) + 1e-6))
    return total


class Toy(nn.Module):
    """A linear model: the gradient of a row is the row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        self.layout = Layout((("layer.weight", (1, 2)),))

    def batch(self, values: list[list[float]]) -> MicroBatch:
        return MicroBatch(lambda: self.layer(torch.tensor(values)).squeeze(1), np.arange(len(values)))


# Faults. Each replaces one piece of the real code.

gaussian, poisson, write = noise.gaussian, sampling.poisson, FusedEngine._write


def noised_by(monkey: Monkey, fault: Callable[[Clipped, float, KeyStream], Noised]) -> None:
    monkey.setattr(noise, "gaussian", fault)


def no_noise(monkey: Monkey) -> None:
    noised_by(monkey, lambda clipped, sigma, _: Noised(clipped.values, clipped.bound, sigma))


def halved_sigma(monkey: Monkey) -> None:
    noised_by(
        monkey, lambda clipped, sigma, stream: replace_sigma(gaussian(clipped, sigma / 2, stream), sigma)
    )


def noise_twice(monkey: Monkey) -> None:
    def fault(clipped: Clipped, sigma: float, stream: KeyStream) -> Noised:
        once = gaussian(clipped, sigma, stream)
        return gaussian(Clipped(once.values, once.bound), sigma, stream)

    noised_by(monkey, fault)


def noise_after_averaging(monkey: Monkey) -> None:
    """Noise of one bound on the mean instead of the sum: it is too much by the number of units."""

    def fault(clipped: Clipped, sigma: float, stream: KeyStream) -> Noised:
        expected = np.float32(SETTINGS.rate * SETTINGS.expected_units)
        noised = gaussian(Clipped(clipped.values / expected, clipped.bound), sigma, stream)
        return replace(noised, values=noised.values * expected)

    noised_by(monkey, fault)


def replace_sigma(noised: Noised, sigma: float) -> Noised:
    return replace(noised, noise_multiplier=sigma)


def noise_of_the_global_generator(monkey: Monkey) -> None:
    def fault(clipped: Clipped, sigma: float, _: KeyStream) -> Noised:
        drawn = torch.normal(0.0, sigma * clipped.bound, clipped.values.shape).numpy()
        return Noised(clipped.values + drawn, clipped.bound, sigma)

    noised_by(monkey, fault)


def noise_seeded_anew_each_step(monkey: Monkey) -> None:
    def fault(clipped: Clipped, sigma: float, _: KeyStream) -> Noised:
        return gaussian(clipped, sigma, KeyStream(bytes(32)))

    noised_by(monkey, fault)


def empty_batches_skipped(monkey: Monkey) -> None:
    """As `if len(batch) == 0: continue` does, in the place where a step is taken."""
    noised = LocalTrainer._noised

    def fault(self: LocalTrainer, units: Any, *others: Any) -> Noised:
        if not len(units):
            size = self._model.layout.size
            return Noised(np.zeros(size, dtype=np.float32), 1.0, 1.1)
        return noised(self, units, *others)

    monkey.setattr(LocalTrainer, "_noised", fault)


def empty_batches_without_noise(monkey: Monkey) -> None:
    def fault(clipped: Clipped, sigma: float, stream: KeyStream) -> Noised:
        if not clipped.values.any():
            return Noised(clipped.values, clipped.bound, sigma)
        return gaussian(clipped, sigma, stream)

    noised_by(monkey, fault)


def shuffled_batches(monkey: Monkey) -> None:
    """Fixed batches of one shuffled epoch, accounted as Poisson."""
    epoch: Iterator[Any] = iter(())

    def fault(units: int, rate: float, _: KeyStream) -> Any:
        nonlocal epoch
        batch = next(epoch, None)
        if batch is None:
            epoch = iter(np.array_split(np.random.default_rng(3).permutation(units), round(1 / rate)))
            batch = next(epoch)
        return np.sort(batch)

    monkey.setattr(sampling, "poisson", fault)


def a_larger_rate(monkey: Monkey) -> None:
    monkey.setattr(sampling, "poisson", lambda units, rate, stream: poisson(units, 1.5 * rate, stream))


def nothing_clipped(monkey: Monkey) -> None:
    monkey.setattr(rows, "_cut", lambda norms, bound: torch.ones_like(norms))


def a_layer_left_out_of_the_norm(monkey: Monkey) -> None:
    monkey.setattr(
        rows, "_norms", lambda found: torch.linalg.vector_norm(found[:, :-40], dim=1, dtype=torch.float64)
    )


def rows_cut_before_they_are_summed(monkey: Monkey) -> None:
    """The norm of each row instead of that of the sum of a person's rows."""
    batches = LocalTrainer._batches

    def fault(self: LocalTrainer, units: Any) -> list[MicroBatch]:
        first, found = 0, []
        for part in batches(self, units):
            found.append(replace(part, units=np.arange(first, first + len(part.units))))
            first += len(part.units)
        return found

    monkey.setattr(LocalTrainer, "_batches", fault)


def stale_rows(monkey: Monkey) -> None:
    """One tensor is not written, and what the buffer held counts again."""
    prepare = FusedEngine._prepare

    def prepared(self: FusedEngine, rows: int, device: torch.device) -> None:
        prepare(self, rows, device)
        self._buffer.fill_(0.5)  # what an earlier pass may have left

    def fault(self: FusedEngine, parameter: nn.Parameter, left: Tensor, right: Tensor) -> None:
        name = self._names[id(parameter)]
        if name.startswith("head"):
            self._written.add(name)
        else:
            write(self, parameter, left, right)

    monkey.setattr(FusedEngine, "_prepare", prepared)
    monkey.setattr(FusedEngine, "_write", fault)


def rows_never_written(monkey: Monkey) -> None:
    def fault(self: FusedEngine, parameter: nn.Parameter, left: Tensor, right: Tensor) -> None:
        if not self._names[id(parameter)].startswith("head"):
            write(self, parameter, left, right)

    monkey.setattr(FusedEngine, "_write", fault)


def broken_rows_kept(monkey: Monkey) -> None:
    monkey.setattr(rows, "_cut", lambda norms, bound: (bound / (norms + 1e-6)).clamp(max=1))


@dataclass(frozen=True)
class Fault:
    """A fault and the check that must see it."""

    plant: Callable[[Monkey], None]
    check: Check


FAULTS = (
    Fault(no_noise, Checks.audit),
    Fault(halved_sigma, Checks.audit),
    Fault(noise_twice, Checks.audit),
    Fault(noise_after_averaging, Checks.audit),
    Fault(noise_seeded_anew_each_step, Checks.audit),
    Fault(shuffled_batches, Checks.audit),
    Fault(a_larger_rate, Checks.audit),
    Fault(nothing_clipped, Checks.audit),
    Fault(empty_batches_skipped, Checks.audit_of_empty_batches),
    Fault(empty_batches_without_noise, Checks.audit_of_empty_batches),
    Fault(nothing_clipped, Checks.loop),
    Fault(a_layer_left_out_of_the_norm, Checks.loop),
    Fault(rows_cut_before_they_are_summed, Checks.loop),
    Fault(stale_rows, Checks.loop),
    Fault(rows_never_written, Checks.loop),
    Fault(broken_rows_kept, Checks.loop_with_a_broken_unit),
)


@pytest.mark.parametrize("check", sorted({fault.check for fault in FAULTS}, key=lambda c: c.__name__))
def test_the_code_as_it_stands_passes(check: Check) -> None:
    check()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.plant.__name__}-{f.check.__name__}")
def test_a_planted_fault_is_caught(fault: Fault, monkeypatch: Monkey) -> None:
    fault.plant(monkeypatch)
    with pytest.raises((AssertionError, CloisterError)):
        fault.check()


def test_two_sites_have_noise_of_their_own(tmp_path: Path) -> None:
    Checks.noise_of_its_own(tmp_path, lambda path: Ratchet(path, JOB))


def test_a_shared_seed_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Checks.noise_of_its_own(tmp_path, lambda _: FixedEntropy(b"42"))


def test_noise_of_the_global_generator_is_caught(tmp_path: Path, monkeypatch: Monkey) -> None:
    noise_of_the_global_generator(monkeypatch)
    with pytest.raises(AssertionError):
        Checks.noise_of_its_own(tmp_path, lambda path: Ratchet(path, JOB))


def test_a_model_whose_tensors_are_all_trained_once_is_taken() -> None:
    Checks.coverage()


def test_a_tensor_that_is_missing_in_the_optimizer_is_refused() -> None:
    with pytest.raises(CloisterError) as caught:
        Checks.coverage(without="head.bias")
    assert caught.value.id == "layer_unsupported"
    assert "head.bias" in caught.value.what


def test_a_layer_that_is_used_twice_is_refused() -> None:
    with pytest.raises(CloisterError) as caught:
        Checks.coverage(twice=True)
    assert caught.value.id == "layer_unsupported"
