"""What the tests of whole federations share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.by_hand import ByHand, guarded
from tests.hands import hands


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model."""
    return models.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def by_hand(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[ByHand]:
    """The documented federation, whose job has ended; everything still runs."""
    place = tmp_path_factory.mktemp("by-hand")
    outside = place / "outside.txt"
    with hands(place, **guarded(outside)) as person:
        found = ByHand(person, model, outside)
        found.follow()
        found.ended(found.job)
        yield found
