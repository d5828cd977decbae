"""The figures of the encoding: the code that is measured, what they are relative to, the target."""

from __future__ import annotations

import numpy as np
import pytest

from cloister.privacy.secagg import rotation
from cloister.simulations.bench import codec
from cloister.simulations.bench.codec import Fidelity

D = 4096


def updates(sites: int = 16) -> list[np.ndarray]:
    draw = np.random.default_rng(3).standard_normal
    common = draw(D)
    return [(common + draw(D)).astype(np.float32) for _ in range(sites)]


def test_the_mean_of_real_code_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = updates()
    good = codec.fidelity(found, 12)
    assert (good.content_bytes, good.clamped) == (2 * D, 0)
    assert 1e-4 < good.error < 1e-3
    monkeypatch.setattr(rotation, "unrotate", lambda values, seed: values)
    assert codec.fidelity(found, 12).error > 1  # what is not turned back is another mean


@pytest.mark.parametrize("rotated", [True, False])
def test_a_bit_halves_the_error_and_a_looser_range_doubles_it(rotated: bool) -> None:
    found = updates()
    error = codec.fidelity(found, 10, rotated=rotated).error
    assert codec.fidelity(found, 11, rotated=rotated).error == pytest.approx(error / 2, rel=0.1)
    assert codec.fidelity(found, 10, rotated=rotated, loose=2).error == pytest.approx(2 * error, rel=0.1)


def test_what_a_range_cuts_is_counted() -> None:
    assert codec.fidelity(updates(), 12, loose=1 / 3).clamped > D // 2


def test_figures_and_target(monkeypatch: pytest.MonkeyPatch) -> None:
    found = updates()
    value = codec.result(found, 0.5).to_json()
    figures = value["figures"]
    assert figures["parameters"] == D
    assert figures["encode_cpu_s"] == 0.5
    assert [figures[f"bytes_a_parameter_{bits}"] for bits in codec.BITS] == [1.5, 2.0, 2.5]
    assert figures["relative_error_12"] == codec.fidelity(found, 12).error
    assert figures["relative_error_8_plain"] == codec.fidelity(found, 8, rotated=False).error
    assert figures["relative_error_16_loose"] == codec.fidelity(found, 16, loose=2).error
    assert figures["clamped"] == 0
    assert 3 < figures["peak"] < 5  # of 4096 Gaussian coordinates
    assert figures["likeness"] == pytest.approx(0.73, abs=0.03)  # sqrt((1 + 1/16) / 2)
    assert value["targets"] == {"relative_error_12": {"limit": 1e-3, "met": True}}
    monkeypatch.setattr(codec, "fidelity", lambda *_, **__: Fidelity(2e-3, 1, 0))
    assert not codec.result(found, 0.5).to_json()["targets"]["relative_error_12"]["met"]


def test_the_peak_of_a_spike_is_seen() -> None:
    spike = np.zeros(D, dtype=np.float32)
    spike[7] = -3
    assert codec.result([spike, spike], 0.5).figures["peak"] == pytest.approx(64)


def test_a_sites_time_is_measured() -> None:
    assert 0 < codec.seconds(10_000) < 10


@pytest.mark.slow
def test_sites_train_apart_from_one_start() -> None:
    found = codec.updates(sites=3, layers=1, steps=1)
    assert len({update.size for update in found}) == 1
    assert len({update.tobytes() for update in found}) == 3
    assert all(np.abs(update).max() > 0 for update in found)
    assert codec.fidelity(found, 12).error < 1e-2
