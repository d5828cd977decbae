"""FedProx, FFA-LoRA and RoLoRA at a site: what is held back, what is frozen, and what that costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloister.client.learn.adapters import Classifier
from cloister.client.learn.documents import Labelled
from cloister.client.learn.factors import Selection
from cloister.client.learn.features import prepare
from cloister.client.learn.training import Guard, LocalTrainer, Moment, Settings
from cloister.privacy import canonical
from cloister.privacy.dp.audit import Audit, Pipeline
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError
from cloister.privacy.plan import Plan
from cloister.privacy.update import Vector
from tests import models
from tests.plans import plan, plan_json
from tests.server.test_sums import FOUR, SECURE

DOCUMENTS = 12
PLAIN = Settings(
    steps=2, rate=1, expected_units=DOCUMENTS, optimizer="sgd", head_rate=0.5, adapter_rate=0.25, momentum=0.0
)
PRIVATE = replace(PLAIN, guard=Guard(bound=1.0, noise_multiplier=2.0))


def at(round: int) -> Moment:
    return Moment(round=round, attempt=1, model="sha256:" + "0" * 64)


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


def trained(trainer: LocalTrainer, start: Vector, settings: Settings, round: int = 1) -> Vector:
    return trainer.train(start, settings, FixedEntropy(b"seed"), at(round)).values


def moved(placed: Classifier, delta: Vector) -> set[str]:
    """Which of head, A and B a delta changes."""
    found = set()
    for name, _, place in placed.layout.slices():
        if delta[place].any():
            found.add("head" if name.startswith("head") else name.split(".")[-2].removeprefix("lora_"))
    return found


class TestProximal:
    @pytest.mark.parametrize("settings", [PLAIN, PRIVATE])
    def test_the_second_step_is_held_back_by_what_the_first_went(
        self, placed: Classifier, trainer: LocalTrainer, start: Vector, settings: Settings
    ) -> None:
        """x2 = x1 - r (g(x1) + mu (x1 - x0)): mu r of the first step less than without."""
        first = trained(trainer, start, replace(settings, steps=1, proximal=0.8))
        np.testing.assert_array_equal(first, trained(trainer, start, replace(settings, steps=1)))
        free, held = (trained(trainer, start, replace(settings, proximal=mu)) for mu in (0.0, 0.8))
        rates = np.empty_like(first)
        for name, _, place in placed.layout.slices():
            rates[place] = 0.5 if name.startswith("head") else 0.25
        np.testing.assert_allclose(held, free - 0.8 * rates * first, atol=3e-6)

    def test_it_costs_no_privacy(self, trainer: LocalTrainer, start: Vector) -> None:
        free, held = (
            trainer.train(start, replace(PRIVATE, proximal=mu), FixedEntropy(b"seed"), at(1)).mechanisms
            for mu in (0.0, 0.8)
        )
        assert free == held != ()


class TestFactors:
    @pytest.mark.parametrize("settings", [PLAIN, PRIVATE])
    @pytest.mark.parametrize(
        ("factors", "round", "expected"),
        [
            (None, 1, {"head", "A", "B"}),
            ("up", 1, {"head", "B"}),
            ("up", 2, {"head", "B"}),
            ("alternate", 1, {"head", "B"}),
            ("alternate", 2, {"head", "A"}),
            ("alternate", 3, {"head", "B"}),
        ],
    )
    def test_what_is_frozen_gets_no_step_and_no_noise(
        self,
        placed: Classifier,
        trainer: LocalTrainer,
        start: Vector,
        settings: Settings,
        factors: str | None,
        round: int,
        expected: set[str],
    ) -> None:
        delta = trained(trainer, start, replace(settings, factors=factors), round)  # type: ignore[arg-type]
        assert moved(placed, delta) == expected
        assert all(tensor.requires_grad for tensor in placed.trained.values())

    def test_without_privacy_the_trained_factor_goes_as_if_both_did(
        self, placed: Classifier, trainer: LocalTrainer, start: Vector
    ) -> None:
        both, up = (
            trained(trainer, start, replace(PLAIN, steps=1, factors=factors))  # type: ignore[arg-type]
            for factors in (None, "up")
        )
        places = Selection.of(placed.layout, ".lora_A.weight").places
        np.testing.assert_allclose(up[places], both[places], atol=1e-7)

    def test_the_clip_is_that_of_the_trained_factor_alone(
        self, placed: Classifier, trainer: LocalTrainer, start: Vector
    ) -> None:
        """With one unit and hardly any noise, the step is as long as the bound allows."""
        tight = replace(PLAIN, steps=1, expected_units=1, head_rate=1.0, adapter_rate=1.0)
        tight = replace(tight, guard=Guard(1e-3, 1e-3))
        one = LocalTrainer(placed, Labelled(placed, prepare(placed, models.documents(1)), models.labels(1)))
        up, both = (
            one.train(start, replace(tight, factors=factors), FixedEntropy(b"seed"), at(1)).values  # type: ignore[arg-type]
            for factors in ("up", None)
        )
        places = Selection.of(placed.layout, ".lora_A.weight").places
        assert np.linalg.norm(up) == pytest.approx(1e-3, rel=0.003)
        assert np.linalg.norm(both[places]) < 0.995e-3  # what is left of a vector that was cut with A

    def test_the_audit_watches_the_coordinates_behind_what_is_trained(
        self, placed: Classifier, start: Vector
    ) -> None:
        audit = Audit.begin("sha256:" + "5e" * 32, Pipeline(2.0, 0.3, 4))
        features = prepare(placed, models.documents(DOCUMENTS))
        trainer = LocalTrainer(placed, Labelled(placed, features, models.labels(DOCUMENTS)), audit=audit)
        settings = replace(PRIVATE, steps=4, rate=0.3, factors="alternate")
        for number in (1, 2):
            delta = trainer.train(start, settings, FixedEntropy(b"seed"), at(number))
            assert delta.values.shape == start.shape
        assert audit.tally.steps == 8

    def test_the_model_is_left_as_it_was(
        self, placed: Classifier, trainer: LocalTrainer, start: Vector
    ) -> None:
        whole = trained(trainer, start, PRIVATE)
        trained(trainer, start, replace(PRIVATE, factors="alternate"), 2)
        np.testing.assert_array_equal(trained(trainer, start, PRIVATE), whole)


class TestPlan:
    """What a plan may say of both."""

    def value(self, **changes: object) -> dict[str, object]:
        return plan_json(training=plan_json()["training"] | changes)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"proximal": 0.5}, "fedavg, FedProx of 0.5"),
            ({"factors": "up"}, "fedavg, LoRA's A frozen (FFA-LoRA)"),
            (
                {"factors": "alternate", "proximal": 2.0},
                "fedavg, FedProx of 2, LoRA's A and B in turn (RoLoRA)",
            ),
        ],
    )
    def test_it_survives_the_bytes_and_is_named(self, changes: dict[str, object], said: str) -> None:
        data = canonical.encode(self.value(**changes))  # type: ignore[arg-type]
        found = Plan.from_bytes(data)
        assert found.to_bytes() == data
        assert found.method == said

    def test_without_them_the_bytes_say_nothing(self) -> None:
        assert b"proximal" not in plan().to_bytes()
        assert b"factors" not in plan().to_bytes()

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"proximal": 2.1}, "would swing about"),
            ({"proximal": 0.0}, "The plan"),
            ({"proximal": None}, "The plan"),
            ({"factors": "down"}, "The plan"),
        ],
    )
    def test_another_is_refused(self, changes: dict[str, object], says: str) -> None:
        self.refused(self.value(**changes), says)

    def test_factors_of_a_head_are_refused(self) -> None:
        value = self.value(factors="up") | {"adapter": plan_json()["adapter"] | {"top_layers": 0}}
        self.refused(value, "no layer carries it")

    @pytest.mark.parametrize(
        ("changes", "says"),
        [({"proximal": 0.5}, "no steps of its own"), ({"factors": "up"}, "covers the whole grid")],
    )
    def test_joint_privacy_refuses_them_and_says_why(self, changes: dict[str, object], says: str) -> None:
        training = plan_json()["training"] | {"steps": 1} | changes
        privacy = plan_json()["privacy"] | {"mode": "joint"}
        self.refused(plan_json(FOUR, training=training, aggregation=SECURE, privacy=privacy), says)

    @staticmethod
    def refused(value: dict[str, object], says: str) -> None:
        with pytest.raises(PlanError, match=says) as caught:
            Plan.from_bytes(canonical.encode(value))  # type: ignore[arg-type]
        assert caught.value.id == "plan_malformed"
