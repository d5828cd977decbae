"""Centred clipping: how far a faulty site moves the model, and where its centre comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.centring import centred
from cloister.privacy.dp.events import GaussianSteps
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError
from cloister.privacy.update import Delta, Vector
from cloister.simulations.engine import methods
from cloister.simulations.engine.head import scores
from cloister.simulations.engine.holding import Holding
from cloister.simulations.engine.methods import Member
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.sums import OpenSums
from tests.parties import Consortium
from tests.plans import plan, plan_json

LABELS = ("a", "b", "c")
DONE = (GaussianSteps(1.0, 0.5, 3),)
VALUES = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3)


@given(VALUES, VALUES, st.floats(0.01, 10))
def test_what_comes_out_is_near_the_centre_and_between_it_and_the_update(
    update: list[float], centre: list[float], radius: float
) -> None:
    x, v = np.array(update, dtype=np.float32), np.array(centre, dtype=np.float32)
    found = centred(Delta(x, DONE), v, radius)
    assert found.mechanisms == DONE
    assert np.linalg.norm(found.values - v) <= radius * (1 + 1e-5) + 1e-4
    if np.linalg.norm(x.astype(np.float64) - v) <= radius:
        assert np.array_equal(found.values, x)
    else:
        assert np.linalg.norm(found.values - v) >= radius * (1 - 1e-5) - 1e-4
        assert (np.minimum(x, v) - 1e-4 <= found.values).all()
        assert (found.values <= np.maximum(x, v) + 1e-4).all()


# At a site


def consortium(folder: Path, radius: float | None) -> Consortium:
    """Three sites that pull towards 1, 2 and, being faulty, 90; nothing is noised and nothing masked."""
    training = plan_json()["training"] | {"rounds": 3} | ({"centred": radius} if radius else {})
    off = plan_json()["privacy"] | {"mode": "off", "noise_multiplier": 0, "epsilon": 0, "delta": 0}
    how = plan_json()["aggregation"] | {"range": 100.0}
    folder.mkdir(exist_ok=True)
    made = Consortium(folder, training=training, privacy=off, aggregation=how)
    made.sites["west"].learner.point = 90.0
    return made


def course(folder: Path, radius: float | None) -> list[float]:
    """The first coordinate of the model after each round; all are alike."""
    made = consortium(folder, radius)
    made.federation().run(made.grid())
    return [float(save.model[0]) for save in made.saved if save.model is not None]


def test_each_site_cuts_its_update_around_the_last_change_and_a_faulty_one_moves_the_model_less(
    tmp_path: Path,
) -> None:
    """Worked out by hand: five coordinates alike, so a radius of sqrt(5) is 1 in each of them.

    Round 1 is around 0: the sites want 0.5, 1 and 45 and send 0.5, 1 and 1. Round 2 is around what that
    changed, 2.5 / 3; there the sites want (1 - m) / 2, (2 - m) / 2 and (90 - m) / 2 for the model m.
    """
    free = course(tmp_path / "free", None)
    held = course(tmp_path / "held", 5**0.5)
    model, last, expected = 0.0, 0.0, list[float]()
    for _ in range(3):
        wanted = [(point - model) / 2 for point in (1, 2, 90)]
        last = sum(np.clip(each, last - 1, last + 1) for each in wanted) / 3
        model += last
        expected.append(model)
    assert held[-3:] == pytest.approx(expected, abs=1e-4)
    assert held[-1] < 0.1 * free[-1]


def test_a_site_that_was_not_in_the_last_round_cuts_around_zero_and_a_restarted_one_around_the_change(
    tmp_path: Path,
) -> None:
    made = consortium(tmp_path, 1.0)
    model = np.full(5, 2.0, dtype=np.float32)
    north = made.sites["north"]
    north.replies.held.keep(1, np.zeros(5, dtype=np.float32))
    assert np.array_equal(made.site("north").contribution._last_change(model, 2), model)
    assert not north.contribution._last_change(model, 3).any()
    assert not north.contribution._last_change(model, 1).any()


# With wrong labels


def holding(seed: int, rows: int = 90) -> Holding:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    features = np.eye(8)[labels] + 0.3 * rng.normal(size=(rows, 8))
    return Holding(features / np.linalg.norm(features, axis=1, keepdims=True), labels)


def trained(last: Holding, radius: float | None) -> Vector:
    """A head over four sites, of which the last one holds this."""
    held = {f"site-{place}": holding(place) for place in range(3)} | {"site-3": last}
    parties = Parties(held, LABELS, ("made up", "sha256:" + "0" * 64))
    drafted = parties.plan("centred", Promise(), Course(6, 10, 0.05))
    training = drafted.training.model_copy(update={"centred": radius})
    made = drafted.model_copy(update={"training": training})
    members = {name: Member(each, FixedEntropy(name.encode())) for name, each in held.items()}
    return methods.local(made, members, OpenSums(tuple(held))).model


def test_a_site_whose_labels_are_wrong_moves_the_model_less_and_takes_less_of_its_worth() -> None:
    """The last site's labels are all turned on by one class."""
    honest, test = holding(3), holding(9, 600)
    faulty = Holding(honest.features, (honest.labels + 1) % 3)

    def accuracy(model: Vector) -> float:
        return float((scores(model, test.features, 3).argmax(axis=1) == test.labels).mean())

    free, held = ([trained(last, radius) for last in (honest, faulty)] for radius in (None, 1.0))
    assert np.linalg.norm(held[1] - held[0]) < 0.5 * np.linalg.norm(free[1] - free[0])
    assert accuracy(free[0]) > 0.95 > 0.6 > accuracy(free[1])
    assert min(map(accuracy, held)) > 0.95


# In a plan


@pytest.mark.parametrize(
    ("training", "more", "says"),
    [
        ({"server": {"kind": "momentum", "rate": 1.0, "momentum": 0.9}}, {}, "no site knows"),
        ({"factors": "alternate"}, {}, "no site knows"),
        ({"factors": "up"}, {}, ""),
        ({}, {"codec": "int8"}, "a codec adds"),
        ({}, {"robust": {"kind": "median", "liars": 1}, "minimum_sites": 3}, ""),
        ({"centred": 0}, {}, "greater than 0"),
        ({"centred": -1.0}, {}, "greater than 0"),
    ],
)
def test_what_cannot_go_with_it_is_refused(training: dict[str, Any], more: dict[str, Any], says: str) -> None:
    value = plan_json()
    changes: dict[str, Any] = {
        "training": value["training"] | {"centred": 1.5} | training,
        "aggregation": value["aggregation"] | more,
    }
    if not says:
        assert "each site cuts its own update to 1.5" in plan(**changes).method
        return
    with pytest.raises(PlanError, match=says):
        plan(**changes)


def test_a_plan_without_it_has_the_bytes_it_had() -> None:
    assert b"centred" not in plan().to_bytes()
