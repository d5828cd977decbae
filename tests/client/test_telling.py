"""When heads are shown: after a round, not after each of many joint steps, and at once at an end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cloister.client.witnessing import Heads, Telling
from tests.waiting import eventually


class Counting(Heads):
    """Heads that are only counted."""

    def __init__(self) -> None:
        self.shown = 0
        self.whole: list[bool] = []
        self.called = threading.Event()

    def exchange(self, *, whole: bool = False) -> None:
        self.whole.append(whole)
        self.shown += 1
        self.called.set()


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telling]:
    monkeypatch.setattr("cloister.client.witnessing.PAUSE_S", 0.01)
    monkeypatch.setattr("cloister.client.witnessing.SHORT_S", 3600.0)
    thread = Telling(Counting(), lambda _: None)
    thread.start()
    yield thread
    thread.stop(10.0)
    assert not thread.is_alive()


def shown(telling: Telling) -> int:
    heads = telling._heads
    assert isinstance(heads, Counting)
    return heads.shown


def test_many_joint_steps_are_shown_once_and_the_end_does_not_wait(telling: Telling) -> None:
    telling.mark(step=True)
    assert eventually(lambda: shown(telling) == 1)
    for _ in range(20):
        telling.mark(step=True)  # within the hour
    assert shown(telling) == 1
    telling.mark(end=True)
    assert eventually(lambda: shown(telling) == 4)  # three calls, so that what one says reaches the next


def test_an_end_that_comes_first_is_shown_and_a_round_behind_it_too(telling: Telling) -> None:
    telling.mark(end=True)
    assert eventually(lambda: shown(telling) == 3)
    for more in (4, 5):
        telling.mark()
        assert eventually(lambda more=more: shown(telling) == more)
    heads = telling._heads
    assert isinstance(heads, Counting)
    assert heads.whole == [True, *[False] * 4]
