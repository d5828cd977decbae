"""Lines of progress: not too many, and a time left that follows from what was done."""

from __future__ import annotations

import pytest

from cloister.server.correspondence import Progress
from cloister.server.milestones import EVERY_S, Milestones
from cloister.server.rounds import ACCEPTED, WAITING, Standing


def at(number: int) -> Progress:
    standings = {"north": Standing(ACCEPTED), "south": Standing(WAITING)}
    return Progress(number, 10, standings, {}, {})


def test_a_line_now_and_then_with_the_time_that_is_left() -> None:
    said: list[str] = []
    seconds = 0.0
    milestones = Milestones(said.append, "0123", lambda: seconds)
    for number in range(1, 8):
        milestones.pass_by(at(number))
        milestones.pass_by(at(number))
        seconds += EVERY_S / 2
    assert said == [
        "0123: round 3 of 10, 1 of 2 sites in, about 2 min left",
        "0123: round 5 of 10, 1 of 2 sites in, about 2 min left",
        "0123: round 7 of 10, 1 of 2 sites in, about 1 min left",
    ]


@pytest.mark.parametrize(
    ("first", "then", "lines"),
    [
        (4, 4, ["0123: round 4 of 10, 1 of 2 sites in"]),  # nothing is done yet, nothing is promised
        (10, 11, []),  # the end of a job is no round
    ],
)
def test_what_is_said_after_a_while(first: int, then: int, lines: list[str]) -> None:
    said: list[str] = []
    seconds = 0.0
    milestones = Milestones(said.append, "0123", lambda: seconds)
    milestones.pass_by(at(first))
    seconds = EVERY_S
    milestones.pass_by(at(then))
    assert said == lines
