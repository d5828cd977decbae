"""Operations, exactness and shapes of the figures of a step, on a tiny model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cloister.client.learn.adapters import get_flat
from cloister.client.learn.features import Tokens, Units, prepare
from cloister.simulations.bench import step
from cloister.simulations.bench.step import Measured, result
from cloister.simulations.bench.step_cached import Cached
from cloister.simulations.bench.step_exact import flops, max_abs_error, one_at_a_time
from cloister.simulations.bench.step_memory import Pair, Peak
from cloister.simulations.bench.step_work import BOUND, NATURAL, Ghost, Work, paired, plain, private, streams
from tests import models

PERSONS, ROWS = 5, 10
TIMED = ("time_ratio_64", "time_ratio_128", "hooks_time_ratio", "ghost_time_ratio")
MIB = 1 << 20


def tiny(rows: int = ROWS, each: int = 2) -> Work:
    owner = np.repeat(np.arange(rows // each), each)
    documents = Tokens(models.documents(rows))
    return Work(models.classifier(), documents, models.labels(rows), Units.of(owner), 0.5)


def peaks(plain: int, private: int) -> Pair:
    return Pair(Peak(100 * MIB, 110 * MIB, plain * MIB), Peak(100 * MIB, 110 * MIB, private * MIB))


MEASURED = Measured(
    times={name: [1.0, 0.9, 1.1] for name in TIMED},
    memory={
        64: [peaks(200, 190), peaks(200, 210), peaks(200, 180)],
        128: [peaks(300, 306), peaks(300, 303), peaks(300, 309)],
    },
    flop_ratio=1.0001,
    max_abs_error=2e-6,
)
RESULT = result(MEASURED, Cached([0.3, 0.2, 0.7], 0.4), real_text=True)


def test_privacy_costs_the_clipped_sum_and_nothing_else() -> None:
    work = tiny()
    without, within = flops(work, np.arange(PERSONS))
    bias = 2 * ROWS * 4  # 10 rows of 4 classes, summed by a counted product where autograd sums uncounted
    assert within - without == 2 * PERSONS * work.classifier.layout.size + bias


def test_the_clipped_sum_is_that_of_one_person_at_a_time() -> None:
    assert max_abs_error(tiny(), np.arange(PERSONS)) <= 1e-6


def test_ghost_clipping_gives_the_clipped_sum_of_one_row_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = one_at_a_time(tiny(each=1), np.arange(ROWS))
    assert np.abs(wanted - one_at_a_time(tiny(), np.arange(PERSONS))).max() > 0.01  # rows, not persons
    for most in (64, 4):  # one micro-batch, and several
        monkeypatch.setattr("cloister.client.learn.features._ROWS", most)
        work = tiny()
        before = get_flat(work.classifier)
        Ghost(work, sigma=0.0).step(np.arange(PERSONS), streams("ghost", most))
        names = [name for name, _ in work.classifier.layout.tensors]
        grads = [work.classifier.trained[name].grad for name in names]
        found = torch.cat([grad.reshape(-1) for grad in grads if grad is not None]).numpy()
        assert np.abs(found - wanted).max() <= 1e-5
        assert not np.array_equal(get_flat(work.classifier), before)


def test_ghost_clipping_adds_noise_of_the_same_size_as_ours() -> None:
    work = tiny()
    wanted = one_at_a_time(tiny(each=1), np.arange(ROWS))
    torch.manual_seed(1)
    Ghost(work).step(np.arange(PERSONS), streams("ghost", 0))
    names = [name for name, _ in work.classifier.layout.tensors]
    grads = [work.classifier.trained[name].grad for name in names]
    noise = torch.cat([grad.reshape(-1) for grad in grads if grad is not None]).numpy() - wanted
    assert 0.9 * BOUND < noise.std() < 1.1 * BOUND


def test_ghost_clipping_is_measured_over_token_ids_only() -> None:
    work = tiny()
    hidden = replace(work, features=prepare(work.classifier, models.documents(ROWS)))
    with pytest.raises(ValueError, match="token ids"):
        Ghost(hidden)


def test_both_ways_of_batching_go_through_the_same_rows() -> None:
    work = tiny(rows=3 * NATURAL)
    chosen = np.array([0, 5, 7])
    assert work.rows(chosen).tolist() == [0, 1, 10, 11, 14, 15]
    everyone = np.arange(len(work.units))
    sizes = [len(part.units) for part in work.natural(everyone)]
    assert sizes == [NATURAL] * 3
    sorted_rows = np.concatenate([part.units for part in work.batches(everyone)])
    natural_rows = np.concatenate([part.units for part in work.natural(everyone)])
    assert sorted(sorted_rows) == natural_rows.tolist()


def test_a_plain_step_does_not_depend_on_how_rows_are_batched() -> None:
    ordered, natural = tiny(rows=3 * NATURAL), tiny(rows=3 * NATURAL)
    everyone = np.arange(len(ordered.units))
    plain(ordered)(everyone, streams("a", 0))
    plain(natural, natural.natural)(everyone, streams("b", 0))
    for name, parameter in ordered.classifier.trained.items():
        other = natural.classifier.trained[name].grad
        assert parameter.grad is not None
        assert other is not None
        torch.testing.assert_close(parameter.grad, other, rtol=1e-3, atol=1e-5)


def test_steps_are_timed_in_turns_on_the_same_units() -> None:
    work = tiny()
    seen: list[tuple[str, tuple[int, ...]]] = []
    steps = [lambda chosen, _, name=name: seen.append((name, tuple(chosen))) for name in "abc"]
    seconds = paired(work, steps, 3)
    assert [len(row) for row in seconds] == [3, 3, 3]
    turns = [seen[start : start + 3] for start in range(0, len(seen), 3)]
    assert len(turns) == 4  # the first warms up
    assert all(len({chosen for _, chosen in turn}) == 1 for turn in turns)
    assert all({name for name, _ in turn} == set("abc") for turn in turns)
    assert {turn[0][0] for turn in turns} == set("abc")


def test_a_private_step_changes_what_is_trained_with_noise_from_its_stream_alone() -> None:
    ends = []
    for repeat, seed in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(seed)
        work = tiny()
        private(work, work.fused())(np.arange(PERSONS), streams("noise", repeat))
        ends.append(get_flat(work.classifier))
    assert np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


def test_the_figures_of_a_step() -> None:
    figures, targets = RESULT.figures, RESULT.to_json()["targets"]
    for name in (*TIMED, "memory_ratio_64", "memory_ratio_128", "cached_time_ratio"):
        assert figures[f"{name}_min"] <= figures[name] <= figures[f"{name}_max"]
    assert figures["memory_ratio"] == figures["memory_ratio_128"] == 1.02  # the larger of the two
    assert figures["memory_ratio_64"] == 0.95
    assert figures["memory_growth_ratio_64"] == 0.9
    assert figures["memory_growth_ratio_128"] == 1.03
    assert (figures["memory_plain_mib_64"], figures["memory_private_mib_64"]) == (200, 190)
    assert (figures["memory_plain_mib_128"], figures["memory_private_mib_128"]) == (300, 306)
    assert figures["memory_loaded_mib"] == 100
    assert (figures["cached_time_ratio"], figures["cached_filling"]) == (0.3, 0.4)
    assert figures["cached_real_text"] == 1
    assert {name: target["met"] for name, target in targets.items()} == {
        "time_ratio_64": True,
        "time_ratio_128": True,
        "flop_ratio": True,
        "memory_ratio": False,
        "cached_time_ratio": True,
        "max_abs_error": False,
    }


def test_every_figure_is_explained() -> None:
    explained = {line.split()[0] for line in (step.__doc__ or "").splitlines() if line[:1].islower()}
    named = {name for name in RESULT.figures if not name.endswith(("_min", "_max"))}
    also = {"memory_plain_mib_64", "memory_plain_mib_128", "memory_private_mib_128"}  # named beside theirs
    assert named - also <= explained
