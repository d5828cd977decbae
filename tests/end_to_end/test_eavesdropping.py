"""Nobody sees an update: with all of them at hand, none is found on the wire or in the server's memory."""

from __future__ import annotations

import itertools
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import psutil
import pytest

from cloister.client.jobs import Jobs as SiteJobs
from cloister.server.terms import Terms
from tests.eavesdropper import memory, recording, strongest, verbatim
from tests.ensemble import Ensemble, stand
from tests.hands import CLOISTER, LABELS, hands, until

SITES = ("coast", "north", "south", "west")
TERMS = {
    "off": Terms("notes", LABELS, mode="off", rounds=3, steps=1, rate=0.3, secure=True, top_layers=2, rank=8),
    "joint": Terms(
        "notes", LABELS, mode="joint", rounds=4, rate=0.3, secure=True, epsilon=40.0, top_layers=2, rank=8
    ),
}
TELLING = (sys.executable, str(Path(__file__).with_name("telling_site.py")))
CHANCE = 8.0
"""In standard deviations; what is nowhere correlates with 10^8 places up to about 6."""


class Telling(Ensemble):
    """Sites that write down what they mask."""

    def program(self, name: str) -> tuple[str, ...]:
        return TELLING if name in SITES else CLOISTER


@dataclass(frozen=True)
class Overheard:
    """What an eavesdropper has, and what it is looked through for.

    Attributes:
        wire: the payload of all packets.
        memories: the writable memory of the lead and of Flower's server, whose database is there.
        updates: the clear updates of all sites and rounds.
    """

    wire: bytes
    memories: list[bytes]
    updates: list[bytes]


@pytest.fixture(scope="module", params=["off", pytest.param("joint", marks=pytest.mark.long)])
def overheard(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: Path
) -> Iterator[Overheard]:
    terms, place = TERMS[request.param], tmp_path_factory.mktemp(request.param)
    with hands(place) as person, stand(person, SITES, terms, model, Telling) as found:
        actors = found.cast.troupe
        assert isinstance(actors, Ensemble)
        lead = psutil.Process(actors.actors["lead"].process.pid)
        servers = [lead, *lead.children(recursive=True)]
        memories: list[bytes] = []
        try:
            with recording() as tape, found.running(terms) as (end, plan):
                until(lambda: len(found.events(plan, "sum.closed")) >= 2, "two sums")
                memories += itertools.chain.from_iterable(memory(server.pid) for server in servers)
                end.result()
            memories += itertools.chain.from_iterable(memory(server.pid) for server in servers)
        except PermissionError:
            pytest.skip("this machine lets nobody record packets or read another process's memory")
        assert len(servers) >= 2, "the lead and Flower's server"
        folders = [SiteJobs(found.cast.sites[name]).find(plan.digest).folder for name in SITES]
        updates = [path.read_bytes() for folder in folders for path in sorted(folder.glob("clear-*"))]
        assert len(updates) == len(SITES) * plan.training.rounds
        yield Overheard(bytes(tape.data), memories, updates)


@pytest.mark.slow
def test_packets_hold_no_update(overheard: Overheard) -> None:
    size = sum(map(len, overheard.updates))
    assert len(overheard.wire) > size, "every masked update went over the wire"
    assert verbatim([overheard.wire], overheard.updates) == 0
    assert max(strongest(overheard.wire, update) for update in overheard.updates[::4]) < CHANCE


@pytest.mark.slow
def test_the_memory_of_lead_and_flower_holds_no_update(overheard: Overheard) -> None:
    assert sum(map(len, overheard.memories)) > 100 << 20
    assert verbatim(overheard.memories, overheard.updates) == 0


@pytest.mark.slow
def test_whoever_looks_so_would_find_one(overheard: Overheard) -> None:
    update = overheard.updates[-1]
    words = np.frombuffer(update, "<i4")
    around = secrets.token_bytes(100_003), secrets.token_bytes(50_000)
    assert verbatim([update.join(around)], overheard.updates) > len(words) // 16
    assert strongest(update.join(around), update) > 0.9 * sqrt(len(words))
    # Half of it hidden in as much noise is still found, where a mask hides all of it.
    noisy = (words + np.random.default_rng(1).normal(0, words.std(), len(words))).astype("<i4").tobytes()
    assert strongest(noisy.join(around), update) > 3 * CHANCE
    masked = (words.astype(np.uint32) + np.frombuffer(secrets.token_bytes(len(update)), "<u4")).tobytes()
    assert strongest(masked.join(around), update) < CHANCE
