"""Training in bfloat16 where a plan says so: what changes, what does not, and where it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cloister.client.learn.adapters import Classifier
from cloister.client.learn.documents import Labelled
from cloister.client.learn.features import prepare
from cloister.client.learn.precision import narrowed
from cloister.client.learn.training import Guard, LocalTrainer, Moment, Settings
from cloister.privacy import canonical
from cloister.privacy.dp.grid import Grid
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import ModelError, PlanError
from cloister.privacy.layout import Layout
from cloister.privacy.plan import Plan
from cloister.privacy.step.coverage import engine_for
from tests import models
from tests.plans import plan, plan_json

DOCUMENTS = 12
OWNER = np.arange(DOCUMENTS) // 2
OPEN = Settings(2, 0.5, 6, "sgd", 0.5, 0.25)
PRIVATE = replace(OPEN, guard=Guard(bound=1.0, noise_multiplier=0.5))
AT = Moment(round=1, attempt=1, model="sha256:" + "0" * 64)
GRID = Grid(bound=1.0, parameters=1, noise_multiplier=0.5, sites=4, n_min=4, t=1, sampled=6)


@pytest.fixture(scope="module")
def placed() -> Classifier:
    return models.classifier()


def rows(placed: Classifier) -> Labelled:
    return Labelled(placed, prepare(placed, models.documents(DOCUMENTS)), models.labels(DOCUMENTS))


def trainer(placed: Classifier, precision: Any = "bf16", units: Any = OWNER) -> LocalTrainer:
    return LocalTrainer(placed, rows(placed), units, precision=precision)


def moved(placed: Classifier, way: str, precision: Any) -> Any:
    """What a round makes of the same start and draws, in one mode of privacy."""
    start, entropy = models.vector(placed.layout.size, seed=13), FixedEntropy(b"seed")
    if way == "joint":
        grid = replace(GRID, parameters=placed.layout.size)
        return trainer(placed, precision).share(start, grid, 0.5, entropy, AT).values * grid.step
    settings = PRIVATE if way == "local" else OPEN
    return trainer(placed, precision).train(start, settings, entropy, AT).values


@pytest.mark.parametrize("way", ["off", "local", "joint"])
def test_a_round_differs_by_rounding_and_comes_out_alike_when_it_is_repeated(
    placed: Classifier, way: str
) -> None:
    wide, narrow, again = (moved(placed, way, precision) for precision in (None, "bf16", "bf16"))
    assert np.array_equal(narrow, again)
    difference = float(np.linalg.norm(narrow - wide))
    assert 0 < difference < 0.1 * float(np.linalg.norm(wide))


def test_passes_are_narrow_and_losses_and_scores_are_not(placed: Classifier) -> None:
    seen = set()
    layer = placed.encoder.encoder.layer[-1].output.dense
    watching = layer.register_forward_hook(lambda _, __, found: seen.add(found.dtype))
    wide = rows(placed)
    narrow = narrowed(wide, "bf16", placed.device)
    losses = narrow.losses(np.arange(4))
    assert (seen, losses.dtype) == ({torch.bfloat16}, torch.float32)
    seen.clear()
    assert narrow.worth() == wide.worth()
    watching.remove()
    assert seen == {torch.float32}
    assert narrowed(wide, None, placed.device) is wide


def test_the_cut_keeps_its_precision(placed: Classifier) -> None:
    """With one unit and hardly any noise, a step is as long as the bound; bfloat16 keeps 8 bits."""
    settings = Settings(1, 1.0, 1, "sgd", 1.0, 1.0, 0.0, Guard(1e-3, 1e-3))
    one = trainer(placed, units=np.zeros(DOCUMENTS, dtype=np.int64))
    step = one.train(models.vector(placed.layout.size), settings, FixedEntropy(b"seed"), AT).values
    assert float(np.linalg.norm(step.astype(np.float64))) == pytest.approx(1e-3, rel=1e-3)


def test_a_device_without_it_is_refused(placed: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
    for device in ("cuda", "mps"):
        with pytest.raises(ModelError, match=f"trains in bf16, and {device} has no such") as caught:
            narrowed(rows(placed), "bf16", torch.device(device))
        assert caught.value.id == "precision_unsupported"


def test_a_model_that_only_the_hooks_cover_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1))
    trained = dict(model.named_parameters())
    layout = Layout(tuple((name, tuple(p.shape)) for name, p in sorted(trained.items())))
    with pytest.raises(ModelError, match="covered by Opacus' hooks alone") as caught:
        engine_for(model, layout, trained, narrow=True)
    assert caught.value.id == "layer_unsupported"


class TestPlan:
    """What a plan may say of it."""

    def value(self, precision: object = "bf16", **changes: Any) -> dict[str, Any]:
        return plan_json(training=plan_json()["training"] | {"precision": precision}, **changes)

    def test_it_survives_the_bytes_and_is_named(self) -> None:
        data = canonical.encode(self.value())
        found = Plan.from_bytes(data)
        assert found.to_bytes() == data
        assert found.method == "fedavg, training passes in bfloat16"
        assert b"precision" not in plan().to_bytes()

    @pytest.mark.parametrize("junk", ["fp16", "float32", "BF16", "", None, 16, ["bf16"], True])
    def test_another_is_refused(self, junk: object) -> None:
        with pytest.raises(PlanError) as caught:
            Plan.from_bytes(canonical.encode(self.value(junk)))
        assert caught.value.id == "plan_malformed"

    def test_a_head_alone_has_no_pass_to_take_in_it(self) -> None:
        value = self.value(adapter=plan_json()["adapter"] | {"top_layers": 0})
        with pytest.raises(PlanError, match="no layer carries it") as caught:
            Plan.from_bytes(canonical.encode(value))
        assert caught.value.id == "plan_malformed"
