"""Local training: what a step does to the parameters, and that a delta says what it underwent."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cloister.client.learn.adapters import Classifier, set_flat
from cloister.client.learn.documents import Labelled
from cloister.client.learn.evaluation import predict, score
from cloister.client.learn.features import Indices, Tokens, prepare
from cloister.client.learn.training import Guard, LocalTrainer, Moment, Settings
from cloister.privacy.dp import noise
from cloister.privacy.dp.audit import Audit, Pipeline
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import EntropyError, UpdateError
from cloister.privacy.layout import initial
from cloister.privacy.step.interface import MicroBatch
from cloister.privacy.update import Clipped, Noised, Vector
from tests import models

DOCUMENTS = 12
AT = Moment(round=1, attempt=1, model="sha256:" + "0" * 64)
SEED = "sha256:" + "5e" * 32
PLAIN = Settings(
    steps=1, rate=1, expected_units=DOCUMENTS, optimizer="sgd", head_rate=0.5, adapter_rate=0.25, momentum=0.9
)
PRIVATE = replace(PLAIN, guard=Guard(bound=1.0, noise_multiplier=2.0))


def entropy(seed: bytes = b"seed") -> FixedEntropy:
    return FixedEntropy(seed)


@pytest.fixture(scope="module")
def placed() -> Classifier:
    return models.classifier(top_layers=1)


@pytest.fixture(scope="module")
def trainer(placed: Classifier) -> LocalTrainer:
    return LocalTrainer(
        placed, Labelled(placed, prepare(placed, models.documents(DOCUMENTS)), models.labels(DOCUMENTS))
    )


@pytest.fixture(scope="module")
def start(placed: Classifier) -> Vector:
    return models.vector(placed.layout.size, seed=13)


def mean_gradient(placed: Classifier, at: Vector) -> Vector:
    """The gradient of the mean loss over all documents, through the full model at once."""
    set_flat(placed, at)
    logits = Tokens(models.documents(DOCUMENTS)).logits(placed, np.arange(DOCUMENTS))
    loss = cross_entropy(logits, torch.from_numpy(models.labels(DOCUMENTS)))
    parts = torch.autograd.grad(loss, [placed.trained[name] for name, _ in placed.layout.tensors])
    return torch.cat([part.reshape(-1) for part in parts]).numpy()


def rates(placed: Classifier, head: float, adapter: float) -> Vector:
    values = np.empty(placed.layout.size, dtype=np.float32)
    for name, _, part in placed.layout.slices():
        values[part] = head if name.startswith("head") else adapter
    return values


class TestWithoutPrivacy:
    def test_a_step_goes_down_the_gradient_at_the_rates_of_head_and_adapter(
        self, placed: Classifier, trainer: LocalTrainer, start: Vector
    ) -> None:
        delta = trainer.train(start, PLAIN, entropy(), AT)
        expected = -rates(placed, 0.5, 0.25) * mean_gradient(placed, start)
        np.testing.assert_allclose(delta.values, expected, rtol=0, atol=2e-6)
        assert delta.mechanisms == ()
        assert delta.values.dtype == np.float32

    def test_momentum_carries_over_steps_and_not_over_rounds(
        self, placed: Classifier, trainer: LocalTrainer, start: Vector
    ) -> None:
        delta = trainer.train(start, replace(PLAIN, steps=2, momentum=0.5), entropy(), AT)
        rate = rates(placed, 0.5, 0.25)
        first = mean_gradient(placed, start)
        second = mean_gradient(placed, start - rate * first)
        np.testing.assert_allclose(delta.values, -rate * (1.5 * first + second), rtol=0, atol=1e-5)
        again = trainer.train(start, replace(PLAIN, steps=2, momentum=0.5), entropy(), AT)
        np.testing.assert_array_equal(delta.values, again.values)

    def test_adam_is_the_one_of_torch(self, placed: Classifier, trainer: LocalTrainer, start: Vector) -> None:
        delta = trainer.train(start, replace(PLAIN, steps=3, optimizer="adam", head_rate=0.01), entropy(), AT)
        parameters = torch.from_numpy(start.copy()).requires_grad_()
        scale = torch.from_numpy(rates(placed, 0.01, 0.25))
        reference = torch.optim.Adam([parameters], lr=1.0)
        for _ in range(3):
            before = parameters.detach().clone()
            parameters.grad = torch.from_numpy(mean_gradient(placed, parameters.detach().numpy()))
            reference.step()
            with torch.no_grad():  # one rate a coordinate
                parameters.copy_(before + scale * (parameters - before))
        np.testing.assert_allclose(delta.values, parameters.detach().numpy() - start, rtol=0, atol=2e-3)

    def test_the_start_is_not_changed(self, trainer: LocalTrainer, start: Vector) -> None:
        before = start.copy()
        trainer.train(start, PLAIN, entropy(), AT)
        np.testing.assert_array_equal(start, before)

    def test_the_denominator_is_public(self, trainer: LocalTrainer, start: Vector) -> None:
        once = trainer.train(start, PLAIN, entropy(), AT).values
        half = trainer.train(start, replace(PLAIN, expected_units=2 * DOCUMENTS), entropy(), AT).values
        np.testing.assert_allclose(half, once / 2, rtol=1e-5, atol=1e-7)

    def test_training_that_diverges_sends_nothing(self, trainer: LocalTrainer, start: Vector) -> None:
        with np.errstate(all="ignore"), pytest.raises(UpdateError) as caught:
            trainer.train(start, replace(PLAIN, head_rate=3e38, steps=3), entropy(), AT)
        assert caught.value.id == "update_not_finite"


class TestWithPrivacy:
    def test_the_delta_names_every_step_that_was_noised(self, trainer: LocalTrainer, start: Vector) -> None:
        delta = trainer.train(start, replace(PRIVATE, steps=3, rate=0.5), entropy(), AT)
        assert delta.mechanisms == (GaussianSteps(2.0, 0.5, 3),)

    def test_empty_samples_are_noised_and_charged(self, trainer: LocalTrainer, start: Vector) -> None:
        delta = trainer.train(start, replace(PRIVATE, steps=2, rate=1e-9), entropy(), AT)
        assert delta.mechanisms == (GaussianSteps(2.0, 1e-9, 2),)
        assert np.count_nonzero(delta.values) > 0.99 * delta.values.size

    def test_the_noise_has_the_deviation_of_multiplier_and_bound(
        self, trainer: LocalTrainer, start: Vector
    ) -> None:
        terms = replace(PRIVATE, rate=1e-9, expected_units=10**9, head_rate=1.0, adapter_rate=1.0)
        values = trainer.train(start, replace(terms, guard=Guard(3.0, 2.0)), entropy(), AT).values
        spread = float(values.std()) / 6.0
        assert abs(spread - 1) < 0.15  # 6 standard errors for about 900 values
        assert abs(spread - 0.5) > 0.15
        assert abs(spread - 2) > 0.15

    def test_the_sum_that_is_noised_is_the_clipped_one(
        self, trainer: LocalTrainer, start: Vector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Clipped] = []
        engine = trainer._engine

        class Watched:
            def clipped(self, batch: object, bound: float, phantoms: Indices) -> Clipped:
                seen.append(engine.clipped(batch, bound, phantoms))  # type: ignore[arg-type]
                return seen[-1]

        monkeypatch.setattr(trainer, "_engine", Watched())
        almost_none = replace(PRIVATE, guard=Guard(1.0, 0.001), head_rate=1.0, adapter_rate=1.0)
        delta = trainer.train(start, almost_none, entropy(), AT)
        assert np.linalg.norm(seen[0].values) <= DOCUMENTS
        np.testing.assert_allclose(delta.values, -seen[0].values / DOCUMENTS, rtol=0, atol=1e-3)
        assert np.abs(delta.values).max() > 0.02

    def test_same_entropy_same_delta_other_entropy_other_delta(
        self, trainer: LocalTrainer, start: Vector
    ) -> None:
        first = trainer.train(start, PRIVATE, entropy(), AT).values
        np.testing.assert_array_equal(trainer.train(start, PRIVATE, entropy(), AT).values, first)
        assert not np.array_equal(trainer.train(start, PRIVATE, entropy(b"other"), AT).values, first)

    @pytest.mark.parametrize("other", [{"round": 2}, {"attempt": 2}, {"model": "sha256:" + "1" * 64}])
    def test_rounds_attempts_and_models_have_noise_of_their_own(
        self, trainer: LocalTrainer, start: Vector, other: dict[str, int | str]
    ) -> None:
        first = trainer.train(start, PRIVATE, entropy(), AT).values
        second = trainer.train(start, PRIVATE, entropy(), replace(AT, **other)).values  # type: ignore[arg-type]
        assert not np.array_equal(first, second)

    def test_steps_have_noise_of_their_own(self, trainer: LocalTrainer, start: Vector) -> None:
        only_noise = replace(PRIVATE, rate=1e-9, momentum=0)
        one = trainer.train(start, only_noise, entropy(), AT).values
        two = trainer.train(start, replace(only_noise, steps=2), entropy(), AT).values
        assert np.abs(np.corrcoef(one, two - one)[0, 1]) < 0.2

    def test_global_seeds_have_no_part_in_it(self, trainer: LocalTrainer, start: Vector) -> None:
        torch.manual_seed(42)
        first = trainer.train(start, PRIVATE, entropy(), AT).values
        torch.manual_seed(43)
        np.testing.assert_array_equal(trainer.train(start, PRIVATE, entropy(), AT).values, first)
        torch.manual_seed(42)
        assert not np.array_equal(trainer.train(start, PRIVATE, entropy(b"other"), AT).values, first)

    def test_the_same_streams_are_not_drawn_twice(self, trainer: LocalTrainer, start: Vector) -> None:
        used = entropy()
        trainer.train(start, PRIVATE, used, AT)
        with pytest.raises(EntropyError):
            trainer.train(start, PRIVATE, used, AT)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise: what is left is the clipped sum."""
    monkeypatch.setattr(
        noise, "gaussian", lambda clipped, sigma, _: Noised(clipped.values, clipped.bound, sigma)
    )


