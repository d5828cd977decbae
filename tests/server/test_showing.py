"""What is shown of a run: the first at once, of many in a moment the newest, the last for certain."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.privacy.errors import StateError
from cloister.server.showing import EVERY_S, Showing
from tests.waiting import eventually


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_of_many_in_a_moment_the_first_and_the_newest_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.server.showing.EVERY_S", 3600.0)
    written: list[dict[str, Any]] = []
    showing = Showing(written.append, Clock())
    for number in range(1, 100):
        showing.put({"round": number})
    assert written == [{"round": 1}]
    showing._due()  # as the timer will
    assert written == [{"round": 1}, {"round": 99}]
    showing.close()
    assert len(written) == 2


def test_what_waits_is_written_though_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.server.showing.EVERY_S", 0.01)
    written: list[dict[str, Any]] = []
    showing = Showing(written.append, Clock())
    showing.put({"round": 1})
    showing.put({"round": 2})
    assert eventually(lambda: written[-1] == {"round": 2})


def test_what_comes_slowly_is_all_written_and_close_writes_what_waits() -> None:
    written: list[dict[str, Any]] = []
    clock = Clock()
    showing = Showing(written.append, clock)
    for number in range(1, 4):
        showing.put({"round": number})
        clock.now += EVERY_S
    assert [one["round"] for one in written] == [1, 2, 3]
    clock.now -= EVERY_S
    showing.put({"round": 4})
    showing.close()
    assert [one["round"] for one in written] == [1, 2, 3, 4]


def test_a_write_that_failed_beside_the_run_is_told_to_the_run() -> None:
    full = False

    def write(_: dict[str, Any]) -> None:
        if full:
            raise StateError("disk_full", "There is no room.")

    showing = Showing(write, Clock())
    showing.put({"round": 1})
    full = True
    showing.put({"round": 2})
    assert eventually(lambda: showing._failure is not None)
    with pytest.raises(StateError) as caught:
        showing.put({"round": 3})
    assert caught.value.id == "disk_full"
