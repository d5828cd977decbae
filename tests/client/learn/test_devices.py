"""Where the model is, everything follows; on a GPU the same numbers come out as on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cloister.client.learn.adapters import Classifier, get_flat, place, pool, set_flat
from cloister.client.learn.documents import Labelled
from cloister.client.learn.evaluation import probabilities
from cloister.client.learn.features import Tokens, prepare
from cloister.client.learn.model import load_encoder
from cloister.client.learn.training import Guard, LocalTrainer, Moment, Settings
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.model import describe
from cloister.privacy.step import fused
from cloister.privacy.step.fused import FusedEngine
from cloister.privacy.step.interface import MicroBatch
from cloister.privacy.step.rows import ClippedSum
from cloister.privacy.update import Delta
from tests import models

DOCUMENTS = 24
OWNER = np.arange(DOCUMENTS) // 2
SETTINGS = Settings(3, 0.5, 12, "adam", 0.01, 0.01, guard=Guard(1.0, 0.5))
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def placed(device: str = "cpu", kind: str = "bert", dtype: torch.dtype = torch.float32) -> Classifier:
    encoder = models.encoder(kind).to(device, dtype)
    found = place(encoder, models.layout_of(encoder), models.ALPHA)
    set_flat(found, models.vector(found.layout.size))
    return found


def batch(classifier: Classifier, scale: float = 1.0, *, half: bool = False) -> MicroBatch:
    targets = torch.from_numpy(models.labels(DOCUMENTS)).to(classifier.device)

    def losses() -> Tensor:
        with torch.autocast(classifier.device.type, torch.bfloat16, enabled=half):
            logits = Tokens(models.documents(DOCUMENTS)).logits(classifier, np.arange(DOCUMENTS))
        return scale * torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")

    return MicroBatch(losses, OWNER)


def engine(classifier: Classifier, **more: Any) -> FusedEngine:
    return FusedEngine(classifier, classifier.layout, classifier.trained, **more)


def trained(device: str) -> Delta:
    classifier = placed(device)
    features = prepare(classifier, models.documents(DOCUMENTS))
    trainer = LocalTrainer(classifier, Labelled(classifier, features, models.labels(DOCUMENTS)), OWNER)
    start, entropy = models.vector(classifier.layout.size), FixedEntropy(b"device")
    return trainer.train(start, SETTINGS, entropy, Moment(1, 1, "m"))


# Without a GPU


def test_the_loader_puts_the_encoder_on_a_device(tmp_path: Path) -> None:
    base = describe(models.write(tmp_path))
    assert {p.device.type for p in load_encoder(base, "meta").parameters()} == {"meta"}
    assert {p.device.type for p in load_encoder(base).parameters()} == {"cpu"}


def test_lora_and_head_follow_the_encoder() -> None:
    encoder = models.encoder().to("meta")
    found = place(encoder, models.layout_of(encoder), models.ALPHA)
    assert found.device.type == "meta"
    assert {p.device.type for p in found.trained.values()} == {"meta"}


def test_the_sum_is_kept_on_the_device_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Seen(ClippedSum):
        def __init__(self, width: int, bound: float, device: torch.device) -> None:
            seen.append(device)
            super().__init__(width, bound, device)

    monkeypatch.setattr(fused, "ClippedSum", Seen)
    engine(placed()).clipped([], 1.0)
    assert seen == [torch.device("cpu")]


def test_over_a_base_in_half_precision_what_is_trained_is_float32() -> None:
    classifier = placed(dtype=torch.bfloat16)
    assert {p.dtype for p in classifier.trained.values()} == {torch.float32}
    assert {p.dtype for p in classifier.encoder.embeddings.parameters()} == {torch.bfloat16}
    vector = models.vector(classifier.layout.size)
    np.testing.assert_array_equal(get_flat(classifier), vector)  # not rounded to bfloat16


def test_the_mean_over_tokens_does_not_round_their_number() -> None:
    states = torch.ones((1, 511, 2), dtype=torch.bfloat16)
    states[..., 1] = 0.5
    found = pool(states, torch.ones((1, 511), dtype=torch.int64))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5]]) / 1.25**0.5)


# On a GPU


@on_gpu
def test_training_on_a_gpu_is_that_on_the_cpu() -> None:
    there, here = trained("cuda"), trained("cpu")
    np.testing.assert_allclose(there.values, here.values, rtol=0, atol=1e-3)
    assert np.abs(here.values).max() > 0.01
    assert there.mechanisms == here.mechanisms


@on_gpu
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_evaluation_on_a_gpu_is_that_on_the_cpu(kind: str) -> None:
    vector, found = models.vector(placed().layout.size), []
    for device in ("cuda", "cpu"):
        classifier = placed(device, kind)
        for features in (prepare(classifier, models.documents(9)), Tokens(models.documents(9))):
            found.append(probabilities(classifier, features, vector))
        np.testing.assert_array_equal(get_flat(classifier), vector)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-5)


@on_gpu
@pytest.mark.parametrize("more", [{}, {"buffer_bytes": 4 * DOCUMENTS * 50}])
def test_the_clipped_sum_on_a_gpu_is_that_on_the_cpu(more: dict[str, Any]) -> None:
    there, here = placed("cuda"), placed()
    found = engine(there, phantoms=3, **more).clipped([batch(there)], 0.5, np.array([1])).values
    wanted = engine(here, phantoms=3).clipped([batch(here)], 0.5, np.array([1])).values
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[-3:], wanted[-3:])
    again = engine(there, phantoms=3, **more).clipped([batch(there)], 0.5, np.array([1])).values
    np.testing.assert_array_equal(found, again)


@on_gpu
@pytest.mark.parametrize("half", [False, True])
def test_no_unit_adds_more_than_the_bound_on_a_gpu(half: bool) -> None:
    classifier = placed("cuda", dtype=torch.bfloat16 if half else torch.float32)
    everything = replace(batch(classifier, 100.0, half=half), units=np.zeros(DOCUMENTS, dtype=np.int64))
    found = engine(classifier).clipped([everything], 1e-3).values
    assert 0.999e-3 < float(np.linalg.norm(found)) <= 1e-3


@on_gpu
def test_half_precision_on_a_gpu_is_near_full() -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        classifier = placed("cuda", dtype=dtype)
        found.append(
            engine(classifier).clipped([batch(classifier, half=dtype == torch.bfloat16)], 0.5).values
        )
    assert np.linalg.norm(found[1] - found[0]) < 0.1 * np.linalg.norm(found[0])


@on_gpu
def test_what_is_not_finite_counts_as_zero_on_a_gpu() -> None:
    values = np.random.default_rng(1).normal(size=(4, 10)).astype(np.float32)
    whole, broken = ClippedSum(10, 1.0), ClippedSum(10, 1.0, torch.device("cuda"))
    whole.add(torch.from_numpy(values[:3].copy()), np.arange(3))
    values[3, 4] = np.inf
    broken.add(torch.from_numpy(values).cuda(), np.arange(4))
    np.testing.assert_allclose(broken.result().values, whole.result().values, rtol=0, atol=1e-12)


@on_gpu
def test_nobody_waits_for_the_gpu_before_the_result() -> None:
    total = ClippedSum(40, 1.0, torch.device("cuda"))
    rows = torch.randn((6, 40), device="cuda")
    total.add(rows.clone(), np.arange(6) // 2)  # warm
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total.add(rows, 10 + np.arange(6) // 2)
        total.add(torch.randn((3, 40), device="cuda"), 20 + np.arange(3))
        with pytest.raises(RuntimeError, match="synchroniz"):
            total.result()
    finally:
        torch.cuda.set_sync_debug_mode(before)
