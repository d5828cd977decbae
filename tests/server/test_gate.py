from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloister.server.gate import Buckets


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_fills_again() -> None:
    clock = Clock()
    buckets = Buckets(rate=2.0, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b")
    clock.now += 0.5
    assert [buckets.take("a"), buckets.take("a")] == [True, False]
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0, 2), max_size=200))
def test_nobody_gets_more_than_burst_and_rate(pauses: list[float]) -> None:
    clock = Clock()
    buckets = Buckets(rate=5.0, burst=4, clock=clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        taken += buckets.take("a")
    assert taken <= 4 + 5.0 * clock.now + 1e-6


def test_the_number_of_buckets_is_bounded() -> None:
    buckets = Buckets(rate=1.0, burst=1, clock=Clock())
    for number in range(10_000):
        buckets.take(str(number))
    assert len(buckets._levels) <= 4096
