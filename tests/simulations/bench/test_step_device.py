"""The figures of a step on a GPU; the works themselves on the CPU, in small."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cloister.client.learn.adapters import get_flat
from cloister.privacy.errors import UsageError
from cloister.simulations.bench import step, step_device, step_work
from cloister.simulations.bench.cli import app
from cloister.simulations.bench.result import Result
from cloister.simulations.bench.step_device import (
    CASES,
    LLAMA,
    MINILM,
    Measured,
    Peak,
    Shape,
    classifier,
    work,
)
from cloister.simulations.bench.step_exact import max_abs_error
from cloister.simulations.bench.step_work import paired, plain

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
MEASURED = Measured(
    seconds=[[0.1, 0.2], [0.1, 0.1], [0.2, 0.3]],
    clipped=[0.11, 0.12, 0.13],
    noise=[0.01, 0.03, 0.02],
    plain=Peak(100 << 20, 200 << 20),
    private=Peak(110 << 20, 180 << 20),
    flop_ratio=1.0002,
    relative_error=1e-7,
)


def small(shape: Shape) -> Shape:
    heads = {"num_key_value_heads": 2} if "num_key_value_heads" in shape.sizes else {}
    return replace(shape, sizes={**shape.sizes, **SMALL, **heads})


def test_the_figures_of_a_work() -> None:
    figures = MEASURED.figures("x_1")
    assert figures["x_1_time_ratio"] == pytest.approx(1.5)
    assert (figures["x_1_time_ratio_min"], figures["x_1_time_ratio_max"]) == pytest.approx((1.0, 2.0))
    assert (figures["x_1_plain_ms"], figures["x_1_private_ms"]) == (100, 200)
    assert (figures["x_1_clipped_ms"], figures["x_1_noise_ms"]) == (120, 20)
    assert (figures["x_1_plain_mib"], figures["x_1_private_mib"]) == (200, 180)
    assert (figures["x_1_memory_ratio"], figures["x_1_memory_growth_ratio"]) == (0.9, 0.7)
    assert (figures["x_1_flop_ratio"], figures["x_1_relative_error"]) == (1.0002, 1e-7)


def test_every_figure_is_explained() -> None:
    explained = {line.split()[0] for line in (step_device.__doc__ or "").splitlines() if line[:1].islower()}
    named = {name.removeprefix("x_") for name in MEASURED.figures("x")}
    assert {name for name in named if not name.endswith(("_min", "_max"))} <= explained
    assert "max_abs_error" in explained
    assert {name for name, _, _ in CASES} <= explained


@pytest.mark.parametrize("shape", [MINILM, LLAMA], ids=["minilm", "llama"])
def test_a_work_in_small(shape: Shape) -> None:
    made = work(small(shape), 16, CPU)
    assert made.half is shape.half
    assert {p.dtype for p in made.classifier.trained.values()} == {torch.float32}
    wanted = torch.bfloat16 if shape.half else torch.float32
    frozen = {p.dtype for p in made.classifier.encoder.parameters() if not p.requires_grad}
    assert frozen == {wanted}
    assert len(made.classifier.layout.tensors) == 2 + 2 * 2 * 2  # head; A and B of two modules in two layers
    assert 8 <= made.features.lengths.min() < made.features.lengths.max() <= 16
    found = step_device.measure(made, 2, lambda work, made: Peak(1, 3 if made is plain else 2))
    assert (len(found.seconds), len(found.clipped), len(found.noise)) == (2, 2, 2)
    figures = found.figures("x")
    assert (figures["x_memory_ratio"], figures["x_memory_growth_ratio"]) == (2 / 3, 1 / 2)
    assert figures["x_flop_ratio"] < 1.01
    assert 0 < figures["x_relative_error"] < (1e-1 if shape.half else 1e-5)
    assert figures["x_noise_ms"] < figures["x_private_ms"]


@pytest.mark.parametrize("shape", [MINILM, LLAMA], ids=["minilm", "llama"])
def test_in_float32_the_clipped_sum_is_that_of_one_person_at_a_time(shape: Shape) -> None:
    made = work(replace(small(shape), half=False), 16, CPU)
    assert max_abs_error(made, np.arange(5)) <= 1e-6


def test_one_model_serves_works_of_several_lengths() -> None:
    model = classifier(small(MINILM), CPU)
    assert work(small(MINILM), 8, CPU, model).classifier is model
    np.testing.assert_array_equal(get_flat(model), get_flat(classifier(small(MINILM), CPU)))


def test_the_llama_has_about_1_2_billion_parameters() -> None:
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        encoder = AutoModel.from_config(AutoConfig.for_model(LLAMA.kind, **LLAMA.sizes))
    assert sum(p.numel() for p in encoder.parameters()) == 1_235_814_400


def test_the_card_is_part_of_the_result() -> None:
    found = Result("step", {"a": 1.0}, {}, "NVIDIA Something").to_json()
    assert found["machine"] == f"NVIDIA Something, {Result('step', {}).to_json()['machine']}"


@pytest.mark.parametrize("device", ["cuda:99", "nothing", "mps", "cpu"])
def test_where_there_is_no_such_gpu_nothing_is_measured(device: str) -> None:
    with pytest.raises(UsageError, check=lambda error: error.id == "option_invalid"):
        step_device.run(device)


def test_the_command_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(device: str) -> Result:
        seen.append(device)
        return Result("step", {"a": 1.0}, {}, "card")

    monkeypatch.setattr(step_device, "run", run)
    monkeypatch.setattr(step, "run", lambda: run("none"))
    for arguments in (["step", "--device", "cuda"], ["step"], ["step", "--device", "cpu"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen == ["cuda", "none", "none"]
    for arguments in (["ledger", "--device", "cuda"], ["step", "--device", "cuda", "--data", "a.csv"]):
        assert isinstance(CliRunner().invoke(app, arguments).exception, UsageError)
    assert len(seen) == 3


def test_a_step_is_timed_until_its_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = work(small(MINILM), 8, CPU), []
    monkeypatch.setattr(step_work, "settled", lambda device: (seen.append(device), time.sleep(0.02)))
    seconds = paired(made, [lambda chosen, stream: None], 3)
    assert min(row[0] for row in seconds) >= 0.02
    assert seen == [CPU] * 8  # before and after each step, the one that warms up as well


def test_the_peak_of_a_side_is_of_its_own_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = work(small(MINILM), 8, CPU), []
    head = made.classifier.head.weight
    head.grad = torch.ones_like(head)

    def held(device: torch.device) -> int:
        seen.append("held")
        assert head.grad is None
        return 5

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: seen.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", held)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 9)
    found = step_device.peak(made, lambda work: lambda chosen, stream: seen.append("step"))
    assert (found, found.growth) == (Peak(5, 9), 4)
    assert seen == ["reset", "held", "step", "step", "step"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_work_on_a_gpu_in_small() -> None:
    made = work(small(LLAMA), 16, torch.device("cuda"))
    found = step_device.measure(made, 2)
    for peak in (found.plain, found.private):
        assert 0 < peak.held < peak.most
    assert found.flop_ratio < 1.01