class TestAudit:
    """Phantom units go through training and leave no trace in the model."""

    def audited(self, placed: Classifier, rate: float = 0.3) -> tuple[LocalTrainer, Audit]:
        audit = Audit.begin(SEED, Pipeline(2.0, rate, 4))
        features = prepare(placed, models.documents(DOCUMENTS))
        return LocalTrainer(placed, Labelled(placed, features, models.labels(DOCUMENTS)), audit=audit), audit

    @pytest.mark.usefixtures("quiet")
    def test_the_model_is_that_without_phantoms(
        self, placed: Classifier, trainer: LocalTrainer, start: Vector
    ) -> None:
        other, audit = self.audited(placed)
        settings = replace(PRIVATE, steps=4, rate=0.3)
        expected = trainer.train(start, settings, entropy(), AT)
        with pytest.raises(UpdateError, match="scale"):  # it is quiet, which the audit hears
            other.train(start, settings, entropy(), AT)
        audit.failed = ()
        audit.keep = lambda watch: None  # type: ignore[method-assign]
        found = other.train(start, settings, entropy(), AT)
        np.testing.assert_array_equal(found.values, expected.values)
        assert found.mechanisms == expected.mechanisms

    def test_every_step_is_watched_and_the_sum_is_of_the_model_alone(
        self, placed: Classifier, start: Vector
    ) -> None:
        trainer, audit = self.audited(placed)
        settings = replace(PRIVATE, steps=4, rate=0.3)
        delta = trainer.train(start, settings, entropy(), AT)
        assert delta.values.shape == start.shape
        assert (audit.tally.steps, audit.last) == (4, (1, 1))
        trainer.train(start, settings, entropy(), replace(AT, round=2))
        assert audit.tally.steps == 8

    def test_other_steps_than_the_plans_are_not_sent(self, placed: Classifier, start: Vector) -> None:
        trainer, _ = self.audited(placed)
        with pytest.raises(UpdateError, match="steps") as caught:
            trainer.train(start, replace(PRIVATE, steps=3, rate=0.3), entropy(), AT)
        assert caught.value.id == "audit_failed"


