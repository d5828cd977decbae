"""One question to the sites of a round: who is asked, who is asked again, and who is given up on."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from cloister.privacy.wire import consortium_pb2 as pb
from cloister.server.exchange import Answer, Exchange
from cloister.server.post import Pace, Post
from cloister.server.rounds import WAITING, Round
from tests.plans import DIGEST, plan

SITES = ("north", "south")
PACE = Pace(answer=1000.0, absence=500.0, resend=1000.0, poll=0.0, look=0.0)


class Bags:
    """A carrier that keeps what it is given, and believes for ever that it will be answered."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def reachable(self) -> Iterable[str]:
        return SITES

    def awaited(self) -> Iterable[str]:
        return set(self.sent)

    def send(self, site: str, data: bytes, round: int) -> bool:
        self.sent.append(site)
        return True

    def receive(self, wait: float) -> Iterable[Answer]:
        return ()


class Street:
    """A post, its bags, and who is at home."""

    def __init__(self, pace: Pace = PACE) -> None:
        self.home, self.bags, self.lost = set(SITES), Bags(), list[tuple[str, str]]()
        self.current = Round(plan(), 1, 1, DIGEST, SITES)
        self.post = Post(
            carrier=self.bags,
            current=self.current,
            envelopes=lambda sites: ((site, site.encode()) for site in sites),
            pace=pace,
            patience=pace.answer,
            present=lambda: self.home,
            away={},
            lose=self.lose,
        )

    def lose(self, site: str, reason: str) -> None:
        self.current.lose(site, reason)
        self.lost.append((site, reason))

    def turn(self) -> list[str]:
        """One look; who was asked in it."""
        asked = [site for site, _ in self.post.send()]
        self.post.drop_absent()
        return asked


def test_everybody_is_asked_once() -> None:
    street = Street()
    assert [street.turn(), street.turn()] == [list(SITES), []]


def test_a_site_that_comes_back_is_asked_again_at_once() -> None:
    """It may have died after it took the question and before it wrote it down; Flower will not say so."""
    street = Street()
    street.turn()
    street.home.discard("north")
    assert street.turn() == []
    street.home.add("north")
    assert [street.turn(), street.turn(), street.turn()] == [[], ["north"], []]
    assert street.lost == []


def test_who_answered_before_it_went_away_is_not_asked_again() -> None:
    street = Street()
    street.turn()
    street.current.note("north")
    street.home.discard("north")
    street.turn()
    street.home.add("north")
    assert [street.turn(), street.turn()] == [[], []]


def test_an_answer_that_nobody_has_read_yet_is_not_asked_for_again() -> None:
    """It comes while the lead reads another's; the same question again would drop it, and cost a step."""
    street, exchange = Street(), Exchange()
    exchange.admit(1000)
    lines = {name: exchange.enter(name) for name in SITES}
    street.post.carrier = exchange
    assert street.turn() == list(SITES)
    assert exchange.take(lines["south"], pb.Piece(number=1, data=b"answer", last=True))
    assert street.turn() == []
    assert list(street.post.receive()) == [Answer("south", b"answer")]
    street.current.note("south")
    exchange.leave(lines["north"])  # what went over a call that ended is asked again
    lines["north"] = exchange.enter("north")
    assert street.turn() == ["north"]


@pytest.mark.parametrize(
    ("pace", "reason"),
    [(Pace(answer=1000.0, absence=-1.0, look=0.0), "site_lost"), (Pace(answer=-1.0, look=0.0), "deadline")],
)
def test_a_site_that_is_away_or_silent_for_too_long_is_lost(pace: Pace, reason: str) -> None:
    street = Street(pace)
    street.home = {"south"} if reason == "site_lost" else set(SITES)
    street.turn()
    assert ("north", reason) in street.lost
    assert "north" not in street.current.of(WAITING)
