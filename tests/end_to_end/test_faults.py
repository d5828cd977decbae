"""What goes wrong in a run: processes die, hang, are told to stop, and run out of disk."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.client.jobs import Jobs as SiteJobs
from cloister.client.site.datasets import Datasets
from cloister.privacy.plan import Plan
from cloister.server.jobs import RUNNING, Jobs
from cloister.server.terms import Terms
from cloister.simulations.demo import DATASET
from tests.ensemble import Ensemble, Stand, stand
from tests.hands import LABELS, hands, until

SITES = ("north", "south", "west")
TERMS = Terms("notes", LABELS, rounds=20, steps=2, rate=0.3, minimum_sites=2)
BUDGET = replace(TERMS, epsilon=40.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the lead and the site west have small disks of their own, where that is possible."""
    found = tmp_path_factory.mktemp("faults")
    disks = [found / "run" / "lead", found / "run" / "sites" / "west"]
    for disk in disks:
        disk.mkdir(parents=True)
        as_root("mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", str(disk))
    yield found
    for disk in disks:
        as_root("umount", "-l", str(disk))


def as_root(*command: str) -> None:
    """Works for root only; whether it has is looked for afterwards."""
    subprocess.run(command, check=False, capture_output=True)


@pytest.fixture(scope="module")
def faulty(place: Path, model: Path) -> Iterator[Stand]:
    with hands(place) as person, stand(person, SITES, BUDGET, model) as found:
        yield found


@pytest.fixture
def actors(faulty: Stand) -> Ensemble:
    """Everybody, running."""
    ensemble = faulty.cast.troupe
    assert isinstance(ensemble, Ensemble)
    ensemble.mend()
    return ensemble


def reserves(faulty: Stand, name: str, plan: Plan) -> Counter[int]:
    """Round -> how often a site's ledger reserved it."""
    rows = Datasets(faulty.cast.sites[name]).ledger.rows(DATASET)
    mine = [row.reservation for row in rows if row.kind == "reserved"]
    return Counter(kept.round for kept in mine if kept.job == plan.digest)


def sent(faulty: Stand, name: str, plan: Plan) -> Counter[int]:
    """Round -> how often a site computed an update."""
    log = faulty.cast.sites[name].log.entries()
    return Counter(event.round for event in log if event.type == "update.sent" and event.job == plan.digest)


def replies(faulty: Stand, name: str, plan: Plan) -> dict[str, bytes]:
    """What a site keeps to send again."""
    folder = SiteJobs(faulty.cast.sites[name]).find(plan.digest).folder / "replies"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_site_and_then_the_lead_are_killed(faulty: Stand, actors: Ensemble) -> None:
    with faulty.running(TERMS) as (end, plan):
        lost_in = faulty.hold(plan, "west", {"north", "south"})
        actors.actors["west"].kill()
        lost = until(lambda: faulty.events(plan, "site.lost"), "the loss of a site")[0]
        held_in = faulty.hold(plan, "south", {"north"})
        job = Jobs(faulty.cast.lead.jobs).find(plan.digest)
        until(lambda: job.progress["standings"]["west"] == "site_lost", "what the lead shows of west")
        kept = replies(faulty, "north", plan)
        actors.actors["lead"].kill()
        actors.actors["south"].go_on()
        actors.again("lead").hear(f"from round {held_in}")
        actors.again("west")  # the lead waits for it, and asks as soon as it is there
        end.result()

    # The site: named, left out, and back in a later round.
    closed = {event.round: event.body for event in faulty.events(plan, "round.closed")}
    assert (lost.round, lost.body["site"], lost.body["reason"]) == (lost_in, "west", "site_lost")
    assert closed[lost_in]["lost"] == ["west"]
    assert sorted(closed[lost_in]["accepted"]) == ["north", "south"]
    assert sorted(closed[20]["accepted"]) == ["north", "south", "west"]

    # The lead: on from its checkpoint, with what was sent already.
    assert list(closed) == list(range(1, 21))
    opened = Counter(event.round for event in faulty.events(plan, "round.opened"))
    assert opened == Counter([*range(1, 21), held_in])
    first, second = faulty.received(plan, held_in)["north"]
    assert first == second
    assert kept.keys() == {f"round-{held_in:05d}-00001.sealed"}

    # The sites: one reserve and one update a round, whatever was asked for again.
    for name in ("north", "south"):
        assert reserves(faulty, name, plan) == sent(faulty, name, plan) == Counter(range(1, 21))
    assert set(reserves(faulty, "west", plan).values()) == {1}
    assert {n for n, body in closed.items() if "west" in body["accepted"]} == set(sent(faulty, "west", plan))


def fill(folder: Path) -> Path:
    """Leaves no room on the disk of a folder."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1024))
    return filler


@pytest.mark.slow
def test_the_disk_is_full_at_a_site_and_then_at_the_lead(faulty: Stand, actors: Ensemble) -> None:
    lead, west = faulty.cast.lead.path, faulty.cast.sites["west"].path
    if not (lead.is_mount() and west.is_mount()):
        pytest.skip("no tmpfs can be mounted here, so no disk can be filled")
    with faulty.running(TERMS) as (end, plan):
        full = fill(west)
        assert actors.actors["west"].ended() == 1
        assert "The disk is full" in actors.actors["west"].said.splitlines()[-1]
        until(lambda: faulty.events(plan, "site.lost"), "the loss of a site")
        full_too = fill(lead)
        assert actors.actors["lead"].ended() == 1
        assert "The disk is full" in actors.actors["lead"].said.splitlines()[-1]
        for name in ("west", "lead"):
            assert "Traceback" not in actors.actors[name].said
        full.unlink()
        full_too.unlink()
        actors.again("west")
        actors.again("lead")
        end.result()
    closed = {event.round: event.body for event in faulty.events(plan, "round.closed")}
    assert sorted(closed[20]["accepted"]) == list(SITES)
    for name in ("north", "south"):
        assert reserves(faulty, name, plan) == sent(faulty, name, plan) == Counter(range(1, 21))
    assert set(reserves(faulty, "west", plan).values()) == {1}


@pytest.mark.long
def test_everybody_is_told_to_stop_in_the_middle_of_a_round(faulty: Stand, actors: Ensemble) -> None:
    endless = replace(TERMS, mode="off", rounds=1, steps=100_000)
    with faulty.running(endless) as (_, plan):
        west, lead = actors.actors["west"], actors.actors["lead"]
        begun = SiteJobs(faulty.cast.sites["west"]).find(plan.digest).folder / "progress.jsonl"
        until(begun.exists, "the training at west")
        assert lead.end() == 0
        assert "goes on from its checkpoint" in lead.said.splitlines()[-1]
        assert Jobs(faulty.cast.lead.jobs).find(plan.digest).state == RUNNING
        for name in ("north", "south"):
            actors.actors[name].kill()
        assert west.end() == 0
        assert west.said.splitlines()[-1].startswith("Stopped in the middle of a round")
        assert "terminate called" not in west.said