OWNER = np.array([0, 1, 1, 2, 3, 3, 3, 4, 1, 3, 5, 5])
"""Whose document each is."""


@pytest.fixture(scope="module")
def persons(placed: Classifier) -> LocalTrainer:
    features = prepare(placed, models.documents(DOCUMENTS))
    return LocalTrainer(placed, Labelled(placed, features, models.labels(DOCUMENTS)), OWNER)


class TestPersons:
    """Persons with 1 to 4 documents of different lengths; a unit is a person."""

    def gradient(self, placed: Classifier, at: Vector, rows: list[int]) -> Vector:
        """The gradient of the summed loss of some documents, one document at a time."""
        set_flat(placed, at)
        total = np.zeros(placed.layout.size, dtype=np.float64)
        for row in rows:
            logits = Tokens(models.documents(DOCUMENTS)).logits(placed, np.array([row]))
            loss = cross_entropy(logits, torch.from_numpy(models.labels(DOCUMENTS)[[row]]))
            parts = torch.autograd.grad(loss, [placed.trained[name] for name, _ in placed.layout.tensors])
            total += torch.cat([part.reshape(-1) for part in parts]).numpy()
        return total.astype(np.float32)

    def clipped_sum(self, placed: Classifier, at: Vector, chosen: list[int], bound: float) -> Vector:
        """The naive loop: sums a person's gradients, cuts the sum, adds the persons up."""
        total = np.zeros(placed.layout.size, dtype=np.float64)
        for person in chosen:
            gradient = self.gradient(placed, at, np.flatnonzero(person == OWNER).tolist())
            total += gradient * min(1.0, bound / float(np.linalg.norm(gradient)))
        return total.astype(np.float32)

    @pytest.mark.usefixtures("quiet")
    @pytest.mark.parametrize("bound", [0.5, 2.0, 100.0])
    def test_the_sum_is_cut_per_person(
        self, placed: Classifier, persons: LocalTrainer, start: Vector, bound: float
    ) -> None:
        settings = replace(PRIVATE, expected_units=6, head_rate=1.0, adapter_rate=1.0)
        delta = persons.train(start, replace(settings, guard=Guard(bound, 1.0)), entropy(), AT)
        expected = -self.clipped_sum(placed, start, list(range(6)), bound) / 6
        np.testing.assert_allclose(delta.values, expected, rtol=0, atol=3e-6)

    @pytest.mark.usefixtures("quiet")
    def test_a_cut_per_row_would_be_something_else(self, placed: Classifier, start: Vector) -> None:
        rows = LocalTrainer(
            placed, Labelled(placed, prepare(placed, models.documents(DOCUMENTS)), models.labels(DOCUMENTS))
        )
        settings = replace(PRIVATE, expected_units=6, head_rate=1.0, adapter_rate=1.0)
        delta = rows.train(start, replace(settings, guard=Guard(0.5, 1.0)), entropy(), AT)
        expected = -self.clipped_sum(placed, start, list(range(6)), 0.5) / 6
        assert np.abs(delta.values - expected).max() > 1e-3

    def test_without_privacy_the_rows_of_all_sampled_persons_count(
        self, placed: Classifier, persons: LocalTrainer, start: Vector
    ) -> None:
        delta = persons.train(start, replace(PLAIN, expected_units=6), entropy(), AT)
        total = self.gradient(placed, start, list(range(DOCUMENTS)))
        np.testing.assert_allclose(delta.values, -rates(placed, 0.5, 0.25) * total / 6, rtol=0, atol=5e-6)

    def test_persons_are_sampled_and_all_their_rows_come_along(
        self, persons: LocalTrainer, start: Vector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each of the 6 persons at the plan's rate, over 400 steps, and rows only by whole persons."""
        steps, rate, seen = 400, 0.3, np.zeros(6)

        class Watched:
            def clipped(self, batch: Iterable[MicroBatch], bound: float, phantoms: Indices) -> Clipped:
                rows = np.concatenate(
                    [*(part.losses().numpy() for part in batch), np.zeros(0, dtype=np.int64)]
                )
                sampled = np.unique(OWNER[rows])
                whole = np.flatnonzero(np.isin(OWNER, sampled))
                np.testing.assert_array_equal(np.sort(rows), whole)  # all rows of each, once
                seen[sampled] += 1
                return Clipped(np.zeros(start.size, dtype=np.float32), bound)

        monkeypatch.setattr(persons._documents, "losses", torch.from_numpy)  # a forward pass says whose it is
        monkeypatch.setattr(persons, "_engine", Watched())
        delta = persons.train(start, replace(PRIVATE, steps=steps, rate=rate), entropy(), AT)
        assert delta.mechanisms == (GaussianSteps(2.0, rate, steps),)
        spread = 4 * np.sqrt(rate * (1 - rate) / steps)  # 4 standard errors, about 0.09
        np.testing.assert_allclose(seen / steps, rate, rtol=0, atol=spread)
        for wrong in (rate * 2 / 3, rate * 3 / 2):
            assert abs(seen.mean() / steps - wrong) > spread / np.sqrt(6)

    def test_numbers_with_gaps_are_refused(self, placed: Classifier) -> None:
        with pytest.raises(ValueError, match="without gaps"):
            LocalTrainer(
                placed, Labelled(placed, Tokens(models.documents(2)), models.labels(2)), np.array([0, 2])
            )

    def test_one_unit_a_document(self, placed: Classifier) -> None:
        with pytest.raises(ValueError, match="one unit"):
            LocalTrainer(
                placed, Labelled(placed, Tokens(models.documents(2)), models.labels(2)), np.array([0])
            )


@pytest.mark.parametrize("guard", [None, Guard(bound=2.0, noise_multiplier=0.01)])
@pytest.mark.parametrize("top_layers", [0, 1])
def test_training_learns(top_layers: int, guard: Guard | None) -> None:
    placed = models.classifier(top_layers=top_layers)
    labels = models.labels(60)
    random = np.random.default_rng(1)
    ids = [random.integers(5 + 13 * label, 18 + 13 * label, 8) for label in labels]  # words of their own
    features = prepare(placed, ids)
    start = initial(placed.layout, SEED)
    settings = Settings(
        steps=30, rate=0.5, expected_units=60, optimizer="adam", head_rate=0.1, adapter_rate=0.02, guard=guard
    )
    delta = LocalTrainer(placed, Labelled(placed, features, labels)).train(start, settings, entropy(), AT)
    before = score(predict(placed, features, start), labels).accuracy
    after = score(predict(placed, features, start + delta.values), labels).accuracy
    assert before < 0.5
    assert after > 0.65


def test_one_label_a_document() -> None:
    placed = models.classifier(top_layers=0)
    with pytest.raises(ValueError, match="one label"):
        LocalTrainer(placed, Labelled(placed, Tokens(models.documents(3)), models.labels(2)))
