from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloister.privacy import canonical
from cloister.privacy.errors import StateError
from cloister.server.checkpoint import Checkpoint
from tests.plans import DIGEST

STATE = Checkpoint(
    DIGEST, 3, np.array([1.5, -2.0, 0.1], dtype=np.float32), {"north": DIGEST}, {"west": "site_failed"}
)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    STATE.save(tmp_path / "checkpoint")
    found = Checkpoint.load(tmp_path / "checkpoint", DIGEST)
    assert found.model.tobytes() == STATE.model.tobytes()
    assert (found.round, found.acknowledged, found.excluded) == (3, STATE.acknowledged, STATE.excluded)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data.replace(b'"round":3', b'"round":03'),
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data.partition(b"\n")[2],
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage) -> None:
    path = tmp_path / "checkpoint"
    STATE.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StateError) as caught:
        Checkpoint.load(path, DIGEST)
    assert caught.value.id == "state_damaged"


def test_the_change_that_an_earlier_release_kept_by_itself_is_what_descent_remembers(tmp_path: Path) -> None:
    change = np.array([0.5, 0.25, -1.0], dtype=np.float32)
    replace(STATE, moments=(change,)).save(tmp_path / "checkpoint")
    line, _, body = (tmp_path / "checkpoint").read_bytes().partition(b"\n")
    head = json.loads(line) | {"change": True, "moments": 0}
    (tmp_path / "checkpoint").write_bytes(canonical.encode(head) + b"\n" + body)
    found = Checkpoint.load(tmp_path / "checkpoint", DIGEST)
    assert found.model.tobytes() == STATE.model.tobytes()
    assert np.array_equal(found.moments, (change,))


def test_zeros_that_an_earlier_release_kept_of_an_analytic_round_are_no_momentum(tmp_path: Path) -> None:
    zeros = np.zeros(3, dtype=np.float32)
    means = (STATE.model, STATE.model**2)
    replace(STATE, moments=(zeros, *means)).save(tmp_path / "checkpoint")
    line, _, body = (tmp_path / "checkpoint").read_bytes().partition(b"\n")
    head = json.loads(line) | {"change": True, "moments": 2}
    (tmp_path / "checkpoint").write_bytes(canonical.encode(head) + b"\n" + body)
    assert np.array_equal(Checkpoint.load(tmp_path / "checkpoint", DIGEST).moments, means)


def test_a_checkpoint_of_another_plan_or_none_is_refused(tmp_path: Path) -> None:
    STATE.save(tmp_path / "checkpoint")
    with pytest.raises(StateError):
        Checkpoint.load(tmp_path / "checkpoint", "sha256:" + "1" * 64)
    with pytest.raises(StateError):
        Checkpoint.load(tmp_path / "missing", DIGEST)
