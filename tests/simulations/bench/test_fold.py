from __future__ import annotations

import pytest

from cloister.simulations.bench import fold

MIB = 1 << 20


@pytest.mark.slow
def test_folding_in_small_gives_the_figure(tmp_path) -> None:
    folded = fold.measure(tmp_path, 4 * MIB // 4, 2)
    assert folded.update_bytes == 4 * MIB
    # The sum alone is an update, so less would mean that nothing was measured.
    assert folded.growth_bytes > 4 * MIB
    assert folded.over_update == folded.growth_bytes / folded.update_bytes
