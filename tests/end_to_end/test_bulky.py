"""An update that no Flower message could carry: a whole job with secure aggregation, over real processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloister.privacy.wire import messages
from cloister.server.correspondence import BULKY
from cloister.server.terms import Terms
from tests import models
from tests.ensemble import stand
from tests.hands import LABELS, hands

FLOWER_TAKES = 64 << 20
MODULES = ("query", "key", "value", "dense")
TERMS = Terms(
    "notes",
    LABELS,
    mode="off",
    rounds=1,
    steps=1,
    rate=0.03,
    rank=256,
    targets=MODULES,
    top_layers=10,
    secure=True,
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_updates_larger_than_any_flower_message_are_added_up(tmp_path: Path) -> None:
    large = models.write(tmp_path / "large", layers=10, width=512)
    with hands(tmp_path) as person, stand(person, ("north", "south", "west"), TERMS, large) as found:
        run = found.run(TERMS)
    assert messages.largest_of(run.plan) > 4 * run.plan.adapter.parameters > FLOWER_TAKES > BULKY
    (opened,) = [event.body for event in found.events(run.plan, "round.opened")]
    (closed,) = [event.body for event in found.events(run.plan, "round.closed")]
    assert closed["accepted"] == ["north", "south", "west"]
    assert closed["model"] != opened["model"]
    model = run.model()
    assert model.shape == (run.plan.adapter.parameters,)
    assert np.isfinite(model).all()
    received = {name: (run.site_job(name) / "model").exists() for name in run.sites}
    assert received == {"north": True, "south": True, "west": True}
