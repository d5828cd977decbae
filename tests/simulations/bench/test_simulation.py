"""``bench simulation``: both sides do the same work, and what is compared is what was measured."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cloister.simulations.bench import simulation, simulation_app, simulation_ours
from cloister.simulations.bench.cli import app
from cloister.simulations.bench.simulation import Sides
from cloister.simulations.bench.simulation_work import BATCH, TOKENS, Pace, Rows, Work
from tests import models

pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = models.write(tmp_path_factory.mktemp("model") / "tiny")
    return Work(clients=5, rounds=2, top_layers=2, model=str(folder))


def theirs(work: Work, folder: Path, kind: str) -> np.ndarray:
    """Flower's clients, one after the other, and the mean of what they send; without Ray."""
    rows = Rows.load(folder)
    order = work.layout(work.base)
    model = work.start(order)
    classifier = simulation_app._built(work)
    for _ in range(work.rounds + 1):
        sent = []
        for client in range(work.clients):
            values = torch.from_numpy(model.copy())
            state = OrderedDict((name, values[part].view(shape)) for name, shape, part in order.slices())
            classes = torch.from_numpy(rows.classes[client])
            if kind == "features":
                simulation_app._head_step(state, torch.from_numpy(rows.features[client]), classes)
            else:
                simulation_app._step(classifier, state, torch.from_numpy(rows.ids[client]), classes)
                state = OrderedDict((name, classifier.trained[name].detach().clone()) for name in state)
            sent.append(torch.cat([value.reshape(-1) for value in state.values()]).numpy())
        model = np.mean(sent, axis=0, dtype=np.float64).astype(np.float32)
    return model


class TestWork:
    @pytest.mark.parametrize(
        ("kind", "ours", "top_layers"),
        [("cached", "lora", 2), ("cached", "lora", 3), ("features", "head", 0), ("head", "head", 0)],
    )
    def test_both_sides_end_in_the_same_model(self, tiny, tmp_path, kind, ours, top_layers):
        work = replace(tiny, top_layers=top_layers)
        pace = {"lora": simulation_ours.lora, "head": simulation_ours.head}[ours](work, tmp_path, 0.0)
        end = np.load(tmp_path / "ours.npy")
        start = work.start(work.layout(work.base))
        assert np.abs(end - start).max() > 1e-3
        np.testing.assert_allclose(theirs(work, tmp_path, kind), end, atol=2e-6 * np.abs(end).max() + 2e-6)
        assert len(pace.walls) == len(pace.cpus) == work.rounds
        assert min(pace.walls) > 0

    def test_every_text_is_cut_at_the_same_length(self, tiny, tmp_path):
        simulation_ours.lora(tiny, tmp_path, 0.0)
        rows = Rows.load(tmp_path)
        assert rows.ids.shape == (tiny.clients, BATCH, TOKENS)
        assert len(np.unique(rows.ids.reshape(-1, TOKENS), axis=0)) > 1

    def test_a_work_is_read_as_it_was_written(self, tiny, tmp_path):
        tiny.save(tmp_path)
        assert Work.load(tmp_path) == tiny

    def test_growth_is_a_ratio_of_client_rounds(self, tiny):
        assert 0.05 < simulation_ours.grow(replace(tiny, clients=40, rounds=1)) < 20


class TestFigures:
    def test_the_first_round_warms_up(self):
        pace = Pace.of(3.0, [(0.0, 0.0), (10.0, 5.0), (12.0, 6.0), (15.0, 8.5)])
        assert (pace.start, pace.walls, pace.cpus) == (13.0, (2.0, 3.0), (1.0, 2.5))

    def test_speed_is_that_of_medians_and_the_spread_is_the_widest(self):
        ours = [Pace(1.0, (1.0, 2.0), (1.0, 1.0)), Pace(3.0, (3.0,), (1.0,))]
        flower = {"cached": Pace(9.0, (10.0, 20.0, 60.0), (7.0,))}
        sides = Sides(Work(clients=100), ours, flower, {"cached": 0.5})
        found = sides.figures({"cached": "x"}, "ours")
        assert found["speedup_x"] == 10.0
        assert (found["speedup_x_min"], found["speedup_x_max"]) == (10 / 3, 60.0)
        assert (found["speedup_x_cpu"], found["x_ms"], found["ours_ms"]) == (7.0, 200.0, 20.0)
        assert (found["ours_start_s"], found["x_start_s"], found["difference_x"]) == (2.0, 9.0, 0.5)

    def test_without_ray_it_says_what_is_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        monkeypatch.setattr(simulation, "alone", lambda work: Pace(1.0, (1.0,), (1.0,), work.clients << 20))
        monkeypatch.setattr(simulation, "growth", lambda work: 1.0 + work.clients / 10_000)
        said = CliRunner().invoke(app, ["simulation"])
        assert said.exit_code == 0
        assert "Not measured: every speedup_. Ray is not here" in said.output
        assert "memory_gib_1000" in said.output
        assert "speedup_example" not in said.output
        found = simulation.run(Work()).to_json()
        assert found["figures"] == {
            "memory_gib_1000": 1000 / 1024,
            "memory_gib_100": 100 / 1024,
            "cost_growth": 1.1,
        }
        assert all(target["met"] for target in found["targets"].values())


@pytest.mark.slow
def test_flowers_own_simulation_ends_in_our_model(tiny, tmp_path):
    pytest.importorskip("ray")
    sides = simulation.compared(tiny, "lora", ("cached", "example"))
    assert max(sides.differences.values()) < 1e-5
    assert all(len(pace.walls) == tiny.rounds for pace in sides.flower.values())
