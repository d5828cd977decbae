"""What a site does when its own machine fails it in the middle of a round."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from cloister.privacy.errors import EntropyError, LogError, StateError, UpdateError
from cloister.privacy.wire import messages
from cloister.privacy.wire.envelope import peek
from cloister.server.rounds import Round
from tests.parties import Consortium

UNWRITABLE = [
    StateError("disk_full", "full"),
    StateError("state_unwritable", "not ours"),
    LogError("log_unwritable", "full"),
    EntropyError("ratchet_unwritable", "full"),
]


def task(consortium: Consortium, site: str) -> bytes:
    federation = consortium.federation()
    state = federation.resume
    current = Round(consortium.plan, 1, 1, messages.model_digest(state.model), tuple(consortium.keys))
    return federation.envelope(current, site, messages.TASK, state)


def failing(error: Exception) -> Any:
    def train(*_: object) -> NoReturn:
        raise error

    return train


@pytest.mark.parametrize("error", UNWRITABLE, ids=lambda error: error.id)
def test_a_machine_that_cannot_write_says_so_here_and_answers_once_it_can(
    tmp_path: Path, error: StateError
) -> None:
    consortium = Consortium(tmp_path)
    north, data = consortium.sites["north"], task(consortium, "north")
    trains = north.learner.train
    north.learner.train = failing(error)
    with pytest.raises(type(error)) as caught:
        north.handle(data)
    assert caught.value is error
    north.learner.train = trains
    assert peek(north.handle(data), 1 << 20).kind == messages.UPDATE
    assert [row.kind for row in north.ledger.rows("notes")] == ["reserved", "spent", "released"]


def test_any_other_failure_is_a_refusal(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path)
    north = consortium.sites["north"]
    north.learner.train = failing(UpdateError("update_not_finite", "diverged"))
    assert peek(north.handle(task(consortium, "north")), 1 << 20).kind == messages.REFUSAL
