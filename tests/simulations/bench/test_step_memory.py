"""What the kernel says of a process that steps."""

import numpy as np
import pytest

from cloister.client.learn.features import Tokens, Units
from cloister.privacy.errors import RoundError
from cloister.simulations.bench import step_memory
from cloister.simulations.bench.step_memory import Pair, Peak
from cloister.simulations.bench.step_work import Work
from tests import models

MIB = 1 << 20


def test_ratios_are_of_whole_processes_and_of_what_the_steps_added() -> None:
    pair = Pair(plain=Peak(100, 150, 300), private=Peak(110, 150, 270))
    assert (pair.plain.growth, pair.private.growth) == (200, 160)
    assert (pair.ratio, pair.growth_ratio) == (0.9, 0.8)


@pytest.mark.parametrize("side", step_memory.SIDES)
def test_a_step_that_holds_memory_is_seen_in_the_peak(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(
        models.classifier(), Tokens(models.documents(10)), models.labels(10), Units.of(np.arange(10)), 0.5
    )
    original = Work.batches

    def hungry(self: Work, chosen: np.ndarray) -> list:
        np.ones(200 * MIB, dtype=np.uint8)
        return original(self, chosen)

    monkeypatch.setattr(Work, "batches", hungry)
    found = step_memory.steps(work, side)
    assert found.loaded <= found.before
    assert found.growth >= 190 * MIB


@pytest.mark.slow
def test_a_process_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RoundError, check=lambda error: error.id == "site_failed"):
        step_memory.pair("no number", private_first=False)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_pair_of_processes_in_small() -> None:
    pair = step_memory.pair(8, private_first=True)
    for peak in (pair.plain, pair.private):
        assert 50 * MIB < peak.loaded <= peak.before <= peak.peak
    assert pair.ratio == pair.private.peak / pair.plain.peak
