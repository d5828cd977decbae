"""A head that starts from an analytic round: one budget, charged round by round in one ledger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloister.privacy.dp import accounting
from cloister.privacy.entropy import FixedEntropy
from cloister.privacy.errors import PlanError
from cloister.simulations.bench import start
from cloister.simulations.bench.utility import Intents
from cloister.simulations.engine.accounts import Book
from cloister.simulations.engine.holding import Holding, pooled
from cloister.simulations.engine.plans import Course, Parties, Promise
from cloister.simulations.engine.started import StartedSteps
from cloister.simulations.engine.ways import HeadSteps, OneRound, Setting

LABELS = ("a", "b", "c")
RIDGE = OneRound(constant=0.3, ridge=1.0, weight=0.5, noise_share=0.5)


def holding(seed: int, rows: int = 70) -> Holding:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    features = np.eye(6)[labels] + 0.3 * rng.normal(size=(rows, 6))
    return Holding(features / np.linalg.norm(features, axis=1, keepdims=True), labels)


HELD = {f"site-{place}": holding(place) for place in range(4)}
PARTIES = Parties(HELD, LABELS, ("made up", "sha256:" + "0" * 64))
TEST = holding(9, 300)


def setting(
    promise: Promise, *, masked: bool = False, books: dict[str, Book] | None = None, at: Path = Path()
) -> Setting:
    def account(name, job):
        assert books is not None
        path = at / f"{name}.sqlite"
        kept = books.get(name) or Book.open(path, "record", promise, job)
        assert kept.job == job, "round and steps are one job"
        books[name] = kept
        return kept.account

    drawn = {name: FixedEntropy(f"started {name}".encode()) for name in HELD}
    return Setting(PARTIES, promise, drawn, masked, None if books is None else account)


@pytest.mark.parametrize("mode", ["local", "joint"])
def test_first_round_and_steps_are_charged_to_one_ledger_and_keep_one_target(
    tmp_path: Path, mode: str
) -> None:
    promise, books = Promise(mode, 4.0, 1e-5), dict[str, Book]()
    way = StartedSteps(RIDGE, Course(5, 1, 0.5))
    model = way.federated(setting(promise, books=books, at=tmp_path))
    assert [each.steps for each in model.mechanisms] == [6]
    assert 3.95 < accounting.epsilon(model.mechanisms, 1e-5) <= 4.0
    for book in books.values():
        rows = [row.reservation for row in book.ledger.rows("records") if row.kind == "reserved"]
        assert [row.round for row in rows] == [1, 2, 3, 4, 5, 6]
        assert rows[0].mechanism.noise_multiplier == pytest.approx(model.mechanisms[0].noise_multiplier)
        assert 3.9 < book.epsilon <= 4.0
    assert model.sums == 6
    assert model.bytes_up == 4 * ((7 * 8 // 2 + 7 * 3) + 5 * 3 * 7)


def test_masks_change_nothing() -> None:
    way, promise = StartedSteps(RIDGE, Course(3, 1, 0.5)), Promise("joint", 4.0, 1e-5)
    one, other = (way.federated(setting(promise, masked=masked)) for masked in (False, True))
    assert np.array_equal(one.scores(TEST.features), other.scores(TEST.features))


@pytest.mark.parametrize("kind", ["ridge", "means"])
def test_steps_begin_where_the_round_ends(kind: str) -> None:
    """Steps of a rate near 0 change nothing: what is left is the round's own model, by its classes."""
    first = OneRound(kind=kind, ridge=0.3)  # type: ignore[arg-type]
    still = StartedSteps(first, Course(1, 1, 1e-12)).federated(setting(Promise()))
    alone = first.federated(setting(Promise()))
    assert np.array_equal(*(each.scores(TEST.features).argmax(axis=1) for each in (still, alone)))
    moved = StartedSteps(first, Course(5, 1, 0.5)).federated(setting(Promise()))
    assert not np.allclose(still.scores(TEST.features), moved.scores(TEST.features), atol=1e-3)
    assert moved.accuracy(TEST) > 0.95


def test_all_rows_in_one_place_keep_the_same_target() -> None:
    way = StartedSteps(RIDGE, Course(5, 1, 0.5))
    model = way.alone(pooled(HELD), 3, Promise("joint", 4.0, 1e-5), FixedEntropy(b"alone"))
    assert 3.95 < accounting.epsilon(model.mechanisms, 1e-5) <= 4.0
    assert model.accuracy(TEST) > 0.8


@pytest.mark.parametrize(
    ("first", "course"),
    [
        (OneRound(cosines=8), Course(3, 1, 0.5)),
        (RIDGE, Course(3, 1, 0.5, rate=0.5)),
        (RIDGE, Course(3, 2, 0.5)),
    ],
)
def test_what_cannot_be_a_start_is_refused(first: OneRound, course: Course) -> None:
    with pytest.raises(PlanError) as caught:
        StartedSteps(first, course)
    assert caught.value.id == "plan_conflict"


def test_the_benchmark_pairs_seeds_and_gives_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Canned: what starts from a round is right in 0.9, steps alone in 0.8 and 0.1 less with an even seed."""
    told = Intents(PARTIES, TEST)

    def canned(_told, way, _promise, seed):
        return 0.9 if isinstance(way, StartedSteps) else 0.8 - 0.1 * (seed % 2 == 0)

    monkeypatch.setattr(start, "_accuracy", canned)
    found = start.figures(told)
    assert found["gain_eps8"] == pytest.approx(16.0)  # three of five seeds are even
    assert found["started_eps1"] == pytest.approx(0.9)
    assert (found["plain_off_ten"], found["started_off_ten"]) == pytest.approx((0.7, 0.9))
    monkeypatch.undo()
    promise = Promise("joint", 8.0, 1e-5)
    assert start._accuracy(told, HeadSteps(Course(3, 1, 0.5)), promise, 0) > 0.5
