from __future__ import annotations

import numpy as np
import pytest

from cloister.privacy.errors import RoundError, UpdateError
from cloister.privacy.secagg.encoding import encode
from cloister.privacy.update import Delta
from cloister.server.rounds import ACCEPTED, LOST, REFUSED, Round
from tests.plans import DIGEST, plan

PLAN = plan()


def content(value: float) -> list[bytes]:
    return [encode(Delta(np.full(5, value, dtype=np.float32), ()), 1 / 3, PLAN.ring).content]


def opened() -> Round:
    return Round(PLAN, 1, 1, DIGEST, ("north", "south", "west"))


def test_all_answers_give_the_weighted_mean() -> None:
    current = opened()
    for site, value in zip(current.invited, (1.0, 2.0, 3.0), strict=True):
        current.accept(site, content(value))
    assert current.close() == pytest.approx([2.0] * 5)


def test_a_lost_site_is_left_out_and_named() -> None:
    current = opened()
    current.accept("north", content(1.0))
    current.lose("south", "site_lost")
    current.accept("west", content(3.0))
    assert current.close() == pytest.approx([2.0] * 5)
    assert (current.of(ACCEPTED), current.of(LOST)) == (("north", "west"), ("south",))


def test_below_the_minimum_nothing_is_aggregated_and_every_reason_is_named() -> None:
    current = opened()
    current.accept("north", content(1.0))
    current.lose("south", "site_lost")
    current.refuse("west", "budget_exceeded")
    with pytest.raises(RoundError, match="south: site_lost, west: budget_exceeded") as caught:
        current.close()
    assert caught.value.id == "below_minimum"
    assert current.of(REFUSED) == ("west",)


def test_no_update_at_all_is_an_error() -> None:
    current = opened()
    for site in current.invited:
        current.lose(site, "deadline")
    with pytest.raises(RoundError) as caught:
        current.close()
    assert caught.value.id == "nothing_aggregated"


def test_a_second_answer_changes_nothing() -> None:
    current = opened()
    current.accept("north", content(1.0))
    with pytest.raises(RoundError):
        current.accept("north", content(1.0))
    current.accept("south", content(1.0))
    assert current.close() == pytest.approx([1.0] * 5)


def test_a_stranger_cannot_answer() -> None:
    with pytest.raises(RoundError):
        opened().accept("east", content(1.0))


def test_an_unusable_update_is_not_in_the_sum() -> None:
    current = opened()
    with pytest.raises(UpdateError):
        current.accept("north", [content(1.0)[0][:-1]])
    current.refuse("north", "update_shape")
    current.accept("south", content(2.0))
    current.accept("west", content(2.0))
    assert current.close() == pytest.approx([2.0] * 5)
