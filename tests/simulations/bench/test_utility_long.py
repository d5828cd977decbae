"""The long figures: a real but tiny joint run of LoRA on all layers, and gaps with their sign."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloister.client.site.records import Records
from cloister.privacy.cli import main
from cloister.privacy.model import describe
from cloister.simulations.bench import utility_long
from cloister.simulations.bench.kept import Kept
from cloister.simulations.bench.utility_long import Course, Sentences
from cloister.simulations.engine.plans import Course as Steps
from cloister.simulations.engine.ways import HeadSteps
from tests import models

_WORDS = {"0": ("pain", "head", "headache"), "1": ("chest", "card", "since")}
QUICK = Course(3, 0.3, 0.05, 0.02, averaged=2)


def records(seed: int, rows: int) -> Records:
    rng = np.random.default_rng(seed)
    labels = tuple(str(rng.integers(0, 2)) for _ in range(rows))
    texts = tuple(" ".join(rng.choice(("monday", *_WORDS[label]), rng.integers(2, 9))) for label in labels)
    return Records(texts, labels)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Sentences:
    base = describe(models.write(tmp_path_factory.mktemp("model") / "tiny"))
    return Sentences(base, {f"site-{n}": records(n, 60) for n in range(1, 5)}, records(9, 50), layers=3)


def test_masks_change_no_figure(told: Sentences) -> None:
    """Every layer carries LoRA, both sums of each step are sent, and epsilon is used up and not passed."""
    masked, not_masked = (utility_long.joint(told, QUICK, 3, masked=masked) for masked in (True, False))
    assert masked == not_masked
    assert masked["sums"] == 2 * QUICK.steps
    shapes = [(utility_long.RANK, 32), (32, utility_long.RANK)]
    parameters = 3 * 2 * sum(a * b for a, b in shapes) + 2 * 32 + 2
    assert masked["bytes"] == 2 * QUICK.steps * 4 * parameters
    assert 0.99 * utility_long.EPSILON < masked["epsilon"] <= utility_long.EPSILON


def test_seeds_and_averages_count(told: Sentences, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {}
    real = utility_long._Last.mean

    def noted(what: str):
        class Noted(utility_long._Last):
            @property
            def mean(self):
                models[what] = real.fget(self)
                return models[what]

        return Noted

    for what, seed, averaged in (("a", 0, 2), ("again", 0, 2), ("other", 1, 2), ("last", 0, 1)):
        monkeypatch.setattr(utility_long, "_Last", noted(what))
        utility_long.joint(told, replace(QUICK, averaged=averaged), seed)
        monkeypatch.undo()
    assert np.array_equal(models["a"], models["again"])
    assert not np.array_equal(models["a"], models["other"])
    assert not np.array_equal(models["a"], models["last"])


def test_pooling_without_privacy_learns(told: Sentences) -> None:
    assert utility_long.pooled(told, Course(40, 0.3, 0.03, 0.01), 0) > 0.8


def test_a_head_alone_has_the_noise_of_the_same_promise(
    told: Sentences, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = HeadSteps(Steps(20, 1, 4.0))
    noisy = utility_long.heads(told, way, 2)
    monkeypatch.setattr(utility_long, "EPSILON", 1000.0)
    hardly = utility_long.heads(told, way, 2)
    assert min(hardly) > 0.7
    assert max(hardly) - min(hardly) < (max(noisy) - min(noisy)) / 2, "seeds differ by noise alone"


def test_rows_to_choose_on_come_from_training(told: Sentences) -> None:
    part = told.for_choosing(20, seed=2)
    assert len(part.test) == 20
    assert set(part.test.texts) <= set(told.pooled.texts)
    for name, kept in part.train.items():
        assert set(kept.texts) <= set(told.train[name].texts)
        assert not set(kept.texts) & set(part.test.texts)
    assert 0 < sum(map(len, part.train.values())) < len(told.pooled) - 19


def test_figures_are_of_five_seeds_and_go_on_after_a_stop(
    told: Sentences, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[int, bool]] = []

    def canned(_told: Sentences, _course: Course, seed: int, *, masked: bool = False) -> dict[str, float]:
        if seed == 3 and (3, False) not in calls:
            calls.append((3, False))
            raise KeyboardInterrupt
        calls.append((seed, masked))
        return {"accuracy": 0.8 + seed / 100, "epsilon": 7.9, "noise_multiplier": 0.5, "bytes": 9, "sums": 4}

    monkeypatch.setattr(utility_long, "joint", canned)
    monkeypatch.setattr(utility_long, "pooled", lambda *_: 0.85)
    monkeypatch.setattr(utility_long, "heads", lambda *_: [0.79, 0.8, 0.81])
    monkeypatch.setattr(utility_long.baselines, "tfidf", lambda *_: 0.81)
    kept = Kept(tmp_path / "out")
    with kept.held({}):
        with pytest.raises(KeyboardInterrupt):
            utility_long.figures(told, kept)
        found = utility_long.figures(told, kept)
    assert calls == [(0, True), (1, False), (2, False), (3, False), (3, False), (4, False)]
    assert found["long_accuracy"] == pytest.approx(0.82)
    assert found["long_accuracy_low"] == pytest.approx(0.82 - 0.0196, abs=1e-4)
    assert found["long_over_tfidf"] == pytest.approx(1.0)
    assert found["long_over_head"] == pytest.approx(2.0)
    assert found["long_gap_pooled"] == pytest.approx(3.0)
    assert (found["long_worst"], found["long_best"]) == (0.8, pytest.approx(0.84))
    assert found["long_bytes_site"] == 9


def test_the_folder_of_the_set_is_dealt_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training file may be compressed; the same sites come out each time."""
    (tmp_path / "sst2").mkdir()
    rows = [f"text {n},{n % 2}" for n in range(600)]
    with gzip.open(tmp_path / "sst2" / "train.csv.gz", "wt") as file:
        file.write("\n".join(["text,label", *rows]))
    (tmp_path / "sst2" / "test.csv").write_text("text,label\nother,1\nmore,0\n")
    monkeypatch.setattr(utility_long, "describe", lambda name: name)
    one, again = utility_long.load(tmp_path), utility_long.load(tmp_path)
    assert one.train == again.train
    assert len(one.train) == 4
    assert sorted(one.pooled.texts) == sorted(row.partition(",")[0] for row in rows)
    assert (one.labels, one.test.texts, one.layers) == (("0", "1"), ("other", "more"), 6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "utility-long", "--data", "nowhere"], "There is no nowhere/sst2/train.csv"),
        (["bench", "ledger", "--out", "x"], "The benchmark ledger keeps no runs."),
    ],
)
def test_what_cannot_be_run_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) > 0
    assert words in capsys.readouterr().err
