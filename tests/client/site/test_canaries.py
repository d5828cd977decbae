"""Canaries: false records by coins, bound before they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister.client.site.canaries import FILE, WORDS, Canaries, canaries_of
from cloister.client.site.records import Records
from cloister.privacy import canonical
from cloister.privacy.errors import StateError
from tests.plans import plan

PLAN = plan(canaries=64)


def test_a_plan_without_canaries_has_none(tmp_path: Path) -> None:
    assert canaries_of(plan(), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_canaries_are_made_once(tmp_path: Path) -> None:
    made, again = canaries_of(PLAN, tmp_path), canaries_of(PLAN, tmp_path)
    assert made is not None
    assert again is not None
    assert again.commitment == made.commitment
    assert again.records(persons=False) == made.records(persons=False)


def test_they_are_random_words_under_random_classes() -> None:
    found = Canaries.make(PLAN).records(persons=False)
    assert len(found) == 64
    assert len(set(found.texts)) == 64
    assert {len(text.split()) for text in found.texts} == {WORDS}
    assert set(found.labels) == set(PLAN.task.labels)
    assert Canaries.make(PLAN).records(persons=False).texts != found.texts


def test_those_whose_coin_says_so_stand_behind_the_records() -> None:
    made = Canaries.make(PLAN)
    train = Records(("own",) * 3, ("a",) * 3, ("p", "p", "q"))
    found = made.among(train)
    chosen = made.records(persons=True).take(np.flatnonzero(made.coins.included))
    assert found.take([0, 1, 2]) == train
    assert found.take(range(3, len(found))) == chosen
    assert chosen.persons is not None
    assert len(set(chosen.persons)) == len(chosen)
    assert made.among(Records(("own",), ("a",))).persons is None


def test_the_commitment_binds_words_and_coins() -> None:
    made = Canaries.make(PLAN)
    flipped = canonical.decode(made.to_bytes(), otherwise=ValueError())
    coins: Any = flipped["coins"]
    coins["included"] = coins["included"].translate(str.maketrans("01", "10"))
    other = Canaries.from_bytes(canonical.encode(flipped), PLAN)
    assert len({made.commitment, other.commitment, Canaries.make(PLAN).commitment}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"job": canonical.digest(b"another job")},
        {"key": "00"},
        {"key": 5},
        {"coins": {"included": "01", "nonce": "00" * 32}},
        {"coins": {}},
    ],
)
def test_another_file_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    value = canonical.decode(Canaries.make(PLAN).to_bytes(), otherwise=ValueError())
    (tmp_path / FILE).write_bytes(canonical.encode(value | change))
    (tmp_path / FILE).chmod(0o600)
    with pytest.raises(StateError) as caught:
        canaries_of(PLAN, tmp_path)
    assert caught.value.id == "state_damaged"
