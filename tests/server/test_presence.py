from __future__ import annotations

from typing import Any

from cloister.privacy import canonical
from cloister.server.presence import Line, Presence


def told(line: Line) -> list[Any]:
    """Everything that a line was told, once it has ended."""
    return [canonical.decode(notice) for notice in line]


def test_sites_come_and_go() -> None:
    presence = Presence()
    north, south = presence.enter("north"), presence.enter("south")
    assert presence.present() == {"north", "south"}
    presence.leave(south)
    presence.leave(south)  # a call may end for two reasons at once
    assert presence.present() == {"north"}
    presence.leave(north)
    assert [notice["present"] for notice in told(north)] == [["north"], ["north", "south"], ["north"]]


def test_only_the_newest_call_of_a_site_counts() -> None:
    presence = Presence()
    old = presence.enter("north")
    new = presence.enter("north")
    presence.leave(old)
    assert presence.present() == {"north"}
    presence.leave(new)
    assert presence.present() == frozenset()


def test_notices_reach_those_they_are_for() -> None:
    presence = Presence()
    north, south = presence.enter("north"), presence.enter("south")
    presence.announce("stop", iter(["south", "nobody"]), job="x")
    presence.announce("round", number=3)
    presence.close()
    assert [notice["kind"] for notice in told(north)] == ["presence", "presence", "round"]
    assert told(south)[1:] == [{"job": "x", "kind": "stop"}, {"kind": "round", "number": 3}]


def test_a_site_that_does_not_read_is_cut_off() -> None:
    presence = Presence()
    line = presence.enter("north")
    for _ in range(2000):
        presence.announce("round")
    assert len(told(line)) == 1000
