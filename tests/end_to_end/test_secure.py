"""Secure aggregation over real processes: sites and the lead are killed in the middle of sums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloister.client.jobs import Jobs as SiteJobs
from cloister.client.site.datasets import Datasets
from cloister.privacy import canonical
from cloister.privacy.plan import Plan
from cloister.server.terms import ADAM_JOINT, Terms
from cloister.simulations.demo import DATASET
from tests.ensemble import Ensemble, Stand, stand
from tests.hands import LABELS, hands, until

KINDS = ("reserved", "released", "spent")
SITES = ("coast", "north", "south", "west")
TERMS = {
    "local": Terms("notes", LABELS, rounds=15, steps=2, rate=0.3, secure=True, epsilon=40.0),
    "joint": Terms("notes", LABELS, mode="joint", rounds=40, rate=0.3, secure=True, epsilon=40.0),
    "surplus": Terms(
        "notes",
        LABELS,
        mode="joint",
        rounds=20,
        rate=0.3,
        rates=ADAM_JOINT,
        momentum=0.8,
        secure=True,
        epsilon=40.0,
        surplus=True,
    ),
}


@pytest.fixture(scope="module", params=TERMS)
def four(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: Path
) -> Iterator[tuple[Stand, Terms]]:
    terms = TERMS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with hands(folder) as person, stand(person, SITES, terms, model) as found:
        yield found, terms


def events(found: Stand, name: str, plan: Plan, type_: str) -> list[tuple[int, dict[str, object]]]:
    log = found.cast.sites[name].log.entries()
    return [(e.round or 0, dict(e.body)) for e in log if e.type == type_ and e.job == plan.digest]


def sum_after(found: Stand, plan: Plan, number: int) -> int:
    """Waits for a sum of a later round than this."""

    def later() -> list[int]:
        return [event.round for event in found.events(plan, "sum.closed") if event.round > number]

    return until(later, f"a sum after round {number}")[-1]


@pytest.mark.slow
def test_a_site_and_the_lead_are_killed_in_the_middle_of_sums(four: tuple[Stand, Terms]) -> None:
    stand_, terms = four
    actors = stand_.cast.troupe
    assert isinstance(actors, Ensemble)
    with stand_.running(terms) as (end, plan):
        first = sum_after(stand_, plan, 1)
        actors.actors["west"].kill()  # whatever it was about to do
        until(lambda: stand_.events(plan, "site.lost"), "the loss of a site")
        sum_after(stand_, plan, first + 1)
        actors.actors["lead"].kill()
        actors.again("lead").hear("from round")
        actors.again("west")  # the lead waits for it
        run = end.result()

    closed = {event.round: event.body for event in stand_.events(plan, "round.closed")}
    sums = {event.round: event.body for event in stand_.events(plan, "sum.closed")}
    assert list(closed) == list(sums) == list(range(1, plan.training.rounds + 1))
    for number, body in sums.items():
        assert list(body["survivors"]) == sorted(closed[number]["accepted"])
    assert ["coast", "north", "south"] in [list(body["survivors"]) for body in sums.values()]
    refused = [(e.round, dict(e.body)) for e in stand_.events(plan, "update.refused", "site.lost")]
    assert list(sums[plan.training.rounds]["survivors"]) == list(SITES), refused
    assert np.isfinite(run.model()).all()

    # A site signed one survivor set a round, opened by that set, and kept no key in the end.
    for name in SITES:
        signed = events(stand_, name, plan, "sum.signed")
        assert len(signed) == len({(number, body["step"]) for number, body in signed})
        for number, body in signed:
            assert body["survivors"] == sums[number]["survivors"]
        assert {number for number, _ in events(stand_, name, plan, "sum.opened")} <= {n for n, _ in signed}
        folder = SiteJobs(stand_.cast.sites[name]).find(plan.digest).folder
        state = canonical.decode((folder / "sums.json").read_bytes())
        assert (state["key"], state["roots"], state["sums"]) == (None, {}, None)
        if plan.aggregation.surplus:
            check_surplus(stand_, name, plan)
        if plan.remembered:  # who was started again has what Adam remembers from the next task
            missed = [number for number, body in sums.items() if name not in body["survivors"]]
            unchecked = events(stand_, name, plan, "step.unchecked")
            assert len(unchecked) <= len(missed) + (name == "west")
        if plan.joint:
            check_charges(
                stand_, name, plan, {number: len(body["survivors"]) for number, body in sums.items()}
            )


def check_surplus(found: Stand, name: str, plan: Plan) -> None:
    """Steps over all sites were taken without surplus noise, or it was said why not; others have none."""
    back = {event.round for event in found.events(plan, "sum.closed") if event.body["step"] == 1}
    kept = {event.round for event in found.events(plan, "surplus.kept")}
    assert back, "most steps are over all sites"
    given = {number for number, _ in events(found, name, plan, "surplus.given")}
    assert back <= given <= back | kept
    over = {event.round: event.body["survivors"] for event in found.events(plan, "sum.closed")}
    assert {number for number, names in over.items() if list(names) == list(SITES)} == back | kept


def check_charges(found: Stand, name: str, plan: Plan, survivors: dict[int, int]) -> None:
    """Every step that left a site was reserved, and came to no more than the shares of its sum tell."""
    rows = Datasets(found.cast.sites[name]).ledger.rows(DATASET)
    kinds = {kind: {r.reservation.round: r for r in rows if r.kind == kind} for kind in KINDS}
    assert set(kinds["released"]) <= set(kinds["reserved"])
    opened = {number for number, _ in events(found, name, plan, "sum.opened")}
    assert opened <= set(kinds["spent"])
    for number, row in kinds["spent"].items():
        assert row.reservation.mechanism == plan.grid.settled(plan.training.rate, survivors[number])
