"""Secure aggregation over real processes: sites and the lead are killed in the middle of sums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloister.client.jobs import Jobs as SiteJobs
from cloister.privacy import canonical
from cloister.privacy.plan import Plan
from cloister.server.proposal import Terms
from tests.ensemble import Ensemble, Stand, stand
from tests.hands import LABELS, hands, until

SITES = ("coast", "north", "south", "west")
TERMS = Terms("notes", LABELS, rounds=15, steps=2, rate=0.3, secure=True, epsilon=40.0)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stand]:
    with hands(tmp_path_factory.mktemp("secure")) as person, stand(person, SITES, TERMS, model) as found:
        yield found


def events(found: Stand, name: str, plan: Plan, type_: str) -> list[tuple[int, dict[str, object]]]:
    log = found.cast.sites[name].log.entries()
    return [(e.round or 0, dict(e.body)) for e in log if e.type == type_ and e.job == plan.digest]


def sum_after(found: Stand, plan: Plan, number: int) -> int:
    """Waits for a sum of a later round than this."""

    def later() -> list[int]:
        return [event.round for event in found.events(plan, "sum.closed") if event.round > number]

    return until(later, f"a sum after round {number}")[-1]


@pytest.mark.slow
def test_a_site_and_the_lead_are_killed_in_the_middle_of_sums(four: Stand) -> None:
    actors = four.cast.troupe
    assert isinstance(actors, Ensemble)
    with four.running(TERMS) as (end, plan):
        first = sum_after(four, plan, 1)
        actors.actors["west"].kill()  # whatever it was about to do
        until(lambda: four.events(plan, "site.lost"), "the loss of a site")
        sum_after(four, plan, first + 1)
        actors.actors["lead"].kill()
        actors.again("lead").hear("from round")
        actors.again("west")  # the lead waits for it
        run = end.result()

    closed = {event.round: event.body for event in four.events(plan, "round.closed")}
    sums = {event.round: event.body for event in four.events(plan, "sum.closed")}
    assert list(closed) == list(sums) == list(range(1, 16))
    for number, body in sums.items():
        assert list(body["survivors"]) == sorted(closed[number]["accepted"])
    assert ["coast", "north", "south"] in [list(body["survivors"]) for body in sums.values()]
    refused = [(e.round, dict(e.body)) for e in four.events(plan, "update.refused", "site.lost")]
    assert list(sums[15]["survivors"]) == list(SITES), refused
    assert np.isfinite(run.model()).all()

    # A site signed one survivor set a round, opened by that set, and kept no key in the end.
    for name in SITES:
        signed = events(four, name, plan, "sum.signed")
        assert len(signed) == len({number for number, _ in signed})
        for number, body in signed:
            assert body["survivors"] == sums[number]["survivors"]
        assert {number for number, _ in events(four, name, plan, "sum.opened")} <= {n for n, _ in signed}
        folder = SiteJobs(four.cast.sites[name]).find(plan.digest).folder
        state = canonical.decode((folder / "sums.json").read_bytes())
        assert (state["key"], state["roots"], state["sums"]) == (None, {}, None)
