"""The figures of masking, that both sides do the work they are timed for, and what the kernel says."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cloister.privacy.errors import RoundError
from cloister.privacy.secagg.masking import Mask
from cloister.simulations.bench import masking
from cloister.simulations.bench.masking import Timing, Work

MIB = 1 << 20
SMALL = Work(parameters=1000, peers=4)


def test_masks_differ_and_have_both_signs() -> None:
    masks = Work(1, 64).masks
    assert len({mask.key for mask in masks}) == 64
    assert [mask.sign for mask in masks[:4]] == [1, -1, 1, -1]


def test_the_figures_are_ratios_within_one_repeat() -> None:
    work = Work(parameters=1_000_000, peers=10)  # 40 MB of keystream
    timings = [Timing(0.01, 0.1, 8e9), Timing(0.02, 0.18, 4e9), Timing(0.01, 0.07, 5e9)]
    value = masking.result(work, timings, 3 * MIB).to_json()
    figures = value["figures"]
    assert [figures[f"cpu_ratio_flower{end}"] for end in ("", "_min", "_max")] == pytest.approx([9, 7, 10])
    assert [figures[f"aes_fraction{end}"] for end in ("", "_min", "_max")] == pytest.approx([0.5, 0.5, 0.8])
    assert figures["working_memory_mib"] == 3
    assert (figures["mask_cpu_s"], figures["flower_cpu_s"], figures["aes_gb_s"]) == (0.01, 0.1, 5)
    assert {name: (target["limit"], target["met"]) for name, target in value["targets"].items()} == {
        "cpu_ratio_flower": (8.0, True),
        "aes_fraction": (0.6, False),
        "working_memory_mib": (2.0, False),
    }


def test_flowers_side_adds_a_pad_of_each_mask_in_64_bits() -> None:
    masks = SMALL.masks
    start = [masking.clear(SMALL).astype(np.int64)]
    (one,), (all_of_them,) = masking.by_flower(start, masks[:1]), masking.by_flower(start, masks)
    pad = one - 1
    assert one.dtype == np.int64
    assert 2**31 < pad.max() < 2**32
    assert pad.min() >= 0
    assert np.unique(pad).size > 990
    opposite = [Mask(mask.key, -mask.sign) for mask in masks]
    assert not np.array_equal(all_of_them, one)
    assert np.array_equal(masking.by_flower([all_of_them], opposite)[0], start[0])


def test_a_repeat_times_the_whole_work_of_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []

    def ours(vector: np.ndarray, masks: list[Mask]) -> None:
        assert vector.dtype == np.uint32
        seen.append(("ours", vector.size, len(masks)))

    def theirs(vector: list[np.ndarray], masks: list[Mask]) -> None:
        seen.append(("flower", vector[0].size, len(masks)))

    def spent(task) -> float:
        mark = len(seen)
        task()
        seen.append(("timed", mark, len(seen)))
        return 1.0

    monkeypatch.setattr(masking.masking, "apply", ours)
    monkeypatch.setattr(masking, "by_flower", theirs)
    monkeypatch.setattr(masking, "spent", spent)
    assert masking.timing(SMALL) == Timing(1.0, 1.0, 16_000)
    timed = [seen[start] for name, start, end in seen if name == "timed" and end == start + 1]
    assert timed == [("ours", 1000, 4), ("flower", 1000, 4)]


def test_time_is_that_of_this_process_at_work() -> None:
    assert masking.spent(lambda: time.sleep(0.2)) < masking.spent(lambda: masking.cipher(1 << 30, 1 << 18))


def test_memory_that_masking_takes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[np.ndarray] = []
    monkeypatch.setattr(
        masking.masking, "apply", lambda vector, masks: kept.append(np.ones(300 * MIB, np.uint8))
    )
    assert masking.growth(SMALL) >= 290 * MIB
    assert kept[0].size == 300 * MIB


def test_a_process_that_fails_is_told() -> None:
    with pytest.raises(RoundError, check=lambda error: error.id == "site_failed"):
        masking.memory(Work(parameters=-1))


def test_a_process_of_its_own_masks_within_its_memory() -> None:
    grown = masking.memory(Work(parameters=1_000_000, peers=8))
    assert MIB // 4 <= grown <= 2 * MIB  # at least its block of keystream is seen
