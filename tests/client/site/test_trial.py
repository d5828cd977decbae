"""The units of a membership test: fair coins have decided which of them were trained on."""

from __future__ import annotations

import numpy as np
import pytest

from cloister.client.site import trial as trials
from cloister.client.site.records import Records, hold_out
from cloister.client.site.trial import Trial, trial

KEY, JOB = b"k" * 32, "sha256:" + "0" * 64


def records(rows: int, each: int = 1, *, persons: bool = False) -> Records:
    """Rows with texts of their own, or ``each`` to a person."""
    people = tuple(f"person {row // each}" for row in range(rows)) if persons else None
    return Records(tuple(f"note {row}" for row in range(rows)), ("a", "b") * (rows // 2), people)


def tried(found: Records, key: bytes = KEY, job: str = JOB) -> tuple[Records, Records, Trial | None]:
    train, held = hold_out(found, fraction=0.1, key=key)
    return train, held, trial(train, held, fraction=0.1, key=key, job=job)


def members(number: int, fraction: float) -> tuple[int, int]:
    """Members and units over many keys."""
    inside = units = 0
    for key in range(number):
        train, held = hold_out(records(400), fraction=0.1, key=bytes([key]) * 32)
        found = trial(train, held, fraction=fraction, key=bytes([key]) * 32, job=JOB)
        if found is not None:
            inside, units = inside + int(found.members.sum()), units + len(found)
    return inside, units


def test_half_were_trained_on() -> None:
    inside, units = members(60, 0.1)
    assert abs(inside / units - 0.5) < 4 * 0.5 / np.sqrt(units)


def test_with_another_share_held_out_than_is_said_it_is_seen() -> None:
    inside, units = members(60, 0.15)
    assert abs(inside / units - 0.5) > 4 * 0.5 / np.sqrt(units)


def test_members_are_trained_on_and_the_rest_is_of_nobody_tested() -> None:
    train, held, found = tried(records(600))
    assert found is not None
    assert len(found) == 64  # the power of two below the number of units that are left
    texts = np.array(found.records.texts)
    of_member = found.members[found.units]
    assert set(texts[of_member]) <= set(train.texts)
    assert set(texts[~of_member]) <= set(held.texts)
    assert set(found.rest.texts) == set(train.texts) - set(texts[of_member])


def test_a_person_is_one_unit_with_all_rows() -> None:
    train, held, found = tried(records(1800, 3, persons=True))
    assert found is not None
    assert np.bincount(found.units).tolist() == [3] * len(found)
    known = {t: p for side in (train, held) for t, p in zip(side.texts, side.persons or (), strict=True)}
    first = [known[text] for text, unit in zip(found.records.texts, found.units, strict=True) if unit == 0]
    assert len(set(first)) == 1


def test_the_same_job_has_the_same_units_and_another_others() -> None:
    texts = [found.records.texts for *_, found in (tried(records(600)), tried(records(600))) if found]
    assert texts[0] == texts[1]
    other = tried(records(600), job="sha256:" + "1" * 64)[2]
    assert other is not None
    assert other.records.texts != texts[0]


def test_texts_that_share_a_coin_are_left_out() -> None:
    twice = Records(tuple(f"Note  {row // 2}" for row in range(1200)), ("a", "b") * 600)
    assert tried(twice)[2] is None


@pytest.mark.parametrize("rows", [40, 100])
def test_few_units_are_not_tested(rows: int) -> None:
    assert tried(records(rows))[2] is None
    assert trials.FEWEST == 32
