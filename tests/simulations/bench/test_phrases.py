"""Whole sentences are held back with every phrase of theirs."""

from __future__ import annotations

import pytest

from cloister.privacy.errors import InputError
from cloister.simulations.bench import phrases

ROWS = (
    "the film is dull and long",  # 0: a sentence
    "is dull",  # 1: of 0
    "dull and",  # 2: of 0
    "a warm and quiet story",  # 3: a sentence
    "quiet  story",  # 4: of 3, blanks apart
    "the film is",  # 5: of 0
    "and",  # 6: of both
    "very dull",  # 7: of none, and no sentence
    "dull",  # 8: of 0 and 7
)


def test_a_sentence_is_a_part_of_no_other_row() -> None:
    assert phrases.sentences(ROWS).tolist() == [0, 3]


def test_the_same_sentence_twice_is_one_all_the_same() -> None:
    assert phrases.sentences((*ROWS, ROWS[0])).tolist() == [0, 3, 9]
    for seed in range(4):  # whichever of the two is drawn, the other is not trained on
        found = phrases.divided((ROWS[0], ROWS[0], "a warm and quiet story"), 1, seed)
        assert not {(ROWS[0], ROWS[0], "a warm and quiet story")[row] for row in found.train} & {
            (ROWS[0], ROWS[0], "a warm and quiet story")[row] for row in found.held
        }


def test_no_phrase_of_a_held_sentence_is_trained_on() -> None:
    seen = set()
    for seed in range(8):
        found = phrases.divided(ROWS, 1, seed)
        seen.add(tuple(found.held))
        expected = {(0,): [3, 4, 7], (3,): [0, 1, 2, 5, 7, 8]}[tuple(found.held)]
        assert found.train.tolist() == expected
    assert seen == {(0,), (3,)}


@pytest.mark.parametrize(
    ("texts", "number"),
    [(("too short", "short"), 1), (ROWS[:3], 1), (ROWS, 0)],
    ids=["no sentence", "nothing left", "none asked for"],
)
def test_rows_that_cannot_be_divided_are_refused(texts: tuple[str, ...], number: int) -> None:
    with pytest.raises(InputError, match="cannot be divided"):
        phrases.divided(texts, number, 0)
